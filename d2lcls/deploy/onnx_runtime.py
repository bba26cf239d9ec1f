"""Running ONNX models with ONNX Runtime on the CPU."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from d2lcls.deploy.manifest import ModelError
from d2lcls.deploy.onnx_file import MEMORY, MISSING, SECONDS, call_apart, read_onnx
from d2lcls.machine.cores import usable_cores

import numpy as np


def import_runtime() -> ModuleType:
    """Import and return the package onnxruntime; ImportError names the extra it comes with."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(MISSING.format("onnxruntime")) from error
    return onnxruntime


def open_session(path: Path, threads: int | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from float32 (N, 3, H, W) to logits (N, K), computed by ONNX Runtime.

    Before this process opens the file, `try_onnx` does so in a child process.

    Args:
        path: the .onnx file.
        threads: to compute with; None is one for each usable core.

    Raises:
        FileNotFoundError: there is no such file.
        ModelError: as `try_onnx`; the function returned raises it too, if ONNX Runtime cannot compute a batch.
        ImportError: onnx or onnxruntime is not installed; names the extra.
    """
    import_runtime()
    try_onnx(path)
    session = _session(path, threads or usable_cores())
    name = session.get_inputs()[0].name

    def compute(x: np.ndarray) -> np.ndarray:
        try:
            return session.run(None, {name: np.ascontiguousarray(x, dtype=np.float32)})[0]
        except Exception as error:  # ONNX Runtime's exceptions have no common parent but this one
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"{path}: cannot compute an array of shape {x.shape} ({reason}).") from error

    return compute


def try_onnx(path: Path, memory: int = MEMORY, seconds: float = SECONDS) -> None:
    """Check an ONNX file, open it and compute one picture and two, all in a child process with limits.

    Args:
        path: the .onnx file.
        memory: bytes that this may take, besides four times the file's size.
        seconds: that this may take.

    Raises:
        FileNotFoundError: there is no such file.
        ModelError: the file has something that `read_onnx` does not allow, or ONNX Runtime cannot open or compute it.
        ImportError: onnx or onnxruntime is not installed; names the extra.
    """
    call_apart(_try, path, what="opening it with ONNX Runtime", memory=memory, seconds=seconds)


def _try(path: Path) -> None:
    read_onnx(path)
    session = _session(path, 1)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(f"{path}: has {len(inputs)} inputs and {len(outputs)} outputs; a classifier has one of each.")
    shape = inputs[0].shape
    if not shape or not all(isinstance(size, int) and size > 0 for size in shape[1:]):
        raise ModelError(f"{path}: its input has the shape {shape}; only the number of pictures may be free.")
    for count in (shape[0],) if isinstance(shape[0], int) else (1, 2):
        result = session.run(None, {inputs[0].name: np.zeros((count, *shape[1:]), dtype=np.float32)})[0]
        if not isinstance(result, np.ndarray) or result.dtype != np.float32:
            raise ModelError(f"{path}: its output is a {outputs[0].type}; expected logits, tensor(float).")


def _session(path: Path, threads: int) -> Any:
    onnxruntime = import_runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised; warnings are about nodes it has optimised away
    # Otherwise, a file whose bytes 4 to 8 are ORTM is read in another format than the one that was checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
