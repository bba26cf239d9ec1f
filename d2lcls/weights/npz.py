"""Write `.npz` files of plain arrays, and read them without believing what they declare.

numpy's own reader allocates an array of whatever shape the file declares, parses its header as Python, unpacks
compressed data of any size, and reports damage with a dozen kinds of exceptions.
"""

import errno
import io
import math
import re
import struct
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

_HEADER = re.compile(
    rb"\{'descr': '([<>|][biufcU]\d{1,9})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,18}, ?)*(?:\d{1,18},?)?)\), \} *\n"
)


class NpzError(ValueError):
    """An `.npz` file is damaged, or contains something other than plain arrays; the message is the reason alone."""


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> memoryview:
    """Return what `np.savez` writes; on a full disk, its open ZipFile would print a traceback when it is deleted."""
    content = io.BytesIO()
    np.savez(content, **dict(arrays))
    return content.getbuffer()


def read_npz(path: str | Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of a file that `np.savez` wrote.

    Args:
        path: the file, uncompressed, with arrays of numbers, booleans and texts.
        names: which arrays to read; None for all.

    Returns:
        arrays by name, in the file's order.

    Raises:
        OSError: the file is missing or cannot be read.
        NpzError: it is damaged, compressed, contains Python objects, or lacks one of `names`.
    """
    with open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        try:
            with zipfile.ZipFile(file) as archive:
                return _read_archive(archive, size, names)
        except (zipfile.BadZipFile, struct.error, EOFError, ValueError, RuntimeError) as error:
            raise NpzError(" ".join(str(error).split())[:300]) from error
        except OSError as error:
            if error.strerror is None or error.errno == errno.EINVAL:  # a negative position in a damaged table
                raise NpzError("its table of contents points outside the file") from error
            raise


def _read_archive(archive: zipfile.ZipFile, size: int, names: Collection[str] | None) -> dict[str, np.ndarray]:
    entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    if len(entries) < len(archive.infolist()):
        raise NpzError("two of its arrays have the same name")
    check_stored(archive, size)
    missing = [name for name in names or () if name not in entries]
    if missing:
        raise NpzError(f"it has no array {missing[0]!r}")
    return {
        name: _parse(name, archive.read(entry)) for name, entry in entries.items() if names is None or name in names
    }


def check_stored(archive: zipfile.ZipFile, size: int) -> None:
    """Raise ValueError unless the parts of an archive, in a file of `size` bytes, are uncompressed and fit into it."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size for entry in entries):
        raise ValueError("it is compressed, or the sizes of its parts are wrong")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its parts are larger than the file")


def _parse(name: str, content: bytes) -> np.ndarray:
    """Return the array of a `.npy` file: magic, version, length of the header, header, numbers."""
    if content[:6] != b"\x93NUMPY" or content[6:8] not in (b"\x01\x00", b"\x02\x00"):
        raise NpzError(f"its part {name!r:.100} does not begin like an array")
    begin, form = (10, "<H") if content[6] == 1 else (12, "<I")
    (length,) = struct.unpack_from(form, content, 8)
    header = _HEADER.fullmatch(content[begin : begin + min(length, 10_000)])
    if not header:
        raise NpzError(f"its part {name!r:.100} is not an array of numbers, booleans or texts")
    kind = np.dtype(header[1].decode())
    shape = tuple(int(number) for number in header[3].split(b",") if number.strip())
    values = memoryview(content)[begin + length :]
    if not kind.itemsize or len(shape) > 32 or len(values) != math.prod(shape) * kind.itemsize:
        raise NpzError(f"its array {name!r:.100} of shape {str(shape):.100} has {len(values)} bytes")
    return np.frombuffer(values, kind).reshape(shape, order="F" if header[2] == b"True" else "C").copy("K")
