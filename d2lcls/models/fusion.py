"""A network for prediction only, quicker on a CPU: layers fused by oneDNN, in float32 or in int8."""

import tempfile
import warnings
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet import gluon, nd

from d2lcls.models.efficientnet import ReLU6, blocks_of


def fuse(net):
    """Fuse convolutions with the normalisation, activation and sum that follow them, through oneDNN.

    Args:
        net: initialised `gluon.HybridBlock` on the CPU. It is not changed, and not shared: what it learns later
            does not reach the fused one. Where padding depends on the size of the images, as in EfficientNet-Lite,
            that of the size last seen is kept: call net.see(height, width) first, as `split` does.

    Returns:
        hybridized `gluon.SymbolBlock` with the same outputs, to within rounding; it cannot be trained.
    """
    symbol, arguments, statistics = _trace(net)
    return _assemble(symbol.get_backend_symbol("MKLDNN"), arguments, statistics)


def quantize(net, x):
    """Compute with 8-bit integers wherever that is quicker, with ranges taken from example images.

    Args:
        net: initialised `gluon.HybridBlock` on the CPU; it is not changed.
        x: float32 (N, ...), as the network takes it: a few hundred typical images decide each layer's range.

    Returns:
        hybridized `gluon.SymbolBlock`; its outputs differ from the network's, by about a tenth in
            EfficientNet-Lite0. What that costs in accuracy must be measured; see `benchmarks/features.py`.
    """
    from mxnet.contrib.quantization import quantize_model_mkldnn

    symbol, arguments, statistics = _trace(net)
    examples = mx.io.NDArrayIter(np.asarray(x, dtype=np.float32), batch_size=min(64, len(x)))
    symbol, arguments, statistics = quantize_model_mkldnn(
        symbol, arguments, statistics, ctx=mx.cpu(), calib_mode="naive", calib_data=examples,
        num_calib_examples=len(x), quantized_dtype="auto", quantize_mode="smart", label_names=None,
        quantize_granularity="channel-wise", logger=None)
    return _assemble(symbol, arguments, statistics)


def _trace(net):
    """Return a network as a symbol and two dicts of its parameters, with ReLU6 in the form that fuses."""
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


def _assemble(symbol, arguments, statistics):
    with tempfile.TemporaryDirectory() as folder:
        symbol.save(str(Path(folder, "net.json")))
        nd.save(str(Path(folder, "net.params")), {**{f"arg:{name}": value for name, value in arguments.items()},
                                                  **{f"aux:{name}": value for name, value in statistics.items()}})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Cannot decide type", UserWarning)  # of the input, which is float32
            net = gluon.SymbolBlock.imports(str(Path(folder, "net.json")), ["data"], str(Path(folder, "net.params")))
    net.hybridize(static_alloc=True)  # with static_shape=True, int8 layers return the first batch's outputs for ever
    return net
