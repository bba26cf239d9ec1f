"""Random changes to whole batches of images that do not change their class, and two that mix images and classes.

Most functions here return a `Transform`, a function `f(images, rng) -> images` that takes and returns uint8 arrays of
shape (N, H, W, C), leaves its input unchanged and draws all random numbers from `rng`, a
`numpy.random.Generator`: the same generator state gives the same batch. `mixup` and `cutmix` change the labels too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]
GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # luma weights, ITU-R BT.601


def pad_crop(padding: int = 4, reflect: bool = False) -> Transform:
    """Shift each image by up to `padding` pixels in each direction and fill the border with black.

    The standard augmentation for CIFAR since Lee et al., "Deeply-Supervised Nets" (2015).

    Args:
        padding: pixels added on each side before a random crop of the original size; 0 or more.
        reflect: fill the border with the mirrored image instead; `padding` must then be less than each side.
    """
    if padding < 0:
        raise ValueError(f"padding must be 0 or more pixels, not {padding}.")

    def transform(images, rng):
        n, h, w, c = images.shape
        if reflect:
            padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="reflect")
        else:  # np.pad takes three times as long
            padded = np.zeros((n, h + 2 * padding, w + 2 * padding, c), dtype=np.uint8)
            padded[:, padding : padding + h, padding : padding + w] = images
        return random_window(padded, h, w, rng)

    return transform


def random_window(images: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Crop a window (height, width) at a random position of each of the uint8 images (N, H, W, C)."""
    n, h, w, _ = images.shape
    windows: np.ndarray = sliding_window_view(  # (N, H - height + 1, W - width + 1, C, height, width)
        images,
        (height, width),
        axis=(1, 2),  # type: ignore[call-overload]  # NumPy 1.26 declares one axis only
    )
    top, left = rng.integers(0, h - height + 1, size=n), rng.integers(0, w - width + 1, size=n)
    return windows[np.arange(n), top, left].transpose(0, 2, 3, 1)  # (N, H, W, C), contiguous in memory


def reflect_crop(padding: int = 2) -> Transform:
    """Shift each image by up to `padding` pixels as `pad_crop` does, and fill the border with the mirrored image."""
    return pad_crop(padding, reflect=True)


def flip(probability: float = 0.5) -> Transform:
    """Mirror each image left to right with the given probability."""
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must lie between 0 and 1, not {probability}.")
    return lambda images, rng: mirror(images, rng.random(len(images)) < probability)


def mirror(images: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return uint8 images (N, H, W, C) with those where `chosen`, bool (N,), is True mirrored left to right."""
    import cv2  # here, for a quick import of the package

    _, _, w, c = images.shape
    # Mirrors all and restores the others: numpy, which copies pixel by pixel, takes ten times as long.
    result = cv2.flip(images.reshape(-1, w, c), 1).reshape(images.shape)
    result[~chosen] = images[~chosen]
    return result


def cutout(size: int = 8, fill: int = 128) -> Transform:
    """Grey out one square of each image, with its centre anywhere, so that part of it may lie outside.

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout" (2017).

    Args:
        size: side of the square, pixels.
        fill: value of its pixels, 0 to 255.
    """
    if size < 1:
        raise ValueError(f"size must be 1 pixel or more, not {size}.")
    if not 0 <= fill <= 255:
        raise ValueError(f"fill must lie between 0 and 255, not {fill}.")

    def transform(images, rng):
        n, h, w, _ = images.shape
        top = rng.integers(0, h, size=n) - size // 2
        left = rng.integers(0, w, size=n) - size // 2
        rows = (np.arange(h) >= top[:, None]) & (np.arange(h) < top[:, None] + size)  # (N, H)
        columns = (np.arange(w) >= left[:, None]) & (np.arange(w) < left[:, None] + size)  # (N, W)
        hidden = rows[:, :, None] & columns[:, None, :]
        result = images.copy()
        result[hidden] = fill
        return result

    return transform


def colour_jitter(
    brightness: float = 0.2, contrast: float = 0.2, saturation: float = 0.2, hue: float = 0.0
) -> Transform:
    """Change brightness, saturation, contrast and hue of each image, in this order, each by a random amount.

    Saturation and hue of images without three channels never change.

    Args:
        brightness, contrast, saturation: 0 to 1; each factor is drawn uniformly from 1 - value to 1 + value, so 0
            changes nothing.
        hue: 0 to 0.5; hues are turned by up to this share of the colour circle, drawn uniformly in either direction.
    """
    for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie between 0 and 1, not {value}.")
    if not 0 <= hue <= 0.5:
        raise ValueError(f"hue must lie between 0 and 0.5, not {hue}.")

    def transform(images, rng):
        n, _, _, c = images.shape
        factors = rng.uniform(-1, 1, size=(3, n, 1, 1, 1)).astype(np.float32)
        x = images * (1 + brightness * factors[0])  # (N, H, W, C) float32
        grey = x @ GREY[:, None] if c == 3 else x.mean(axis=3, keepdims=True)  # (N, H, W, 1)
        mean = grey.mean(axis=(1, 2, 3), keepdims=True)
        if c == 3:
            x = grey + (x - grey) * (1 + saturation * factors[2])
        x = np.clip(mean + (x - mean) * (1 + contrast * factors[1]), 0, 255)
        if hue and c == 3:
            x = _turn_hues(x, rng.uniform(-hue, hue, size=n))
        return np.rint(x).astype(np.uint8)

    return transform


def _turn_hues(images: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Turn the hues of images, float32 (N, H, W, 3), by shares (N,) of the colour circle (HSV)."""
    import cv2  # here, for a quick import of the package

    n, height, width, _ = images.shape
    hsv = cv2.cvtColor(images.reshape(n * height, width, 3), cv2.COLOR_RGB2HSV).reshape(images.shape)
    hsv[..., 0] = (hsv[..., 0] + (360 * shares).astype(np.float32)[:, None, None]) % 360  # degrees
    return cv2.cvtColor(hsv.reshape(n * height, width, 3), cv2.COLOR_HSV2RGB).reshape(images.shape)


def mixup(
    images: np.ndarray, labels: np.ndarray, num_classes: int, alpha: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Blend each image with another of the batch, and their labels in the same proportion.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2018).

    Args:
        images: uint8 (N, H, W, C).
        labels: int (N,).
        num_classes: K.
        alpha: above 0; the share of one image is drawn from Beta(alpha, alpha). Small values blend little.
        rng: source of the shares and pairs.

    Returns:
        (images, targets): uint8 (N, H, W, C) and float32 (N, K), whose rows sum to 1.
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be above 0, not {alpha}.")
    share = rng.beta(alpha, alpha, size=(len(images), 1)).astype(np.float32)
    other = rng.permutation(len(images))
    weight = share[:, :, None, None]
    blended = np.rint(weight * images + (1 - weight) * images[other]).astype(np.uint8)
    return blended, _targets(labels, other, share, num_classes)


def cutmix(
    images: np.ndarray, labels: np.ndarray, num_classes: int, alpha: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Paste a rectangle of another image of the batch into each image, and mix their labels by area.

    The rectangle has the image's proportions and its centre anywhere; what lies outside is cut off. Each image gets a
    rectangle of its own; the source pastes the same one into a whole batch.

    Source: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features" (2019).

    Args:
        images: uint8 (N, H, W, C).
        labels: int (N,).
        num_classes: K.
        alpha: above 0; the rectangle's area, before it is cut off, is 1 minus a share drawn from Beta(alpha, alpha).
            The source uses 1, which draws it uniformly.
        rng: source of the rectangles and pairs.

    Returns:
        (images, targets): uint8 (N, H, W, C) and float32 (N, K), whose rows sum to 1. The other image's share is that
        of the pixels that were pasted.
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be above 0, not {alpha}.")
    n, h, w, _ = images.shape
    side = np.sqrt(1 - rng.beta(alpha, alpha, size=n))  # as a share of the image's
    other = rng.permutation(n)
    rows, columns = (_segments(length, side, rng) for length in (h, w))
    mixed = np.where((rows[:, :, None] & columns[:, None, :])[..., None], images[other], images)
    pasted = rows.sum(axis=1) * columns.sum(axis=1)
    return mixed, _targets(labels, other, (1 - pasted / (h * w))[:, None].astype(np.float32), num_classes)


def _segments(length: int, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the centre of a segment for each share of a length, and mark the segment's pixels, bool (N, length)."""
    sizes = np.rint(length * shares).astype(int)[:, None]
    begin = rng.integers(0, length, size=(len(shares), 1)) - sizes // 2
    places = np.arange(length)
    return (places >= begin) & (places < begin + sizes)


def _targets(labels: np.ndarray, other: np.ndarray, share: np.ndarray, num_classes: int) -> np.ndarray:
    """Mix labels (N,) with those at the positions `other` (N,), whose share is 1 - `share` (N, 1)."""
    one_hot = np.eye(num_classes, dtype=np.float32)[labels]
    return share * one_hot + (1 - share) * one_hot[other]


STANDARD = (pad_crop(4), flip(0.5))  # used by nearly every CIFAR-10 recipe; `registry.standard_for` has larger images'
