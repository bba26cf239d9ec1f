"""Write files and folders so that a failure leaves nothing incomplete behind."""

import csv
import io
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from d2lcls.machine.full_disk import NUMBERS, disk_full, naming_full_disk
from d2lcls.machine.temporary import ENDING, remove_leftovers, temporary_file, temporary_folder

from filelock import FileLock, Timeout

LOCK_FILES = (".lock", ".lock.pid")
MOVED = ".moved"  # in the temporary folder of `new_folder`: the names of what it moves


def cache_folder() -> Path:
    """Return the path of the cache folder: `$D2LCLS_HOME`, or `~/.cache/d2lcls`."""
    return Path(os.environ.get("D2LCLS_HOME") or "~/.cache/d2lcls").expanduser().absolute()


def write_atomically(path: str | Path, content: bytes | memoryview | Callable[[BinaryIO], object]) -> None:
    """Write a file that appears at `path` only when it is complete; missing folders are made.

    Args:
        content: bytes, or a function that writes them to the open binary file that it is given.

    Raises:
        DiskFull, OSError: the file cannot be written; nothing is left behind, and an older file is unchanged.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(path.with_name(f"{path.name}.part")) as (partial, file):
            content(file) if callable(content) else file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
    except OSError as error:
        if error.errno in NUMBERS:
            raise disk_full(path, error, 0 if callable(content) else len(content)) from error
        raise OSError(
            error.errno, f"{path}: cannot be written ({error.strerror}). Free some space or choose another folder"
        ) from error


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as the text of a CSV file, with cells quoted where needed."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Yield the path of a temporary folder to fill; it is renamed to `folder` when the block is finished.

    If the block fails or is interrupted, everything in the folder is removed, together with the folders that were made.
    A folder that exists already may be a mount point, which cannot be replaced: it is locked, and the files are moved
    into it one after another when all of them are complete.

    Raises:
        ValueError, OSError: as for `check_new_folder`.
        FolderInUse: another process fills the folder, or has filled it in the meantime.
    """
    folder = check_new_folder(folder)
    if folder.exists():
        with hold_folder(folder):
            if _files_in(folder):
                raise FolderInUse(f"{folder}: another process has filled this folder meanwhile. Choose another folder.")
            for name in _moved(folder):  # by a process that was killed before it had moved all
                path = folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            with temporary_folder(folder / ".new", folder) as temporary:
                yield temporary
                paths = sorted(temporary.iterdir(), key=lambda path: path.stat().st_mtime_ns)  # the manifest is last
                (temporary / MOVED).write_text("\n".join(path.name for path in paths))
                for path in paths:
                    path.rename(folder / path.name)
        return
    made = [path for path in folder.parents if not path.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        prefix = folder.with_name(f"{folder.name}.new")
        for pid in remove_leftovers(prefix):
            raise _in_use(folder, str(pid))
        with temporary_folder(prefix, folder) as temporary:
            yield temporary
            try:
                os.rename(temporary, folder)
            except OSError as error:
                if not folder.exists():
                    raise
                raise FolderInUse(
                    f"{folder}: another process has written to this folder in the meantime. Choose another folder."
                ) from error
    except BaseException:
        for path in made:
            with suppress(OSError):  # it was not made yet, or another program has written to it
                path.rmdir()
        raise


class FolderInUse(OSError):
    """Another process writes into the folder."""


@contextmanager
def hold_folder(folder: str | Path) -> Iterator[None]:
    """Lock a folder for the block of a `with` statement; it is made if needed, and removed again if it stays empty.

    The system releases the lock when the process ends, however it ends. The same thread may lock a folder twice.

    Raises:
        FolderInUse: another process or thread holds it; names both.
        OSError: as for `check_writable`.
    """
    folder = Path(folder).absolute()
    check_writable(folder / LOCK_FILES[0])
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / LOCK_FILES[1]  # not in the lock file, which filelock empties whenever it opens it
    lock = FileLock(folder / LOCK_FILES[0], is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise _in_use(folder, _holder_of(folder)) from None
    try:
        with naming_full_disk(folder):
            holder.write_text(str(os.getpid()))
        yield
    finally:
        if lock.lock_counter == 1 and _holder_of(folder) in ("", str(os.getpid())):  # "": there was no room for it
            holder.unlink(missing_ok=True)
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        for path in made:
            with suppress(OSError):  # it is not empty
                path.rmdir()


def check_held(folder: str | Path) -> None:
    """Raise FolderInUse if the folder that this process locked was removed, and another process holds a new one."""
    pid = _holder_of(Path(folder))
    if pid not in ("", str(os.getpid())):
        raise _in_use(Path(folder), pid)


def _holder_of(folder: Path) -> str:
    """Return the id of the process that locked a folder last; empty if there is none."""
    holder = folder / LOCK_FILES[1]
    return holder.read_text() if holder.exists() else ""


def _in_use(folder: Path, pid: str) -> FolderInUse:
    return FolderInUse(
        f"{folder}: process {pid or '(unknown)'} is writing into this folder. Wait until it has ended, or choose "
        "another folder."
    )


def _files_in(folder: Path) -> list[Path]:
    """List what is in a folder, without locks and what `new_folder` has not finished."""
    unfinished = {*LOCK_FILES, *_moved(folder)}
    return [
        path
        for path in folder.iterdir()
        if path.name not in unfinished and not re.fullmatch(re.escape(".new") + ENDING, path.name)
    ]


def _moved(folder: Path) -> list[str]:
    """List what an unfinished `new_folder` moves into a folder that existed before."""
    names = [name for path in folder.glob(f".new*/{MOVED}") for name in path.read_text().splitlines()]
    return [name for name in names if name.strip(".") and name == Path(folder, name).name]  # nothing outside the folder


def check_new_folder(folder: str | Path) -> Path:
    """Return the path of a folder if `new_folder` can make it; nothing is written.

    Raises:
        ValueError: it exists and is not an empty folder.
        OSError: it would be inside a file or a read-only folder.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or _files_in(folder)):
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
