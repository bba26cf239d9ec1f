"""What a network costs: how much each layer computes, how much memory it moves, how long that takes."""

import statistics
import time
from dataclasses import dataclass

from d2lcls.models.summary import multiply_adds, walk

import numpy as np
from mxnet import nd
from mxnet.gluon import nn


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs for a batch: FLOP, the fewest bytes it must move, and the seconds it took."""

    name: str
    kind: str
    flop: int
    bytes: int
    seconds: float

    @property
    def intensity(self):
        """FLOP for each byte moved."""
        return self.flop / self.bytes

    @property
    def gflops(self):
        """GFLOP/s that were reached."""
        return self.flop / self.seconds / 1e9


def layer_costs(net, x, repeats=5):
    """Time each layer of a network alone, forward, on what it gets to see when the network predicts.

    The arrays keep the memory layout in which the layer before left them, as they do in a whole run. A multiplication
    with an addition is 2 FLOP; those with padding, which oneDNN skips, are not counted. Bytes are those of input,
    weights and output, each moved once: a layer whose arrays lie in the caches may beat the memory by this count.
    Layers that neither multiply nor add, such as pooling, are left out. See Williams, Waterman and Patterson,
    "Roofline" (2009).

    Args:
        net: initialised `gluon.Block` on the CPU; a hybridized one is hybridized again by its next call.
        x: NDArray (N, C, H, W).
        repeats: runs of each layer, of which the median is taken.

    Returns:
        list of `LayerCost`, in the order of computing.
    """
    costs = []

    def note(block, given, output):
        flop = _flop(block, given, output)
        if not flop:
            return
        nd.waitall()
        seconds = []
        for _ in range(repeats):
            begun = time.perf_counter()
            block.forward(given).wait_to_read()  # not block(given), which would call this function again
            seconds.append(time.perf_counter() - begun)
        moved = given.size + output.size + sum(p.data().size for p in block.params.values())
        costs.append(
            LayerCost(block.name, type(block).__name__, flop, moved * x.dtype().itemsize, statistics.median(seconds))
        )

    walk(net, x, note)
    return costs


def training_flop(net, shape, padding=True):
    """Count the FLOP of convolutions and dense layers in one training step, for one image.

    Forward, a layer computes its outputs; backward, as much again for the gradient of its weights and once more for
    that of its inputs. Frozen weights need no gradient, nor do inputs before which nothing is trained, as the images.

    Args:
        net: initialised `gluon.Block`.
        shape: (C, H, W) of one image.
        padding: count multiplications with padding too, as is usual; False leaves them out, as oneDNN does.
    """
    total, trained = 0, False

    def note(block, given, output):
        nonlocal total, trained
        passes = 1 + trained
        trained = trained or any(p.grad_req != "null" for p in block.params.values())
        once = 2 * (multiply_adds(block, output) if padding else _multiply_adds_inside(block, given, output))
        if once:
            total += once * (passes + (block.weight.grad_req != "null"))

    walk(net, nd.zeros((1, *shape), ctx=next(iter(net.collect_params().values())).list_ctx()[0]), note)
    return total


def _flop(block, given, output):
    """FLOP of a layer for a batch: two a multiply-add; one an element of an activation, two of a normalisation."""
    if isinstance(block, (nn.BatchNorm, nn.Activation, nn.GELU)):
        return output.size * (2 if isinstance(block, nn.BatchNorm) else 1)
    return 2 * _multiply_adds_inside(block, given, output) * len(output)


def _multiply_adds_inside(block, given, output):
    """Multiply-adds for one image, those of a convolution with its padding left out."""
    count = multiply_adds(block, output)
    if isinstance(block, nn.Conv2D):
        how = block._kwargs
        for axis in (0, 1):
            kernel, stride, pad, gap = (how[name][axis] for name in ("kernel", "stride", "pad", "dilate"))
            positions = stride * np.arange(output.shape[2 + axis])[:, None] - pad + gap * np.arange(kernel)
            count = count * int(((positions >= 0) & (positions < given.shape[2 + axis])).sum()) // positions.size
    return count
