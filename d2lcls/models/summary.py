"""What a network is made of: layers, shapes, parameters and multiply-adds."""

from dataclasses import dataclass

import mxnet as mx
import numpy as np
from mxnet.gluon import nn


@dataclass(frozen=True)
class Layer:
    """One layer of a network: its kind, output shape, learned numbers and multiply-adds an image."""

    name: str
    kind: str
    shape: tuple
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Summary:
    """The layers of a network, printed as a table."""

    layers: tuple

    @property
    def parameters(self):
        """Numbers that training changes, in all layers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self):
        """Multiplications with addition in convolutions and dense layers, for one image."""
        return sum(layer.multiply_adds for layer in self.layers)

    def __str__(self):
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


def summarize(net, shape):
    """Run one blank image through a network and note what each layer makes of it.

    The network must be initialised. A hybridized network is run un-hybridized and hybridized again
    by its next call.

    Args:
        net: `gluon.Block`.
        shape: (C, H, W) of one image.

    Returns:
        `Summary`; shapes in it are those of one image, without the batch axis. Multiply-adds are counted in
        convolutions and dense layers, where nearly all the work is.

    Raises:
        ValueError: the shape is not three positive integers.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape must be (channels, height, width), not {shape}.")
    layers, counted = [], set()

    def note(block, x, output):
        mine = [p for p in block.params.values() if p.grad_req != "null" and p.name not in counted]
        counted.update(p.name for p in mine)  # a parameter that two layers share counts once
        layers.append(
            Layer(
                block.name,
                type(block).__name__,
                tuple(output.shape[1:]),
                sum(int(np.prod(p.shape)) for p in mine),
                multiply_adds(block, output),
            )
        )

    parameters = list(net.collect_params().values())
    context = parameters[0].list_ctx()[0] if parameters else mx.cpu()
    walk(net, mx.nd.zeros((1, *shape), ctx=context), note)
    return Summary(tuple(layers))


def walk(net, x, note):
    """Run a network un-hybridized and call a function after each of its layers, in the order of computing.

    A layer is a block without blocks in it, or one with parameters of its own.

    Args:
        net: initialised `gluon.Block`; a hybridized one is hybridized again by its next call.
        x: NDArray (N, C, H, W).
        note: function of (block, the NDArray it got first, the NDArray it returned first).
    """
    handles, hybrid = [], []

    def hook(block, inputs, output):
        note(block, inputs[0], output[0] if isinstance(output, (list, tuple)) else output)

    def visit(block):
        for child in block._children.values():
            visit(child)
        if not block._children or block.params.keys():  # a block of blocks may have parameters of its own
            handles.append(block.register_forward_hook(hook))
        if getattr(block, "_active", False):
            hybrid.append((block, block._flags, block._backend))

    visit(net)
    net.hybridize(False)  # hybridized blocks run without calling the blocks in them
    try:
        net(x).wait_to_read()
    finally:
        for handle in handles:
            handle.detach()
        for block, flags, backend in hybrid:
            block._active, block._flags, block._backend = True, flags, backend


def multiply_adds(block, output):
    """Return a layer's multiplications with addition for one image: 0 unless it is a convolution or dense."""
    if isinstance(block, nn.Dense):
        return int(np.prod(block.weight.shape)) * int(np.prod(output.shape[1:-1]))
    if isinstance(block, (nn.Conv1D, nn.Conv2D, nn.Conv3D)):
        return int(np.prod(block.weight.shape)) * int(np.prod(output.shape[2:]))
    return 0
