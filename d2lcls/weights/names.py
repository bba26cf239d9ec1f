"""PyTorch's names of the layers of Gluon's networks.

A layer has a path in Gluon's network, such as "features.4.0.body.3", and one name in each *dialect*: timm,
torchvision, and lukemelas' efficientnet_pytorch. For every family of networks, one function translates the path of a
layer into all of its dialects; it returns None if PyTorch's networks have no such layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from d2lcls.machine.gluon import parameters_by_path

if TYPE_CHECKING:
    import mxnet as mx

# timm numbers stages and the blocks in them; Gluon's MobileNets only number blocks. Blocks of each stage:
MOBILENET_STAGES = (1, 2, 2, 6, 2)
MOBILENET_V2_STAGES = (1, 2, 3, 4, 3, 3, 1)


def family_of(net: mx.gluon.Block) -> str:
    """Return the key of a network in `FAMILIES`.

    Raises:
        ValueError: its class is not in `FAMILIES`.
    """
    name = type(net).__name__  # the same in GluonCV and MXNet, both of which are slow to import
    if name not in FAMILIES:
        raise ValueError(f"Networks of class {name} have no known names in PyTorch; {', '.join(FAMILIES)} have.")
    return name


def dialects_of(net: mx.gluon.Block) -> tuple[str, ...]:
    """Return the dialects that have names for a network's layers, the preferred one first."""
    dialects = FAMILIES[family_of(net)][0]
    lite = family_of(net) == "EfficientNet" and not hasattr(net.features[1][0].squeeze, "reduce")
    return tuple(name for name in dialects if not (lite and name == "torchvision"))  # torchvision has no Lite networks


def torch_layers(net: mx.gluon.Block, dialect: str) -> dict[str, str]:
    """Return PyTorch's names of all layers with parameters, by their path in the network.

    Args:
        net: Gluon network of a class in `FAMILIES`.
        dialect: one of `dialects_of(net)`.

    Raises:
        ValueError: the family or a layer has no counterpart, or the dialect is unknown.
    """
    dialects, translate = FAMILIES[family_of(net)]
    if dialect not in dialects_of(net):
        raise ValueError(f"This {family_of(net)} has names in {' and '.join(dialects_of(net))}, not in {dialect!r}.")
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in parameters_by_path(net)))
    names = {}
    for layer in layers:
        translations = translate(layer, layers)
        if translations is None:
            raise ValueError(
                f"This {family_of(net)} has a layer {layer!r}, which PyTorch's networks do not have; "
                "it must be the standard network for large images, without additional layers."
            )
        names[layer] = translations[dialects.index(dialect)]
    return names


_Names = tuple[str, ...] | None  # one name in each dialect


def _resnet_v1(layer: str, layers: Sequence[str]) -> _Names:
    top = {"features.0": "conv1", "features.1": "bn1", "output": "fc"}
    inside = {
        "body.0": "conv1",
        "body.1": "bn1",
        "body.3": "conv2",
        "body.4": "bn2",
        "body.6": "conv3",
        "body.7": "bn3",
        "downsample.0": "downsample.0",
        "downsample.1": "downsample.1",
    }
    if layer in top and "features.1" in layers:
        return (top[layer],) * 2
    stage, block, part = _parts(r"features\.([4-7])\.(\d+)\.(.+)", layer)
    return (f"layer{int(stage) - 3}.{block}.{inside[part]}",) * 2 if part in inside else None


def _resnet_v1b(layer: str, layers: Sequence[str]) -> _Names:
    return layer, layer  # GluonCV uses torchvision's names


def _resnet_v2(layer: str, layers: Sequence[str]) -> _Names:
    top = {
        "features.0": "stem.input_norm",
        "features.1": "stem.conv",
        "features.2": "stem.norm",
        "features.9": "norm",
        "output": "head.fc",
    }
    inside = {
        "bn1": "norm1",
        "bn2": "norm2",
        "bn3": "norm3",
        "conv1": "conv1",
        "conv2": "conv2",
        "conv3": "conv3",
        "downsample": "downsample.conv",
    }
    if layer in top and "features.2" in layers:
        return (top[layer],)
    stage, block, part = _parts(r"features\.([5-8])\.(\d+)\.(.+)", layer)
    return (f"stages.{int(stage) - 5}.blocks.{block}.{inside[part]}",) if part in inside else None


def _mobilenet(layer: str, layers: Sequence[str]) -> _Names:
    top = {"features.0": "conv_stem", "features.1": "bn1", "output": "classifier"}
    if layer in top:
        return (top[layer],)
    (index,) = _parts(r"features\.(\d+)", layer, groups=1)
    if index is None:
        return None
    # From index 3 on, each block has six layers: depthwise convolution, norm, ReLU, 1x1 convolution, norm, ReLU.
    block, part = divmod(int(index) - 3, 6)
    return (f"blocks.{_stage_and_block(block, MOBILENET_STAGES)}.{('conv_dw', 'bn1', '', 'conv_pw', 'bn2')[part]}",)


def _mobilenet_v2(layer: str, layers: Sequence[str]) -> _Names:
    top = {
        "features.0": ("conv_stem", "features.0.0"),
        "features.1": ("bn1", "features.0.1"),
        "features.20": ("conv_head", "features.18.0"),
        "features.21": ("bn2", "features.18.1"),
        "output": ("classifier", "classifier.1"),
        "output.0": ("classifier", "classifier.1"),
    }
    if layer in top:
        return top[layer]
    index, part = _parts(r"features\.(\d+)\.out\.(\d)", layer, groups=2)
    if index is None or index == "3" and "features.3.out.6" in layers:  # as in MXNet's own zoo
        return None
    if f"features.{index}.out.6" in layers:
        timm = {"0": "conv_pw", "1": "bn1", "3": "conv_dw", "4": "bn2", "6": "conv_pwl", "7": "bn3"}
        torchvision = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
    else:  # the first block does not expand
        timm = {"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"}
        torchvision = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
    block = int(index) - 3
    return (
        f"blocks.{_stage_and_block(block, MOBILENET_V2_STAGES)}.{timm[part]}",
        f"features.{block + 1}.conv.{torchvision[part]}",
    )


def _efficientnet(layer: str, layers: Sequence[str]) -> _Names:
    top = {
        "features.0.0": ("conv_stem", "features.0.0", "_conv_stem"),
        "features.0.1": ("bn1", "features.0.1", "_bn0"),
        "features.8.0": ("conv_head", "features.8.0", "_conv_head"),
        "features.8.1": ("bn2", "features.8.1", "_bn1"),
        "output": ("classifier", "classifier.1", "_fc"),
    }
    if layer in top:
        return top[layer]
    stage, block, part, index = _parts(r"features\.(\d)\.(\d+)\.(\w+)\.(\w+)", layer, groups=4)
    if stage is None:
        return None
    present = [
        name
        for name in ("expand", "depthwise", "squeeze", "project")
        if any(other.startswith(f"features.{stage}.{block}.{name}.") for other in layers)
    ]
    prefixes = (
        f"blocks.{int(stage) - 1}.{block}",
        f"features.{stage}.{block}.block.{present.index(part)}",
        f"_blocks.{_blocks_before(stage, layers) + int(block)}",
    )
    if part == "squeeze":
        number = {"reduce": 1, "expand": 2}[index]
        names = (f"se.conv_{index}", f"fc{number}", f"_se_{index}")
    elif index == "1":  # timm numbers the norms that exist, lukemelas those of the largest block
        number = [name for name in present if name != "squeeze"].index(part)
        names = (f"bn{number + 1}", "1", f"_bn{('expand', 'depthwise', 'project').index(part)}")
    else:
        timm = {
            "expand": "conv_pw",
            "depthwise": "conv_dw",
            "project": "conv_pwl" if "expand" in present else "conv_pw",
        }
        names = (timm[part], "0", f"_{part}_conv")
    return tuple(f"{prefix}.{name}" for prefix, name in zip(prefixes, names))


def _blocks_before(stage: str, layers: Sequence[str]) -> int:
    """Count the blocks of all earlier stages; every block has one depthwise convolution."""
    return sum(
        layer.endswith(".depthwise.0") and layer.startswith(f"features.{earlier}.")
        for layer in layers
        for earlier in range(1, int(stage))
    )


def _stage_and_block(block: int, stages: Sequence[int]) -> str | None:
    """Turn the number of a block into "stage.block"."""
    for stage, blocks in enumerate(stages):
        if block < blocks:
            return f"{stage}.{block}"
        block -= blocks
    return None


def _parts(pattern: str, layer: str, groups: int = 3) -> tuple[Any, ...]:
    match = re.fullmatch(pattern, layer)
    return match.groups() if match else (None,) * groups


# Class of the network: its dialects, and the function that translates the path of a layer into them, in that order.
FAMILIES: dict[str, tuple[tuple[str, ...], Callable[[str, Sequence[str]], _Names]]] = {
    "ResNetV1": (("timm", "torchvision"), _resnet_v1),
    "ResNetV1b": (("timm", "torchvision"), _resnet_v1b),
    "ResNetV2": (("timm",), _resnet_v2),
    "MobileNet": (("timm",), _mobilenet),
    "MobileNetV2": (("timm", "torchvision"), _mobilenet_v2),
    "EfficientNet": (("timm", "torchvision", "lukemelas"), _efficientnet),
}
