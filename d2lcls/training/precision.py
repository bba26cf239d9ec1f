"""Training in 16 bits: convolutions, dense layers and what lies between them compute in bfloat16 or float16.

The parameters, their gradients, the optimizer's state, BatchNorm's statistics and the loss stay float32 ("master
weights"), so that steps too small for 16 bits are not lost. Source: Micikevicius et al., "Mixed Precision
Training" (2018).
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from d2lcls.machine.cores import has_bfloat16
from d2lcls.models.fusion.training import constants, faster_training
from d2lcls.training.evaluation import split_and_load
from d2lcls.training.recipe import PRECISIONS
from d2lcls.training.steps import memory_plan

import mxnet as mx
from mxnet import autograd, gluon, nd
from mxnet.contrib import amp

if TYPE_CHECKING:
    from d2lcls.training.losses import Loss

    import numpy as np

_GAIN = 1.05  # how much faster 16 bits must be to be worth their rounding errors


def lower(net: gluon.HybridBlock, precision: str) -> gluon.HybridBlock:
    """Return a block that computes what a network computes, to be trained in its place: in 16 bits, or just faster.

    Args:
        net: initialised `gluon.HybridBlock` with one input and one output. It is not changed.
        precision: one of `PRECISIONS`. In 16 bits, everything from the first convolution to the logits is computed in
            them. In float32 on CPUs, slow operators are replaced, see `faster_training`.

    Returns:
        hybridized block that takes and returns float32 and shares the network's parameters: training one trains both.
        The network itself if nothing is to be changed.

    Raises:
        ValueError: no such precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be auto or one of {', '.join(PRECISIONS)}, not {precision!r}.")
    parameters = net.collect_params()
    ctx = next(iter(parameters.values())).list_ctx()
    data = mx.sym.var("data", dtype="float32")
    original = symbol = net(data)
    if precision != "float32":
        symbol = mx.sym.amp_cast(amp.convert_symbol(symbol, precision, data_names=["data"]), dtype="float32")
    elif ctx[0].device_type == "cpu":
        symbol = faster_training(symbol, {name for name, each in parameters.items() if each.grad_req != "null"})
    if symbol is original:
        return net
    block = gluon.SymbolBlock(symbol, [data], params=parameters)
    for name, (value, length) in constants(symbol).items():
        constant = block.collect_params()[name]
        constant.grad_req, constant.shape = "null", (length,)
        constant.initialize(mx.init.Constant(value), ctx=ctx)
    block.hybridize(**memory_plan(net))
    return block


def check_precision(precision: str, ctx: list[mx.Context]) -> None:
    """Raise ValueError if a device has no instructions for a precision, or there is no such precision."""
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(f"precision must be auto or one of {', '.join(PRECISIONS)}, not {precision!r}.")
    kind, advice = ctx[0].device_type, "Use float32, or auto, which measures what is faster."
    if (precision, kind) in (("float16", "cpu"), ("bfloat16", "gpu")):
        raise ValueError(f"MXNet cannot train in {precision} on a {kind.upper()}. {advice}")
    if precision == "bfloat16" and not has_bfloat16():
        limit = os.environ.get("DNNL_MAX_CPU_ISA")
        raise ValueError(
            "MXNet cannot train in bfloat16 here: the processor has no instructions for it (avx512_bf16)"
            f"{f', or DNNL_MAX_CPU_ISA={limit} hides them' if limit else ''}. {advice}"
        )


def choose(
    net: gluon.HybridBlock, x: np.ndarray, y: np.ndarray, ctx: list[mx.Context], loss: Loss | None = None
) -> str:
    """Measure in which precision a network trains fastest on this machine.

    On CPUs bfloat16 is tried where the processor has instructions for it, on GPUs float16. Forward and
    backward passes of both alternate, and 16 bits are chosen if their fastest pass is faster than
    that of float32 by 5 %.

    Args:
        net: initialised `gluon.HybridBlock`, on the devices of `ctx`; its parameters are the same afterwards.
        x: float32 (N, C, H, W), a batch of the usual size.
        y: its labels, int (N,) or float (N, K).
        ctx: list of contexts.
        loss: as for `train_step`.

    Returns:
        str, one of `PRECISIONS`.
    """
    other = candidate(ctx)
    if other == "float32":
        return other
    statistics = {
        parameter: [copy.copy() for copy in parameter.list_data()]
        for parameter in net.collect_params().values()
        if parameter.grad_req == "null"
    }
    loss = loss or gluon.loss.SoftmaxCrossEntropyLoss(sparse_label=y.ndim == 1)
    shares = list(zip(split_and_load(x[:256], ctx), split_and_load(y[:256], ctx)))  # enough to tell
    blocks = {precision: lower(net, precision) for precision in ("float32", other)}
    seconds: dict[str, list[float]] = {precision: [] for precision in blocks}
    for _ in range(4):
        for precision, block in blocks.items():
            seconds[precision].append(_seconds(block, shares, loss))
    for parameter, copies in statistics.items():  # BatchNorm's running ones have moved
        for copy, value in zip(parameter.list_data(), copies):
            value.copyto(copy)
    return other if min(seconds[other]) * _GAIN < min(seconds["float32"]) else "float32"


def _seconds(block: gluon.Block, shares: list[tuple[nd.NDArray, nd.NDArray]], loss: Loss) -> float:
    begun = time.perf_counter()
    with autograd.record():
        losses = [loss(block(images), labels) for images, labels in shares]
    autograd.backward(losses)
    nd.waitall()
    return time.perf_counter() - begun


def candidate(ctx: list[mx.Context]) -> str:
    """Return the precision that may be faster than float32 on these contexts; "float32" if none can be."""
    if ctx[0].device_type == "gpu":
        return "float16"
    return "bfloat16" if has_bfloat16() else "float32"
