"""From a trained network to a model folder that needs neither its class nor its training code."""

import json
from pathlib import Path

from d2lcls.deploy.graph.bound import bind
from d2lcls.deploy.manifest import Manifest, ModelError, read_manifest, write_manifest
from d2lcls.machine.files import check_new_folder, new_folder
from d2lcls.models.efficientnet import set_image_size
from d2lcls.models.fusion.folding import fold_batch_norm, fold_constants
from d2lcls.models.fusion.fused import assemble, checked, fuse_graph, trace

import mxnet as mx
import numpy as np
from mxnet import nd

SYMBOL, PARAMETERS = "model-symbol.json", "model-0000.params"  # as `gluon.HybridBlock.export` names them
_SCALE = "scale:"


def export(net, folder, name, classes, preprocess, dataset=None):
    """Write a network as a model folder, read it back and compare.

    Args:
        net: initialised `gluon.HybridBlock` on the CPU, from (N, 3, crop, crop) to logits.
        folder: a new or empty folder.
        name: of the network.
        classes: sequence of names, in the order of the logits.
        preprocess: `Preprocess`.
        dataset: name or folder of the images it was trained on, if known.

    Returns:
        `Manifest`.

    Raises:
        ValueError: the folder is not empty, or the number of classes is not that of the logits.
        ModelError: what was written does not compute what the network does.
    """
    check_new_folder(folder)
    crop = preprocess.crop
    set_image_size(net, crop, crop)
    x = nd.array(np.random.default_rng(0).normal(size=(2, 3, crop, crop)))
    logits = net(x).asnumpy()
    if logits.shape != (2, len(classes)):
        raise ValueError(
            f"The network returns an array of shape {logits.shape} for two pictures, which are not the "
            f"logits of the {len(classes)} classes given."
        )
    symbol, arguments, statistics = trace(net)
    symbol, arguments = fold_constants(symbol, arguments)
    with new_folder(folder) as folder:
        save_graph(
            folder,
            symbol,
            {f"arg:{name}": value for name, value in arguments.items()},
            {f"aux:{name}": value for name, value in statistics.items()},
        )
        manifest = write_manifest(
            folder, Manifest(name, "mxnet", tuple(classes), preprocess, dataset=dataset), ["mxnet"]
        )
        again = assemble(*load_graph(folder))(x).asnumpy()
        if not np.abs(again - logits).max() <= 1e-5 * np.abs(logits).max():  # compiled, it may be rounded otherwise
            raise ModelError(
                f"{folder}: read back, the model's logits differ from the network's by up to "
                f"{np.abs(again - logits).max():.2g}. Is one of its layers random at prediction?"
            )
    return manifest


def save_graph(folder, symbol, arguments, statistics):
    """Write a symbol and its parameters, dicts from name with "arg:", "aux:" or "scale:" before it to NDArray.

    The files are those of MXNet's own export; only the blanks in the symbol's JSON are left out.
    """
    text = json.dumps(json.loads(symbol.tojson()), separators=(",", ":"), ensure_ascii=False)  # MXNet reads no \u
    Path(folder, SYMBOL).write_text(text, encoding="utf-8")
    nd.save(str(Path(folder, PARAMETERS)), {**arguments, **statistics})


def load_graph(folder):
    """Return (symbol, arguments, statistics) of a model folder of form "mxnet" or "mxnet-int8".

    Weights kept in int8 are multiplied by their scales.

    Raises:
        FileNotFoundError, ModelError: as `read_manifest`; also for a model of another form.
    """
    folder, manifest = Path(folder), read_manifest(folder)
    if not manifest.form.startswith("mxnet"):
        raise ModelError(
            f"{folder}: a model of form {manifest.form}; this step takes one of form mxnet, as "
            "`d2lcls export` writes it."
        )
    stored = nd.load(str(folder / PARAMETERS))
    scales = {name[len(_SCALE) :]: value for name, value in stored.items() if name.startswith(_SCALE)}
    found = {"arg": {}, "aux": {}}
    for name, value in stored.items():
        kind, _, short = name.partition(":")
        if kind in found:
            found[kind][short] = value.astype("float32") * scales[short] if short in scales else value
    return mx.sym.load(str(folder / SYMBOL)), found["arg"], found["aux"]


def shrink(arguments, names):
    """Round some weights to 8 bits, each output channel on a scale of its own.

    Args:
        arguments: dict from name to NDArray, float32.
        names: of the weights (O, ...) to round.

    Returns:
        (rounded, stored): the weights after rounding, as float32, and what `nd.save` is to keep of all arguments:
        int8 and a scale (O, 1, ...) for each of them, the others as they are.
    """
    rounded, stored = dict(arguments), {f"arg:{name}": value for name, value in arguments.items()}
    for name in names:
        weight = arguments[name].asnumpy()
        largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        whole = np.rint(weight / scale).astype(np.int8)
        rounded[name] = nd.array(whole * scale)
        stored[f"arg:{name}"], stored[_SCALE + name] = nd.array(whole, dtype=np.int8), nd.array(scale)
    return rounded, stored


def read_graph(folder, manifest):
    """Return a function from float32 (N, 3, H, W) to logits (N, K), computed by MXNet on the CPU.

    Layers are fused, unless that changes the logits of a made-up picture: then there is a warning.
    """
    symbol, arguments, statistics = load_graph(folder)
    unfused = bind(symbol, arguments, statistics, manifest.input_name)
    if manifest.form != "mxnet":
        return unfused
    symbol, arguments, statistics = fold_batch_norm(symbol, arguments, statistics)
    fused = bind(fuse_graph(symbol), arguments, statistics, manifest.input_name)
    return checked(fused, unfused, np.random.default_rng(0).normal(size=manifest.input_shape(1)).astype(np.float32))
