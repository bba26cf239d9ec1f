"""For torch_training.py: the compared networks in PyTorch, in their usual form."""

from torch import nn


class Residual(nn.Module):
    """Two 3x3 convolutions and a way around them (He et al., 2015)."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.around = (
            nn.Identity()
            if before == after
            else nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        """Return what the block makes of x (N, C, H, W)."""
        return self.relu(self.body(x) + self.around(x))


def residual_network(stem, widths, blocks, classes):
    """Return stem, stages of residual blocks, mean and output; `widths` begins with the stem's."""
    stages = [
        Residual(before if place == 0 else after, after, 2 if place == 0 and stage else 1)
        for stage, (before, after) in enumerate(zip(widths, widths[1:]))
        for place in range(blocks)
    ]
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


def resnet20(classes):
    """Return what GluonCV calls cifar_resnet20_v1."""
    stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)]
    return residual_network(stem, (16, 16, 32, 64), 3, classes)


def resnet18(classes):
    """Return what GluonCV calls resnet18_v1 and torchvision resnet18."""
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    return residual_network(stem, (64, 64, 128, 256, 512), 2, classes)


def tutorial(classes):
    """Return the network of the tutorials; see gluon_training.py."""
    stages = [
        layer
        for before, after in ((3, 32), (32, 64), (64, 128))
        for layer in (nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    ]
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(2048, 128), nn.ReLU(), nn.Linear(128, classes))


class Ninth(nn.Module):
    """Divide by 9."""

    def forward(self, x):
        """Return x / 9."""
        return x / 9


def fast94(classes, widths=(64, 256, 256)):
    """Return the network of the recipe fast94; see d2lcls/models/fast94.py."""

    def normalisation(width):
        layer = nn.BatchNorm2d(width, momentum=0.4)
        layer.weight.requires_grad = False  # no scale
        return layer

    whitening = nn.Conv2d(3, 32, 3, bias=False)
    whitening.weight.requires_grad = False
    groups = [
        layer
        for before, width in zip((32, *widths), widths)
        for layer in (
            nn.Conv2d(before, width, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            normalisation(width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            normalisation(width),
            nn.GELU(),
        )
    ]
    return nn.Sequential(
        whitening,
        nn.GELU(),
        *groups,
        nn.MaxPool2d(3),
        nn.Flatten(),
        nn.Linear(widths[-1], classes, bias=False),
        Ninth(),
    )


class Inverted(nn.Module):
    """An inverted bottleneck: expand, filter each channel separately, project (Sandler et al., 2018)."""

    def __init__(self, before, after, kernel, stride, expansion):
        super().__init__()
        wide = before * expansion
        self.adds = stride == 1 and before == after
        self.body = nn.Sequential(
            *(convolution(before, wide) if expansion > 1 else ()),
            *convolution(wide, wide, kernel, stride, wide),
            *convolution(wide, after, bounded=False),
        )

    def forward(self, x):
        """Return what the block makes of x (N, C, H, W)."""
        return x + self.body(x) if self.adds else self.body(x)


def convolution(before, after, kernel=1, stride=1, groups=1, bounded=True):
    """Return a convolution, its normalisation and a ReLU6."""
    layers = (nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(after))
    return (*layers, nn.ReLU6(inplace=True)) if bounded else layers


def inverted_network(stages, classes):
    """Return a network of inverted bottlenecks; stages are (expansion, channels, repeats, stride, kernel)."""
    layers, before = list(convolution(3, 32, 3, 2)), 32
    for expansion, after, repeats, stride, kernel in stages:
        for place in range(repeats):
            layers.append(Inverted(before, after, kernel, 1 if place else stride, expansion))
            before = after
    layers += [*convolution(before, 1280), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, classes)]
    return nn.Sequential(*layers)


def mobilenet_v2(classes):
    """Return what GluonCV calls mobilenetv2_1.0 and torchvision mobilenet_v2, without dropout."""
    stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    return inverted_network([(*stage, 3) for stage in stages], classes)


def efficientnet_lite0(classes):
    """Return EfficientNet-Lite0 with PyTorch's padding, without dropout."""
    stages = [
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ]
    return inverted_network(stages, classes)


def hold_statistics(net):
    """Let every BatchNorm normalise by its running statistics, and train its scale and shift."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()


NETWORKS = {
    "cifar_resnet20_v1": resnet20,
    "resnet18_v1": resnet18,
    "tutorial": tutorial,
    "fast94": fast94,
    "mobilenetv2_1.0": mobilenet_v2,
    "efficientnet_lite0": efficientnet_lite0,
}


def make_network(name, classes):
    """Return a network, its weights drawn, by the name that it has in Gluon."""
    return NETWORKS[name](classes)
