"""From MXNet to PyTorch: a module's source to read and to train further, its weights, and examples to check it.

The model is first converted to ONNX, whose operators are defined exactly. Nothing here needs PyTorch, which has to be
in another environment: GluonCV cannot be imported beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from d2lcls.deploy.exporting import load_graph
from d2lcls.deploy.manifest import Manifest, ModelError, derive, read_manifest, write_manifest
from d2lcls.deploy.onnx.export import FILE, graph_to_onnx
from d2lcls.deploy.onnx_file import call_apart, import_onnx, read_onnx
from d2lcls.deploy.predictor import open_model
from d2lcls.deploy.torch.code import to_code
from d2lcls.machine.files import check_new_folder, new_folder

import numpy as np
from safetensors.numpy import save

if TYPE_CHECKING:
    from onnx import ModelProto

Code = tuple[str, dict[str, np.ndarray], list[str]]

CODE, WEIGHTS, EXAMPLES, CHECK = "model.py", "weights.safetensors", "examples.safetensors", "check.py"


def export_torch(folder: str | Path, target: str | Path, x: np.ndarray | None = None) -> Manifest:
    """Write a model as a folder for PyTorch: model.py, weights, examples, and check.py, which runs the model on them.

    A model of form "mxnet" keeps all layers, including batch normalisation, so that it can be trained further.

    Args:
        folder: model folder of form "mxnet" or "onnx".
        target: a new or empty folder for the model of form "torch".
        x: float32 (N, 3, H, W), typical inputs that are stored with their logits; None takes 8 random ones.

    Raises:
        FileNotFoundError, ModelError: as `read_manifest`; also if an operator cannot be written as PyTorch; names it.
        ValueError: the target is not empty.
        ImportError: onnx is not installed; names the extra.
    """
    manifest = read_manifest(folder)
    if manifest.form not in ("mxnet", "onnx"):
        raise ModelError(f"{folder}: a model of form {manifest.form}; this step takes one of form mxnet or onnx.")
    check_new_folder(target)
    import_onnx()
    if x is None:
        x = np.random.default_rng(0).normal(size=manifest.input_shape(8)).astype(np.float32)
    title = (
        f"{manifest.name}: pictures (N, 3, {manifest.preprocess.crop}, {manifest.preprocess.crop}) to logits of "
        f"{len(manifest.classes)} classes; manifest.json has their names and the preprocessing."
    )
    outputs = [open_model(folder).compute(x)]
    if manifest.form == "onnx":
        code = call_apart(_to_code, Path(folder, FILE), title, what="writing it as PyTorch", seconds=600)
    else:
        symbol, arguments, statistics = load_graph(folder)
        model = graph_to_onnx(symbol, {**arguments, **statistics}, manifest.input_shape(), manifest.input_name)
        code = to_code(model, title)
    contents = _contents(code, {manifest.input_name: x}, outputs)
    with new_folder(target) as out:
        _write(out, contents)
        return write_manifest(out, derive(manifest, "torch", examples=len(x)), ["onnx", "mxnet"])


def write_torch(
    model: ModelProto, target: str | Path, title: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[np.ndarray]
) -> None:
    """Write an ONNX model as a folder for PyTorch, without a manifest.

    Args:
        model: checked, of opset 13.
        target: a new or empty folder.
        title: one sentence about the model.
        inputs: examples (N, ...) by input of the graph.
        outputs: (N, ...), MXNet's for these examples.

    Raises:
        ModelError: an operator cannot be written as PyTorch; names it.
        ValueError: the target is not empty.
    """
    contents = _contents(to_code(model, title), inputs, outputs)
    with new_folder(target) as out:
        _write(out, contents)


def _to_code(path: Path, title: str) -> Code:
    return to_code(read_onnx(path), title)


def _contents(code: Code, inputs: Mapping[str, np.ndarray], outputs: Sequence[np.ndarray]) -> dict[str, bytes]:
    """Return the content of the folder's files by name."""
    source, weights, names = code
    examples = {
        **{f"input{index:02}": inputs[name] for index, name in enumerate(names)},
        **{f"output{index:02}": array for index, array in enumerate(outputs)},
    }
    return {
        CODE: source.encode(),
        WEIGHTS: _tensors(weights),
        EXAMPLES: _tensors(examples),
        CHECK: Path(__file__).with_name(CHECK).read_bytes(),
    }


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def _tensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
