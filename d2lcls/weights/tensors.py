"""Read and write files of named arrays: PyTorch's own format, without PyTorch, and safetensors."""

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2lcls.machine.files import write_atomically
from d2lcls.weights.pickles import from_bfloat16
from d2lcls.weights.torch_files import DAMAGED, read_torch

import numpy as np

_TYPES = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "BF16": "u2",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}


class WeightsError(ValueError):
    """A file of weights is damaged, unsafe or not as expected; the message names the file and the reason."""


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read a file of weights.

    Args:
        path: a `.safetensors` file, or a state dict that PyTorch's `torch.save` wrote, in either of its formats.

    Returns:
        dict from name to numpy array; bfloat16 becomes float32.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: it is damaged, contains anything other than arrays, or calls a function.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        return read_torch(path)
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a negative offset in a damaged zip file
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise WeightsError(
            f"{path}: cannot be read as PyTorch weights ({reason}). "
            "Expected what torch.save(model.state_dict(), path) writes, or a .safetensors file."
        ) from error


def write_safetensors(path: str | Path, arrays: Mapping[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Write named arrays as a `.safetensors` file, which appears only when it is complete.

    Args:
        arrays: numpy arrays, or what `np.asarray` accepts, by name.
        metadata: texts to store in the file's header.
    """
    from safetensors.numpy import save

    content = save({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata)
    write_atomically(path, content)


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the texts in the header of a `.safetensors` file, empty if there are none.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise _not_safetensors(path, error) from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, deserialize

    arrays = {}
    try:
        for name, value in deserialize(path.read_bytes()):
            if value["dtype"] not in _TYPES:
                raise ValueError(f"{name!r:.100} is of the type {value['dtype']}, for which numpy has none")
            array = np.frombuffer(value["data"], _TYPES[value["dtype"]]).reshape(value["shape"])
            arrays[name] = from_bfloat16(array) if value["dtype"] == "BF16" else array.copy()
    except (SafetensorError, ValueError) as error:  # ValueError: a shape that numpy cannot hold, too
        raise _not_safetensors(path, error) from error
    return arrays


def _not_safetensors(path: str | Path, error: Exception) -> WeightsError:
    reason = " ".join(str(error).split())[:300]
    return WeightsError(f"{path}: cannot be read as safetensors ({reason}). Get the file anew.")
