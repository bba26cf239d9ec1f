"""From float32 to int8: a quarter of the size, and on a CPU with 8-bit instructions several times the speed."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from d2lcls.deploy.exporting import Arrays, load_graph, save_graph, shrink
from d2lcls.deploy.manifest import Manifest, derive, read_manifest, write_model
from d2lcls.machine.files import check_new_folder
from d2lcls.models.fusion.folding import fold_batch_norm, nodes
from d2lcls.models.fusion.fused import assemble, fuse_graph, quantize_graph

import mxnet as mx
import numpy as np
from mxnet import nd

MODES = ("naive", "entropy")


@dataclass(frozen=True)
class Layer:
    """How much one layer's rounding changes the logits: root mean squared error over their standard deviation."""

    name: str
    error: float


def quantize_model(
    folder: str | Path,
    target: str | Path,
    x: np.ndarray,
    mode: str = "naive",
    exclude: Collection[str] = (),
    vnni: bool = False,
) -> tuple[Manifest, list[str]]:
    """Write a model in int8: weights rounded with one scale per output channel, the layers' ranges from examples.

    Args:
        folder: model folder of form "mxnet".
        target: a new or empty folder for the model of form "mxnet-int8".
        x: float32 (N, 3, H, W), a few hundred typical inputs, none of the test set.
        mode: "naive" takes the smallest and the largest number a layer returns, "entropy" cuts off rare large ones.
        exclude: layers to leave in float, as `sensitivity` names them.
        vnni: use all 256 levels of an activation instead of 128: more exact, but only on a processor with the VNNI
            instructions, see `quantize_graph`. The manifest records it in `made_from`.

    Returns:
        (manifest, names of the layers that compute in float).

    Raises:
        FileNotFoundError, ModelError: as `read_manifest`.
        ValueError: the target is not empty, or a mode or a layer is unknown.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, not {mode!r}.")
    manifest = read_manifest(folder, forms=("mxnet",))
    symbol, arguments, statistics = fold_batch_norm(*load_graph(folder))
    layers = quantizable(symbol)
    unknown = sorted(set(exclude) - set(layers))
    if unknown:
        raise ValueError(f"There is no layer {', '.join(unknown)} to exclude. There are: {', '.join(layers)}.")
    check_new_folder(target)
    rounded, stored = shrink(arguments, [weight for name, weight in layers.items() if name not in exclude])
    graph, values, running = quantize_graph(symbol, rounded, statistics, x, mode, exclude, vnni)
    for name, value in values.items():  # the quantised graph rounds some weights further, and has parameters of its own
        if f"scale:{name}" in stored:
            stored[f"arg:{name}"] = nd.round(value / stored[f"scale:{name}"]).astype(np.int8)
        else:
            stored[f"arg:{name}"] = value
    stored = {name: value for name, value in stored.items() if name.split(":", 1)[1] in values}
    made, _ = write_model(
        target,
        derive(manifest, "mxnet-int8", mode=mode, images=len(x), excluded=list(exclude), vnni=vnni),
        ["mxnet"],
        write=lambda path: save_graph(path, graph, stored, {f"aux:{name}": value for name, value in running.items()}),
    )
    return made, float_layers(graph)


def quantizable(symbol: mx.sym.Symbol) -> dict[str, str]:
    """Return the names of the layers that can be quantised, and of each layer's weight.

    A layer is a convolution or a dense layer, fused with what oneDNN fuses with it.
    """
    layers = {}
    fused = nodes(fuse_graph(symbol, "MKLDNN_QUANTIZE"))
    for node in fused:
        if "conv" in node["op"] or "fully_connected" in node["op"] or node["op"] in ("Convolution", "FullyConnected"):
            inputs = [fused[index]["name"] for index, *_ in node["inputs"]]
            layers[node["name"]] = next(name for name in inputs if name.endswith("weight") or "_pad" in name)
    return layers


def float_layers(symbol: mx.sym.Symbol) -> list[str]:
    """Return the names of the layers of a quantised graph that still compute in float."""
    return [
        node["name"]
        for node in nodes(symbol)
        if node["op"] in ("Convolution", "FullyConnected")
        or node["op"].startswith(("_sg_mkldnn_conv", "_sg_mkldnn_fully"))
        and json.dumps(node.get("attrs", {})).lower().count('"quantized": "true"') == 0
    ]


def sensitivity(folder: str | Path, x: np.ndarray, mode: str = "naive", vnni: bool = False) -> list[Layer]:
    """Quantise one layer at a time and measure how much the logits change.

    Args:
        folder: model folder of form "mxnet".
        x: float32 (N, 3, H, W), typical inputs.
        mode, vnni: as for `quantize_model`.

    Returns:
        The layers, the most sensitive first.
    """
    symbol, arguments, statistics = fold_batch_norm(*load_graph(folder))
    layers = quantizable(symbol)
    expected = _logits(symbol, arguments, statistics, x)
    results = []
    for name, weight in layers.items():
        rounded, _ = shrink(arguments, [weight])
        others = [other for other in layers if other != name]
        graph, values, running = quantize_graph(symbol, rounded, statistics, x, mode, others, vnni)
        error = _logits(graph, values, running, x) - expected
        results.append(Layer(name, float(np.sqrt((error**2).mean()) / expected.std())))
    return sorted(results, key=lambda layer: -layer.error)


def _logits(symbol: mx.sym.Symbol, arguments: Arrays, statistics: Arrays, x: np.ndarray) -> np.ndarray:
    net = assemble(symbol, arguments, statistics)
    return np.concatenate([net(nd.array(x[begin : begin + 64])).asnumpy() for begin in range(0, len(x), 64)])
