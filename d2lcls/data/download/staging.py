"""The folders for downloads: one process at a time uses one, and what a killed process leaves there is continued."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from d2lcls.machine.files import cache_folder
from d2lcls.machine.full_disk import naming_full_disk
from d2lcls.machine.progress import display_mode

from filelock import FileLock, Timeout


@contextmanager
def staging(name: str, title: str) -> Iterator[Path]:
    """Yield the folder for the downloads of one data set or network, locked for the block of the `with` statement.

    The folder is removed if the block succeeds. Otherwise partial downloads stay in it, which the next process
    continues; folders `work-...` of killed processes are removed. If another process holds the lock, say so and wait.
    The system releases the lock if its process dies.

    Raises:
        DiskFull, OSError: the cache cannot be written.
    """
    folder = _folder(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{title}: another process is fetching it; waiting.")
        lock.acquire()
    try:
        folder.mkdir(exist_ok=True)
        for leftover in folder.glob("work-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with naming_full_disk(
            folder, cache_folder(), "Free some space, or set D2LCLS_HOME to a folder on another disk"
        ):
            yield folder
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:
        with suppress(OSError):  # it is not empty
            folder.rmdir()
        raise
    finally:
        lock.release()


def clear_staging(name: str) -> None:
    """Remove what a process left that was killed after the last of its files was in place."""
    folder = _folder(name)
    if folder.exists():
        with suppress(OSError), FileLock(folder.with_name(f"{name}.lock"), timeout=0):  # in use, or a read-only cache
            shutil.rmtree(folder)


def _folder(name: str) -> Path:
    return cache_folder() / ".staging" / name


def say(text: str) -> None:
    """Print a line on the standard error output, unless progress is switched off."""
    if display_mode() != "off":
        print(text, file=sys.stderr)
