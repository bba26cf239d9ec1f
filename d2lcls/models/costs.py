"""The costs of a network: how much each layer computes, how many bytes it moves, how long that takes."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from d2lcls.machine.gluon import layer_options
from d2lcls.models.summary import multiply_adds, walk

import numpy as np
from mxnet import gluon, nd
from mxnet.gluon import nn

WARM_UP = 5  # first runs that are not timed: MXNet compiles the network, and caches fill


@dataclass(frozen=True)
class LayerCost:
    """The costs of one layer for a batch: FLOP, the fewest bytes it must move, and the measured seconds."""

    name: str
    kind: str
    flop: int
    bytes: int
    seconds: float

    @property
    def intensity(self) -> float:
        """FLOP for each byte moved."""
        return self.flop / self.bytes

    @property
    def gflops(self) -> float:
        """GFLOP/s reached."""
        return self.flop / self.seconds / 1e9


def layer_costs(net: gluon.Block, x: nd.NDArray, repeats: int = 5) -> list[LayerCost]:
    """Time the forward pass of each layer of a network separately, on the input that it gets in the network.

    The arrays keep the memory layout in which the layer before left them, as they do in a whole run. A multiplication
    with an addition is 2 FLOP; those with padding, which oneDNN skips, are not counted. Bytes are those of input,
    weights and output, each moved once: a layer whose arrays are in the caches may exceed the memory's bandwidth.
    Layers that neither multiply nor add, such as pooling, are left out. See Williams, Waterman and Patterson,
    "Roofline" (2009).

    Args:
        net: initialised network on the CPU.
        x: NDArray (N, C, H, W).
        repeats: runs of each layer, of which the median is taken.

    Returns:
        list of `LayerCost`, in the order in which the layers run.
    """
    costs = []

    def measure(block, given, output):
        flop = _flop(block, given, output)
        if not flop:
            return
        nd.waitall()
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            block.forward(given).wait_to_read()  # not block(given), which would call this function again
            seconds.append(time.perf_counter() - start)
        moved = given.size + output.size + sum(p.data().size for p in block.params.values())
        costs.append(
            LayerCost(block.name, type(block).__name__, flop, moved * x.dtype().itemsize, statistics.median(seconds))
        )

    walk(net, x, measure)
    return costs


def training_flop(net: gluon.Block, shape: tuple[int, int, int], padding: bool = True) -> int:
    """Count the FLOP of convolutions and dense layers in one training step, for one image.

    The forward pass of a layer computes its outputs; the backward pass takes as much for the gradient of its weights,
    and as much again for that of its inputs. Frozen weights need no gradient, nor do the inputs of the first trained
    layer.

    Args:
        net: initialised network.
        shape: (C, H, W) of one image.
        padding: count multiplications with padding too, as is usual; False leaves them out, as oneDNN does.
    """
    total, trained = 0, False

    def count(block, given, output):
        nonlocal total, trained
        passes = 1 + trained
        trained = trained or any(p.grad_req != "null" for p in block.params.values())
        once = 2 * (multiply_adds(block, output) if padding else _multiply_adds_inside(block, given, output))
        if once:
            total += once * (passes + (block.weight.grad_req != "null"))

    walk(net, nd.zeros((1, *shape), ctx=next(iter(net.collect_params().values())).list_ctx()[0]), count)
    return total


def latency(net: gluon.HybridBlock, shape: tuple[int, int, int], seconds: float = 1.0) -> float:
    """Return the median milliseconds of a network's forward pass for a single image, on this machine.

    The network is compiled and runs a few times before anything is timed. What else the machine does meanwhile is
    timed too: let it be idle.

    Args:
        net: initialised `gluon.HybridBlock` whose shapes are known; it is hybridized.
        shape: (C, H, W) of the image.
        seconds: how long to repeat it; 20 times at least.
    """
    net.hybridize(static_alloc=True, static_shape=True)
    x = nd.random.normal(shape=(1, *shape), ctx=next(iter(net.collect_params().values())).list_ctx()[0])
    nd.waitall()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < WARM_UP + 20 or time.perf_counter() - begun < seconds:
        started = time.perf_counter()
        net(x).wait_to_read()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[WARM_UP:])


def _flop(block, given, output):
    """FLOP of a layer for a batch: 2 per multiply-add, 1 per element of an activation, 2 per element of a BatchNorm."""
    if isinstance(block, (nn.BatchNorm, nn.Activation, nn.GELU)):
        return output.size * (2 if isinstance(block, nn.BatchNorm) else 1)
    return 2 * _multiply_adds_inside(block, given, output) * len(output)


def _multiply_adds_inside(block, given, output):
    """Multiply-adds for one image, without those of a convolution with its padding."""
    count = multiply_adds(block, output)
    if isinstance(block, nn.Conv2D):
        options = layer_options(block)
        for axis in (0, 1):
            kernel, stride, pad, gap = (options[name][axis] for name in ("kernel", "stride", "pad", "dilate"))
            positions = stride * np.arange(output.shape[2 + axis])[:, None] - pad + gap * np.arange(kernel)
            count = count * int(((positions >= 0) & (positions < given.shape[2 + axis])).sum()) // positions.size
    return count
