"""The plain network: a residual network without its shortcuts."""

from __future__ import annotations

from d2lcls.machine.gluon import blocks_of, children, clear_cache

from mxnet import gluon
from mxnet.gluon import nn


def without_shortcuts(net: gluon.Block) -> gluon.Block:
    """Remove the shortcuts of a CIFAR ResNet of version 1, and leave everything else as it is.

    The same layers remain in the same order, with their parameters; the projections, which are part of the shortcuts,
    are removed. Source: the plain networks of He et al., "Deep Residual Learning for Image Recognition" (2015).

    Args:
        net: such as `get_model("cifar_resnet56_v1")`; it is changed.

    Returns:
        the network.

    Raises:
        ValueError: the network has no such blocks.
    """
    from gluoncv.model_zoo.cifarresnet import CIFARBasicBlockV1

    changed = False
    for stage in blocks_of(net):
        for name, block in list(children(stage).items()):
            if isinstance(block, CIFARBasicBlockV1):
                plain = nn.HybridSequential(prefix="")
                plain.add(block.body, nn.Activation("relu"))
                children(stage)[name] = plain
                changed = True
    if not changed:
        raise ValueError(
            f"Expected a CIFAR ResNet of version 1, not {type(net).__name__}. "
            'Make one with get_model("cifar_resnet56_v1").'
        )
    clear_cache(net)
    return net
