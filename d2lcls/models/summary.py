"""The layers of a network: shapes, parameters and multiply-adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from d2lcls.machine.gluon import blocks_of, children, uncompiled

import mxnet as mx
import numpy as np
from mxnet import gluon
from mxnet.gluon import nn


@dataclass(frozen=True)
class Layer:
    """One layer of a network: its kind, output shape, number of trained parameters and multiply-adds per image."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Summary:
    """The layers of a network, printed as a table."""

    layers: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        """Number of trained parameters in all layers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds in convolutions and dense layers, for one image."""
        return sum(layer.multiply_adds for layer in self.layers)

    def __str__(self) -> str:
        rows = [("layer", "output shape", "parameters", "multiply-adds")]
        rows += [
            (layer.kind, " x ".join(map(str, layer.shape)), f"{layer.parameters:,}", f"{layer.multiply_adds:,}")
            for layer in self.layers
        ]
        rows += [("total", "", f"{self.parameters:,}", f"{self.multiply_adds:,}")]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    __repr__ = __str__


def summarize(net: gluon.Block, shape: Sequence[int]) -> Summary:
    """Run one blank image through a network and record the output of each layer.

    Args:
        net: initialised network.
        shape: (C, H, W) of one image.

    Returns:
        `Summary`; its shapes are those of one image, without the batch axis. Multiply-adds are counted in
        convolutions and dense layers, which do nearly all the work.

    Raises:
        ValueError: the shape is not three positive integers.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape must be (channels, height, width), not {shape}.")
    layers: list[Layer] = []
    counted: set[str] = set()

    def record(block, x, output):
        own = [p for p in block.params.values() if p.grad_req != "null" and p.name not in counted]
        counted.update(p.name for p in own)  # a parameter that two layers share counts once
        layers.append(
            Layer(
                block.name,
                type(block).__name__,
                tuple(output.shape[1:]),
                sum(int(np.prod(p.shape)) for p in own),
                multiply_adds(block, output),
            )
        )

    parameters = list(net.collect_params().values())
    context = parameters[0].list_ctx()[0] if parameters else mx.cpu()
    walk(net, mx.nd.zeros((1, *shape), ctx=context), record)
    return Summary(tuple(layers))


def walk(
    net: gluon.Block, x: mx.nd.NDArray, function: Callable[[gluon.Block, mx.nd.NDArray, mx.nd.NDArray], None]
) -> None:
    """Run a network and call a function after each of its layers, in the order in which they run.

    A layer is a block without blocks inside it, or one with parameters of its own.

    Args:
        net: initialised network, hybridized or not.
        x: NDArray (N, C, H, W).
        function: gets a block, its first input and its first output.
    """

    def hook(block, inputs, output):
        function(block, inputs[0], output[0] if isinstance(output, (list, tuple)) else output)

    if any(parameter.shape is None or 0 in parameter.shape for parameter in net.collect_params().values()):
        net(x)  # settles the shapes, for which MXNet runs the blocks on symbols: not what the function expects
    with uncompiled(net), ExitStack() as hooks:
        for block in blocks_of(net):
            if not children(block) or block.params.keys():  # a block of blocks may have parameters of its own
                hooks.callback(block.register_forward_hook(hook).detach)
        net(x).wait_to_read()


def multiply_adds(block: gluon.Block, output: mx.nd.NDArray) -> int:
    """Return a layer's multiply-adds for one image: 0 unless it is a convolution or dense."""
    if isinstance(block, nn.Dense):
        return int(np.prod(block.weight.shape)) * int(np.prod(output.shape[1:-1]))
    if isinstance(block, (nn.Conv1D, nn.Conv2D, nn.Conv3D)):
        return int(np.prod(block.weight.shape)) * int(np.prod(output.shape[2:]))
    return 0
