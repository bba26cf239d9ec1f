"""RandAugment: a few operations for each image, drawn from a fixed list, all of the same strength.

`OPERATIONS` is that list, from `operations`.
"""

from d2lcls.data.transforms.augment import Transform
from d2lcls.data.transforms.operations import (
    Operation,
    autocontrast,
    brightness,
    check_channels,
    colour,
    contrast,
    equalize,
    identity,
    posterize,
    rotate,
    sharpness,
    shear_x,
    shear_y,
    solarize,
    translate_x,
    translate_y,
)

import numpy as np

_STRONGEST = 30  # the paper's scale of magnitudes


def randaugment(operations: int = 2, magnitude: float = 9) -> Transform:
    """Change each image by operations drawn uniformly and independently from `OPERATIONS`.

    Pixels from outside the image are mid-grey, as in `cutout`. `colour` does not change images of one channel.

    Source: Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space" (2020).

    Args:
        operations: how many for each image, one after the other; 0 or more. The paper uses 1 to 3.
        magnitude: strength of all of them, 0 to 30.

    Returns:
        a transform, which raises ValueError for images without one or three channels.

    Raises:
        ValueError: an argument is out of range.
    """
    if not isinstance(operations, (int, np.integer)) or operations < 0:
        raise ValueError(f"operations must be a whole number, 0 or more, not {operations!r}.")
    if not 0 <= magnitude <= _STRONGEST:
        raise ValueError(f"magnitude must lie between 0 and {_STRONGEST}, not {magnitude}.")

    def transform(images, rng):
        check_channels(images, "randaugment")
        result = images.copy()
        for drawn in rng.integers(len(OPERATIONS), size=(operations, len(images))):
            for number, operation in enumerate(OPERATIONS.values()):
                if (chosen := np.flatnonzero(drawn == number)).size:
                    result[chosen] = operation(result[chosen], magnitude / _STRONGEST, rng)
        return result

    return transform


OPERATIONS: dict[str, Operation] = {
    operation.__name__: operation
    for operation in (
        identity,
        autocontrast,
        equalize,
        rotate,
        solarize,
        colour,
        posterize,
        contrast,
        brightness,
        sharpness,
        shear_x,
        shear_y,
        translate_x,
        translate_y,
    )
}
