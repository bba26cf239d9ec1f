"""Write what PyTorch's networks compute, for test_convert.py to compare with.

Run by hand in an environment of its own (GluonCV, which the test needs, refuses to be imported beside PyTorch 2):

    pip install torch torchvision timm efficientnet-pytorch efficientnet-lite-pytorch
    python tests/weights/reference/make_reference.py

Each file holds the names and shapes of a network's state dict and its logits for one batch. The weights are not in
it: `draw` makes every tensor from its name alone, in the test as here.
"""

import json
import re
import zlib
from pathlib import Path

import numpy as np

CLASSES = 10


def draw(name, shape):
    """Draw a tensor from its name: He-scaled weights, and norms that differ in every channel."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return np.zeros((), np.int64)
    if kind == "running_var" or kind == "weight" and len(shape) == 1:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    scale = np.sqrt(2 / np.prod(shape[1:])) if kind == "weight" else 0.1
    # Tamed, or the sums over residual branches grow so large that neither a wrong bias nor the seventh digit shows.
    if kind == "weight" and re.match(r"layer\d|stages", name):
        scale *= 0.5
    elif kind == "weight" and re.search(r"conv_pwl|block\.3", name):
        scale *= 0.8
    return np.float32(scale) * rng.standard_normal(shape, dtype=np.float32)


def images(size):
    """Draw a batch of two images."""
    return np.random.default_rng(0).standard_normal((2, 3, size, size), dtype=np.float32)


def timm_net(name, **kwargs):
    import timm

    return timm.create_model(name, num_classes=CLASSES, **kwargs)


def torchvision_net(name):
    import torchvision

    return getattr(torchvision.models, name)(num_classes=CLASSES)


def strided_in_the_first_convolution():
    """torchvision's ResNet-50 with the bottlenecks of MXNet's v1."""
    from torch import nn
    from torchvision.models.resnet import Bottleneck

    net = torchvision_net("resnet50")
    for block in net.modules():
        if isinstance(block, Bottleneck):
            inside, outside = block.conv1.out_channels, block.conv3.out_channels
            block.conv1 = nn.Conv2d(block.conv1.in_channels, inside, 1, stride=block.stride)
            block.conv2 = nn.Conv2d(inside, inside, 3, padding=1, bias=False)
            block.conv3 = nn.Conv2d(inside, outside, 1)
    return net


def normalised_first(name):
    """timm's pre-activation ResNet with the stem of MXNet's v2."""
    from torch import nn

    net = timm_net(name)
    net.stem = nn.Sequential()
    net.stem.add_module("input_norm", nn.BatchNorm2d(3, affine=False))
    net.stem.add_module("conv", nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False))
    net.stem.add_module("norm", nn.BatchNorm2d(64))
    net.stem.add_module("relu", nn.ReLU())
    net.stem.add_module("pool", nn.MaxPool2d(3, stride=2, padding=1))
    return net


def mobilenet_v1():
    """timm's MobileNet with ReLU instead of ReLU6, as in the paper."""
    from torch import nn

    return timm_net("mobilenetv1_100", act_layer=nn.ReLU)


def lukemelas():
    from efficientnet_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-b0", num_classes=CLASSES)


def lukemelas_lite():
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0", num_classes=CLASSES)


# (network here, dialect, side of the images in pixels): PyTorch's network. A side of 80 pixels gives maps of odd
# sides, which TensorFlow pads in another way than even ones; lukemelas' networks are made for even sides.
NETWORKS = {
    ("resnet18_v1", "torchvision", 64): lambda: torchvision_net("resnet18"),
    ("resnet50_v1", "torchvision", 64): strided_in_the_first_convolution,
    ("resnet18_v1b", "timm", 64): lambda: timm_net("resnet18"),
    ("resnet50_v1b", "torchvision", 64): lambda: torchvision_net("resnet50"),
    ("resnet50_v1d", "timm", 64): lambda: timm_net("resnet50d"),
    ("resnet18_v2", "timm", 64): lambda: normalised_first("resnetv2_18"),
    ("resnet50_v2", "timm", 64): lambda: normalised_first("resnetv2_50"),
    ("mobilenet1.0", "timm", 64): mobilenet_v1,
    ("mobilenetv2_1.0", "timm", 64): lambda: timm_net("mobilenetv2_100"),
    ("mobilenetv2_1.0", "torchvision", 64): lambda: torchvision_net("mobilenet_v2"),
    ("efficientnet_lite0", "timm", 80): lambda: timm_net("tf_efficientnet_lite0"),
    ("efficientnet_lite0", "lukemelas", 64): lukemelas_lite,
    ("efficientnet_b0", "timm", 64): lambda: timm_net("efficientnet_b0"),
    ("efficientnet_b0", "torchvision", 80): lambda: torchvision_net("efficientnet_b0"),
    ("tf_efficientnet_b0", "timm", 80): lambda: timm_net("tf_efficientnet_b0"),
    ("tf_efficientnet_b0", "lukemelas", 64): lukemelas,
    ("efficientnet_b3", "timm", 80): lambda: timm_net("efficientnet_b3"),
    ("efficientnet_b3", "torchvision", 64): lambda: torchvision_net("efficientnet_b3"),
}


def main():
    import timm
    import torch
    import torchvision

    for (name, dialect, size), make in NETWORKS.items():
        net = make()
        shapes = {key: list(value.shape) for key, value in net.state_dict().items()}
        net.load_state_dict({key: torch.from_numpy(draw(key, shape)) for key, shape in shapes.items()}, strict=True)
        with torch.no_grad():
            logits = net.eval()(torch.from_numpy(images(size))).numpy()
        record = {
            "network": name,
            "dialect": dialect,
            "size": size,
            "versions": {module.__name__: module.__version__ for module in (torch, torchvision, timm)},
            "logits": [[float(f"{value:.8g}") for value in row] for row in logits],
            "shapes": shapes,
        }
        path = Path(__file__).with_name(f"{name}.{dialect}.json")
        path.write_text(json.dumps(record, separators=(",", ":")) + "\n")
        print(
            f"{path.name}: logits of standard deviation {logits.std():.2g}, "
            f"{np.abs(logits[0] - logits[1]).max():.2g} apart"
        )


if __name__ == "__main__":
    main()
