"""Puts OpenBLAS in the place of Arm Performance Libraries, with which MXNet's wheel for 64-bit Arm Linux was linked.

The wheel asks the loader for three libraries that Arm distributes and that no package index has. All it calls in them
is BLAS, LAPACK and LAPACKE, which the wheel cmeel-openblas has as well; mathematical and string functions it also
finds in the C library. The loader looks for a library by the name written inside it ("soname"), and takes one that is
loaded already: so three empty libraries of the three names are written and loaded, and OpenBLAS beside them.
"""

import ctypes
import struct
import sys
from pathlib import Path

LIBRARIES = ("libarmpl_lp64_mp.so", "libamath.so", "libastring.so")

_SHARED, _LOAD, _DYNAMIC, _GNU_STACK, _READ_WRITE = 3, 1, 2, 0x6474E551, 6
_NULL, _HASH, _STRTAB, _SYMTAB, _STRSZ, _SYMENT, _SONAME = 0, 4, 5, 6, 10, 11, 14


def substitutes(folder):
    """Return the paths of the libraries to load before MXNet: empty if the real ones, or no MXNet, are installed.

    Args:
        folder: where the three empty libraries are written; they may be deleted once they are loaded.
    """
    gfortran, openblas = _find("mxnet/libgfortran.so.5"), _find("cmeel.prefix/lib/libopenblas.so.0")
    if gfortran is None or openblas is None or _installed():
        return []
    with openblas.open("rb") as file:
        machine = file.read(20)[18:]
    empty = [Path(folder, name) for name in LIBRARIES]
    for path in empty:
        path.write_bytes(empty_library(path.name, machine))
    return [gfortran, openblas, *empty]  # OpenBLAS needs libgfortran, which MXNet's wheel brings along


def _find(name):
    return next((path for path in (Path(folder, name) for folder in sys.path) if path.is_file()), None)


def _installed():
    try:
        ctypes.CDLL(LIBRARIES[0])
    except OSError:
        return False
    return True


def empty_library(soname, machine):
    """Return the bytes of a shared library (64-bit ELF) that defines nothing.

    Args:
        soname: the name under which the loader knows it.
        machine: the two bytes that name the processor: those at 18 and 19 of any library for it.
    """
    names = b"\0" + soname.encode() + b"\0"
    header, segment, entry, symbol = 64, 56, 16, 24
    dynamic = header + 3 * segment
    symbols = dynamic + 7 * entry
    hashes = symbols + symbol  # the one symbol that every library has, of zeros
    strings = hashes + 16
    size = strings + len(names)
    entries = ((_SONAME, 1), (_HASH, hashes), (_STRTAB, strings), (_SYMTAB, symbols), (_STRSZ, len(names)),
               (_SYMENT, symbol), (_NULL, 0))
    return b"".join([
        b"\x7fELF\2\1\1", bytes(9), struct.pack("<H", _SHARED), machine,
        struct.pack("<IQQQIHHHHHH", 1, 0, header, 0, 0, header, segment, 3, 64, 0, 0),
        _segment(_LOAD, 0, size, 0x10000), _segment(_DYNAMIC, dynamic, symbols - dynamic, 8),
        _segment(_GNU_STACK, 0, 0, 16),
        *(struct.pack("<QQ", *pair) for pair in entries), bytes(symbol), struct.pack("<4I", 1, 1, 0, 0), names])


def _segment(kind, offset, size, alignment):
    return struct.pack("<IIQQQQQQ", kind, _READ_WRITE, offset, offset, offset, size, size, alignment)
