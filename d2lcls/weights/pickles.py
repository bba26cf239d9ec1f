"""Read PyTorch's files without PyTorch, and without running the code that they may contain.

A `.pth` file is a pickle, a small program that builds objects and can call any function. This reader supports only the
few instructions that a file of weights needs, builds dicts of arrays, and refuses everything else.
"""

import math
import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

STORAGES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
MAGIC = 0x1950A86A20F9469CFC6C  # the beginning of the format that PyTorch used before version 1.6
DAMAGED = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    RuntimeError,
    MemoryError,
)
# The instructions in a pickle of weights. There are none for sets, instances of classes, and byte arrays of any length.
OPCODES = [
    "PROTO",
    "FRAME",
    "STOP",
    "MARK",
    "NONE",
    "NEWTRUE",
    "NEWFALSE",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
    "EMPTY_TUPLE",
    "TUPLE",
    "TUPLE1",
    "TUPLE2",
    "TUPLE3",
    "EMPTY_LIST",
    "APPEND",
    "APPENDS",
    "EMPTY_DICT",
    "SETITEM",
    "SETITEMS",
    "GLOBAL",
    "STACK_GLOBAL",
    "REDUCE",
    "BUILD",
    "BINPERSID",
    "BINPUT",
    "LONG_BINPUT",
    "MEMOIZE",
    "BINGET",
    "LONG_BINGET",
]


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a state dict that `torch.save` wrote, by name.

    Raises:
        one of `DAMAGED`, with the reason; `d2lcls.weights.tensors.read_tensors` adds the name of the file.
    """
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            content, values = _read_zip(archive, size)
    else:
        with open(path, "rb") as file:
            content, values = _read_legacy(file)
    return _arrays(_state_dict(content), values, size)


class _Storage(NamedTuple):
    """The description of a flat array in a file; tensors are views of it."""

    key: str
    kind: str
    length: int


class _Tensor(NamedTuple):
    """The description of a tensor in a file; a tuple, because a pickle can change other objects after they are checked.

    Offset and stride are counted in elements.
    """

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self, values: np.ndarray) -> np.ndarray:
        """Return a view of its storage's values, or a float32 array if it is bfloat16."""
        view = np.lib.stride_tricks.as_strided(
            values[self.offset :], self.size, [step * values.itemsize for step in self.stride]
        )
        return from_bfloat16(view) if self.storage.kind == "BFloat16Storage" else view


class _Dict(dict):
    """An OrderedDict, as far as files of weights need one: with attributes."""


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    if (
        not type(size) is type(stride) is tuple
        or len(size) != len(stride)
        or len(size) > 32
        or not isinstance(storage, _Storage)
        or not all(type(n) is int and n >= 0 for n in (*size, *stride, offset))
    ):
        raise ValueError("a tensor with an invalid shape")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if math.prod(size) > storage.length or 0 not in size and last >= storage.length:
        raise ValueError("a tensor larger than its data")
    return _Tensor(storage, offset, size, stride)


def _dict(pairs: Any = None) -> _Dict:
    result = _Dict()
    while pairs:  # Python 2 made dicts from a list. It is emptied, so that a short file cannot copy it many times.
        key, value = pairs.pop(0)
        _check_keys([key])
        result[key] = value
    return result


def _check_keys(keys: Iterable[Any]) -> None:
    # Hashing nested tuples can take forever.
    if not all(type(key) in (str, int, float, bool, type(None)) for key in keys):
        raise pickle.UnpicklingError("it has a dict with keys that are neither texts nor numbers")


_PythonUnpickler: Any = pickle._Unpickler  # without its type, which lacks the methods that are changed here


class _Unpickler(_PythonUnpickler):
    """Builds dicts, plain values and descriptions of tensors; every other global is refused by name.

    It is based on Python's unpickler, not on the faster one in C, which allocates a list as long as the highest memo
    index in the file; four flipped bits can make that 64 GB.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def load(self) -> Any:
        try:
            return super().load()
        except KeyError as error:
            raise pickle.UnpicklingError(f"it has the instruction {error}, unknown in a file of weights") from error

    def find_class(self, module: str, name: str) -> Any:
        # A new object each time, because a hostile file can set its attributes with BUILD.
        if (module, name) == ("collections", "OrderedDict"):
            return lambda *arguments: _dict(*arguments)
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _tensor(*arguments)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in STORAGES:
            return name
        raise pickle.UnpicklingError(f"it calls {module}.{name}, which no file of weights needs")

    def persistent_load(self, reference: Any) -> _Storage:
        word, kind, key, _, length = reference[:5]
        if (
            not all(type(text) is str for text in (word, kind, key))
            or word != "storage"
            or kind not in STORAGES
            or type(length) is not int
            or length < 0
        ):
            raise pickle.UnpicklingError("it refers to something other than a storage")
        storage = self.storages.setdefault(key, _Storage(key, kind, length))
        if storage != _Storage(key, kind, length):
            raise pickle.UnpicklingError("it describes one storage in two ways")
        return storage

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _check_keys(self.stack[::2])
        super().load_setitems()

    dispatch = {code: _PythonUnpickler.dispatch[code] for code in (getattr(pickle, name)[0] for name in OPCODES)}
    dispatch[pickle.SETITEM[0]], dispatch[pickle.SETITEMS[0]] = load_setitem, load_setitems


def _read_legacy(file: BinaryIO) -> tuple[Any, dict[str, np.ndarray]]:
    """Read the magic number, the version, the system, the object, the keys of its storages, and each one's bytes."""
    magic = _Unpickler(file).load()
    if type(magic) is not int or magic != MAGIC:
        raise ValueError("it does not begin like such a file")
    _Unpickler(file).load()
    system = _Unpickler(file).load()
    if not system["little_endian"]:
        raise ValueError("it comes from a big-endian machine")
    unpickler = _Unpickler(file)
    content = unpickler.load()
    keys = _Unpickler(file).load()
    if type(keys) is not list or not all(type(key) is str for key in keys) or set(keys) != set(unpickler.storages):
        raise ValueError("its list of storages does not match its tensors")
    values = {}
    for key in keys:
        storage = unpickler.storages[key]
        length = int.from_bytes(file.read(8), "little")
        values[key] = _fill(storage, length, file.read(storage.length * np.dtype(STORAGES[storage.kind]).itemsize))
    return content, values


def _read_zip(archive: zipfile.ZipFile, size: int) -> tuple[Any, dict[str, np.ndarray]]:
    """Read the object from data.pkl and each of its storages from data/KEY, all uncompressed."""
    names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(names) != 1:
        raise ValueError("it contains no data.pkl")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise ValueError("it is compressed, which torch.save never does")
    if sum(entry.file_size for entry in archive.infolist()) > size:
        raise ValueError("its parts are larger than the file")
    folder = names[0].rsplit("/", 1)[0]
    if f"{folder}/byteorder" in archive.namelist() and archive.read(f"{folder}/byteorder") != b"little":
        raise ValueError("it comes from a big-endian machine")
    with archive.open(names[0]) as file:
        unpickler = _Unpickler(file)
        content = unpickler.load()
    return content, {
        key: _fill(storage, storage.length, archive.read(f"{folder}/data/{key}"))
        for key, storage in unpickler.storages.items()
    }


def _fill(storage: _Storage, length: int, content: bytes) -> np.ndarray:
    kind = np.dtype(STORAGES[storage.kind]).newbyteorder("<")
    if length != storage.length or len(content) != length * kind.itemsize:
        raise ValueError("it is truncated, or a storage does not have its declared length")
    return np.frombuffer(content, kind)


def _state_dict(content: Any) -> dict[str, _Tensor]:
    """Find the dict of tensors, which training scripts often save together with other values."""
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(type(name) is str for name in content):
        raise ValueError("it contains no state dict")
    other = next((name for name, value in content.items() if not isinstance(value, _Tensor)), None)
    if other is not None:
        raise ValueError(f"its entry {other!r} is not a tensor")
    return content


def _arrays(tensors: Mapping[str, _Tensor], values: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    # Tensors may share their data, but a short file with many views of one storage must not fill the memory.
    if sum(math.prod(t.size) * values[t.storage.key].itemsize for t in tensors.values()) > 16 * size:
        raise ValueError("its tensors are many times larger than the file")
    return {name: tensor.array(values[tensor.storage.key]).copy() for name, tensor in tensors.items()}


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Return bfloat16 numbers, given by their bits as a uint16 array of any shape, as float32."""
    return np.asarray(np.left_shift(bits, 16, dtype=np.uint32)).view(np.float32)
