"""Bring a data set onto this machine: from the first source that answers, once, whole and checked."""

import errno
import os
import shutil
import sys
import tempfile
from pathlib import Path

from d2lcls.data.download import catalog
from d2lcls.data.download.sources import get_files
from d2lcls.data.download.transfer import SourceFailed, file_checksum
from d2lcls.machine.files import cache_folder
from d2lcls.machine.progress import display_mode

from filelock import FileLock, Timeout


class DataUnavailable(RuntimeError):
    """No source gave the data set; the message lists each one's reason and the next step."""


def verify(name):
    """Check the cached files of a data set against the catalog.

    Returns:
        list of str, one problem each (missing, wrong size, wrong sha1); empty if all is well.

    Raises:
        ValueError: there is no such data set.
    """
    return _problems(catalog.find(name).files, cache_folder() / name)


def fetch(name, force=False):
    """Return the folder that holds a data set's files, fetching them first unless they are there and right.

    Files appear under their names only when they are whole and checked, so a killed process leaves nothing
    behind that could be taken for data; an interrupted download goes on where it stopped. Of several
    processes that need the same data, one fetches and the others wait. `D2LCLS_OFFLINE=1` asks no source.

    Args:
        name: a name in `DATASETS`.
        force: fetch even if the files are right.

    Returns:
        `Path` of the folder.

    Raises:
        ValueError: there is no such data set.
        DataUnavailable: no source gave the data.
        OSError: the cache cannot be written, or the disk is full.
    """
    dataset = catalog.find(name)
    folder, staging = cache_folder() / name, cache_folder() / ".staging"
    if not force and not verify(name):
        return folder  # before anything is written: the cache may be read-only
    try:
        (staging / name).mkdir(parents=True, exist_ok=True)
        with _lock(dataset, staging / f"{name}.lock"):
            if force or verify(name):  # another process may have fetched it while this one waited
                (staging / name).mkdir(exist_ok=True)  # which also cleaned up
                _fetch(dataset, folder, staging / name)
    except OSError as error:
        raise OSError(_not_stored(dataset, error)) from error
    return folder


def _lock(dataset, path):
    """Take the data set's lock; the system frees it if its owner dies."""
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        _say(f"{dataset.title}: another process is fetching it; waiting.")
        return lock.acquire()


def _fetch(dataset, folder, staging):
    """Try one source after another and move the files of the first good one into `folder`."""
    reasons = []
    for leftover in staging.glob("work-*"):  # of a killed process; partial downloads stay
        shutil.rmtree(leftover, ignore_errors=True)
    for source in dataset.sources:
        with tempfile.TemporaryDirectory(prefix="work-", dir=staging) as work:
            work = Path(work)
            try:
                if os.environ.get("D2LCLS_OFFLINE") == "1":
                    raise SourceFailed("not asked, as D2LCLS_OFFLINE=1")
                _say(f"{dataset.title}: asking {_called(source)}")
                get_files(source, dataset.files, staging, work)
                problems = _problems(dataset.files, work)
                if problems:
                    raise SourceFailed(f"sent other data: {problems[0]}")
            except SourceFailed as failure:
                reasons.append(f"  {_called(source)}: {failure}")
                _say(reasons[-1])
                continue
            folder.mkdir(exist_ok=True)
            for file in dataset.files:
                os.replace(work / file.name, folder / file.name)
        shutil.rmtree(staging, ignore_errors=True)
        return
    raise DataUnavailable(
        f"{dataset.title} could not be had from any of its sources:\n"
        + "\n".join(reasons)
        + f"\nTry `d2lcls data get {dataset.name}` when there is a network, or put these files into {folder}: "
        f"{', '.join(file.name for file in dataset.files)}."
    )


def _problems(files, folder):
    """Say what is wrong with files in a folder, one line a file that is not as the catalog has it."""
    problems = []
    for file in files:
        path = folder / file.name
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif path.stat().st_size != file.size:
            problems.append(f"{path}: has {path.stat().st_size} bytes, expected {file.size}")
        elif (found := file_checksum(path)) != file.sha1:
            problems.append(f"{path}: has sha1 {found}, expected {file.sha1}")
    return problems


def _not_stored(dataset, error):
    """Say in one sentence why the cache could not take the data, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = f"the disk is full. Free some space (fetching takes up to {dataset.space // 10**6} MB)"
    else:
        advice = (
            f"the folder cannot be written ({error.strerror or error}). Make it writable "
            f"(fetching takes up to {dataset.space // 10**6} MB)"
        )
    return (
        f"Cannot store {dataset.title} in {cache_folder()}: {advice}, or set D2LCLS_HOME to a folder "
        "with room that you may write to."
    )


def _called(source):
    return f"{source.title} ({source.host})" if source.host else source.title


def _say(text):
    if display_mode() != "off":
        print(text, file=sys.stderr)
