"""Running ONNX models with ONNX Runtime on the CPU."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from d2lcls.deploy.manifest import ModelError
from d2lcls.machine.cores import usable_cores

import numpy as np

MISSING = '{} is not installed: pip install "d2lcls[deploy]"'


def import_onnx() -> ModuleType:
    """Import and return the package onnx; ImportError names the extra it comes with."""
    try:
        import onnx
        import onnx.checker
        import onnx.helper
    except ImportError as error:
        raise ImportError(MISSING.format("onnx")) from error
    return onnx


def import_runtime() -> ModuleType:
    """Import and return the package onnxruntime; ImportError names the extra it comes with."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(MISSING.format("onnxruntime")) from error
    return onnxruntime


def read_onnx(path: Path) -> Any:
    """Return an ONNX model, an `onnx.ModelProto`, without the data that it keeps in other files.

    Raises:
        ModelError: it is damaged, or keeps data in a file that is not in its folder.
        ImportError: onnx is not installed; names the extra.
    """
    onnx = import_onnx()
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it has no types

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise ModelError(f"{path}: not an ONNX model, or damaged ({error}). Make it anew.") from error
    for tensor in _tensors(model):
        for entry in tensor.external_data:
            other = path.parent / entry.value
            if entry.key == "location" and (Path(entry.value).name != entry.value or other.is_symlink()):
                raise ModelError(
                    f"{path}: keeps data in {entry.value[:100]!r}, which is not a file in its folder. Make it anew."
                )
    return model


def _tensors(message: Any) -> Iterator[Any]:
    """Yield all tensors of a protobuf message, also those of inner graphs and functions."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in value if hasattr(value, "__len__") else (value,):
            if field.message_type.name == "TensorProto":
                yield part
            else:
                yield from _tensors(part)


def open_session(path: Path, threads: int | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from float32 (N, 3, H, W) to logits (N, K), computed by ONNX Runtime.

    Args:
        path: the .onnx file.
        threads: to compute with; None is one for each usable core.

    Raises:
        FileNotFoundError: there is no such file.
        ModelError: it cannot be read, keeps data outside its folder, or has not one input and one output.
        ImportError: onnx or onnxruntime is not installed; names the extra.
    """
    onnxruntime = import_runtime()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    read_onnx(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.log_severity_level = 3  # errors; warnings are about nodes it has optimised away
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common parent but this one
        raise ModelError(
            f"{path}: ONNX Runtime cannot load it ({str(error).splitlines()[0]}). Make it anew."
        ) from error
    if len(session.get_inputs()) != 1 or len(session.get_outputs()) != 1:
        raise ModelError(
            f"{path}: has {len(session.get_inputs())} inputs and {len(session.get_outputs())} outputs; "
            "a classifier has one of each."
        )
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: np.ascontiguousarray(x, dtype=np.float32)})[0]
