"""Reading and writing files of named arrays: PyTorch's own format, without PyTorch, and safetensors."""

import errno
from pathlib import Path

from d2lcls.weights.pickles import DAMAGED, from_bfloat16, read_torch

import numpy as np


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
        return read_torch(path)
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # that is a damaged zip file's negative place
            raise
        raise WeightsError(
            f"{path}: cannot be read as PyTorch weights ({str(error) or type(error).__name__}). "
            "Expected what torch.save(model.state_dict(), path) writes, or a .safetensors file."
        ) from error


def write_safetensors(path, arrays, metadata=None):
    """Write named arrays as a `.safetensors` file, which appears only when it is whole.

    Args:
        path: the file.
        arrays: dict from name to numpy array.
        metadata: dict of texts that travels in the file's header.
    """
    from d2lcls.machine.files import write_atomically

    from safetensors.numpy import save

    content = save({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata)
    write_atomically(path, lambda file: file.write(content))


def read_metadata(path):
    """Return the dict of texts in the header of a `.safetensors` file, empty if there is none.

    Raises:
        FileNotFoundError: there is no such file.
        WeightsError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise WeightsError(f"{path}: cannot be read as safetensors ({error}). Get the file anew.") from error


def _read_safetensors(path):
    from safetensors import SafetensorError, deserialize

    try:
        found = deserialize(path.read_bytes())
        types = {
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
        arrays = {
            name: np.frombuffer(value["data"], types[value["dtype"]]).reshape(value["shape"]) for name, value in found
        }
        return {
            name: from_bfloat16(arrays[name]) if value["dtype"] == "BF16" else arrays[name].copy()
            for name, value in found
        }
    except (SafetensorError, KeyError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors ({error}). Get the file anew.") from error
