"""RandAugment: a few operations for each image, drawn from a fixed list, all of the same strength.

`OPERATIONS` is that list. Each entry is a function `f(images, level, rng) -> images` on uint8 arrays of shape
(N, H, W, C) with one or three channels, which leaves its input unchanged. `level` ranges from 0 to 1; an operation
with two directions draws one for each image from `rng`.
"""

from collections.abc import Callable

from d2lcls.data.transforms.augment import GREY, Transform

import numpy as np

_OUTSIDE = 128  # mid-grey, as in cutout: pixels that geometric operations take from outside the image
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
        if images.shape[3] not in (1, 3):
            raise ValueError(f"randaugment needs images of one or three channels; these have the shape {images.shape}.")
        result = images.copy()
        for drawn in rng.integers(len(OPERATIONS), size=(operations, len(images))):
            for number, operation in enumerate(OPERATIONS.values()):
                if (chosen := np.flatnonzero(drawn == number)).size:
                    result[chosen] = operation(result[chosen], magnitude / _STRONGEST, rng)
        return result

    return transform


def identity(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Change nothing."""
    return images


def autocontrast(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Stretch each channel to 0..255, whatever the level."""
    x = images.astype(np.float32)
    low, high = x.min(axis=(1, 2), keepdims=True), x.max(axis=(1, 2), keepdims=True)
    stretched = np.rint((x - low) * (255 / np.maximum(high - low, 1))).astype(np.uint8)
    return np.where(low == high, images, stretched)


def equalize(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Make each channel's values about equally frequent, whatever the level."""
    import cv2  # here, for a quick import of the package

    result = np.empty_like(images)
    for before, after in zip(images, result):
        for channel in range(images.shape[3]):
            after[..., channel] = cv2.equalizeHist(before[..., channel])
    return result


def rotate(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Rotate about the centre, by up to 30 degrees in either direction."""
    angle = np.deg2rad(30 * level) * _signs(images, rng)
    cos, sin = np.cos(angle), np.sin(angle)
    return _warp(images, [[cos, -sin], [sin, cos]], centre=0.5)


def solarize(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Invert the values above a threshold, which falls from 256 to 0."""
    return np.where(images >= round(256 * (1 - level)), 255 - images, images)


def colour(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Change saturation by a factor of up to 1 +- 0.9; images of one channel do not change."""
    return _away_from(_grey(images), images, level, rng)


def posterize(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Keep only the upper bits of each value, 8 down to 4."""
    return images & np.uint8(256 - 2 ** round(4 * level))


def contrast(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Change the distance from the image's mean grey by a factor of up to 1 +- 0.9."""
    return _away_from(_grey(images).mean(axis=(1, 2, 3), keepdims=True), images, level, rng)


def brightness(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Multiply by a factor of up to 1 +- 0.9."""
    return _away_from(np.zeros(1, dtype=np.float32), images, level, rng)


def sharpness(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Blur or sharpen: change the distance from a smoothed image by a factor of up to 1 +- 0.9."""
    x = images.astype(np.float32)
    rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    smooth = x.copy()  # a border of one pixel does not change
    smooth[:, 1:-1, 1:-1] = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * x[:, 1:-1, 1:-1]) / 13
    return _away_from(smooth, images, level, rng)


def shear_x(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Shift each row left or right by up to 0.3 of its distance from the top."""
    slope = 0.3 * level * _signs(images, rng)
    return _warp(images, [[1, slope], [0, 1]])


def shear_y(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Shift each column up or down by up to 0.3 of its distance from the left."""
    slope = 0.3 * level * _signs(images, rng)
    return _warp(images, [[1, 0], [slope, 1]])


def translate_x(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Shift left or right by up to 0.45 of the width, in whole pixels."""
    return _warp(images, np.eye(2), shift_x=round(0.45 * level * images.shape[2]) * _signs(images, rng))


def translate_y(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Shift up or down by up to 0.45 of the height, in whole pixels."""
    return _warp(images, np.eye(2), shift_y=round(0.45 * level * images.shape[1]) * _signs(images, rng))


OPERATIONS: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
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


def _signs(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw -1 or 1 for each image, float64 (N,)."""
    return 2.0 * rng.integers(2, size=len(images)) - 1


def _grey(images: np.ndarray) -> np.ndarray:
    return images @ GREY[:, None] if images.shape[3] == 3 else images.astype(np.float32)  # (N, H, W, 1)


def _away_from(base: np.ndarray, images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Scale the distance of the images from `base` by 1 +- 0.9 * level."""
    factor = (1 + 0.9 * level * _signs(images, rng)).astype(np.float32)[:, None, None, None]
    return np.clip(np.rint(base + factor * (images - base)), 0, 255).astype(np.uint8)


def _warp(images, linear, shift_x=0, shift_y=0, centre=0.0):
    """Take each pixel from the point `linear` @ (x, y) + shift, interpolating between four neighbours.

    Each entry of `linear`, 2 x 2, and each shift, in pixels, is a number or an array (N,). The origin is the upper left
    corner, or the point at the share `centre` of width and height.
    """
    import cv2

    n, height, width, _ = images.shape
    matrices = np.empty((n, 2, 3))
    for row, shift in enumerate((shift_x, shift_y)):
        for column, value in enumerate((*linear[row], shift)):
            matrices[:, row, column] = value
    origin = np.array([width * centre - 0.5, height * centre - 0.5])  # cv2 counts from the first pixel's centre
    matrices[:, :, 2] += origin - matrices[:, :, :2] @ origin
    result = np.empty_like(images)
    for before, matrix, after in zip(images, matrices, result):
        after[:] = cv2.warpAffine(
            before,
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(_OUTSIDE,) * 3,
        ).reshape(before.shape)
    return result
