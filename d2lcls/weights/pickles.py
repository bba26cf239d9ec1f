"""The reader of PyTorch's files, without PyTorch: a pickle machine that can build arrays and nothing else.

A `.pth` file is a pickle, a small program that builds objects and can be written to run anything. This reader knows
the handful of things a file of weights needs, builds arrays and dicts of them, and refuses the rest.
"""

import math
import pickle
import struct
import zipfile
from typing import NamedTuple

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
MAGIC = 0x1950A86A20F9469CFC6C  # begins PyTorch's format of before 1.6
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
# What a pickle of weights is made of. Not in it: sets, objects of classes, byte arrays as long as the file says.
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


def read_torch(path):
    """Return the arrays of a state dict that `torch.save` wrote, as a dict from name to array.

    Raises:
        one of `DAMAGED`, with a reason: `d2lcls.weights.tensors.read_tensors` says which file.
    """
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found, values = _read_zip(archive, size)
    else:
        with open(path, "rb") as file:
            found, values = _read_legacy(file)
    return _arrays(_state_dict(found), values, size)


class _Storage(NamedTuple):
    """A flat array that a file promises; tensors are views of it."""

    key: str
    kind: str
    length: int


class _Tensor(NamedTuple):
    """A tensor that a file promises; a tuple, as a pickle can change attributes of other objects after the check."""

    storage: _Storage
    offset: int
    size: tuple
    stride: tuple

    def array(self, values):
        """Return it as a view of its storage's values, or as floats if it is bfloat16."""
        view = np.lib.stride_tricks.as_strided(
            values[self.offset :], self.size, [step * values.itemsize for step in self.stride]
        )
        return from_bfloat16(view) if self.storage.kind == "BFloat16Storage" else view


class _Dict(dict):
    """An OrderedDict, as far as files of weights need one: with attributes."""


def _tensor(storage, offset, size, stride, *_):
    if not type(size) is type(stride) is tuple or len(size) != len(stride) or len(size) > 32:
        raise ValueError("a tensor with a shape that makes no sense")
    if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in (*size, *stride, offset)):
        raise ValueError("a tensor with a shape that makes no sense")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if math.prod(size) > storage.length or 0 not in size and last >= storage.length:
        raise ValueError("a tensor larger than its data")
    return _Tensor(storage, offset, size, stride)


def _dict(pairs=None):
    made = _Dict()
    while pairs:  # Python 2 made dicts from a list. It is used up, lest a short file have it copied without end.
        key, value = pairs.pop(0)
        _check_keys([key])
        made[key] = value
    return made


def _check_keys(keys):
    # To hash nested tuples can take for ever.
    if not all(type(key) in (str, int, float, bool, type(None)) for key in keys):
        raise pickle.UnpicklingError("it has a dict with keys that are neither texts nor numbers")


class _Unpickler(pickle._Unpickler):
    """Builds dicts, plain values and promises of tensors; every other global is refused by name.

    It is Python's and not the quicker one in C: that one makes a list as long as the highest number it is told to
    remember an object by, which four flipped bits can turn into 64 GB.
    """

    def __init__(self, file):
        super().__init__(file, encoding="utf-8")
        self.storages = {}

    def load(self):
        try:
            return super().load()
        except KeyError as error:
            raise pickle.UnpicklingError(f"it has the instruction {error}, unknown in a file of weights") from error

    def find_class(self, module, name):
        # A fresh object each time: what a hostile file does to it (BUILD can set attributes) goes no further.
        if (module, name) == ("collections", "OrderedDict"):
            return lambda *arguments: _dict(*arguments)
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _tensor(*arguments)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in STORAGES:
            return name
        raise pickle.UnpicklingError(f"it calls for {module}.{name}, which a file of weights has no need of")

    def persistent_load(self, reference):
        word, kind, key, _, length = reference[:5]
        if (
            not all(type(text) is str for text in (word, kind, key))
            or word != "storage"
            or kind not in STORAGES
            or type(length) is not int
            or length < 0
        ):
            raise pickle.UnpicklingError("it refers to something that is no storage")
        storage = self.storages.setdefault(key, _Storage(key, kind, length))
        if storage != _Storage(key, kind, length):
            raise pickle.UnpicklingError("it describes one storage in two ways")
        return storage

    def load_setitem(self):
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self):
        _check_keys(self.stack[::2])
        super().load_setitems()

    dispatch = {code: pickle._Unpickler.dispatch[code] for code in (getattr(pickle, name)[0] for name in OPCODES)}
    dispatch[pickle.SETITEM[0]], dispatch[pickle.SETITEMS[0]] = load_setitem, load_setitems


def _read_legacy(file):
    """Read magic number, version, system, the object, the keys of its storages, then each storage's bytes."""
    magic = _Unpickler(file).load()
    if type(magic) is not int or magic != MAGIC:
        raise ValueError("it does not begin as such a file")
    _Unpickler(file).load()
    system = _Unpickler(file).load()
    if not system["little_endian"]:
        raise ValueError("it comes from a big-endian machine")
    unpickler = _Unpickler(file)
    found = unpickler.load()
    keys = _Unpickler(file).load()
    if type(keys) is not list or not all(type(key) is str for key in keys) or set(keys) != set(unpickler.storages):
        raise ValueError("its list of storages does not fit its tensors")
    values = {}
    for key in keys:
        storage = unpickler.storages[key]
        length = int.from_bytes(file.read(8), "little")
        values[key] = _fill(storage, length, file.read(storage.length * np.dtype(STORAGES[storage.kind]).itemsize))
    return found, values


def _read_zip(archive, size):
    """Read the object from data.pkl and each of its storages from data/KEY, stored uncompressed."""
    names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(names) != 1:
        raise ValueError("it holds no data.pkl")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise ValueError("it is compressed, which torch.save never does")
    if sum(entry.file_size for entry in archive.infolist()) > size:
        raise ValueError("its parts are larger than itself")
    folder = names[0].rsplit("/", 1)[0]
    if f"{folder}/byteorder" in archive.namelist() and archive.read(f"{folder}/byteorder") != b"little":
        raise ValueError("it comes from a big-endian machine")
    with archive.open(names[0]) as file:
        unpickler = _Unpickler(file)
        found = unpickler.load()
    return found, {
        key: _fill(storage, storage.length, archive.read(f"{folder}/data/{key}"))
        for key, storage in unpickler.storages.items()
    }


def _fill(storage, length, content):
    kind = np.dtype(STORAGES[storage.kind]).newbyteorder("<")
    if length != storage.length or len(content) != length * kind.itemsize:
        raise ValueError("it is cut short or a storage has another length than it says")
    return np.frombuffer(content, kind)


def _state_dict(found):
    """Find the dict of tensors, which training scripts often put beside other things."""
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found or not all(type(name) is str for name in found):
        raise ValueError("it holds no state dict")
    other = next((name for name, value in found.items() if not isinstance(value, _Tensor)), None)
    if other is not None:
        raise ValueError(f"its entry {other!r} is no tensor")
    return found


def _arrays(tensors, values, size):
    # Tensors may share their data, but a short file full of views of one storage would fill the memory.
    if sum(math.prod(t.size) * values[t.storage.key].itemsize for t in tensors.values()) > 16 * size:
        raise ValueError("its tensors are many times larger than itself")
    return {name: tensor.array(values[tensor.storage.key]).copy() for name, tensor in tensors.items()}


def from_bfloat16(bits):
    """Return float32 for the bits of bfloat16, uint16 arrays of any shape."""
    return np.asarray(np.left_shift(bits, 16, dtype=np.uint32)).view(np.float32)
