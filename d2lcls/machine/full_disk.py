"""A full disk, a quota or a limit of file size becomes one line that names the place and says what to do."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFull(OSError):
    """There was no room to write something; the message begins with its path."""


def disk_full(path: str | Path, error: OSError, needed: int = 0, advice: str = "") -> DiskFull:
    """Return the exception for a file or folder for which there was no room.

    Args:
        path: file or folder.
        error: one of the `NUMBERS`.
        needed: size of the file in bytes, if known.
        advice: what to do; by default, to choose another folder.
    """
    number = error.errno or 0
    reason = os.strerror(number)
    if number == errno.ENOSPC and needed:
        free = shutil.disk_usage(
            next(parent for parent in (Path(path).absolute(), *Path(path).absolute().parents) if parent.exists())
        ).free
        reason += f"; {needed / 1e6:.2f} MB are needed, {free / 1e6:.2f} MB are free"
    return DiskFull(
        number, f"{path}: cannot be written ({reason}). {advice or 'Free some space or choose another folder'}"
    )


@contextmanager
def naming_full_disk(folder: str | Path, name: str | Path | None = None, advice: str = "") -> Iterator[None]:
    """Let the error of a full disk name the folder that the block of a `with` statement fills.

    Args:
        folder: where the block writes; an error that names another place is left as it is.
        name: what to call the folder, if it is temporary.
        advice: as for `disk_full`.

    Raises:
        DiskFull: there was no room.
    """
    name = name or folder
    try:
        yield
    except DiskFull as error:
        if not str(error.strerror).startswith(str(folder)):
            raise
        raise DiskFull(error.errno, str(error.strerror).replace(str(folder), str(name))) from error
    except OSError as error:
        if error.errno not in NUMBERS:
            raise
        raise disk_full(name, error, advice=advice) from error
    except RuntimeError as error:  # of a compiler, which says it in words
        number = next((number for number in NUMBERS if os.strerror(number) in str(error)), None)
        if number is None:
            raise
        raise disk_full(name, OSError(number, ""), advice=advice) from error
