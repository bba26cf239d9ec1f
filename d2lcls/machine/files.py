"""Write files and folders so that a failure leaves nothing incomplete behind."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def cache_folder() -> Path:
    """Return the path of the cache folder: `$D2LCLS_HOME`, or `~/.cache/d2lcls`."""
    return Path(os.environ.get("D2LCLS_HOME") or "~/.cache/d2lcls").expanduser().absolute()


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file that appears at `path` only when it is complete; missing folders are made.

    Args:
        write: writes the content to the open binary file that it is given.

    Raises:
        OSError: the file cannot be written; nothing is left behind, and an older file is unchanged.
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
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Make a folder for the block of a `with` statement to fill, and yield its path.

    If the block fails or is interrupted, everything in the folder is removed, together with the folders that were made.

    Raises:
        ValueError, OSError: as for `check_new_folder`.
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
            with suppress(OSError):  # it was not made yet, or another program has written to it
                path.rmdir()
        raise


def check_new_folder(folder: str | Path) -> Path:
    """Return the path of a folder if `new_folder` can make it; nothing is written.

    Raises:
        ValueError: it exists and is not an empty folder.
        OSError: it would be inside a file or a read-only folder.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: already exists and is not an empty folder. Choose another folder, or remove it.")
    check_writable(folder)
    return folder


def check_writable(path: str | Path) -> None:
    """Raise OSError if a file or folder cannot be made or changed at this path; nothing is written."""
    path = Path(path).absolute()
    nearest = nearest_existing(path)
    if nearest != path and not nearest.is_dir():
        raise NotADirectoryError(
            f"{path}: cannot be written, because {nearest} is not a folder. Choose another folder."
        )
    if not os.access(nearest, os.W_OK | (os.X_OK if nearest.is_dir() else 0)):
        raise PermissionError(f"{path}: cannot be written, because {nearest} is read-only. Choose another folder.")


def nearest_existing(path: str | Path) -> Path:
    """Return a path itself if there is such a file or folder, otherwise its nearest parent that exists."""
    path = Path(path).absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())
