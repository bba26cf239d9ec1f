"""From a trained network to a model folder that needs neither its class nor its training code."""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from d2lcls.data.preprocess import Preprocess
from d2lcls.deploy.graph.bound import bind, check_arrays
from d2lcls.deploy.graph.input_shapes import GraphError
from d2lcls.deploy.manifest import Manifest, ModelError, read_manifest, write_model
from d2lcls.machine.files import check_new_folder
from d2lcls.models.efficientnet import set_image_size
from d2lcls.models.fusion.folding import fold_batch_norm, fold_constants
from d2lcls.models.fusion.fused import Arrays, assemble, checked, fuse_graph, trace
from d2lcls.models.symbols.allowed import load_symbol, reason_of
from d2lcls.models.symbols.attributes import NotAllowed
from d2lcls.weights.params_file import params_bytes, read_params

import mxnet as mx
import numpy as np
from mxnet import gluon, nd

SYMBOL, PARAMETERS = "model-symbol.json", "model-0000.params"  # as `gluon.HybridBlock.export` names them
_SCALE = "scale:"


def export(
    net: gluon.HybridBlock,
    folder: str | Path,
    name: str,
    classes: Sequence[str],
    preprocess: Preprocess,
    dataset: str | None = None,
) -> Manifest:
    """Write a network as a model folder, read it back and compare.

    Args:
        net: initialised, on the CPU, from (N, 3, crop, crop) to logits.
        folder: a new or empty folder.
        name: of the network.
        classes: names in the order of the logits.
        preprocess: from a picture to the input.
        dataset: name or folder of the images it was trained on, if known.

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
    traced, parameters, statistics = trace(net)
    symbol, arguments = fold_constants(traced, parameters)
    manifest, _ = write_model(
        folder,
        Manifest(name, "mxnet", tuple(classes), preprocess, dataset=dataset),
        ["mxnet"],
        write=lambda path: save_graph(path, symbol, _with_prefix("arg:", arguments), _with_prefix("aux:", statistics)),
        compute=lambda path: assemble(*_read_files(path))(x).asnumpy(),
        expected=logits,
        tolerance=1e-5,  # compiled, it may be rounded differently
        advice="Is one of its layers random at prediction?",
    )
    return manifest


def save_graph(folder: str | Path, symbol: mx.sym.Symbol, arguments: Arrays, statistics: Arrays) -> None:
    """Write a symbol and its parameters, whose names begin with "arg:", "aux:" or "scale:".

    The files are those of MXNet's own export, except that the symbol's JSON has no blanks.
    """
    text = json.dumps(json.loads(symbol.tojson()), separators=(",", ":"), ensure_ascii=False)  # MXNet reads no \u
    Path(folder, SYMBOL).write_text(text, encoding="utf-8")
    arrays = {name: array.asnumpy() for name, array in {**arguments, **statistics}.items()}
    Path(folder, PARAMETERS).write_bytes(params_bytes(arrays))


def load_graph(folder: str | Path) -> tuple[mx.sym.Symbol, Arrays, Arrays]:
    """Return (symbol, arguments, statistics) of a model folder of form "mxnet" or "mxnet-int8".

    Weights kept in int8 are multiplied by their scales.

    Raises:
        FileNotFoundError, ModelError: as `read_manifest`; ModelError also if MXNet cannot compute the graph.
        ParamsError: the file of parameters is damaged.
    """
    manifest = read_manifest(folder, forms=("mxnet", "mxnet-int8"))
    with _naming(folder):
        symbol, arguments, statistics = _read_files(folder)
        for size in (1, 2):  # what holds for both holds for any
            check_arrays(symbol, arguments, statistics, manifest.input_name, manifest.input_shape(size))
    return symbol, arguments, statistics


def _read_files(folder: str | Path) -> tuple[mx.sym.Symbol, Arrays, Arrays]:
    stored = {name: nd.array(value, dtype=value.dtype) for name, value in read_params(Path(folder, PARAMETERS)).items()}
    scales = {name[len(_SCALE) :]: value for name, value in stored.items() if name.startswith(_SCALE)}
    arrays: dict[str, dict[str, nd.NDArray]] = {"arg": {}, "aux": {}}
    for name, value in stored.items():
        kind, _, short = name.partition(":")
        if kind in arrays:
            arrays[kind][short] = value.astype("float32") * scales[short] if short in scales else value
    path = Path(folder, SYMBOL)
    try:
        symbol = load_symbol(path.read_bytes())
    except NotAllowed as error:
        raise ModelError(f"{path}: cannot be read as MXNet's graph ({error}).") from error
    return symbol, arrays["arg"], arrays["aux"]


def _with_prefix(prefix: str, arrays: Arrays) -> dict[str, nd.NDArray]:
    return {prefix + name: value for name, value in arrays.items()}


def shrink(arguments: Arrays, names: Collection[str]) -> tuple[dict[str, nd.NDArray], dict[str, Any]]:
    """Round some weights to 8 bits, with one scale per output channel.

    Args:
        arguments: float32, by name.
        names: of the weights (O, ...) to round.

    Returns:
        (rounded, stored): all arguments, those weights rounded, as float32; and what `nd.save` is to keep of them:
        int8 and a scale (O, 1, ...) for each rounded weight, the others as they are.
    """
    rounded, stored = dict(arguments), _with_prefix("arg:", arguments)
    for name in names:
        weight = arguments[name].asnumpy()
        largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        whole = np.rint(weight / scale).astype(np.int8)
        rounded[name] = nd.array(whole * scale)
        stored[f"arg:{name}"], stored[_SCALE + name] = nd.array(whole, dtype=np.int8), nd.array(scale)
    return rounded, stored


def read_graph(folder: str | Path, manifest: Manifest) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from float32 (N, 3, H, W) to logits (N, K), computed by MXNet on the CPU.

    Layers are fused, unless that changes the logits of a random input: then there is a warning.

    Raises:
        FileNotFoundError, ModelError, ParamsError: as `load_graph`; ModelError also, from the function too, if MXNet
            cannot compute the graph.
    """
    symbol, arguments, statistics = load_graph(folder)
    x = np.random.default_rng(0).normal(size=manifest.input_shape(1)).astype(np.float32)
    with _naming(folder):
        compute = bind(symbol, arguments, statistics, manifest.input_name)
        compute(x)  # what cannot be computed cannot be fused
        if manifest.form == "mxnet":
            symbol, arguments, statistics = fold_batch_norm(symbol, arguments, statistics)
            compute = checked(bind(fuse_graph(symbol), arguments, statistics, manifest.input_name), compute, x)

    def named(x: np.ndarray) -> np.ndarray:
        with _naming(folder):
            return compute(x)

    return named


@contextmanager
def _naming(folder: str | Path) -> Iterator[None]:
    """Turn what MXNet cannot compute into an error that names the model folder."""
    try:
        yield
    except (GraphError, mx.MXNetError) as error:
        reason = error if isinstance(error, GraphError) else reason_of(error)
        raise ModelError(f"{folder}: MXNet cannot compute its graph ({reason}). Make the model anew.") from error
