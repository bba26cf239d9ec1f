"""The plain network: a residual network without its shortcuts."""

from d2lcls.models.efficientnet import blocks_of
from d2lcls.models.surgery import forget_compiled

from mxnet import gluon
from mxnet.gluon import nn


def without_shortcuts(net):
    """Take the shortcuts out of a CIFAR ResNet of version 1, and leave all else as it is.

    What remains are the same layers in the same order, with the parameters they have; the projections, which are part
    of the shortcuts, are gone. Source: the plain networks of He et al., "Deep Residual Learning for Image
    Recognition" (2015).

    Args:
        net: such as `get_model("cifar_resnet56_v1")`; it is changed.

    Returns:
        the network.

    Raises:
        ValueError: the network has no such blocks.
    """
    from gluoncv.model_zoo.cifarresnet import CIFARBasicBlockV1

    found = 0
    for stage in blocks_of(net, gluon.Block):
        for name, block in list(stage._children.items()):
            if isinstance(block, CIFARBasicBlockV1):
                stage._children[name] = nn.HybridSequential(prefix="")
                stage._children[name].add(block.body, nn.Activation("relu"))
                found += 1
    if not found:
        raise ValueError(
            f"Expected a CIFAR ResNet of version 1, not {type(net).__name__}. "
            'Make one with get_model("cifar_resnet56_v1").'
        )
    forget_compiled(net)
    return net
