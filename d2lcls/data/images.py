"""`Images`, a set of images in memory with labels; its split into training and validation set; its statistics."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt


class Labelled(Protocol):
    """What `Images` and `LazyImages` have in common."""

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def counts(self) -> np.ndarray: ...

    def subset(self, indices: Any) -> Self: ...


AnyImages = TypeVar("AnyImages", bound=Labelled)


@dataclass(frozen=True, eq=False)  # == of arrays gives an array
class Images:
    """Images with their labels.

    Args:
        images: uint8 (N, H, W, C).
        labels: int64 (N,), each a position in `classes`.
        classes: names of the classes.
        name: of the set, for titles and messages.

    Raises:
        TypeError: an array has another dtype.
        ValueError: a shape is wrong, the lengths differ, or a label has no class; the message names the first.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        self._check("images", np.uint8, ("N", "H", "W", "C"))
        self._check("labels", np.int64, ("N",))
        if len(self.images) != len(self.labels):
            raise ValueError(f"{self.name}: {len(self.images)} images but {len(self.labels)} labels.")
        if not isinstance(self.classes, tuple) or not all(isinstance(name, str) for name in self.classes):
            raise TypeError(f"{self.name}: classes must be a tuple of str, not {self.classes!r}.")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if len(wrong):
            raise ValueError(
                f"{self.name}: label {wrong[0]} is {self.labels[wrong[0]]}; "
                f"with {len(self.classes)} classes it must be 0 to {len(self.classes) - 1}."
            )

    def _check(self, field: str, dtype: type, axes: tuple[str, ...]) -> None:
        value = getattr(self, field)
        if not isinstance(value, np.ndarray) or value.dtype != dtype:
            received = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            raise TypeError(f"{self.name}: {field} must be a numpy array of {dtype.__name__}, not {received}.")
        if value.ndim != len(axes):
            raise ValueError(
                f"{self.name}: {field} must have {len(axes)} axes ({', '.join(axes)}), not the shape {value.shape}."
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def subset(self, indices: Any) -> Images:
        """Return the `Images` at these positions, or where this bool mask is True, in the order given."""
        return Images(self.images[indices], self.labels[indices], self.classes, self.name)

    def counts(self) -> np.ndarray:
        """Return the number of images of each class, int64 (K,)."""
        return np.bincount(self.labels, minlength=len(self.classes))


def split_validation(data: AnyImages, size: float, seed: int = 0) -> tuple[AnyImages, AnyImages]:
    """Split off a stratified validation set: every class has the same share in it.

    Shares are rounded by the largest remainder, so the total is exact; an image of each class stays in
    the training set as long as `size` allows. Both sets keep the order of `data`.

    Args:
        data: the images to split, `Images` or `LazyImages`.
        size: number of validation images (int), or their share of all (float between 0 and 1).
        seed: the same seed gives the same split.

    Returns:
        (train, validation).

    Raises:
        ValueError: `size` is out of range, or a class has a single image, which cannot be in both sets.
    """
    total, counts = len(data), data.counts()
    if isinstance(size, (int, np.integer)) and not isinstance(size, bool):
        wanted = int(size)
    elif isinstance(size, (float, np.floating)) and 0 < size < 1:
        wanted = round(float(size) * total)
    else:
        raise ValueError(f"size must be a number of images (int) or a share between 0 and 1 (float), not {size!r}.")
    if not 0 < wanted < total:
        raise ValueError(
            f"size={size!r} asks for {wanted} of the {total} images of {data.name} "
            "for validation; both sets need at least one."
        )
    if (counts == 1).any():
        name = data.classes[np.flatnonzero(counts == 1)[0]]
        raise ValueError(
            f"{data.name}: class {name!r} has a single image, which cannot be in both sets. "
            "Add images to the class or remove it."
        )
    rng = np.random.default_rng(seed)
    chosen = [
        rng.permutation(np.flatnonzero(data.labels == k))[:share] for k, share in enumerate(_shares(counts, wanted))
    ]
    validation = np.zeros(total, dtype=bool)
    validation[np.concatenate(chosen)] = True
    return data.subset(~validation), data.subset(validation)


def _shares(counts: np.ndarray, wanted: int) -> np.ndarray:
    """Divide `wanted` among classes in proportion to `counts`, in whole numbers with an exact total."""
    taken, remainder = np.divmod(wanted * counts, counts.sum())
    by_remainder = np.argsort(-remainder, kind="stable")
    while (rest := wanted - taken.sum()) > 0:
        room = taken < counts - 1  # keeps an image of each class in the training set ...
        if not room.any():
            room = taken < counts  # ... unless too many are wanted
        taken[[k for k in by_remainder if room[k]][:rest]] += 1
    return taken


def channel_statistics(images: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Compute each channel's mean and standard deviation over all pixels of all images.

    Computed with integers, so the result is exact to about the last float64 digit for any number of images.

    Args:
        images: uint8 (N, H, W, C).

    Returns:
        (mean, std): float64 (C,) each, on the 0..1 scale.

    Raises:
        ValueError: the array is empty or has another dtype or number of axes.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        raise ValueError(
            f"images must be uint8 of shape (N, H, W, C) and not empty, not {images.dtype} of shape {images.shape}."
        )
    histogram = np.zeros((images.shape[3], 256), dtype=np.int64)
    for begin in range(0, len(images), 1000):  # bincount converts its input to 8 bytes per pixel
        chunk = images[begin : begin + 1000]
        for channel in range(images.shape[3]):
            histogram[channel] += np.bincount(chunk[..., channel].ravel(), minlength=256)
    mean, std = [], []
    for counts in histogram.tolist():  # Python's integers do not overflow
        number = sum(counts)
        first = sum(value * count for value, count in enumerate(counts))
        second = sum(value * value * count for value, count in enumerate(counts))
        mean.append(first / (number * 255))
        std.append(sqrt(number * second - first * first) / (number * 255))
    return np.array(mean), np.array(std)
