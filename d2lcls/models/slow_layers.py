"""Layers that train slowly on a CPU, as oneDNN computes them in MXNet 1.9.1, and a remedy for each."""

from __future__ import annotations

from d2lcls.machine.gluon import blocks_of, children, clear_cache, is_learnable
from d2lcls.models.cnn import GlobalMean
from d2lcls.models.efficientnet import ReLU6

from mxnet import gluon
from mxnet.gluon import nn


def replace_global_pooling(net: gluon.Block) -> int:
    """Replace each `nn.GlobalAvgPool2D`, whose backward pass is slow on a CPU, by a `GlobalMean`.

    Args:
        net: any network; it is changed. Its outputs, gradients and parameters stay the same.

    Returns:
        how many layers were replaced.
    """
    replaced = 0
    for block in blocks_of(net):
        for name, child in list(children(block).items()):
            if isinstance(child, nn.GlobalAvgPool2D):
                mean = GlobalMean(keepdims=True)
                attributes = [key for key, value in vars(block).items() if value is child]
                children(block)[name] = mean
                for key in attributes:
                    object.__setattr__(block, key, mean)
                replaced += 1
    clear_cache(net)
    return replaced


def freeze_depthwise(net: gluon.Block) -> None:
    """Freeze the filters of all depthwise convolutions, a few per cent of a mobile network's parameters, for good.

    Their `lr_mult` becomes 0, which `train_last` respects.

    oneDNN, as MXNet 1.9.1 has it, lacks a fast kernel for the gradient of 5x5 depthwise filters; without it, the last
    stages of EfficientNet-Lite0 train about twice as fast. `fit` does not need this: it trains another graph, see
    `d2lcls.models.fusion.training`.
    """
    for parameter in net.collect_params().values():
        if is_learnable(parameter) and len(parameter.shape) == 4 and parameter.shape[1] == 1 < parameter.shape[0]:
            parameter.grad_req, parameter.lr_mult = "null", 0.0
    clear_cache(net)


def drop_bounds(net: gluon.Block) -> None:
    """Make every `ReLU6` of a network a plain ReLU, for good, so that it trains faster on a CPU.

    oneDNN does not support the bound at 6, and rearranging arrays for it takes nearly half of each training step of
    EfficientNet-Lite0's last stages. Outputs change where the bound was reached; training makes up for it. `fit` does
    not need this either.
    """
    for relu in blocks_of(net, ReLU6):
        relu.bounded = False
    clear_cache(net)
