"""From MXNet to ONNX, the format that nearly every other runtime reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from d2lcls.deploy.exporting import load_graph, read_graph
from d2lcls.deploy.graph.symbol_json import parse_symbol
from d2lcls.deploy.manifest import Manifest, ModelError, derive, read_manifest, write_manifest
from d2lcls.deploy.onnx.convert import to_onnx
from d2lcls.deploy.onnx.registry import OPSET
from d2lcls.deploy.onnx_runtime import open_session
from d2lcls.deploy.rescue.load import RescueError, build_old_model
from d2lcls.machine.files import check_new_folder, new_folder
from d2lcls.models.fusion.folding import fold_batch_norm

import mxnet as mx
import numpy as np

if TYPE_CHECKING:
    import onnx

FILE = "model.onnx"


def export_onnx(folder: str | Path, target: str | Path, tolerance: float = 1e-4) -> tuple[Manifest, float]:
    """Write a model as ONNX for batches of any size, and compare its logits with MXNet's.

    Args:
        folder: model folder of form "mxnet".
        target: a new or empty folder for the model of form "onnx".
        tolerance: largest allowed difference of a logit, as a share of the largest one.

    Returns:
        (the new manifest, largest difference of a logit on random inputs, as that share).

    Raises:
        FileNotFoundError, ModelError: as `read_manifest`; also if the logits differ, or there is no converter for an
            operator.
        ValueError: the target is not empty.
        ImportError: onnx is not installed; names the extra.
    """
    manifest = read_manifest(folder)
    if manifest.form != "mxnet":
        raise ModelError(f"{folder}: a model of form {manifest.form}; this step takes one of form mxnet.")
    check_new_folder(target)
    symbol, arguments, statistics = fold_batch_norm(*load_graph(folder))
    model = graph_to_onnx(symbol, {**arguments, **statistics}, manifest.input_shape(), manifest.input_name)
    x = np.random.default_rng(0).normal(size=manifest.input_shape(3)).astype(np.float32)
    expected = read_graph(folder, manifest)(x)
    with new_folder(target) as out:
        (out / FILE).write_bytes(model.SerializeToString())
        difference = float(np.abs(open_session(out / FILE)(x) - expected).max() / np.abs(expected).max())
        if not difference <= tolerance:
            raise ModelError(
                f"{folder}: as ONNX the model's logits differ by up to {difference:.2g} of the largest, more "
                f"than {tolerance:g}. One of its operators is converted wrongly; please report it."
            )
        written = derive(manifest, "onnx", opset=OPSET, largest_difference=difference)
        return write_manifest(out, written, ["onnx", "mxnet"]), difference


def graph_to_onnx(
    symbol: mx.sym.Symbol, parameters: Mapping[str, mx.nd.NDArray], shape: tuple[int, ...], input_name: str = "data"
) -> onnx.ModelProto:
    """Convert a graph of MXNet's operators to ONNX of opset `OPSET`, checked.

    Args:
        symbol: with one input.
        parameters: by name.
        shape: (1, ...) of the input; the first axis is left free.
        input_name: its name.

    Raises:
        ModelError: an operator has no converter; names it.
    """
    arrays = {name: array.asnumpy() for name, array in parameters.items()}
    try:
        return to_onnx(build_old_model(parse_symbol(symbol.tojson()), arrays, {input_name: shape[1:]}))
    except RescueError as error:
        raise ModelError(str(error)) from error
