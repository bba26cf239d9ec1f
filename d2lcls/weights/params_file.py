"""A reader of MXNet's `.params` files, without MXNet: every length is checked before it is used; and a writer.

MXNet's own reader is C++ that allocates as much as a file asks for, so a file with one flipped bit can end the process.
This one reads every version: the format of before 2017, which has no version number, and the versions 1 to 3.

MXNet's own writer ignores that a disk is full while it writes the last bytes, and leaves an incomplete file.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

LIST = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
TYPES = dict(enumerate(("f4", "f8", "f2", "u1", "i4", "i1", "i8", "?", "i2", "u2", "u4", "u8", "bfloat16")))
_CODES = {name: code for code, name in TYPES.items()}
MAX_DIMENSIONS = 32
MAX_ARRAYS = 100_000  # many times what networks have; an empty array is 12 bytes of the file and 300 of memory
MAX_DENSE = 1 << 26  # bytes of all sparse arrays of a file, made dense


class ParamsError(ValueError):
    """A file of parameters is damaged, hostile or of another kind; the message names the file and the reason."""


def read_params(path: str | Path) -> dict[str, np.ndarray]:
    """Read a `.params` file of any version.

    Args:
        path: a file written by `nd.save`, `save_checkpoint`, `HybridBlock.export`, `save_parameters` or `save_params`.

    Returns:
        arrays by name, with the prefix it has in the file, in the file's order. Arrays without names are called "0",
        "1" and so on. bfloat16 becomes float32, sparse arrays become dense.

    Raises:
        FileNotFoundError: there is no such file.
        ParamsError: it is another kind of file, cut short or damaged; no memory is allocated for data that is missing.

    Source: the layout is that of `NDArray::Save` in MXNet's src/ndarray/ndarray.cc.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such parameter file.")
    try:
        return parse_params(path.read_bytes())
    except _Damaged as error:
        raise ParamsError(
            f"{path}: cannot be read as MXNet parameters ({error}). Expected a file written by "
            "nd.save, export or save_parameters. Get the file again."
        ) from error


def parse_params(content: bytes) -> dict[str, np.ndarray]:
    """As `read_params`, from bytes; raises a ValueError with the reason alone."""
    file = _Bytes(content)
    if len(content) < 24 or file.number("Q") != LIST:
        raise _Damaged(_what_instead(content))
    file.number("Q")  # reserved
    # The smallest array, an empty one, takes four bytes.
    arrays = [_array(file, index) for index in range(file.count("arrays", 4))]
    names = [_name(file) for _ in range(file.count("names", 8))]
    if file.left:
        raise _Damaged(f"{file.left} bytes follow after its end")
    if names and len(names) != len(arrays):
        raise _Damaged(f"it has {len(arrays)} arrays and {len(names)} names")
    result: dict[str, np.ndarray] = {}
    for name, array in zip(names or map(str, range(len(arrays))), arrays):
        if name in result:
            raise _Damaged(f"the name {name!r:.100} appears in it twice")
        result[name] = array
    return result


def params_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the bytes that `nd.save` would write for arrays by name, none of them a scalar."""
    parts = [struct.pack("<QQQ", LIST, 0, len(arrays))]
    for array in arrays.values():
        code = _CODES[array.dtype.str[1:].replace("b1", "?")]
        header = struct.pack(f"<Iii{array.ndim}q", V2, 0, array.ndim, *array.shape)
        values = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        parts += [header, struct.pack("<iii", 1, 0, code), values]  # 1, 0: the device, cpu(0)
    parts.append(struct.pack("<Q", len(arrays)))
    for name in arrays:
        parts += [struct.pack("<Q", len(name.encode())), name.encode()]
    return b"".join(parts)


class _Damaged(ValueError):
    """Why a file cannot be read, without its name."""


class _Bytes:
    """Bytes that are read from front to back, never more than there are."""

    def __init__(self, content: bytes) -> None:
        self.content, self.position = memoryview(content), 0
        self.dense = MAX_DENSE  # how many bytes of sparse arrays may still be made dense

    @property
    def left(self) -> int:
        return len(self.content) - self.position

    def take(self, length: int, what: str) -> memoryview:
        if length > self.left:
            raise _Damaged(
                f"it is cut short: {what} should be {length} bytes at byte {self.position}, and {self.left} are left"
            )
        self.position += length
        return self.content[self.position - length : self.position]

    def number(self, kind: str, what: str = "a number") -> int:
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}"), what))[0]

    def count(self, what: str, smallest: int) -> int:
        """Read how many items follow, each of them at least `smallest` bytes long."""
        count = self.number("Q", f"the number of {what}")
        if count * smallest > self.left:
            raise _Damaged(f"its header counts {count} {what}, and {self.left} bytes follow")
        if count > MAX_ARRAYS:
            raise _Damaged(f"its header counts {count} {what}, more than {MAX_ARRAYS:,}")
        return count


def _what_instead(content: bytes) -> str:
    for magic, kind in (
        (b"PK\x03\x04", "a zip file: .npz, or PyTorch's"),
        (b"{", "JSON: is this the symbol?"),
        (b"\x08", "an ONNX model"),
        (b"<", "a web page"),
        (b"version https://git-lfs", "a pointer of Git LFS: get the real file with git lfs pull"),
        (b"\x1f\x8b", "a gzip archive: unpack it first"),
        (b"\x89HDF", "HDF5, as of Keras"),
    ):
        if content.startswith(magic):
            return f"it begins like {kind}"
    if content[:1] == b"\x80" and content[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "it begins like a pickle: PyTorch's weights, or the .states of an optimizer, which no prediction needs"
    return f"it is too short, {len(content)} bytes" if len(content) < 24 else "it does not begin like a .params file"


def _name(file: _Bytes) -> str:
    length = file.number("Q", "the length of a name")
    try:
        return bytes(file.take(length, "a name")).decode("utf-8")
    except UnicodeDecodeError:
        raise _Damaged(f"a name at byte {file.position - length} is not UTF-8 text") from None


def _array(file: _Bytes, index: int) -> np.ndarray:
    magic = file.number("I", f"array {index}")
    if magic in (V2, V3):
        kind = file.number("i", "the kind of storage")
        if kind not in (0, 1, 2):
            raise _Damaged(f"array {index} has the unknown kind of storage {kind}")
        if kind:
            return _sparse(file, index, kind)
        shape = _shape(file, file.number("i", "a number of dimensions"), "q", index)
        if not shape and magic == V2:
            return np.zeros(0, np.float32)
    elif magic == V1:
        shape = _shape(file, file.number("i", "a number of dimensions"), "q", index)
    else:
        shape = _shape(file, magic, "I", index)  # without a version, the number of dimensions comes first
    if not shape and magic != V3:
        return np.zeros(0, np.float32)  # an array without a shape: nothing follows
    file.take(8, "the device")
    return _values(file, shape, file.number("i", "the type"), index)


def _shape(file: _Bytes, dimensions: int, kind: str, index: int) -> tuple[int, ...]:
    if not 0 <= dimensions <= MAX_DIMENSIONS:
        raise _Damaged(f"array {index} has {dimensions} dimensions")
    shape = tuple(file.number(kind, "a shape") for _ in range(dimensions))
    if min(shape, default=0) < 0:
        raise _Damaged(f"array {index} has the shape {shape}")
    return shape


def _values(file: _Bytes, shape: Sequence[int], code: int, index: int) -> np.ndarray:
    if code not in TYPES:
        raise _Damaged(f"array {index} has the unknown type {code}")
    kind = np.dtype("u2" if TYPES[code] == "bfloat16" else TYPES[code]).newbyteorder("<")
    content = file.take(math.prod(shape) * kind.itemsize, f"array {index} of shape {shape}")
    if kind.kind == "b" and (np.frombuffer(content, "u1") > 1).any():
        raise _Damaged(f"array {index} holds booleans other than 0 and 1")
    try:
        values = np.frombuffer(content, kind).reshape(shape)
    except ValueError:  # as (0, 2 ** 40, 2 ** 40), whose elements numpy will not count
        raise _Damaged(f"array {index} has the shape {shape}") from None
    if TYPES[code] == "bfloat16":
        return np.left_shift(values, 16, dtype=np.uint32).view(np.float32)
    return values.astype(kind.newbyteorder("="))


def _sparse(file: _Bytes, index: int, kind: int) -> np.ndarray:
    """Read row_sparse (1: rows and their numbers) or csr (2: values, row starts, columns), and return it dense."""
    stored = _shape(file, file.number("i", "a number of dimensions"), "q", index)
    shape = _shape(file, file.number("i", "a number of dimensions"), "q", index)
    if len(shape) < kind or not stored:
        raise _Damaged(f"array {index} is sparse with the shape {shape}")
    file.take(8, "the device")
    code = file.number("i", "the type")
    headers = [
        (file.number("i", "the type of numbers"), _shape(file, file.number("i", "a number of dimensions"), "q", index))
        for _ in range(kind)
    ]
    values = _values(file, stored, code, index)
    numbers = [_values(file, size, part, index) for part, size in headers]
    if any(part.dtype.kind not in "iu" for part in numbers):
        raise _Damaged(f"array {index} is sparse, with indices that are not whole numbers")
    parts = [part.astype(np.int64) for part in numbers]
    file.dense -= math.prod(shape) * values.itemsize
    if file.dense < 0:
        raise _Damaged(f"array {index} is sparse with the shape {shape}, too large to be made dense")
    try:
        dense = np.zeros(shape, values.dtype)
        if kind == 1:
            _check_indices(parts[0], shape[0])
            dense[parts[0]] = values
        else:
            starts, columns = parts
            _check_indices(columns, shape[1])
            if len(starts) != shape[0] + 1 or starts[0] != 0 or starts[-1] != len(columns):
                raise ValueError("its rows do not fit")
            dense[np.repeat(np.arange(shape[0]), np.diff(starts)), columns] = values
    except (ValueError, IndexError) as error:
        raise _Damaged(f"array {index} is sparse, and its parts do not fit") from error
    return dense


def _check_indices(indices: np.ndarray, size: int) -> None:
    if indices.ndim != 1 or len(indices) and not 0 <= indices.min() <= indices.max() < size:
        raise ValueError("indices outside the array")
