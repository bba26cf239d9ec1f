"""From MXNet to PyTorch: a module's source to read and train on, its weights, and examples that prove it.

The way leads through ONNX, where every operator has one meaning. Nothing here needs PyTorch, which lives in another
environment: with it, GluonCV cannot be imported.
"""

from pathlib import Path

from d2lcls.deploy.exporting import load_graph
from d2lcls.deploy.manifest import ModelError, derive, read_manifest, write_manifest
from d2lcls.deploy.onnx.export import FILE, graph_to_onnx
from d2lcls.deploy.onnx_runtime import import_onnx
from d2lcls.deploy.predictor import load_model
from d2lcls.deploy.torch.code import to_code
from d2lcls.machine.files import check_new_folder, new_folder, write_atomically

import numpy as np
from safetensors.numpy import save

CODE, WEIGHTS, EXAMPLES, CHECK = "model.py", "weights.safetensors", "examples.safetensors", "check.py"


def export_torch(folder, target, x=None):
    """Write a model as a folder for PyTorch: model.py, weights, examples, and check.py, which compares them.

    Of a model of form "mxnet" all layers are kept, batch normalisation too, so that it can be trained on.

    Args:
        folder: model folder of form "mxnet" or "onnx".
        target: a new or empty folder for the model of form "torch".
        x: float32 (N, 3, H, W), typical inputs that are stored with the logits of this model; None takes 8 random ones.

    Returns:
        `Manifest`.

    Raises:
        FileNotFoundError, ModelError: as `read_manifest`; also where an operator has no form in PyTorch; names it.
        ValueError: the target is not empty.
        ImportError: onnx is not installed; names the extra.
    """
    manifest = read_manifest(folder)
    if manifest.form not in ("mxnet", "onnx"):
        raise ModelError(f"{folder}: a model of form {manifest.form}; PyTorch is made of one of form mxnet or onnx.")
    check_new_folder(target)
    onnx = import_onnx()
    if manifest.form == "onnx":
        model = onnx.load(str(Path(folder, FILE)))
    else:
        symbol, arguments, statistics = load_graph(folder)
        model = graph_to_onnx(symbol, {**arguments, **statistics}, manifest.input_shape(), manifest.input_name)
    if x is None:
        x = np.random.default_rng(0).normal(size=manifest.input_shape(8)).astype(np.float32)
    title = (
        f"{manifest.name}: pictures (N, 3, {manifest.preprocess.crop}, {manifest.preprocess.crop}) to logits of "
        f"{len(manifest.classes)} classes; manifest.json names them, and says how pictures are prepared."
    )
    contents = _contents(model, title, {manifest.input_name: x}, [load_model(folder).compute(x)])
    with new_folder(target):
        _write(target, contents)
        return write_manifest(target, derive(manifest, "torch", examples=len(x)), ["onnx", "mxnet"])


def write_torch(model, target, title, inputs, outputs):
    """Write an ONNX model as a folder for PyTorch, without a manifest.

    Args:
        model: checked `onnx.ModelProto` of opset 13.
        target: a new or empty folder.
        title: what it is, one sentence.
        inputs: dict from the graph's inputs to arrays (N, ...), examples.
        outputs: list of arrays (N, ...): what MXNet computes from them.

    Raises:
        ModelError: for an operator no PyTorch is known; it is named.
        ValueError: the target is not empty.
    """
    contents = _contents(model, title, inputs, outputs)
    with new_folder(target):
        _write(target, contents)


def _contents(model, title, inputs, outputs):
    """Return a dict from the names of the folder's files to their bytes."""
    source, weights, names = to_code(model, title)
    examples = {
        **{f"input{place:02}": inputs[name] for place, name in enumerate(names)},
        **{f"output{place:02}": array for place, array in enumerate(outputs)},
    }
    return {
        CODE: source.encode(),
        WEIGHTS: _tensors(weights),
        EXAMPLES: _tensors(examples),
        CHECK: Path(__file__).with_name(CHECK).read_bytes(),
    }


def _write(target, contents):
    for name, content in contents.items():
        write_atomically(Path(target, name), lambda file: file.write(content))


def _tensors(arrays):
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
