"""Reading and writing files of named arrays: PyTorch's own format, without PyTorch, and safetensors.

A `.pth` file is a pickle, a small program that builds objects and can be written to run anything. The reader here
knows the handful of things a file of weights needs, builds arrays and dicts of them, and refuses the rest.
"""

import math
import pickle
import zipfile
from pathlib import Path

import numpy as np

STORAGES = {"FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "BFloat16Storage": "u2",
            "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1",
            "ByteStorage": "u1", "BoolStorage": "?"}
MAGIC = 0x1950A86A20F9469CFC6C  # begins PyTorch's format of before 1.6
DAMAGED = (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError, TypeError, KeyError, IndexError,
           AttributeError, OverflowError, UnicodeDecodeError, NotImplementedError, RecursionError, MemoryError)


class WeightsError(ValueError):
    """A file of weights is damaged, unsafe, or not what it should be; the message names the file and the reason."""


def read_tensors(path):
    """Read a file of weights.

    Args:
        path: a `.safetensors` file, or a state dict that PyTorch's `torch.save` wrote, in either of its formats.

    Returns:
        dict from name to numpy array; bfloat16 becomes float32.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: it is damaged, holds anything else than arrays, or calls for a function.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                found = _read_zip(archive)
        else:
            with open(path, "rb") as file:
                found = _read_legacy(file)
        return _state_dict(found)
    except DAMAGED as error:
        raise WeightsError(f"{path}: cannot be read as PyTorch weights ({error or type(error).__name__}). "
                           "Expected what torch.save(model.state_dict(), path) writes, or a .safetensors file.") from error


def write_safetensors(path, arrays, metadata=None):
    """Write named arrays as a `.safetensors` file, which appears only when it is whole.

    Args:
        path: the file.
        arrays: dict from name to numpy array.
        metadata: dict of texts that travels in the file's header.
    """
    from safetensors.numpy import save

    from d2lcls.files import write_atomically

    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata)
    write_atomically(path, lambda file: file.write(content))


def read_metadata(path):
    """Return the dict of texts in the header of a `.safetensors` file, empty if there is none."""
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return file.metadata() or {}


def _read_safetensors(path):
    from safetensors import SafetensorError, deserialize

    try:
        found = deserialize(path.read_bytes())
        types = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "I64": "i8", "I32": "i4", "I16": "i2",
                 "I8": "i1", "U8": "u1", "BOOL": "?"}
        arrays = {name: np.frombuffer(value["data"], types[value["dtype"]]).reshape(value["shape"])
                  for name, value in found}
        return {name: _from_bfloat16(arrays[name]) if value["dtype"] == "BF16" else arrays[name].copy()
                for name, value in found}
    except (SafetensorError, KeyError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors ({error}). Get the file anew.") from error


class _Storage:
    """A flat array that a file promises; tensors are views of it."""

    def __init__(self, kind, length):
        self.kind, self.length, self.values = kind, length, None


class _Tensor:
    """A tensor that a file promises, put together once its storage was read."""

    def __init__(self, storage, offset, size, stride, *_):
        whole = (*size, *stride, offset)
        if not isinstance(storage, _Storage) or not all(type(n) is int and n >= 0 for n in whole):
            raise ValueError("a tensor with a shape that makes no sense")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride))
        if len(size) != len(stride) or math.prod(size) > storage.length or 0 not in size and last >= storage.length:
            raise ValueError("a tensor larger than its data")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def array(self):
        values = self.storage.values
        view = np.lib.stride_tricks.as_strided(values[self.offset:], self.size,
                                               [step * values.itemsize for step in self.stride])
        return _from_bfloat16(view) if self.storage.kind == "BFloat16Storage" else view.copy()


class _Unpickler(pickle.Unpickler):
    """Builds dicts, plain values and promises of tensors; every other global is refused by name."""

    def __init__(self, file):
        super().__init__(file, encoding="utf-8")
        self.storages = {}

    def find_class(self, module, name):
        # A fresh object each time: what a hostile file does to it (BUILD can set attributes) goes no further.
        if (module, name) == ("collections", "OrderedDict"):
            return type("Dict", (dict,), {})
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _Tensor(*arguments)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in STORAGES:
            return name
        raise pickle.UnpicklingError(f"it calls for {module}.{name}, which a file of weights has no need of")

    def persistent_load(self, reference):
        word, kind, key, _, length = reference[:5]
        if word != "storage" or kind not in STORAGES or type(key) is not str or type(length) is not int or length < 0:
            raise pickle.UnpicklingError("it refers to something that is no storage")
        storage = self.storages.setdefault(key, _Storage(kind, length))
        if (storage.kind, storage.length) != (kind, length):
            raise pickle.UnpicklingError("it describes one storage in two ways")
        return storage


def _read_legacy(file):
    """Read magic number, version, system, the object, the keys of its storages, then each storage's bytes."""
    if _Unpickler(file).load() != MAGIC:
        raise ValueError("it does not begin as such a file")
    _Unpickler(file).load()
    system = _Unpickler(file).load()
    if not system["little_endian"]:
        raise ValueError("it comes from a big-endian machine")
    unpickler = _Unpickler(file)
    found = unpickler.load()
    keys = _Unpickler(file).load()
    if sorted(keys) != sorted(unpickler.storages):
        raise ValueError("its list of storages does not fit its tensors")
    for key in keys:
        storage = unpickler.storages[key]
        length = int.from_bytes(file.read(8), "little")
        _fill(storage, length, file.read(storage.length * np.dtype(STORAGES[storage.kind]).itemsize))
    return found


def _read_zip(archive):
    """Read the object from data.pkl and each of its storages from data/KEY, stored uncompressed."""
    names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(names) != 1:
        raise ValueError("it holds no data.pkl")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        raise ValueError("it is compressed, which torch.save never does")
    folder = names[0].rsplit("/", 1)[0]
    if f"{folder}/byteorder" in archive.namelist() and archive.read(f"{folder}/byteorder") != b"little":
        raise ValueError("it comes from a big-endian machine")
    with archive.open(names[0]) as file:
        unpickler = _Unpickler(file)
        found = unpickler.load()
    for key, storage in unpickler.storages.items():
        _fill(storage, storage.length, archive.read(f"{folder}/data/{key}"))
    return found


def _fill(storage, length, content):
    kind = np.dtype(STORAGES[storage.kind]).newbyteorder("<")
    if length != storage.length or len(content) != length * kind.itemsize:
        raise ValueError("it is cut short or a storage has another length than it says")
    storage.values = np.frombuffer(content, kind)


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
    return {name: tensor.array() for name, tensor in found.items()}


def _from_bfloat16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)
