"""Read the files that `torch.save` wrote, in either of its formats, without PyTorch."""

import io
import math
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2lcls.weights.npz import check_stored
from d2lcls.weights.pickles import STORAGES, Dict, Storage, Tensor, Unpickler

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C  # the beginning of the format that PyTorch used before version 1.6
# The exceptions of `zipfile`, `pickletools` and this module for a damaged file.
DAMAGED = (zipfile.BadZipFile, struct.error, EOFError, ValueError, KeyError, RuntimeError)
MAX_TENSORS = 100_000
MAX_COPIES = 3  # bytes of arrays per byte of the file: 2 if it holds bfloat16, more if tensors share data


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a state dict that `torch.save` wrote, by name.

    Raises:
        one of `DAMAGED`, with the reason; `d2lcls.weights.tensors.read_tensors` adds the name of the file.
    """
    with open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        begins_like_zip = file.read(4) == b"PK\x03\x04"  # PyTorch's own test
        file.seek(0)
        if begins_like_zip:
            with zipfile.ZipFile(file) as archive:
                content, values = _read_zip(archive, size)
        else:
            content, values = _read_legacy(file.read())
    return _arrays(_state_dict(content), values, size)


def _read_legacy(content: bytes) -> tuple[Any, dict[str, np.ndarray]]:
    """Read the magic number, the version, the system, the object, the keys of its storages, and each one's bytes."""
    file = io.BytesIO(content)
    magic = Unpickler(len(content)).load(file)
    if type(magic) is not int or magic != MAGIC:
        raise ValueError("it does not begin like such a file")
    Unpickler(len(content)).load(file)
    system = Unpickler(len(content)).load(file)
    if not isinstance(system, Dict) or system.get("little_endian") is not True:
        raise ValueError("it comes from a big-endian machine")
    unpickler = Unpickler(len(content))
    tree = unpickler.load(file)
    keys = Unpickler(len(content)).load(file)
    if type(keys) is not list or len(keys) != len(unpickler.storages):
        raise ValueError("its list of storages does not match its tensors")
    values: dict[str, np.ndarray] = {}
    for key in keys:
        if type(key) is not str or key in values or key not in unpickler.storages:
            raise ValueError("its list of storages does not match its tensors")
        storage = unpickler.storages[key]
        length = int.from_bytes(file.read(8), "little")
        begin = file.tell()
        end = begin + storage.length * np.dtype(STORAGES[storage.kind]).itemsize
        values[key] = _fill(storage, length, memoryview(content)[begin:end])
        file.seek(end)
    return tree, values


def _read_zip(archive: zipfile.ZipFile, size: int) -> tuple[Any, dict[str, np.ndarray]]:
    """Read the object from data.pkl and each of its storages from data/KEY, all uncompressed."""
    entries = archive.infolist()
    files = {entry.filename for entry in entries}
    names = [name for name in files if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(names) != 1:
        raise ValueError("it contains no data.pkl")
    if len(files) < len(entries):
        raise ValueError("two of its parts have the same name")
    check_stored(archive, size)
    folder = names[0].rsplit("/", 1)[0]
    if f"{folder}/byteorder" in files and archive.read(f"{folder}/byteorder") != b"little":
        raise ValueError("it comes from a big-endian machine")
    unpickler = Unpickler(size)
    tree = unpickler.load(io.BytesIO(archive.read(names[0])))
    return tree, {
        key: _fill(storage, storage.length, archive.read(f"{folder}/data/{key}"))
        for key, storage in unpickler.storages.items()
    }


def _fill(storage: Storage, length: int, content: bytes | memoryview) -> np.ndarray:
    kind = np.dtype(STORAGES[storage.kind]).newbyteorder("<")
    if length != storage.length or len(content) != length * kind.itemsize:
        raise ValueError("it is truncated, or a storage does not have its declared length")
    return np.frombuffer(content, kind)


def _state_dict(content: Any) -> dict[str, Tensor]:
    """Find the dict of tensors, which training scripts often save together with other values."""
    for key in ("state_dict", "model"):
        if isinstance(content, Dict) and isinstance(inner := content.get(key), Dict):
            content = inner
    if not isinstance(content, Dict) or not content.pairs:
        raise ValueError("it contains no state dict")
    tensors: dict[str, Tensor] = {}
    for name, value in content:
        if type(name) is not str:
            raise ValueError("it contains no state dict: a key is not a text")
        if not isinstance(value, Tensor):
            raise ValueError(f"its entry {name!r:.100} is not a tensor")
        if name in tensors:
            raise ValueError(f"the name {name!r:.100} appears in it twice")
        value.check()
        tensors[name] = value
        if len(tensors) > MAX_TENSORS:
            raise ValueError(f"it has more than {MAX_TENSORS:,} tensors")
    return tensors


def _arrays(tensors: Mapping[str, Tensor], values: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    # Tensors may share their data, but a short file with many views of one storage must not fill the memory.
    width = {key: 4 if value.dtype == "u2" else value.itemsize for key, value in values.items()}
    if sum(math.prod(t.size) * width[t.storage.key] for t in tensors.values()) > MAX_COPIES * size + 2**20:
        raise ValueError("its tensors are many times larger than the file")
    return {name: tensor.array(values[tensor.storage.key]) for name, tensor in tensors.items()}
