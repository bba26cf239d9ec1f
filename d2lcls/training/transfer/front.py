"""A network whose first layers are frozen: these compute as in prediction, fused, and only the rest is trained."""

from __future__ import annotations

from typing import Any

from d2lcls.models.fusion.fused import fuse
from d2lcls.models.surgery import is_random, split
from d2lcls.training.steps import memory_plan

from mxnet import autograd, gluon


class FrozenFront(gluon.Block):
    """The frozen first layers of a network, fused, and the layers after them, as they are.

    Args:
        front: the frozen layers, for prediction.
        tail: the layers that are trained.
    """

    def __init__(self, front: gluon.Block, tail: gluon.Block) -> None:
        super().__init__(prefix="")
        with self.name_scope():
            self.front, self.tail = front, tail

    def forward(self, x: Any) -> Any:
        """Return logits (N, K) for images x (N, C, H, W)."""
        with autograd.pause():
            features = self.front(x)
        return self.tail(features)


def split_front(
    net: gluon.HybridBlock, groups: int, size: tuple[int, int]
) -> tuple[gluon.Block, gluon.HybridBlock] | None:
    """Return the frozen layers of a network, fused, and the others; None if it cannot be split there.

    Args:
        net: network on the first CPU context, of which `train_last` has frozen all but the last groups.
        groups: how many are trained.
        size: (height, width) of the images in pixels.
    """
    try:
        front, tail = split(net, groups, size)
    except ValueError:  # all groups are trained, or the network does more than run its layers in turn
        return None
    if is_random(front):
        return None
    tail.hybridize(**memory_plan(tail))
    return fuse(front), tail
