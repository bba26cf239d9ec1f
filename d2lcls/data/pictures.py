"""Pictures to classify, wherever they are: finding them one after another, and decoding them in batches."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any

from d2lcls.data.decode import FORMATS, BrokenImage, PictureSource, is_image_name
from d2lcls.data.formats.folders import is_ignored

import numpy as np

STANDARD_INPUT = "-"
Report = Callable[[str], object]

# How a picture begins. All but the last, PPM, have a zero byte near the beginning, which no path contains.
_PICTURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|BM|RIFF....WEBP|II[*+]\0|MM\0[*+]|P[1-6]\n(#[^\n]*\n)*\d+\s+\d+\s", re.DOTALL
)
_HEAD = 256  # bytes in which to look for all this


@dataclass(frozen=True, eq=False)
class FoundPicture:
    """A picture that was found: its path, or "-" for the bytes that came from standard input."""

    name: str
    source: str | bytes


@dataclass(frozen=True, eq=False)
class ReadPicture:
    """A picture that was read: uint8 (H, W, C), or None and the reason why it could not be."""

    name: str
    image: np.ndarray | None
    problem: str = ""


def find_pictures(names: Iterable[str], report: Report) -> Iterator[FoundPicture]:
    """Find pictures one after another, so that a folder of any size needs little memory.

    Args:
        names: each is a file; a folder, which is searched with all folders below it, in alphabetical order, for files
            with the suffix of a format that `open_image` reads, leaving out hidden files and what file managers leave
            behind; a pattern such as `photos/**/*.jpg`, which finds the same kinds of files; or "-" for standard
            input, which holds the paths of files and folders, one per line, or a picture itself.
        report: function called with one sentence for each name that leads to no picture, and for each folder that
            cannot be read.

    Raises:
        BrokenImage: standard input holds neither a list of paths nor a picture.
    """
    for name in names:
        if name == STANDARD_INPUT:
            if sys.stdin is None:  # closed by whoever started this process
                report("standard input: closed.")
            else:
                yield from _standard_input(sys.stdin.buffer, report)
        elif os.path.lexists(name) or not glob.has_magic(name):
            yield from _or_report(name, _at(name, report), report)
        else:
            yield from _or_report(name, _matching(name), report)


def read_batches(
    pictures: Iterable[FoundPicture], read: Callable[[PictureSource], np.ndarray], batch_size: int
) -> Iterator[list[ReadPicture]]:
    """Decode pictures in threads, batch by batch; one that cannot be read does not stop the others.

    Args:
        pictures: as `find_pictures` yields them.
        read: function from a path or bytes to uint8 (H, W, C) that raises `BrokenImage` or OSError.
        batch_size: pictures per batch; the last may have fewer.

    Yields:
        the pictures of a batch, in their order.
    """
    pictures = iter(pictures)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow releases the GIL while it decodes
        while batch := list(islice(pictures, batch_size)):
            yield list(pool.map(partial(_read, read), batch))


def _read(read: Callable[[PictureSource], np.ndarray], picture: FoundPicture) -> ReadPicture:
    try:
        return ReadPicture(picture.name, read(picture.source))
    except BrokenImage as error:
        return ReadPicture(picture.name, None, str(error).replace("<bytes>", "standard input"))
    except OSError as error:
        return ReadPicture(picture.name, None, f"{picture.name}: {error.strerror or error}")


def _or_report(name: str, pictures: Iterator[FoundPicture], report: Report) -> Iterator[FoundPicture]:
    """Yield the pictures that a name leads to, and report it if there are none."""
    first = next(pictures, None)
    if first is None:
        report(_nothing(name))
    else:
        yield first
        yield from pictures


def _at(path: str, report: Report) -> Iterator[FoundPicture]:
    """Yield a file, or the pictures in a folder; nothing if the path leads nowhere."""
    if os.path.isdir(path):
        yield from _below(path, report)
    elif os.path.lexists(path):
        yield FoundPicture(path, path)


def _matching(pattern: str) -> Iterator[FoundPicture]:
    """Yield the pictures whose paths match a pattern, in alphabetical order."""
    for path in sorted(glob.iglob(pattern, recursive=True)):
        if _is_picture(path) and not is_ignored(os.path.basename(path)):
            yield FoundPicture(path, path)


def _below(root: str, report: Report) -> Iterator[FoundPicture]:
    """Yield the pictures in a folder and those below it."""

    def unreadable(error: OSError) -> None:
        report(f"{error.filename}: {error.strerror}")

    for folder, subfolders, files in os.walk(root, onerror=unreadable, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not is_ignored(name) and not _leads_up(folder, name))
        for name in sorted(files):
            path = os.path.join(folder, name)
            if not is_ignored(name) and _is_picture(path):
                yield FoundPicture(path, path)


def _leads_up(folder: str, name: str) -> bool:
    """Whether a subfolder is a link to a folder that it is in, which would be searched without end."""
    path = os.path.join(folder, name)
    if not os.path.islink(path):
        return False
    here, target = os.path.realpath(folder), os.path.realpath(path)
    return os.path.commonpath([here, target]) == target


def _is_picture(path: str) -> bool:
    """Whether a path has the suffix of a picture and is not, say, a folder or a pipe; a link may lead nowhere."""
    return is_image_name(path) and (os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path)))


def _standard_input(stream: Any, report: Report) -> Iterator[FoundPicture]:
    head = stream.read1(_HEAD)  # does not wait for more than the first lines of a list
    if _PICTURE.match(head) and (b"\0" in head or head.startswith(b"P")):
        yield FoundPicture(STANDARD_INPUT, head + stream.read())
        return
    if not head.strip():
        report("standard input: empty. Expected the paths of pictures, one per line, or the bytes of a picture.")
    rest = b"" if head.endswith(b"\n") else stream.readline()  # which would wait for one more line
    for line in chain((head + rest).split(b"\n"), stream):
        if b"\0" in line:
            raise BrokenImage(
                "standard input: expected the paths of pictures, one per line, or one picture in one of the formats "
                f"{', '.join(FORMATS)}."
            )
        name = os.fsdecode(line.rstrip(b"\r\n"))
        if name:
            yield from _or_report(name, _at(name, report), report)


def _nothing(name: str) -> str:
    if os.path.isdir(name):
        return f"{name}: no pictures in this folder or below it. Expected files such as 1.jpg or 2.png."
    if glob.has_magic(name):
        return f"{name}: no picture matches this pattern. Put a folder's name instead to search it whole."
    return f"{name}: no such file or folder."
