"""Layers that train slowly on a CPU, as oneDNN computes them in MXNet 1.9.1, and what can be done about each."""

from d2lcls.models.cnn import GlobalMean
from d2lcls.models.efficientnet import ReLU6, blocks_of
from d2lcls.models.surgery import forget_compiled

from mxnet import gluon
from mxnet.gluon import nn


def replace_global_pooling(net):
    """Put a `GlobalMean` in the place of each `nn.GlobalAvgPool2D`, whose backward pass is slow on a CPU.

    Args:
        net: any network of Gluon's; it is changed. Its outputs, gradients and parameters stay the same.

    Returns:
        how many there were.
    """
    replaced = 0
    for block in blocks_of(net, gluon.Block):
        for name, child in list(block._children.items()):
            if isinstance(child, nn.GlobalAvgPool2D):
                mean = GlobalMean(keepdims=True)
                attributes = [key for key, value in vars(block).items() if value is child]
                block._children[name] = mean
                for key in attributes:
                    object.__setattr__(block, key, mean)
                replaced += 1
    forget_compiled(net)
    return replaced


def freeze_depthwise(net):
    """Freeze the filters of all depthwise convolutions, a few per cent of a mobile network's parameters, for good.

    Their `lr_mult` becomes 0, which `train_last` respects.

    oneDNN, as MXNet 1.9.1 has it, lacks a quick kernel for the gradient of 5x5 depthwise filters; without it, the last
    stages of EfficientNet-Lite0 train about twice as fast.
    """
    for parameter in net.collect_params().values():
        if parameter._differentiable and len(parameter.shape) == 4 and parameter.shape[1] == 1 < parameter.shape[0]:
            parameter.grad_req, parameter.lr_mult = "null", 0.0
    forget_compiled(net)


def drop_bounds(net):
    """Make every `ReLU6` of a network a plain ReLU, so that it trains faster on a CPU, for good.

    The bound at 6 is an operation that oneDNN does not know, and rearranging arrays for it takes nearly half of a step
    of EfficientNet-Lite0's last stages. Other numbers come out where the bound was reached; training makes up for it.
    """
    for relu in blocks_of(net, ReLU6):
        relu.bounded = False
    forget_compiled(net)
