"""Writing files so that nobody ever sees half of one."""

import os
import tokenize
import zipfile
from pathlib import Path

# What zipfile and numpy raise on the damaged bytes of an .npz file; a damaged header goes through Python's tokenizer.
DAMAGED_NPZ = (zipfile.BadZipFile, tokenize.TokenError, SyntaxError, ValueError, TypeError, AttributeError, EOFError,
               KeyError, RuntimeError)


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
        raise OSError(error.errno, f"{path}: cannot be written ({error.strerror}). "
                                   "Free some space or choose another folder") from error
    finally:
        if partial.exists():
            partial.unlink()
