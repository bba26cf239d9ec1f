"""timm's stem of the pre-activation ResNets, written as Gluon's."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

MAX_INPUT = 3.0  # normalised pixels are at most 2.64 in size with ImageNet's mean and std, and 1 with 0.5 and 0.5
EPSILON = 1e-5
FIRST_NORM = "stages.0.blocks.0.norm1"


def with_gluons_stem(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the state of timm's resnetv2_18, 34, 50 or 101 with the stem of Gluon's resnet*_v2; logits are the same.

    timm's stem is a convolution and a maximum pool. Gluon's has a BatchNorm before the convolution, and a BatchNorm and
    a ReLU between the two. The first BatchNorm becomes the identity. The second adds to every channel a constant so
    large that the ReLU changes nothing, whatever the image; the BatchNorms that receive the sum subtract it again, as
    part of their running mean. Its scale is the one that timm's first BatchNorm has seen.

    The same logits follow while statistics are held, as `hold_statistics` does and `d2lcls train` with pretrained
    weights; a BatchNorm in training mode subtracts its batch's own mean, so there they are similar. float32 loses
    about three of 24 bits in the first stage to the constant. float16 and int8 lose too much there: train or convert
    with another network.

    Args:
        state: arrays by timm's names.
    """
    state = dict(state)
    kernel = state["stem.conv.weight"]
    # No output is less than -shift: inputs of the largest size, each with the sign that its weight does not have.
    shift = (MAX_INPUT * np.abs(kernel.astype(np.float64)).sum((1, 2, 3))).astype(np.float32)
    variance = state[f"{FIRST_NORM}.running_var"].astype(np.float32)
    colours = kernel.shape[1]
    state |= {
        "stem.input_norm.running_mean": np.zeros(colours, np.float32),
        "stem.input_norm.running_var": np.full(colours, 1 - EPSILON, np.float32),
        "stem.norm.weight": np.sqrt(variance + np.float32(EPSILON)),
        "stem.norm.bias": shift,
        "stem.norm.running_mean": np.zeros_like(shift),
        "stem.norm.running_var": variance,
    }
    for block in _blocks(state):
        name = f"{block}.norm1.running_mean"
        state[name] = (state[name].astype(np.float64) + shift).astype(np.float32)
        if f"{block}.downsample.conv.weight" in state:  # this block's shortcut begins after its BatchNorm
            break
    return state


def _blocks(state: Mapping[str, np.ndarray]) -> list[str]:
    """List the blocks from the image to the logits."""
    found = {
        match[1] for name in state if (match := re.match(r"(stages\.\d+\.blocks\.\d+)\.norm1\.running_mean", name))
    }
    return sorted(found, key=lambda block: [int(number) for number in re.findall(r"\d+", block)])
