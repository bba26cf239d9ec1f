"""Operations of RandAugment and AutoAugment, each of a strength that ranges from 0 to 1.

Each is a function `f(images, level, rng) -> images` on uint8 arrays of shape (N, H, W, C) with one or three channels,
which leaves its input unchanged. Those with two directions draw one for each image from `rng`. Pixels that geometric
operations take from outside the image are mid-grey, as in `cutout`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from d2lcls.data.transforms.augment import GREY

import numpy as np
import numpy.typing as npt

Operation = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
_OUTSIDE = 128  # mid-grey


def check_channels(images: np.ndarray, name: str) -> None:
    """Raise ValueError if images (N, H, W, C) do not have one or three channels; `name` is of the transform."""
    if images.shape[3] not in (1, 3):
        raise ValueError(f"{name} needs images of one or three channels; these have the shape {images.shape}.")


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
    return turn(images, 30 * level * _signs(images, rng))


def invert(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Replace each value by 255 minus it, whatever the level."""
    return 255 - images


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
    return warp(images, [[1, slope], [0, 1]])


def shear_y(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Shift each column up or down by up to 0.3 of its distance from the left."""
    slope = 0.3 * level * _signs(images, rng)
    return warp(images, [[1, 0], [slope, 1]])


def translate_x(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Shift left or right by up to 0.45 of the width, in whole pixels."""
    return warp(images, np.eye(2), shift_x=round(0.45 * level * images.shape[2]) * _signs(images, rng))


def translate_y(images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Shift up or down by up to 0.45 of the height, in whole pixels."""
    return warp(images, np.eye(2), shift_y=round(0.45 * level * images.shape[1]) * _signs(images, rng))


def turn(images: np.ndarray, angles: npt.ArrayLike) -> np.ndarray:
    """Rotate uint8 images (N, H, W, C) about their centres by angles (N,) in degrees, counter-clockwise."""
    cos, sin = np.cos(np.deg2rad(angles)), np.sin(np.deg2rad(angles))
    return warp(images, [[cos, -sin], [sin, cos]], centre=0.5)


def warp(
    images: np.ndarray,
    linear: Sequence[Sequence[npt.ArrayLike]] | np.ndarray,
    shift_x: npt.ArrayLike = 0,
    shift_y: npt.ArrayLike = 0,
    centre: float = 0.0,
) -> np.ndarray:
    """Take each pixel from the point `linear` @ (x, y) + shift, interpolating between four neighbours.

    Args:
        images: uint8 (N, H, W, C) of one to four channels.
        linear: 2 x 2; each entry is a number or an array (N,).
        shift_x, shift_y: in pixels; each a number or an array (N,).
        centre: the origin is this point, as a share of width and height; 0 is the upper left corner.

    Returns:
        uint8 (N, H, W, C), with mid-grey where a pixel comes from outside the image.
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
            borderValue=(_OUTSIDE,) * 4,
        ).reshape(before.shape)
    return result


def _signs(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw -1 or 1 for each image, float64 (N,)."""
    return 2.0 * rng.integers(2, size=len(images)) - 1


def _grey(images: np.ndarray) -> np.ndarray:
    return images @ GREY[:, None] if images.shape[3] == 3 else images.astype(np.float32)  # (N, H, W, 1)


def _away_from(base: np.ndarray, images: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    """Scale the distance of the images from `base` by 1 +- 0.9 * level."""
    factor = (1 + 0.9 * level * _signs(images, rng)).astype(np.float32)[:, None, None, None]
    return np.clip(np.rint(base + factor * (images - base)), 0, 255).astype(np.uint8)
