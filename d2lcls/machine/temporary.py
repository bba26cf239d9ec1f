"""Temporary files and folders; those of a killed process are removed when the next ones are made for the same use.

Their names end in the id of the process and random digits. As long as the process lives, it also holds a lock on them,
because a process id says nothing about processes in other containers, and is used again after a restart.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from d2lcls.machine.full_disk import disk_full, naming_full_disk

ENDING = r"([1-9]\d{0,8})(?:-[0-9a-f]{8})?"  # of names of temporary files and folders; older versions had no digits


@contextmanager
def temporary_file(prefix: str | Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Yield (path, open file) of a new file `PREFIX...`, which is removed at the end of the block if it is still there.

    Leftovers of killed processes with the same prefix are removed first.

    Raises:
        OSError: the file cannot be made.
    """
    remove_leftovers(prefix)
    path = _new_path(prefix)
    try:
        with open(path, "xb") as file:
            _lock(file.fileno())
            yield path, file
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def temporary_folder(prefix: str | Path = "", name: str | Path = "", needed: int = 0) -> Iterator[Path]:
    """Yield the path of a new folder `PREFIX...`, which is removed at the end of the block if it is still there.

    Leftovers of killed processes with the same prefix are removed first. Without a prefix, the folder is in the
    system's folder for temporary files.

    Args:
        prefix: of its path.
        name: path of what will be made of it, which an error names instead of it.
        needed: how many bytes must be free, for libraries that do not report a full disk.

    Raises:
        DiskFull: there is no room for it or for what the block writes into it; without a prefix, the message names
            the variable TMPDIR.
        OSError: the folder cannot be made.
    """
    mode = 0o777 if prefix else 0o700  # further restricted by the umask
    advice = "" if prefix else "Free some space, or set TMPDIR to a folder on another disk"
    prefix = Path(prefix or Path(tempfile.gettempdir(), f"d2lcls-{os.getuid()}-"))
    name = name or prefix.parent
    remove_leftovers(prefix)
    path = _new_path(prefix)
    if needed and shutil.disk_usage(prefix.parent).free < needed:
        raise disk_full(name, OSError(errno.ENOSPC, ""), needed, advice)
    with naming_full_disk(path, name, advice):
        path.mkdir(mode)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            _lock(descriptor)
            yield path
        finally:
            os.close(descriptor)
            shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(prefix: str | Path) -> list[int]:
    """Remove the temporary files and folders of dead processes; returns the ids of living processes that have some."""
    folder, name = os.path.split(prefix)
    living = []
    for path in Path(folder).iterdir():
        match = re.fullmatch(re.escape(name) + ENDING, path.name)
        if not match:
            continue
        locked = _is_locked(path)
        if locked:
            living.append(int(match[1]))
        elif locked is False and (int(match[1]) == os.getpid() or not _is_running(int(match[1]))):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return living


def _new_path(prefix: str | Path) -> Path:
    return Path(f"{prefix}{os.getpid()}-{secrets.token_hex(4)}")


def _lock(descriptor: int) -> None:
    with suppress(OSError):  # a file system without locks, on which leftovers stay
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_locked(path: Path) -> bool | None:
    """Return whether a process holds a lock on a file or folder of this account; None if that cannot be found out."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # gone meanwhile, or a link
        return None
    try:
        if os.fstat(descriptor).st_uid != os.getuid():
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(descriptor)
    return False


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to another user
        pass
    return True
