"""AutoAugment: pairs of operations that a search on ImageNet found, one pair for each image."""

from d2lcls.data.transforms.augment import Transform
from d2lcls.data.transforms.operations import (
    Operation,
    autocontrast,
    check_channels,
    colour,
    contrast,
    equalize,
    invert,
    posterize,
    rotate,
    sharpness,
    shear_x,
    solarize,
)

import numpy as np

_STRONGEST = 9  # the paper's scale of magnitudes, ten values

# The 25 sub-policies for ImageNet, in the order of the paper's appendix: (operation, probability, magnitude), twice.
# The magnitudes of autocontrast, equalize and invert mean nothing; they are written as 0. Five pairs occur twice.
IMAGENET_POLICY: tuple[tuple[tuple[Operation, float, int], tuple[Operation, float, int]], ...] = (
    ((posterize, 0.4, 8), (rotate, 0.6, 9)),
    ((solarize, 0.6, 5), (autocontrast, 0.6, 0)),
    ((equalize, 0.8, 0), (equalize, 0.6, 0)),
    ((posterize, 0.6, 7), (posterize, 0.6, 6)),
    ((equalize, 0.4, 0), (solarize, 0.2, 4)),
    ((equalize, 0.4, 0), (rotate, 0.8, 8)),
    ((solarize, 0.6, 3), (equalize, 0.6, 0)),
    ((posterize, 0.8, 5), (equalize, 1.0, 0)),
    ((rotate, 0.2, 3), (solarize, 0.6, 8)),
    ((equalize, 0.6, 0), (posterize, 0.4, 6)),
    ((rotate, 0.8, 8), (colour, 0.4, 0)),
    ((rotate, 0.4, 9), (equalize, 0.6, 0)),
    ((equalize, 0.0, 0), (equalize, 0.8, 0)),
    ((invert, 0.6, 0), (equalize, 1.0, 0)),
    ((colour, 0.6, 4), (contrast, 1.0, 8)),
    ((rotate, 0.8, 8), (colour, 1.0, 2)),
    ((colour, 0.8, 8), (solarize, 0.8, 7)),
    ((sharpness, 0.4, 7), (invert, 0.6, 0)),
    ((shear_x, 0.6, 5), (equalize, 1.0, 0)),
    ((colour, 0.4, 0), (equalize, 0.6, 0)),
    ((equalize, 0.4, 0), (solarize, 0.2, 4)),
    ((solarize, 0.6, 5), (autocontrast, 0.6, 0)),
    ((invert, 0.6, 0), (equalize, 1.0, 0)),
    ((colour, 0.6, 4), (contrast, 1.0, 8)),
    ((equalize, 0.8, 0), (equalize, 0.6, 0)),
)


def autoaugment() -> Transform:
    """Change each image by one of the 25 pairs of operations in `IMAGENET_POLICY`, drawn uniformly.

    Each operation of the pair is applied with its own probability. Magnitude 9 is the full strength of
    `operations`, 0 none, and operations with two directions draw one: the paper leaves this open for `colour`,
    `contrast` and `sharpness`, and torchvision reads it in the same way. Pixels from outside the image are mid-grey.

    Source: Cubuk et al., "AutoAugment: Learning Augmentation Strategies from Data" (2019).

    Returns:
        a transform, which raises ValueError for images without one or three channels.
    """

    def transform(images, rng):
        check_channels(images, "autoaugment")
        result = images.copy()
        drawn = rng.integers(len(IMAGENET_POLICY), size=len(images))
        luck = rng.random((2, len(images)))
        for number, pair in enumerate(IMAGENET_POLICY):
            for draw, (operation, probability, magnitude) in zip(luck, pair):
                if (chosen := np.flatnonzero((drawn == number) & (draw < probability))).size:
                    result[chosen] = operation(result[chosen], magnitude / _STRONGEST, rng)
        return result

    return transform
