"""The features that a network computes of images, computed once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from d2lcls.machine.files import cache_folder, write_atomically
from d2lcls.weights.npz import NpzError, npz_bytes, read_npz

import numpy as np
from mxnet import nd

if TYPE_CHECKING:
    from d2lcls.data.batches import Batches


@dataclass(frozen=True, eq=False)
class Features:
    """The outputs of a network's front for a set of images.

    Args:
        values: float16 or float32 (copies, N, ...); every image has one or more copies, augmented differently.
        labels: int64 (N,).
        classes: names of the classes.
        name: name of the set.
    """

    values: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def counts(self) -> np.ndarray:
        """Return the number of images of each class, int64 (K,)."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def subset(self, indices: np.ndarray | slice) -> Features:
        """Return the features of some images, in every copy."""
        return Features(self.values[:, indices], self.labels[indices], self.classes, self.name)


class FeatureBatches:
    """Features, cut into batches as `Batches` cuts images, for `fit` and `evaluate`.

    An epoch takes one copy of every image, drawn anew each time.

    Args:
        data: `Features`.
        batch_size: images per batch.
        shuffle: draw a new order, and new copies, every epoch; False takes the first copy.
        seed: of the order and the copies.
    """

    mixup, cutmix, size, balanced, alternating_flip, small_first, decode = 0.0, 0.0, None, False, False, None, None

    def __init__(self, data: Features, batch_size: int = 128, shuffle: bool = False, seed: int = 0) -> None:
        if batch_size < 1 or len(data) == 0:
            raise ValueError(f"Expected images and a batch_size of 1 or more, not {len(data)} and {batch_size}.")
        self.data, self.batch_size, self.shuffle, self.seed = data, batch_size, shuffle, seed

    def __len__(self) -> int:
        """Number of batches per epoch."""
        return -(-len(self.data) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self.epoch(0)

    def example(self) -> np.ndarray:
        """Return the first image's features, float32 (1, ...)."""
        return self.data.values[0, :1].astype(np.float32)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (features, labels) of one epoch from batch `start` on: float32 (N, ...), int32 (N,)."""
        order, copies = np.arange(len(self.data)), np.zeros(len(self.data), dtype=int)
        if self.shuffle:
            rng = np.random.default_rng([self.seed, number])
            rng.shuffle(order)
            copies = rng.integers(len(self.data.values), size=len(order))
        for begin in range(start * self.batch_size, len(order), self.batch_size):
            chosen = order[begin : begin + self.batch_size]
            yield self.data.values[copies[chosen], chosen].astype(np.float32), self.data.labels[chosen].astype(np.int32)


def extract_features(
    front: Callable[[nd.NDArray], nd.NDArray], batches: Batches, copies: int = 1, cache: str | None = None
) -> Features:
    """Run the front of a network over a set of images once.

    Args:
        front: such as `split` returns, perhaps fused or quantised.
        batches: not shuffled. Copy k is computed of its epoch k, so that augmentation makes the copies differ.
        copies: of every image.
        cache: name under which the result is kept in the cache folder; None keeps nothing. A result of that name is
            used again if images, labels and the front's output for the first image agree with it. Augmentation is not
            compared: include it in the name.

    Returns:
        `Features`, float16: (copies, N, ...). Half precision keeps three digits; int8 rounding loses more.

    Raises:
        ValueError: the batches are shuffled or use mixup or cutmix, copies is below 1, or the cache holds other
            features or a damaged file under that name.
    """
    if copies < 1:
        raise ValueError(f"copies must be 1 or more, not {copies}.")
    if batches.shuffle or batches.mixup or batches.cutmix:
        raise ValueError(
            "Features are kept in the order of the images: expected batches with shuffle=False, mixup=0 and cutmix=0."
        )
    data = batches.data
    probe = front(nd.array(batches.example())).asnumpy()
    if cache:
        path, mark = cache_folder() / "features" / f"{cache}.npz", _fingerprint(batches, copies)
        if path.exists():
            return Features(_cached_values(path, mark, probe), data.labels, data.classes, data.name)
    values = np.empty((copies, len(data), *probe.shape[1:]), dtype=np.float16)
    for copy in range(copies):
        begin = 0
        for x, labels in batches.epoch(copy):
            part = front(nd.array(x)).asnumpy()
            if not np.abs(part).max() < 65504:  # False for NaN, too
                raise ValueError("The front returns NaN or numbers beyond the range of half precision, up to 65,504.")
            values[copy, begin : begin + len(labels)] = part
            begin += len(labels)
    if cache:
        write_atomically(path, npz_bytes({"values": values, "mark": np.array(mark), "probe": probe}))
    return Features(values, data.labels, data.classes, data.name)


def _cached_values(path: Path, mark: str, probe: np.ndarray) -> np.ndarray:
    try:
        content = read_npz(path, ("mark", "probe", "values"))
    except NpzError as error:
        raise ValueError(f"{path}: damaged, or not a file of features ({error}). Delete it.") from error
    if (
        str(content["mark"]) != mark
        or content["probe"].shape != probe.shape
        or not np.allclose(content["probe"], probe, rtol=1e-3, atol=1e-3)
    ):
        raise ValueError(
            f"{path} holds the features of other images or of another network. Choose another name, or delete it."
        )
    return content["values"]


def _fingerprint(batches, copies):
    """Return a hash of all that features depend on except the network: images, labels, normalisation, copies."""
    digest = hashlib.sha256(
        repr(
            (batches.data.images.shape, batches.size, batches.mean.tolist(), batches.std.tolist(), batches.seed, copies)
        ).encode()
    )
    digest.update(batches.data.labels.tobytes())
    some = np.linspace(0, len(batches.data) - 1, 100).astype(int)
    digest.update(np.ascontiguousarray(batches.data.images[some]).tobytes())
    return digest.hexdigest()
