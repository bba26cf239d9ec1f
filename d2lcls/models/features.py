"""What a network's layers see in images, computed once and kept."""

import hashlib
from dataclasses import dataclass

from d2lcls.machine.files import DAMAGED_NPZ, cache_folder, write_atomically

import numpy as np
from mxnet import nd


@dataclass(frozen=True, eq=False)
class Features:
    """What the front of a network made of a set of images.

    Args:
        values: float16 or float32 (copies, N, ...); every image has one or more copies, augmented differently.
        labels: int64 (N,).
        classes: tuple of the classes' names.
        name: what the set is called.
    """

    values: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str

    def __len__(self):
        """Number of images."""
        return len(self.labels)

    def subset(self, indices):
        """Return the `Features` at these positions, in every copy."""
        return Features(self.values[:, indices], self.labels[indices], self.classes, self.name)


class FeatureBatches:
    """Features, cut into batches as `Batches` cuts images, for `fit` and `evaluate`.

    An epoch takes one copy of every image, drawn anew each time.

    Args:
        data: `Features`.
        batch_size: images a batch.
        shuffle: draw a new order, and new copies, every epoch; False takes the first copy.
        seed: int.
    """

    mixup, size, balanced, alternating_flip, small_first = 0.0, None, False, False, None

    def __init__(self, data, batch_size=128, shuffle=False, seed=0):
        if batch_size < 1 or len(data) == 0:
            raise ValueError(f"Expected images and a batch_size of 1 or more, not {len(data)} and {batch_size}.")
        self.data, self.batch_size, self.shuffle, self.seed = data, batch_size, shuffle, seed

    def __len__(self):
        """Number of batches an epoch."""
        return -(-len(self.data) // self.batch_size)

    def __iter__(self):
        return self.epoch(0)

    def example(self):
        """Return the first image's features, float32 (1, ...)."""
        return self.data.values[0, :1].astype(np.float32)

    def epoch(self, number, start=0):
        """Yield (features, labels) of one epoch from batch `start` on: float32 (N, ...), int32 (N,)."""
        order, copies = np.arange(len(self.data)), np.zeros(len(self.data), dtype=int)
        if self.shuffle:
            rng = np.random.default_rng([self.seed, number])
            rng.shuffle(order)
            copies = rng.integers(len(self.data.values), size=len(order))
        for begin in range(start * self.batch_size, len(order), self.batch_size):
            chosen = order[begin : begin + self.batch_size]
            yield self.data.values[copies[chosen], chosen].astype(np.float32), self.data.labels[chosen].astype(np.int32)


def extract_features(front, batches, copies=1, cache=None):
    """Run the front of a network over a set of images once.

    Args:
        front: `gluon.Block`, such as `split` cuts off, perhaps fused or quantised.
        batches: `Batches`, unshuffled. Copy k is what its epoch k yields, so that augmentation makes them differ.
        copies: how often every image is seen.
        cache: name under which the result is kept in the cache folder and found again; None keeps nothing. Images,
            labels and what the front makes of the first image are compared; augmentation is yours to name.

    Returns:
        `Features`, float16: (copies, N, ...). Half precision keeps three digits, less than int8 rounding takes.

    Raises:
        ValueError: the batches are shuffled or mixed up, there is no copy to make, or the cache holds other features
            or a damaged file under that name.
    """
    if copies < 1:
        raise ValueError(f"copies must be 1 or more, not {copies}.")
    if batches.shuffle or batches.mixup:
        raise ValueError(
            "Features are kept in the order of the images: expected batches with shuffle=False and mixup=0."
        )
    data, path = batches.data, cache and cache_folder() / "features" / f"{cache}.npz"
    if cache:
        mark, probe = _fingerprint(batches, copies), front(nd.array(batches.example())).asnumpy()
    if cache and path.exists():
        return Features(_cached_values(path, mark, probe), data.labels, data.classes, data.name)
    values = None
    for copy in range(copies):
        begin = 0
        for x, labels in batches.epoch(copy):
            part = front(nd.array(x)).asnumpy()
            if not np.abs(part).max() < 65504:  # also where it is NaN
                raise ValueError("The front returns numbers beyond the range of half precision, up to 65,504, or NaN.")
            if values is None:
                values = np.empty((copies, len(data), *part.shape[1:]), dtype=np.float16)
            values[copy, begin : begin + len(labels)] = part
            begin += len(labels)
    if cache:
        write_atomically(path, lambda file: np.savez(file, values=values, mark=mark, probe=probe))
    return Features(values, data.labels, data.classes, data.name)


def _cached_values(path, mark, probe):
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            found = {name: file[name] for name in ("mark", "probe", "values")}
    except DAMAGED_NPZ as error:
        raise ValueError(f"{path}: damaged, or no file of features ({error}). Delete it.") from error
    if (
        str(found["mark"]) != mark
        or found["probe"].shape != probe.shape
        or not np.allclose(found["probe"], probe, rtol=1e-3, atol=1e-3)
    ):
        raise ValueError(
            f"{path} holds the features of other images or of another network. Choose another name, or delete it."
        )
    return found["values"]


def _fingerprint(batches, copies):
    """Describe what features depend on, short of the network: images, labels, normalisation, number of copies."""
    digest = hashlib.sha256(
        repr(
            (batches.data.images.shape, batches.size, batches.mean.tolist(), batches.std.tolist(), batches.seed, copies)
        ).encode()
    )
    digest.update(batches.data.labels.tobytes())
    some = np.linspace(0, len(batches.data) - 1, 100).astype(int)
    digest.update(np.ascontiguousarray(batches.data.images[some]).tobytes())
    return digest.hexdigest()
