"""Random changes that suit photographs, where an object has no fixed place and size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from d2lcls.data.transforms.augment import Transform
from d2lcls.data.transforms.operations import turn

import numpy as np

if TYPE_CHECKING:
    from d2lcls.data.decode import Size

MARGIN = 8 / 7  # photographs to be cropped are decoded larger by this factor than the crops: at 256 pixels for 224
_ATTEMPTS = 10  # draws of a rectangle before an image is left as it is, as in torchvision


def random_resized_crop(
    scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3), size: Size | None = None
) -> Transform:
    """Cut a rectangle of random area, shape and place out of each image and scale it to one size.

    Scaling is bilinear. Of an image into which none of ten drawn rectangles fits, the whole is taken. The defaults are
    those of the source and of torchvision.

    Source: Szegedy et al., "Going Deeper with Convolutions" (2015).

    Args:
        scale: smallest and largest area, as shares of the image's, above 0 and at most 1; drawn uniformly.
        ratio: smallest, at most 1, and largest, at least 1, of the factors by which the rectangle is wider in
            proportion to its height than the image, which limits the distortion; its logarithm is drawn uniformly.
        size: side or (height, width) of the result, pixels; None is that of the images. Small rectangles of larger
            images keep detail that would be lost if the images were scaled to this size first.
    """
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(
            f"scale must be two shares of the area above 0 and at most 1, the smaller one first, not {scale}."
        )
    if not 0 < ratio[0] <= 1 <= ratio[1] < math.inf:
        raise ValueError(f"ratio must be two factors, one above 0 and at most 1, then one of 1 or more, not {ratio}.")
    target = _checked(size)

    def transform(images, rng):
        import cv2  # here, for a quick import of the package

        n, height, width, channels = images.shape
        out = target or (height, width)
        rectangles = _rectangles(n, height, width, scale, ratio, rng)
        result = np.empty((n, *out, channels), dtype=np.uint8)
        for before, after, (top, left, h, w) in zip(images, result, rectangles):
            part = before[top : top + h, left : left + w] if h else before
            after[:] = cv2.resize(part, out[::-1], interpolation=cv2.INTER_LINEAR).reshape(after.shape)
        return result

    return transform


def _checked(size: Size | None) -> tuple[int, int] | None:
    if size is None:
        return None
    from d2lcls.data.decode import height_and_width  # here, for a quick import of the package

    return height_and_width(size)


def rotate(degrees: float = 15.0) -> Transform:
    """Rotate each image about its centre by a random angle and fill the corners with mid-grey, as in `cutout`.

    Args:
        degrees: largest angle in either direction, 0 to 180; angles are drawn uniformly.
    """
    if not 0 <= degrees <= 180:
        raise ValueError(f"degrees must lie between 0 and 180, not {degrees}.")
    return lambda images, rng: turn(images, rng.uniform(-degrees, degrees, size=len(images)))


def random_erasing(
    probability: float = 0.5, scale: tuple[float, float] = (0.02, 0.4), ratio: tuple[float, float] = (0.3, 1 / 0.3)
) -> Transform:
    """Replace a rectangle of random area, shape and place in some images by random values.

    A rectangle lies wholly inside its image; an image into which none of ten drawn rectangles fits does not change.
    The defaults are those of the source. It draws the ratio itself uniformly; its logarithm, as in torchvision, makes
    tall and wide rectangles equally frequent.

    Source: Zhong et al., "Random Erasing Data Augmentation" (2020).

    Args:
        probability: share of the images that are changed, 0 to 1.
        scale: smallest and largest area of the rectangle, as shares of the image's, above 0 and at most 1; drawn
            uniformly.
        ratio: smallest and largest width divided by height, above 0; its logarithm is drawn uniformly.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must lie between 0 and 1, not {probability}.")
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(
            f"scale must be two shares of the area above 0 and at most 1, the smaller one first, not {scale}."
        )
    if not 0 < ratio[0] <= ratio[1] < math.inf:
        raise ValueError(f"ratio must be two numbers above 0, the smaller one first, not {ratio}.")

    def transform(images, rng):
        n, height, width, channels = images.shape
        chosen = rng.random(n) < probability
        relative = (ratio[0] * height / width, ratio[1] * height / width)
        rectangles = _rectangles(n, height, width, scale, relative, rng)
        result = images.copy()
        for index in np.flatnonzero(chosen):
            top, left, h, w = rectangles[index]
            result[index, top : top + h, left : left + w] = rng.integers(0, 256, (h, w, channels), dtype=np.uint8)
        return result

    return transform


def _rectangles(
    n: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Draw n rectangles inside images of a size.

    Args:
        n, height, width: how many, and the size of the images.
        scale: limits of the area, as a share of the image's.
        ratio: limits of the width divided by the height, both as shares of the image's.
        rng: source of the draws.

    Returns:
        int (n, 4): top, left, height, width; height and width are 0 where no attempt fitted.
    """
    area = rng.uniform(*scale, size=(n, _ATTEMPTS))
    shape = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), size=(n, _ATTEMPTS)))
    h = np.rint(height * np.sqrt(area / shape)).astype(int)
    w = np.rint(width * np.sqrt(area * shape)).astype(int)
    fits = (h > 0) & (w > 0) & (h <= height) & (w <= width)
    first = np.arange(n), fits.argmax(axis=1)
    found = fits[first]
    h, w = np.where(found, h[first], 0), np.where(found, w[first], 0)
    return np.stack([rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w], axis=1)
