"""Running ONNX models with ONNX Runtime on the CPU."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

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


def open_session(path: Path, threads: int | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from float32 (N, 3, H, W) to logits (N, K), computed by ONNX Runtime.

    Args:
        path: the .onnx file.
        threads: to compute with; None is one for each usable core.

    Raises:
        FileNotFoundError: there is no such file.
        ModelError: it cannot be read, or has not one input and one output.
        ImportError: onnxruntime is not installed; names the extra.
    """
    onnxruntime = import_runtime()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
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
