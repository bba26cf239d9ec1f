"""The reader of MXNet's `.params` files, without MXNet: every length is checked before it is believed.

MXNet's own reader is C++ that allocates what a file asks for, so a file with one flipped bit can end the process.
This one reads all that was ever written: the form of before 2017 without a version, and the versions 1 to 3.
"""

import math
import struct
from pathlib import Path

import numpy as np

LIST = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
TYPES = {
    0: "f4",
    1: "f8",
    2: "f2",
    3: "u1",
    4: "i4",
    5: "i1",
    6: "i8",
    7: "?",
    8: "i2",
    9: "u2",
    10: "u4",
    11: "u8",
    12: "bfloat16",
}
MAX_DIMENSIONS = 32
MAX_DENSE = 1 << 28  # bytes that a sparse array may become


class ParamsError(ValueError):
    """A file of parameters is damaged, hostile or something else; the message names the file and the reason."""


def read_params(path):
    """Read a `.params` file of any age.

    Args:
        path: what `nd.save`, `save_checkpoint`, `HybridBlock.export`, `save_parameters` or `save_params` wrote.

    Returns:
        dict from name, as it stands in the file with its prefix, to numpy array, in the file's order.
        Arrays without names are called "0", "1" and so on. bfloat16 becomes float32, sparse arrays become dense.

    Raises:
        FileNotFoundError: there is no such file.
        ParamsError: it is no such file, is cut short or damaged; no memory is taken for what is not there.

    Source: the layout is that of `NDArray::Save` in MXNet's src/ndarray/ndarray.cc.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of parameters.")
    try:
        return parse_params(path.read_bytes())
    except _Damaged as error:
        raise ParamsError(
            f"{path}: cannot be read as MXNet parameters ({error}). Expected what nd.save, export or "
            "save_parameters writes. Get the file anew."
        ) from error


def parse_params(content):
    """As `read_params`, from bytes; raises a ValueError with the bare reason."""
    file = _Bytes(content)
    if len(content) < 24 or file.number("Q") != LIST:
        raise _Damaged(_what_instead(content))
    file.number("Q")  # reserved
    # The smallest array, an empty one, takes four bytes: no more can be in the file.
    arrays = [_array(file, index) for index in range(file.count("arrays", 4))]
    names = [_name(file) for _ in range(file.count("names", 8))]
    if file.left:
        raise _Damaged(f"{file.left} bytes follow where it should end")
    if names and len(names) != len(arrays):
        raise _Damaged(f"it has {len(arrays)} arrays and {len(names)} names")
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise _Damaged(f"the name {twice!r} stands in it twice")
    return dict(zip(names or map(str, range(len(arrays))), arrays))


class _Damaged(ValueError):
    """The bare reason why a file cannot be read."""


class _Bytes:
    """Bytes that are taken from the front, never more than there are."""

    def __init__(self, content):
        self.content, self.place = memoryview(content), 0

    @property
    def left(self):
        return len(self.content) - self.place

    def take(self, length, what):
        if length > self.left:
            raise _Damaged(
                f"it is cut short: {what} should be {length} bytes at byte {self.place}, and {self.left} are left"
            )
        self.place += length
        return self.content[self.place - length : self.place]

    def number(self, kind, what="a number"):
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}"), what))[0]

    def count(self, what, smallest):
        """Read how many things follow, each of them at least `smallest` bytes long."""
        found = self.number("Q", f"the number of {what}")
        if found * smallest > self.left:
            raise _Damaged(f"it promises {found} {what} in {self.left} bytes")
        return found


def _what_instead(content):
    for magic, kind in (
        (b"PK\x03\x04", "a zip file: .npz, or PyTorch's"),
        (b"{", "JSON: is this the symbol?"),
        (b"\x08", "perhaps ONNX"),
        (b"<", "a web page"),
        (b"version https://git-lfs", "a pointer of Git LFS: get the real file with git lfs pull"),
        (b"\x1f\x8b", "packed with gzip: unpack it first"),
        (b"\x89HDF", "HDF5, as of Keras"),
    ):
        if content.startswith(magic):
            return f"it begins as {kind}"
    if content[:1] == b"\x80" and content[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "it begins as a pickle: PyTorch's weights, or the .states of an optimizer, which no prediction needs"
    return f"it is too short, {len(content)} bytes" if len(content) < 24 else "it does not begin as such a file"


def _name(file):
    length = file.number("Q", "the length of a name")
    try:
        return bytes(file.take(length, "a name")).decode("utf-8")
    except UnicodeDecodeError:
        raise _Damaged(f"a name at byte {file.place - length} is no text") from None


def _array(file, index):
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
        shape = _shape(file, magic, "I", index)  # before there were versions, the number of dimensions came first
    if not shape and magic != V3:
        return np.zeros(0, np.float32)  # an array that never got a shape: nothing follows
    file.take(8, "the device")
    return _values(file, shape, file.number("i", "the type"), index)


def _shape(file, dimensions, kind, index):
    if not 0 <= dimensions <= MAX_DIMENSIONS:
        raise _Damaged(f"array {index} has {dimensions} dimensions")
    shape = tuple(file.number(kind, "a shape") for _ in range(dimensions))
    if min(shape, default=0) < 0:
        raise _Damaged(f"array {index} has the shape {shape}")
    return shape


def _values(file, shape, code, index):
    if code not in TYPES:
        raise _Damaged(f"array {index} has the unknown type {code}")
    kind = np.dtype("u2" if TYPES[code] == "bfloat16" else TYPES[code]).newbyteorder("<")
    content = file.take(math.prod(shape) * kind.itemsize, f"array {index} of shape {shape}")
    if kind.kind == "b" and any(np.frombuffer(content, "u1") > 1):
        raise _Damaged(f"array {index} holds truth values other than 0 and 1")
    try:
        values = np.frombuffer(content, kind).reshape(shape)
    except ValueError:  # as (0, 2 ** 40, 2 ** 40), whose elements numpy will not count
        raise _Damaged(f"array {index} has the shape {shape}") from None
    if TYPES[code] == "bfloat16":
        return np.left_shift(values, 16, dtype=np.uint32).view(np.float32)
    return values.astype(kind.newbyteorder("="))


def _sparse(file, index, kind):
    """Read row_sparse (1: rows and their numbers) or csr (2: values, row starts, columns), and return it dense."""
    stored = _shape(file, file.number("i", "a number of dimensions"), "q", index)
    shape = _shape(file, file.number("i", "a number of dimensions"), "q", index)
    if len(shape) < kind or not stored:
        raise _Damaged(f"array {index} is sparse with the shape {shape}")
    file.take(8, "the device")
    code = file.number("i", "the type")
    parts = [
        (file.number("i", "the type of numbers"), _shape(file, file.number("i", "a number of dimensions"), "q", index))
        for _ in range(kind)
    ]
    values = _values(file, stored, code, index)
    parts = [_values(file, size, part, index).astype(np.int64) for part, size in parts]
    if math.prod(shape) * values.itemsize > MAX_DENSE:
        raise _Damaged(f"array {index} is sparse with the shape {shape}, too large to be made dense")
    dense = np.zeros(shape, values.dtype)
    try:
        if kind == 1:
            _check_places(parts[0], shape[0])
            dense[parts[0]] = values
        else:
            starts, columns = parts
            _check_places(columns, shape[1])
            if len(starts) != shape[0] + 1 or starts[0] != 0 or starts[-1] != len(columns):
                raise ValueError("its rows do not fit")
            dense[np.repeat(np.arange(shape[0]), np.diff(starts)), columns] = values
    except (ValueError, IndexError) as error:
        raise _Damaged(f"array {index} is sparse, and its parts do not fit") from error
    return dense


def _check_places(places, size):
    if places.ndim != 1 or len(places) and not 0 <= places.min() <= places.max() < size:
        raise ValueError("places outside the array")
