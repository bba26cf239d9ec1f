"""Fetching a data set from the first source that has it, and checking its files in the cache."""

import errno
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from d2lcls.data.download import catalog
from d2lcls.data.download.dataset import Dataset, File
from d2lcls.data.download.sources import get_files
from d2lcls.data.download.staging import clear_staging, say, staging
from d2lcls.data.download.transfer import SourceFailed, file_checksum
from d2lcls.machine.files import cache_folder


class DataUnavailable(RuntimeError):
    """No source has delivered the data set; the message lists the reasons and the next step."""


def verify(name: str) -> list[str]:
    """Check the cached files of a data set against the catalog.

    Returns:
        the problem of each wrong file (missing, wrong size, wrong sha1); empty if all files are correct.

    Raises:
        ValueError: the data set is unknown.
    """
    return _problems(catalog.find(name).files, cache_folder() / name)


def fetch(name: str, force: bool = False, origin: str | Path | None = None) -> Path:
    """Return the folder of a data set's files, which are fetched first if any is missing or wrong.

    Files get their names only when they are complete and checked, so a killed process leaves no
    incomplete data behind; an interrupted download is resumed. If several processes need the same data, one fetches
    it and the others wait. With `D2LCLS_OFFLINE=1` no source is used.

    Args:
        name: a name in `DATASETS`.
        force: fetch even if the files are correct.
        origin: a folder that holds the files under their names; they are copied from there, and no source is used.

    Raises:
        ValueError: the data set is unknown, or a file in `origin` is wrong or missing.
        FileNotFoundError: there is no folder `origin`.
        DataUnavailable: no source has delivered the data.
        OSError: the cache cannot be written, or the disk is full.
    """
    dataset = catalog.find(name)
    folder = cache_folder() / name
    if not force and not verify(name):
        clear_staging(name)
        return folder  # before anything is written: the cache may be read-only
    if origin is not None:
        _check_origin(dataset, Path(origin))
    try:
        with staging(name, dataset.title) as parts:
            if force or verify(name):  # another process may have fetched it while this one waited
                if origin is None:
                    _fetch(dataset, folder, parts)
                else:
                    _copy(dataset, Path(origin), folder, parts)
    except OSError as error:
        raise OSError(_not_stored(dataset, error)) from error
    return folder


def _fetch(dataset: Dataset, folder: Path, parts: Path) -> None:
    """Try one source after another and move the files of the first that delivers them into `folder`."""
    reasons = []
    for source in dataset.sources:
        label = f"{source.title} ({source.host})" if source.host else source.title
        with tempfile.TemporaryDirectory(prefix="work-", dir=parts) as temporary:
            work = Path(temporary)
            try:
                if os.environ.get("D2LCLS_OFFLINE") == "1":
                    raise SourceFailed("not asked, as D2LCLS_OFFLINE=1")
                say(f"{dataset.title}: asking {label}")
                get_files(source, dataset.files, parts, work)
                problems = _problems(dataset.files, work)
                if problems:
                    raise SourceFailed(f"sent other data: {problems[0]}")
            except SourceFailed as failure:
                reasons.append(f"  {label}: {failure}")
                say(reasons[-1])
                continue
            _move(dataset.files, work, folder)
        return
    raise DataUnavailable(
        f"{dataset.title} could not be fetched from any of its sources:\n"
        + "\n".join(reasons)
        + f"\nTry `d2lcls data get {dataset.name}` when the network works, or `d2lcls data get {dataset.name} --from "
        f"FOLDER` with a folder that holds {_contents(dataset)}."
    )


def _check_origin(dataset: Dataset, origin: Path) -> None:
    """Check the files in the folder that the caller names."""
    if not origin.is_dir():
        raise FileNotFoundError(f"{origin}: no such folder. Expected one that holds {_contents(dataset)}.")
    problems = _problems(dataset.files, origin)
    if problems:
        raise ValueError(
            f"{origin}: {len(problems):,} of the {len(dataset.files):,} files of {dataset.title} are wrong or missing; "
            f"the first: {problems[0]}. Expected a folder that holds {_contents(dataset)}."
        )


def _contents(dataset: Dataset) -> str:
    """Return what lies in the folder of a data set: files, and folders with a slash."""
    names = dict.fromkeys("".join(file.name.partition("/")[:2]) for file in dataset.files)
    return ", ".join(names)


def _copy(dataset: Dataset, origin: Path, folder: Path, parts: Path) -> None:
    """Copy the files of another folder into `folder`."""
    say(f"{dataset.title}: copying {len(dataset.files):,} files from {origin}")
    with tempfile.TemporaryDirectory(prefix="work-", dir=parts) as temporary:
        work = Path(temporary)
        for file in dataset.files:
            (work / file.name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin / file.name, work / file.name)
        _move(dataset.files, work, folder)


def _move(files: Sequence[File], work: Path, folder: Path) -> None:
    """Give complete and checked files their names in the cache."""
    for file in files:
        (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(work / file.name, folder / file.name)


def _problems(files: Sequence[File], folder: Path) -> list[str]:
    """Describe each file in a folder that differs from the catalog, in one line."""
    problems = []
    for file in files:
        path = folder / file.name
        if not path.is_file():
            problems.append(f"{path}: missing")
        elif path.stat().st_size != file.size:
            problems.append(f"{path}: has {path.stat().st_size} bytes, expected {file.size}")
        elif (checksum := file_checksum(path, header=file.header)) != file.sha1:
            problems.append(f"{path}: has sha1 {checksum}, expected {file.sha1}")
    return problems


def _not_stored(dataset: Dataset, error: OSError) -> str:
    """Return one sentence on why the cache cannot be written, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = f"the disk is full. Free some space (fetching takes up to {dataset.space // 10**6} MB)"
    else:
        advice = (
            f"the folder cannot be written ({error.strerror or error}). Make it writable "
            f"(fetching takes up to {dataset.space // 10**6} MB)"
        )
    return (
        f"Cannot store {dataset.title} in {cache_folder()}: {advice}, or set D2LCLS_HOME to a writable folder "
        "with enough space."
    )
