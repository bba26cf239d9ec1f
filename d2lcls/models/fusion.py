"""A network for prediction only, quicker on a CPU: layers fused by oneDNN, in float32 or in int8."""

import json
import tempfile
import warnings
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet import gluon, nd

from d2lcls.cores import int8_saturates
from d2lcls.models.efficientnet import ReLU6, blocks_of
from d2lcls.models.int8 import in_seven_bits, wrong_in_int8

_FUSED = {"BatchNorm", "Activation", "LeakyReLU", "clip"}  # what oneDNN computes along with a convolution


def fuse(net):
    """Fuse convolutions with the normalisation, activation and sum that follow them, through oneDNN.

    Args:
        net: initialised `gluon.HybridBlock` on the CPU. It is not changed, and not shared: what it learns later
            does not reach the fused one. Where padding depends on the size of the images, as in EfficientNet-Lite,
            that of the size last seen is kept: call net.see(height, width) first, as `split` does.

    Returns:
        hybridized `gluon.SymbolBlock` with the same outputs, to within rounding; it cannot be trained.
    """
    symbol, arguments, statistics = trace(net)
    return assemble(fuse_graph(symbol), arguments, statistics)


def fuse_graph(symbol, backend="MKLDNN"):
    """Return a symbol with its layers fused by oneDNN, for prediction; the other backend prepares it for int8."""
    return _prepared(symbol).get_backend_symbol(backend)


def quantize(net, x):
    """Compute with 8-bit integers wherever that is quicker, with ranges taken from example images.

    Args:
        net: initialised `gluon.HybridBlock` on the CPU; it is not changed.
        x: float32 (N, ...), as the network takes it: a few hundred typical images decide each layer's range.

    Returns:
        hybridized `gluon.SymbolBlock`; its outputs differ from the network's, by about a tenth in
            EfficientNet-Lite0. What that costs in accuracy must be measured; see `benchmarks/features.py`. Where this
            processor has VNNI, they use all eight bits; `d2lcls.deploy.quantize` makes models for other processors too.
    """
    return assemble(*quantize_graph(*trace(net), x, vnni=not int8_saturates()))


def quantize_graph(symbol, arguments, statistics, x, mode="naive", exclude=(), vnni=False):
    """Let a graph compute with 8-bit integers, as `quantize` does with a network.

    Args:
        symbol, arguments, statistics: what `trace` returns; arguments and statistics are not changed.
        x: float32 (N, ...), typical inputs.
        mode: how a layer's range is taken from them: "naive", from the least to the largest number, or "entropy", cut
            off where the 8-bit histogram loses the least information (Migacz, *8-bit inference with TensorRT*, 2017).
        exclude: names of layers that stay in float, as `quantizable` lists them.
        vnni: use all eight bits of an activation, for x86 processors with the VNNI instructions. Without them, sums of
            products saturate; see `d2lcls.models.int8` for what is done about it by default.

    Returns:
        (symbol, arguments, statistics) of the quantised graph.
    """
    in_float = list(exclude)
    quantized = _calibrated(symbol, arguments, statistics, x, mode, in_float)
    while wrong := wrong_in_int8(quantized[0], vnni):
        in_float += wrong
        quantized = _calibrated(symbol, arguments, statistics, x, mode, in_float)
    return quantized if vnni else (in_seven_bits(*quantized[:2]), *quantized[1:])


def _calibrated(symbol, arguments, statistics, x, mode, exclude):
    from mxnet.contrib.quantization import quantize_model_mkldnn

    examples = mx.io.NDArrayIter(np.asarray(x, dtype=np.float32), batch_size=min(64, len(x)))
    return quantize_model_mkldnn(
        _prepared(symbol), arguments, statistics, ctx=mx.cpu(), calib_mode=mode, calib_data=examples,
        num_calib_examples=len(x), excluded_sym_names=list(exclude), quantized_dtype="auto", quantize_mode="smart",
        label_names=None, quantize_granularity="channel-wise", logger=None)


def _prepared(symbol):
    graph = json.loads(symbol.tojson())
    _pool_again(graph)
    _keep_apart(graph)
    return mx.sym.load_json(json.dumps(graph))


def _pool_again(graph):
    """Let oneDNN compute the mean of each map, in int8 too; `replace_global_pooling` is for training."""
    for node in graph["nodes"]:
        if node["op"] == "mean" and node["attrs"] == {"axis": "(2, 3)", "keepdims": "True"}:
            node.update(op="Pooling", attrs={"global_pool": "True", "pool_type": "avg", "kernel": "(1, 1)"})


def _keep_apart(graph):
    """Keep MXNet from a fusion that is wrong.

    Where a convolution feeds both a normalisation and, past it, a sum (the first block of a pre-activation ResNet for
    CIFAR), MXNet 1.9.1 fuses all three, and the sum gets the normalisation's output instead of the convolution's. It
    does not know `broadcast_add`, which computes the same.
    """
    readers = {}
    for node in graph["nodes"]:
        for place, *_ in node["inputs"]:
            readers.setdefault(place, set()).add(node["op"])
    shared = {place for place, ops in readers.items()
              if graph["nodes"][place]["op"] == "Convolution" and "elemwise_add" in ops and ops & _FUSED}
    for node in graph["nodes"]:
        if node["op"] == "elemwise_add" and any(place in shared for place, *_ in node["inputs"]):
            node["op"] = "broadcast_add"


def trace(net):
    """Return (symbol, arguments, statistics) of a network, the latter dicts from name to NDArray; ReLU6 in the form that fuses."""
    relus = blocks_of(net, ReLU6)
    forms = [relu.by_clip for relu in relus]
    try:
        for relu in relus:
            relu.by_clip = True
        symbol = net(mx.sym.var("data"))
    finally:
        for relu, by_clip in zip(relus, forms):
            relu.by_clip = by_clip
    nd.waitall()
    values = {parameter.name: parameter.data(mx.cpu()) for parameter in net.collect_params().values()}
    return symbol, {name: values[name] for name in symbol.list_arguments() if name != "data"}, \
        {name: values[name] for name in symbol.list_auxiliary_states()}


def assemble(symbol, arguments, statistics):
    """Return a graph and its parameters as a hybridized `gluon.SymbolBlock` for prediction."""
    with tempfile.TemporaryDirectory() as folder:
        symbol.save(str(Path(folder, "net.json")))
        nd.save(str(Path(folder, "net.params")), {**{f"arg:{name}": value for name, value in arguments.items()},
                                                  **{f"aux:{name}": value for name, value in statistics.items()}})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Cannot decide type", UserWarning)  # of the input, which is float32
            net = gluon.SymbolBlock.imports(str(Path(folder, "net.json")), ["data"], str(Path(folder, "net.params")))
    net.hybridize(static_alloc=True)  # with static_shape=True, int8 layers return the first batch's outputs for ever
    return net
