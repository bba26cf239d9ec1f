"""From an ONNX file to TVM's intermediate languages: Relax for the graph, TIR for the loops of each operator."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from d2lcls.deploy.manifest import Manifest, ModelError
from d2lcls.deploy.onnx_file import MISSING, call_apart, import_onnx, read_onnx
from d2lcls.deploy.onnx_runtime import import_runtime, try_onnx
from d2lcls.machine.temporary import temporary_folder

if TYPE_CHECKING:
    import onnx
    import tvm


def import_tvm() -> ModuleType:
    """Import and return TVM; ImportError names the extra it comes with."""
    os.environ.setdefault("TVM_BIND_THREADS", "0")  # pinned to a core that another process uses, a thread waits for it
    # By default, an idle thread looks for work 300,000 times before it sleeps: a tenth of a second.
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "3000")
    try:
        import tvm
        import tvm.relax
        import tvm.s_tir
    except ImportError as error:
        raise ImportError(MISSING.format("apache-tvm")) from error
    return tvm


def read_relax(folder: str | Path, manifest: Manifest, batch: int = 1) -> tvm.IRModule:
    """Read a model as loops: one function of TIR for each group of operators that can run as one.

    ONNX Runtime first fixes the batch, folds constants, and folds batch normalisation into convolutions. Then the
    arrays are laid out with the channels last, so that the channels of one pixel, which all convolutions treat alike,
    are adjacent in memory and fill a vector register.

    A child process does all of this first, so that a file at which TVM crashes ends only that process.

    Args:
        folder: model folder of form "onnx".
        manifest: of that folder.
        batch: number of pictures that the compiled model will always take.

    Returns:
        Module whose function "main" takes float32 (batch, 3, H, W) and returns logits (batch, K).

    Raises:
        ModelError: as `try_onnx`; also for an operator that TVM does not know; names it.
        ImportError: apache-tvm, onnx or onnxruntime is not installed; names the extra.
    """
    import_tvm()
    path, shape = Path(folder, "model.onnx"), manifest.input_shape(batch)
    try_onnx(path)
    call_apart(_try_relax, path, shape, what="reading it with TVM", memory=None, seconds=1800)
    return _read_relax(path, shape)


def _try_relax(path: Path, shape: tuple[int, ...]) -> None:
    _read_relax(path, shape)  # TVM 0.27 cannot pass it to another process: its own tools crash on a constant


def _read_relax(path: Path, shape: tuple[int, ...]) -> tvm.IRModule:
    tvm = import_tvm()
    from tvm.relax import transform as passes
    from tvm.relax.frontend.onnx import from_onnx

    module = from_onnx(simplify(path, shape), keep_params_in_input=False)
    last = {"relax.nn.conv2d": ["NHWC", "HWIO"]}
    return tvm.transform.Sequential(
        [
            passes.DecomposeOpsForInference(),
            passes.CanonicalizeBindings(),
            passes.FoldConstant(),
            passes.ConvertLayout(last),
            passes.LegalizeOps(),
            passes.AnnotateTIROpPattern(),
            passes.FoldConstant(),
            passes.FuseOps(),
            passes.FuseTIR(),
            passes.DeadCodeElimination(),
        ]
    )(module)


def simplify(path: Path, shape: tuple[int, ...]) -> onnx.ModelProto:
    """Read an ONNX file for inputs of one shape, with constants and batch normalisation folded."""
    onnx, onnxruntime = import_onnx(), import_runtime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    model = read_onnx(path)
    for axis, size in zip(model.graph.input[0].type.tensor_type.shape.dim, shape):
        axis.dim_value = size
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = shape[0]
    del model.graph.value_info[:]  # shapes of the old batch
    content = model.SerializeToString()
    with temporary_folder(needed=2 * len(content)) as folder:
        options.optimized_model_filepath = str(folder / "simple.onnx")
        try:
            onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common parent but this one
            reason = str(error).splitlines()[0]
            raise ModelError(
                f"{path}: ONNX Runtime cannot simplify it, or cannot write to {folder.parent} ({reason})."
            ) from error
        return onnx.load(options.optimized_model_filepath)
