"""Random changes to whole batches of images that leave their class as it is.

Each function here returns a transform `f(images, rng) -> images` that takes and returns uint8 arrays of
shape (N, H, W, C), leaves its input unchanged and draws every random number from `rng`, a
`numpy.random.Generator`: the same generator state gives the same batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Transform = Callable[[np.ndarray, np.random.Generator], np.ndarray]
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # luma weights, ITU-R BT.601


def pad_crop(padding=4, reflect=False):
    """Shift each image by up to `padding` pixels either way; black moves in at the border.

    The standard augmentation for CIFAR since Lee et al., "Deeply-Supervised Nets" (2015).

    Args:
        padding: pixels added on each side before a random crop of the original size; 0 or more.
        reflect: let the image's own mirror image move in instead; `padding` is then less than a side.
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


def random_window(images, height, width, rng):
    """Cut a window out of each of the uint8 images (N, H, W, C), at random places; they are (N, height, width, C)."""
    n, h, w, _ = images.shape
    windows = np.lib.stride_tricks.sliding_window_view(
        images, (height, width), axis=(1, 2)
    )  # (N, P, Q, C, height, width)
    top, left = rng.integers(0, h - height + 1, size=n), rng.integers(0, w - width + 1, size=n)
    return windows[np.arange(n), top, left].transpose(0, 2, 3, 1)  # (N, H, W, C), contiguous in memory


def reflect_crop(padding=2):
    """Shift each image as `pad_crop` does, with its own mirror image at the border; 0 or more pixels."""
    return pad_crop(padding, reflect=True)


def flip(probability=0.5):
    """Mirror each image left to right with the given probability."""
    _check_probability(probability)

    return lambda images, rng: mirror(images, rng.random(len(images)) < probability)


def mirror(images, chosen):
    """Return uint8 images (N, H, W, C), those that are chosen by bool (N,) mirrored left to right."""
    import cv2  # here, for a quick import of the package

    _, _, w, c = images.shape
    # All are mirrored and some put back: numpy would turn pixel by pixel, which takes ten times as long.
    result = cv2.flip(images.reshape(-1, w, c), 1).reshape(images.shape)
    result[~chosen] = images[~chosen]
    return result


def cutout(size=8, fill=128):
    """Grey out one square a picture, centred anywhere, so that it may hang over the edge.

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout" (2017).

    Args:
        size: side of the square, pixels.
        fill: the value written, 0 to 255.
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


def colour_jitter(brightness=0.2, contrast=0.2, saturation=0.2):
    """Change brightness, contrast and colour saturation, each by a random factor a picture.

    Args:
        brightness, contrast, saturation: each factor is drawn evenly from 1 - value to 1 + value, so 0 leaves
            that property alone; 0 to 1. Saturation is left alone on pictures that do not have three channels.
    """
    for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie between 0 and 1, not {value}.")

    def transform(images, rng):
        n, _, _, c = images.shape
        factors = rng.uniform(-1, 1, size=(3, n, 1, 1, 1)).astype(np.float32)
        x = images * (1 + brightness * factors[0])  # (N, H, W, C) float32
        grey = x @ _GREY[:, None] if c == 3 else x.mean(axis=3, keepdims=True)  # (N, H, W, 1)
        mean = grey.mean(axis=(1, 2, 3), keepdims=True)
        if c == 3:
            x = grey + (x - grey) * (1 + saturation * factors[2])
        x = mean + (x - mean) * (1 + contrast * factors[1])
        return np.clip(np.rint(x), 0, 255).astype(np.uint8)

    return transform


def mixup(images, labels, num_classes, alpha, rng):
    """Blend each image with another of the batch, and their labels in the same proportion.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2018).

    Args:
        images: uint8 (N, H, W, C).
        labels: int (N,).
        num_classes: K.
        alpha: the share of one image is drawn from Beta(alpha, alpha); above 0. Small values blend little.
        rng: `numpy.random.Generator`.

    Returns:
        (images, targets): uint8 (N, H, W, C) and float32 (N, K), whose rows sum to 1.
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be above 0, not {alpha}.")
    share = rng.beta(alpha, alpha, size=(len(images), 1)).astype(np.float32)
    other = rng.permutation(len(images))
    weight = share[:, :, None, None]
    blended = np.rint(weight * images + (1 - weight) * images[other]).astype(np.uint8)
    one_hot = np.eye(num_classes, dtype=np.float32)[labels]
    return blended, share * one_hot + (1 - share) * one_hot[other]


def _check_probability(value):
    if not 0 <= value <= 1:
        raise ValueError(f"probability must lie between 0 and 1, not {value}.")


STANDARD = (pad_crop(4), flip(0.5))  # what nearly every CIFAR-10 recipe uses
