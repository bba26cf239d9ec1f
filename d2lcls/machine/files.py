"""Writing files and folders so that a failure leaves nothing half-written behind."""

import os
import shutil
import tokenize
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

# What zipfile and numpy raise on the damaged bytes of an .npz file; a damaged header goes through Python's tokenizer.
DAMAGED_NPZ = (
    zipfile.BadZipFile,
    tokenize.TokenError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    EOFError,
    KeyError,
    RuntimeError,
)


def cache_folder():
    """Return the `Path` of the cache folder: `$D2LCLS_HOME`, or `~/.cache/d2lcls`."""
    return Path(os.environ.get("D2LCLS_HOME") or "~/.cache/d2lcls").expanduser().absolute()


def write_atomically(path, write):
    """Let `write(file)` fill a file opened for bytes that appears at `path` only when it is whole.

    Raises:
        OSError: it cannot be written, with what to do; nothing is left behind.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.part{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise OSError(
            error.errno, f"{path}: cannot be written ({error.strerror}). Free some space or choose another folder"
        ) from error
    finally:
        if partial.exists():
            partial.unlink()


@contextmanager
def new_folder(folder):
    """Make a folder for the block of a `with` statement to fill, and yield its `Path`.

    If the block fails or is interrupted, all that it wrote is removed, together with the folders that were made here.

    Raises:
        ValueError, OSError: as `check_new_folder`.
    """
    folder = check_new_folder(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except BaseException:
        for path in [*folder.glob("*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in made:
            with suppress(OSError):  # never made, or another program has put something there meanwhile
                path.rmdir()
        raise


def check_new_folder(folder):
    """Return the `Path` of a folder that `new_folder` could make; nothing is written.

    Raises:
        ValueError: there is something in it already.
        OSError: it is inside a file, or inside a folder that may not be written to.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: there is something already. Choose another folder, or remove it.")
    check_writable(folder)
    return folder


def check_writable(path):
    """Raise OSError if a file or folder cannot be made or changed at this path; nothing is written."""
    path = Path(path).absolute()
    nearest = next(parent for parent in (path, *path.parents) if parent.exists())
    if nearest != path and not nearest.is_dir():
        raise NotADirectoryError(
            f"{path}: cannot be written, because {nearest} is not a folder. Choose another folder."
        )
    if not os.access(nearest, os.W_OK | (os.X_OK if nearest.is_dir() else 0)):
        raise PermissionError(f"{path}: cannot be written, because {nearest} is read-only. Choose another folder.")
