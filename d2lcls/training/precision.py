"""Training in 16 bits: convolutions and dense layers compute in them, and the layers between hand them on.

The parameters, their gradients, the optimizer's state, BatchNorm's statistics and the loss stay float32 ("master
weights"), so that steps too small for 16 bits are not lost. Source: Micikevicius et al., "Mixed Precision Training" (2018).
"""

import os
import time

from d2lcls.machine.cores import has_bfloat16
from d2lcls.training.evaluation import split_and_load
from d2lcls.training.steps import memory_plan

import mxnet as mx
from mxnet import autograd, gluon, nd
from mxnet.contrib import amp

PRECISIONS = ("float32", "bfloat16", "float16")
_GAIN = 1.05  # how much quicker 16 bits must be measured to be worth their rounding


def lower(net, precision):
    """Return a block that computes what a network computes, with 16 bits from its first convolution to its logits.

    Args:
        net: initialised `gluon.HybridBlock` with one input and one output. It is not changed.
        precision: one of `PRECISIONS`; "float32" returns the network itself.

    Returns:
        hybridized block that takes and returns float32 and shares the network's parameters: training one trains both.

    Raises:
        ValueError: no such precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be auto or one of {', '.join(PRECISIONS)}, not {precision!r}.")
    if precision == "float32":
        return net
    data = mx.sym.var("data", dtype="float32")
    symbol = amp.convert_symbol(net(data), precision, data_names=["data"])
    block = gluon.SymbolBlock(mx.sym.amp_cast(symbol, dtype="float32"), [data], params=net.collect_params())
    block.hybridize(**memory_plan(net))
    return block


def check_precision(precision, ctx):
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


def choose(net, x, y, ctx, loss=None):
    """Measure which precision trains a network in the least time here.

    On CPUs bfloat16 is tried where the processor has instructions for it, on GPUs float16. Passes forward and back take
    turns, and 16 bits win if their quickest pass beats float32's by 5 %.

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
    seconds = {precision: [] for precision in blocks}
    for _ in range(4):
        for precision, block in blocks.items():
            seconds[precision].append(_seconds(block, shares, loss))
    for parameter, copies in statistics.items():  # BatchNorm's running ones have moved
        for copy, value in zip(parameter.list_data(), copies):
            value.copyto(copy)
    return other if min(seconds[other]) * _GAIN < min(seconds["float32"]) else "float32"


def _seconds(block, shares, loss):
    begun = time.perf_counter()
    with autograd.record():
        losses = [loss(block(images), labels) for images, labels in shares]
    autograd.backward(losses)
    nd.waitall()
    return time.perf_counter() - begun


def candidate(ctx):
    """Return the precision that may be quicker than float32 on these contexts, or "float32" where none can be."""
    if ctx[0].device_type == "gpu":
        return "float16"
    return "bfloat16" if has_bfloat16() else "float32"


class LossScale:
    """Keeps gradients within float16: the loss is multiplied by a scale, which follows what the gradients bear.

    A step whose gradients overflow is left out and halves the scale; after `patience` good steps it doubles. bfloat16
    has the range of float32 and needs none of this. Source: Micikevicius et al. (2018), section 3.2.

    Args:
        scale: to begin with.
        good: good steps since the scale changed.
        patience: good steps after which it doubles.
    """

    def __init__(self, scale=2.0**16, good=0, patience=2000):
        self.scale, self.good, self.patience = scale, good, patience

    def update(self, finite):
        """Learn whether the last step's gradients were all finite."""
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.scale = max(self.scale / 2, 1.0)
        elif self.good == self.patience:
            self.scale, self.good = self.scale * 2, 0
