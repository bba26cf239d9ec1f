"""A network for prediction only, faster on a CPU: layers fused by oneDNN, in float32 or in int8."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from d2lcls.machine.cores import int8_saturates
from d2lcls.models.fusion.folding import fold_batch_norm, fold_constants
from d2lcls.models.fusion.fusible import INT8, fixed_gammas, mend_int8, prepare, relu6_as_clip
from d2lcls.models.fusion.int8 import in_seven_bits, saturating
from d2lcls.models.fusion.unfused import run

import mxnet as mx
import numpy as np
from mxnet import gluon, nd

TOLERANCE = 1e-4  # relative to an output's largest value; adding up in another order changes about 1e-6

Arrays = Mapping[str, nd.NDArray]  # parameters or running statistics by name
Graph = tuple[mx.sym.Symbol, Arrays, Arrays]  # symbol, arguments, statistics


def fuse(net: gluon.HybridBlock) -> gluon.Block:
    """Fuse convolutions with the normalisation, activation and sum that follow them, through oneDNN.

    Args:
        net: initialised network on the CPU. It is not changed, and not shared: training it later does not change the
            fused one. If padding depends on the size of the images, as in EfficientNet-Lite, that of the last size
            is used: call set_image_size(net, height, width) first.

    Returns:
        a network with the same outputs, to within rounding; it cannot be trained. Its first call compares them with
        those of the network without fusion. If they differ, it warns and is used without fusion.
    """
    symbol, arguments, statistics = trace(net)
    return _Fused(assemble(fuse_graph(symbol), arguments, statistics), assemble(symbol, arguments, statistics))


class _Fused(gluon.Block):
    """A network in two forms; the first call chooses one."""

    def __init__(self, fused: gluon.Block, unfused: gluon.Block):
        super().__init__(prefix="")
        self.net = fused
        self._choose: Callable | None = partial(checked, fused, unfused)

    def forward(self, x: Any) -> Any:
        if self._choose and isinstance(x, nd.NDArray):
            self.net, self._choose = self._choose(x[:1]), None
        return self.net(x)


def fuse_graph(symbol: mx.sym.Symbol, backend: str = "MKLDNN") -> mx.sym.Symbol:
    """Return a symbol with its layers fused by oneDNN, for prediction or, with the backend `INT8`, to be quantised."""
    return prepare(symbol, backend).get_backend_symbol(backend)


def checked(fused: Callable, unfused: Callable, x: Any) -> Callable:
    """Return the fused form of a network if it has the same outputs as the other form; else warn, and return that.

    Args:
        fused, unfused: functions from x to an output or a list of outputs, numpy arrays or NDArrays.
        x: an input that both take.
    """
    expected = _numpy(unfused(x))
    try:
        difference = max(map(_difference, _numpy(fused(x)), expected))
        if difference <= TOLERANCE:
            return fused
        reason = f"changes the outputs of this network by up to {difference:.2g} of the largest value"
    except mx.MXNetError as error:
        reason = f"of this network fails ({str(error).strip().splitlines()[-1].strip()})"
    warnings.warn(f"MXNet's fusion {reason}; it is computed without fusion.", stacklevel=2)
    return unfused


def _numpy(outputs):
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    return [output.asnumpy() if isinstance(output, nd.NDArray) else output for output in outputs]


def _difference(outputs, expected):
    """Return the largest difference as a share of the largest value; infinite where only one of the two is finite."""
    finite = np.isfinite(expected)
    if outputs.shape != expected.shape or (np.isfinite(outputs) != finite).any():
        return np.inf
    expected = np.where(finite, expected, 0)
    return np.abs(np.where(finite, outputs, 0) - expected).max(initial=0) / (np.abs(expected).max(initial=0) or 1)


def _computed(symbol, values, x):
    return run(symbol, {**values, next(name for name in symbol.list_arguments() if name not in values): x})


def quantize(net: gluon.HybridBlock, x: np.ndarray) -> gluon.SymbolBlock:
    """Compute with 8-bit integers wherever that is faster, with ranges measured on example images.

    Args:
        net: initialised network on the CPU; it is not changed.
        x: float32 (N, ...), inputs of the network: a few hundred typical images determine each layer's range.

    Returns:
        hybridized network whose outputs differ from the original's, by about a tenth in EfficientNet-Lite0. Measure
            what that costs in accuracy, as `benchmarks/features.py` does. If this processor has VNNI, all eight bits
            are used; `d2lcls.deploy.quantization` makes models for other processors too.
    """
    symbol, arguments, statistics = trace(net)
    folded = fold_batch_norm(*fold_constants(symbol, arguments), statistics)
    return assemble(*quantize_graph(*folded, x, vnni=not int8_saturates()))


def quantize_graph(
    symbol: mx.sym.Symbol,
    arguments: Arrays,
    statistics: Arrays,
    x: np.ndarray,
    mode: str = "naive",
    exclude: Collection[str] = (),
    vnni: bool = False,
) -> Graph:
    """Quantise a graph to 8-bit integers, as `quantize` does with a network.

    Args:
        symbol, arguments, statistics: as `trace` returns them; they are not changed.
        x: float32 (N, ...), typical inputs.
        mode: how a layer's range is determined: "naive", from the smallest to the largest number, or "entropy", cut
            off where the 8-bit histogram loses the least information (Migacz, *8-bit inference with TensorRT*, 2017).
        exclude: names of layers that stay in float, as `quantizable` lists them.
        vnni: use all eight bits of an activation, for x86 processors with the VNNI instructions. Without them, sums of
            products saturate; by default, `d2lcls.models.fusion.int8` prevents that.

    Returns:
        (symbol, arguments, statistics) of the quantised graph.
    """
    in_float = list(exclude)
    while True:
        quantized, parameters, running = _calibrated(symbol, arguments, statistics, x, mode, in_float)
        quantized, widened, wrong = mend_int8(quantized)
        wrong += [] if vnni else saturating(quantized)
        if not wrong:
            break
        if set(wrong) & set(in_float):
            raise RuntimeError(f"MXNet quantises {', '.join(wrong)} wrongly, even when excluded.")
        in_float += wrong
    if not vnni:
        quantized, parameters = in_seven_bits(quantized, parameters, widened)
    return quantized, parameters, running


def _calibrated(symbol, arguments, statistics, x, mode, exclude):
    from mxnet.contrib.quantization import quantize_model_mkldnn

    x = np.asarray(x, dtype=np.float32)
    arguments = {**arguments, **fixed_gammas(symbol, arguments)}
    prepared = prepare(symbol, INT8)
    fused, unfused = (
        partial(_computed, graph, {**arguments, **statistics}) for graph in (prepared.get_backend_symbol(INT8), symbol)
    )
    if checked(fused, unfused, x[:2]) is unfused:
        prepared = prepare(symbol, INT8, all_apart=True)
    examples = mx.io.NDArrayIter(x, batch_size=min(64, len(x)))
    return quantize_model_mkldnn(
        prepared,
        arguments,
        statistics,
        ctx=mx.cpu(),
        calib_mode=mode,
        calib_data=examples,
        num_calib_examples=len(x),
        excluded_sym_names=list(exclude),
        quantized_dtype="auto",
        quantize_mode="smart",
        excluded_op_names=["elemwise_mul"],  # MXNet gives it unsigned numbers, which it does not take
        label_names=None,
        quantize_granularity="channel-wise",
        logger=None,
    )


def trace(net: gluon.HybridBlock) -> tuple[mx.sym.Symbol, dict[str, nd.NDArray], dict[str, nd.NDArray]]:
    """Return the graph of a network, its parameters and its running statistics; ReLU6 is a `clip`, which can fuse."""
    symbol = relu6_as_clip(net(mx.sym.var("data")))
    nd.waitall()
    values = {parameter.name: parameter.data(mx.cpu()) for parameter in net.collect_params().values()}
    return (
        symbol,
        {name: values[name] for name in symbol.list_arguments() if name != "data"},
        {name: values[name] for name in symbol.list_auxiliary_states()},
    )


def assemble(symbol: mx.sym.Symbol, arguments: Arrays, statistics: Arrays) -> gluon.SymbolBlock:
    """Return a graph and its parameters as a hybridized network for prediction."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Cannot decide type", UserWarning)  # of the input, float32
        net = gluon.SymbolBlock(symbol, mx.sym.var("data"))
    values = {**arguments, **statistics}
    for name, parameter in net.collect_params().items():
        parameter.shape = values[name].shape
        parameter.cast(values[name].dtype)
        parameter.initialize(mx.init.Zero(), mx.cpu())
        parameter.set_data(values[name])
    net.hybridize(static_alloc=True)  # with static_shape=True, int8 layers always return the first batch's outputs
    return net
