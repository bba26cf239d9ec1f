"""Whole data sets in memory: load them, split them, and know their mean and spread."""

import hashlib
from dataclasses import dataclass
from math import sqrt
from numbers import Integral, Real
from pathlib import Path
from typing import Tuple

import numpy as np

from d2lcls.data import catalog
from d2lcls.data.fetch import DataUnavailable, fetch, home
from d2lcls.data.sample import SAMPLE_NAME, read_sample


@dataclass(frozen=True, eq=False)  # == of arrays is no single answer
class Images:
    """Images with their labels.

    Args:
        images: uint8 (N, H, W, C).
        labels: int64 (N,), each a position in `classes`.
        classes: tuple of the classes' names.
        name: what the set is called in titles and messages.

    Raises:
        TypeError: an array has another dtype.
        ValueError: a shape is wrong, the lengths differ, or a label has no class; names the first.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: Tuple[str, ...]
    name: str

    def __post_init__(self):
        self._check("images", np.uint8, ("N", "H", "W", "C"))
        self._check("labels", np.int64, ("N",))
        if len(self.images) != len(self.labels):
            raise ValueError(f"{self.name}: {len(self.images)} images but {len(self.labels)} labels.")
        if not isinstance(self.classes, tuple) or not all(isinstance(name, str) for name in self.classes):
            raise TypeError(f"{self.name}: classes must be a tuple of str, not {self.classes!r}.")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if len(wrong):
            raise ValueError(f"{self.name}: label {wrong[0]} is {self.labels[wrong[0]]}; "
                             f"with {len(self.classes)} classes it must be 0 to {len(self.classes) - 1}.")

    def _check(self, field, dtype, axes):
        value = getattr(self, field)
        if not isinstance(value, np.ndarray) or value.dtype != dtype:
            found = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            raise TypeError(f"{self.name}: {field} must be a numpy array of {dtype.__name__}, not {found}.")
        if value.ndim != len(axes):
            raise ValueError(f"{self.name}: {field} must have {len(axes)} axes ({', '.join(axes)}), "
                             f"not the shape {value.shape}.")

    def __len__(self):
        """Number of images."""
        return len(self.images)

    def subset(self, indices):
        """Return the `Images` at these positions, or where this bool mask is True, in the order given."""
        return Images(self.images[indices], self.labels[indices], self.classes, self.name)

    def counts(self):
        """Return the number of images of each class, int64 (K,)."""
        return np.bincount(self.labels, minlength=len(self.classes))


def load(name, split="train", fallback=True, size=None):
    """Load one split of a data set, fetching it first if it is not in the cache.

    Args:
        name: a name in `DATASETS`; or a folder that holds `train/<class>/*.jpg` and perhaps `test/...` (one that
            is called like a data set: as `./cifar10`); or the `.rec` file of a record set. A folder without
            `test` may hold `val` instead.
        split: "train" or "test".
        fallback: where no source can be reached, print a line and return the sample of Fashion-MNIST that
            comes with the package, in the data set's image shape; `is_sample` tells. False raises instead.
        size: side or (height, width) in pixels that the pictures of a folder or record set are cropped to;
            None is 32. Data sets by name have a size of their own.

    Returns:
        `Images`.

    Raises:
        ValueError: there is no such data set or split.
        FileNotFoundError, BrokenImage: as `load_folder` and `read_records`.
        DataUnavailable: no source can be reached and `fallback` is False.
        OSError: a file in the cache is damaged, or the cache cannot be written.
    """
    path = Path(name)
    if path.suffix == ".rec":
        from d2lcls.data.records import read_records

        return read_records(path, size or 32)
    if path.is_dir() and name not in catalog.DATASETS:
        from d2lcls.data.folders import load_folder

        return load_folder(_split_folder(path, split), size or 32)
    if path.parent != Path(".") and str(name) not in catalog.DATASETS:
        raise FileNotFoundError(f"{name}: no such folder. Expected one that holds train/CLASS/*.jpg, a .rec file, "
                                f"or the name of a data set: {', '.join(sorted(catalog.DATASETS))}.")
    dataset = catalog.find(name)
    if split not in dataset.splits:
        raise ValueError(f"{dataset.title} has no split {split!r}, only {' and '.join(dataset.splits)}.")
    folder, files = home() / name, [file for file in dataset.files if file.split == split]
    try:
        if not all((folder / file.name).is_file() for file in files):
            fetch(name)
    except DataUnavailable:
        if not fallback:
            raise
        images, labels = read_sample(split, dataset.image_shape)
        print(f"{dataset.title} cannot be reached: a sample of Fashion-MNIST ({len(images):,} {split} "
              f"images) stands in. For the real data: `d2lcls data get {name}`.")
        return Images(images, labels, catalog.DATASETS["fashion_mnist"].classes, SAMPLE_NAME)
    contents = [_read(folder / file.name, file, name) for file in files]
    images, labels = {"cifar": _from_cifar, "idx": _from_idx}[dataset.layout](contents, dataset.image_shape)
    return Images(images, labels, dataset.classes, name)


def _split_folder(root, split):
    """Many sets for download call the pictures kept apart from training `val`, and have no `test`."""
    if split != "test" or (root / "test").is_dir():
        return root / split
    if (root / "val").is_dir():
        return root / "val"
    raise FileNotFoundError(f"{root}: holds neither test/CLASS/*.jpg nor val/CLASS/*.jpg. Rename its folder of test "
                            "pictures to `test`.")


def is_sample(data):
    """Whether these `Images` are the sample that stands in for data that could not be fetched."""
    return data.name == SAMPLE_NAME


def _read(path, file, name):
    """Read a file once, both to check and to use it."""
    content = path.read_bytes()
    if (found := hashlib.sha1(content).hexdigest()) != file.sha1:
        raise OSError(f"{path} is damaged: {len(content)} bytes with sha1 {found}, expected {file.size} "
                      f"bytes with {file.sha1}. Fetch it anew: `d2lcls data get {name} --force`.")
    return np.frombuffer(content, dtype=np.uint8)


def _from_cifar(contents, image_shape):
    """Read records of a label byte and the image's colour planes; see `sources.cifar_from_png`."""
    height, width, channels = image_shape
    contents = [content.reshape(-1, 1 + height * width * channels) for content in contents]
    images = np.empty((sum(map(len, contents)), height, width, channels), dtype=np.uint8)
    begin = 0
    for records in contents:
        planes = records[:, 1:].reshape(-1, channels, height, width)
        images[begin:begin + len(records)] = planes.transpose(0, 2, 3, 1)
        begin += len(records)
    return images, np.concatenate([records[:, 0] for records in contents]).astype(np.int64)


def _from_idx(contents, image_shape):
    """Read a file of images (16 bytes of header) and one of labels (8 bytes)."""
    pixels, labels = contents
    return pixels[16:].reshape(-1, *image_shape).copy(), labels[8:].astype(np.int64)


def split_validation(data, size, seed=0):
    """Split off a validation set in which every class has its share.

    Shares are rounded by the largest remainder, so the total is exact; an image of each class stays in
    train as long as `size` leaves room for that. Both sets keep the order of `data`.

    Args:
        data: `Images`.
        size: number of validation images (int), or their share of all (float between 0 and 1).
        seed: int; the same seed makes the same split.

    Returns:
        (train, validation): two `Images`.

    Raises:
        ValueError: `size` is out of range, or a class has a single image, which cannot be in both sets.
    """
    total, counts = len(data), data.counts()
    if isinstance(size, Integral) and not isinstance(size, bool):
        wanted = int(size)
    elif isinstance(size, Real) and 0 < size < 1:
        wanted = round(size * total)
    else:
        raise ValueError("size must be a number of images (int) or a share between 0 and 1 (float), "
                         f"not {size!r}.")
    if not 0 < wanted < total:
        raise ValueError(f"size={size!r} asks for {wanted} of the {total} images of {data.name} "
                         "for validation; both sets need at least one.")
    if (counts == 1).any():
        lonely = data.classes[np.flatnonzero(counts == 1)[0]]
        raise ValueError(f"{data.name}: class {lonely!r} has a single image, which cannot be in both sets. "
                         "Add images of it or leave the class out.")
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(data.labels == k))[:share]
              for k, share in enumerate(_shares(counts, wanted))]
    validation = np.zeros(total, dtype=bool)
    validation[np.concatenate(chosen)] = True
    return data.subset(~validation), data.subset(validation)


def _shares(counts, wanted):
    """Divide `wanted` among classes in proportion to `counts`, in whole numbers with an exact total."""
    taken, remainder = np.divmod(wanted * counts, counts.sum())
    by_remainder = np.argsort(-remainder, kind="stable")
    while (rest := wanted - taken.sum()) > 0:
        room = taken < counts - 1  # keeps an image of each class in train ...
        if not room.any():
            room = taken < counts  # ... unless more are wanted than that leaves
        taken[[k for k in by_remainder if room[k]][:rest]] += 1
    return taken


def channel_statistics(images):
    """Compute each channel's mean and standard deviation over all pixels of all images.

    Counted in integers, so the result is exact to the last float64 digit or so however many images there are.

    Args:
        images: uint8 (N, H, W, C).

    Returns:
        (mean, std): float64 (C,) each, on the 0..1 scale.

    Raises:
        ValueError: the array is empty or has another dtype or number of axes.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        raise ValueError("images must be uint8 of shape (N, H, W, C) and not empty, "
                         f"not {images.dtype} of shape {images.shape}.")
    histogram = np.zeros((images.shape[3], 256), dtype=np.int64)
    for begin in range(0, len(images), 1000):  # bincount widens its input to 8 bytes a pixel
        chunk = images[begin:begin + 1000]
        for channel in range(images.shape[3]):
            histogram[channel] += np.bincount(chunk[..., channel].ravel(), minlength=256)
    mean, std = [], []
    for channel in histogram.tolist():  # Python's integers do not overflow
        number = sum(channel)
        first = sum(value * count for value, count in enumerate(channel))
        second = sum(value * value * count for value, count in enumerate(channel))
        mean.append(first / (number * 255))
        std.append(sqrt(number * second - first * first) / (number * 255))
    return np.array(mean), np.array(std)
