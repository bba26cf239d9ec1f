"""Unpack the archives of data sets: the expected files, and nothing else.

Python's `tarfile` keeps a description of every member in memory, and in versions before August 2025 reads a member of
negative size without end (CVE-2025-8194). This reader goes through the archive once and uses no path in it.
"""

import re
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Protocol

LARGEST = 1 << 28  # bytes of an unpacked archive: more than any of the data sets has
BLOCK = 1 << 20
_REGULAR, _WITHOUT_DATA = b"0\x007", b"123456"  # types of members; of the others, data follows, which is skipped


class Readable(Protocol):
    """A binary file that is open for reading."""

    def read(self, size: int, /) -> bytes:
        """Return so many bytes, fewer only at the end."""


class ArchiveError(ValueError):
    """An archive that is damaged, or larger than any data set; the message is the reason alone."""


def unpack_tar(tar: Readable, names: Collection[str], folder: Path) -> None:
    """Write the regular files with these names, from any folder of the archive, into `folder`.

    Args:
        tar: the archive, without compression; it is read once, from front to back. Long paths are those of the format
            ustar, which `git archive` writes.
        names: which files to write; the others are skipped. "a/b" is the file b in a folder a, which is made if needed.
        folder: an existing folder.

    Raises:
        ArchiveError: it is damaged, or larger than `LARGEST` in all.
    """
    left = LARGEST
    while (header := _read(tar, 512)).strip(b"\0"):  # zeros, or nothing, are the end
        path, size = _member(header)
        left -= 512 + size
        if left < 0:
            raise ArchiveError(f"it is larger than {LARGEST:,} bytes")
        kind = header[156:157]
        name = next((end for end in _ends(path) if end in names), None) if kind in _REGULAR else None
        if name is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with open(folder / name, "wb") as file:
                _copy(tar, size, file.write)
        elif kind not in _WITHOUT_DATA:
            _copy(tar, size, len)
        if kind not in _WITHOUT_DATA:
            _copy(tar, -size % 512, len)


def unpack_gzip(packed: Readable, target: Path) -> None:
    """Write what an open `.gz` file contains to `target`.

    Raises:
        ArchiveError: it is damaged, or unpacks to more than `LARGEST` bytes.
    """
    written = 0
    with open(target, "wb") as file:
        while block := _read(packed, BLOCK):
            written += len(block)
            if written > LARGEST:
                raise ArchiveError(f"it is larger than {LARGEST:,} bytes")
            file.write(block)


def _member(header: bytes) -> tuple[str, int]:
    """Return the path and the size of a member, after checking its header's checksum."""
    checksum, size = (re.fullmatch(rb" *([0-7]+)[ \0]*", header[field]) for field in (slice(148, 156), slice(124, 136)))
    if (
        len(header) < 512
        or not checksum
        or not size
        or int(checksum[1], 8) != sum(header) - sum(header[148:156]) + 8 * ord(" ")
    ):
        raise ArchiveError("it is damaged, or no tar archive")
    prefix = header[345:500] if header[257:263] == b"ustar\0" else b""  # other formats have other fields there
    path = b"/".join(part.partition(b"\0")[0] for part in (prefix, header[:100]))
    return path.decode("utf-8", "replace"), int(size[1], 8)


def _ends(path: str) -> Iterator[str]:
    """Yield "a/b/c", "b/c" and "c" for "a/b/c"."""
    while path:
        yield path
        path = path.partition("/")[2]


def _copy(source: Readable, size: int, write: Callable[[bytes], object]) -> None:
    while size:
        block = _read(source, min(size, BLOCK))
        if not block:
            raise ArchiveError("it is cut short")
        write(block)
        size -= len(block)


def _read(source: Readable, size: int) -> bytes:
    try:
        return source.read(size)
    except (EOFError, zlib.error) as error:
        raise ArchiveError(f"it is damaged ({error})") from error
    except OSError as error:  # as gzip.BadGzipFile
        if error.errno is None:
            raise ArchiveError(f"it is damaged ({error})") from error
        raise
