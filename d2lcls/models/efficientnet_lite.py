"""The EfficientNets by name: their scales, and the weights they are made for.

The Lite networks (Liu, "Higher accuracy on vision models with EfficientNet-Lite", 2020) leave out what is slow or
hard to quantise on a phone: squeeze-and-excite and the swish activation. Names follow timm, where the prefix
``tf_`` marks the networks that pad as TensorFlow does.
"""

from __future__ import annotations

from d2lcls.models.efficientnet import EfficientNet, Scale

SCALES = {
    "b0": Scale(1.0, 1.0, 224, 0.2),
    "b1": Scale(1.0, 1.1, 240, 0.2),
    "b2": Scale(1.1, 1.2, 260, 0.3),
    "b3": Scale(1.2, 1.4, 300, 0.3),
    "lite0": Scale(1.0, 1.0, 224, 0.2),
    "lite1": Scale(1.0, 1.1, 240, 0.2),
    "lite2": Scale(1.1, 1.2, 260, 0.3),
}

NAMES = tuple(f"efficientnet_{size}" for size in SCALES) + tuple(
    f"tf_efficientnet_{size}" for size in SCALES if size[0] == "b"
)


def make_efficientnet(name: str, classes: int = 1000) -> EfficientNet:
    """Make an EfficientNet by its name, not yet initialised.

    Args:
        name: "efficientnet_lite0" to "efficientnet_lite2" (TensorFlow's padding and epsilon, as in their weights),
            "efficientnet_b0" to "efficientnet_b3" (PyTorch's), "tf_efficientnet_b0" to "tf_efficientnet_b3".
        classes: number of logits.
    """
    size = name.rsplit("_", 1)[1]
    tensorflow = name.startswith("tf_") or size.startswith("lite")
    return EfficientNet(
        SCALES[size], classes, lite=size.startswith("lite"), same=tensorflow, epsilon=1e-3 if tensorflow else 1e-5
    )
