"""Replace the Arm Performance Libraries, which MXNet's wheel for 64-bit Arm Linux needs, with SciPy's OpenBLAS.

The wheel is linked against three shared libraries that Arm distributes and that no package index has. It calls only
their BLAS and LAPACK functions, which SciPy's wheel contains in OpenBLAS, under names with a prefix
(scipy_cblas_sgemm); the mathematical and string functions are also in the C library. The loader identifies a library
by the name stored in it ("soname"), and uses one that is already loaded. So three small libraries with the three
names are written and loaded: two empty ones, and one with functions that jump to those of OpenBLAS.
"""

import ctypes
import platform
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

LIBRARIES = ("libarmpl_lp64_mp.so", "libamath.so", "libastring.so")
PREFIX = "scipy_"
# From `nm -D --undefined-only libmxnet.so`, without the letter of the number type.
_CBLAS = {"c": "gemm", "d": "dot gemm ger syrk trmm trsm", "s": "axpy dot gemm ger syrk trmm trsm", "z": "gemm"}
_LAPACK = "gels geqrf gesdd gesv getrf posv potrf"
_LAPACKE = "geev gelqf gesdd gesv gesvd getrf getri orglq potrf potri syevd"
FUNCTIONS = (
    *(f"cblas_{kind}{name}" for kind, names in _CBLAS.items() for name in names.split()),
    *(f"{kind}{name}_" for kind in "ds" for name in _LAPACK.split()),
    *(f"LAPACKE_{kind}{name}" for kind in "ds" for name in _LAPACKE.split()),
)

# ELF's number of the processor, and of its relocation type that stores the address of a symbol.
_MACHINES = {"aarch64": (183, 1025), "x86_64": (62, 6)}
_PAGE = 0x10000  # the largest page size of Linux on Arm


def substitutes(folder: str) -> list[Path]:
    """Return the paths of the libraries to load before MXNet; empty if Arm's libraries, or no MXNet, are installed.

    Args:
        folder: the folder into which the small libraries are written; they may be deleted once they are loaded.
    """
    openblas = _find("scipy.libs/libscipy_openblas*.so")
    if not openblas or not _find("mxnet/libmxnet.so") or can_load(LIBRARIES[0]):
        return []
    small = [Path(folder, name) for name in LIBRARIES]
    for path, functions in zip(small, (FUNCTIONS, (), ())):
        path.write_bytes(library(path.name, functions))
    return [*openblas[0].parent.glob("libgfortran*"), openblas[0], *small]


def _find(pattern: str) -> list[Path]:
    return [path for folder in sys.path for path in sorted(Path(folder).glob(pattern))]


def can_load(library: str) -> bool:
    """Return whether the loader finds a shared library, such as "libcudnn.so.8", and can load it."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def library(soname: str, functions: Sequence[str] = (), machine: str | None = None) -> bytes:
    """Return a shared library (64-bit ELF) whose functions jump to those of the same names with `PREFIX`.

    Args:
        soname: the name by which the loader identifies the library.
        functions: the names of its functions.
        machine: "aarch64", or "x86_64" for the tests; None is this machine.
    """
    machine = machine or platform.machine()
    count = len(functions)
    texts = [b"\0", *(text.encode() + b"\0" for text in (soname, *(PREFIX + name for name in functions), *functions))]
    strings = b"".join(texts)
    names = [sum(map(len, texts[:index])) for index in range(len(texts))][2:]

    # Read and executed: headers, symbols, hash table, relocations, names, code. The loader writes to the rest.
    symbols_at = 64 + 4 * 56
    hash_at = symbols_at + 24 * (1 + 2 * count)
    relocations_at = _align(hash_at + 4 * (4 + 2 * count))
    strings_at = relocations_at + 24 * count
    code_at = _align(strings_at + len(strings))
    data_at = code_at + 8 * count  # in the file; in memory a page later
    slots = [data_at + _PAGE + 8 * index for index in range(count)]
    dynamic_at = data_at + 8 * count

    # An undefined symbol has section 0, a defined one any other.
    symbols = [
        bytes(24),
        *(struct.pack("<IBBHQQ", name, 0x12, 0, 0, 0, 0) for name in names[:count]),
        *(struct.pack("<IBBHQQ", name, 0x12, 0, 1, code_at + 8 * index, 8) for index, name in enumerate(names[count:])),
    ]
    chain = [0] * (1 + count) + [count + 2 + index for index in range(count)]  # one list of all defined symbols
    if count:
        chain[-1] = 0
    hashes = struct.pack(f"<{4 + 2 * count}I", 1, 1 + 2 * count, count + 1 if count else 0, *chain)
    number, kind = _MACHINES[machine]
    relocations = [struct.pack("<QQq", slot, (index + 1) << 32 | kind, 0) for index, slot in enumerate(slots)]
    code = [_jump(machine, slot - (code_at + 8 * index)) for index, slot in enumerate(slots)]
    entries = [
        (14, 1),
        (4, hash_at),
        (5, strings_at),
        (6, symbols_at),
        (10, len(strings)),
        (11, 24),
        (7, relocations_at),
        (8, 24 * count),
        (9, 24),
        (0, 0),
    ]
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    end = dynamic_at + len(dynamic)
    parts = [
        (0, b"\x7fELF\2\1\1" + bytes(9)),
        (16, struct.pack("<HHIQQQIHHHHHH", 3, number, 1, 0, 64, 0, 0, 64, 56, 4, 64, 0, 0)),
        (
            64,
            _segment(1, 5, 0, 0, data_at)
            + _segment(1, 6, data_at, _PAGE, end - data_at)
            + _segment(2, 6, dynamic_at, _PAGE, len(dynamic))
            + _segment(0x6474E551, 6, 0, 0, 0),
        ),
        (symbols_at, b"".join(symbols)),
        (hash_at, hashes),
        (relocations_at, b"".join(relocations)),
        (strings_at, strings),
        (code_at, b"".join(code)),
        (dynamic_at, dynamic),
    ]
    image = bytearray(end)
    for offset, part in parts:
        image[offset : offset + len(part)] = part
    return bytes(image)


def _align(offset: int) -> int:
    return (offset + 7) // 8 * 8


def _segment(kind: int, access: int, offset: int, shift: int, size: int) -> bytes:
    return struct.pack("<IIQQQQQQ", kind, access, offset, offset + shift, offset + shift, size, size, _PAGE)


def _jump(machine: str, distance: int) -> bytes:
    """Return eight bytes of code that jump to the address stored `distance` bytes after them."""
    if machine == "aarch64":
        return struct.pack("<II", 0x58000010 | distance // 4 << 5, 0xD61F0200)  # ldr x16, [pc + distance]; br x16
    return b"\xff\x25" + struct.pack("<iH", distance - 6, 0)  # jmp [rip + distance - 6]
