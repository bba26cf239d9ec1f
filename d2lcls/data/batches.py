"""From a set of images to the batches that a network is trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from d2lcls.data.decode import Size, height_and_width
from d2lcls.data.images import Images
from d2lcls.data.lazy import Decoded, LazyImages
from d2lcls.data.preprocess import scale_and_shift
from d2lcls.data.transforms.augment import Transform, mirror, random_window
from d2lcls.data.transforms.augment import cutmix as paste
from d2lcls.data.transforms.augment import mixup as blend

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import mxnet as mx


class Batches:
    """A set of images, divided into normalised batches; one pass over it is an epoch.

    The images stay uint8 (N, H, W, C) until they are normalised and are augmented one batch at a time. Order and
    augmentation of an epoch depend only on `seed` and the number of the epoch, so that any epoch, and any batch
    in it, can be made again: that is how an interrupted training resumes exactly. The images are only
    indexed by arrays of positions or by a slice, so they need not all be in memory.

    Args:
        data: the images with their labels.
        batch_size: images per batch; the last batch of an epoch may be smaller.
        mean, std: arrays of shape (C,) on the 0..1 scale, as `channel_statistics` returns;
            batches are (x / 255 - mean) / std. None keeps the 0..1 scale.
        shuffle: draw a new order for every epoch.
        augment: transforms of `d2lcls.data.transforms`, applied in this order.
        mixup: alpha of `augment.mixup`, applied last; 0 is off.
        seed: of the order and the augmentation.
        size: side or (height, width) of the network's input in pixels; images of another size are scaled to
            it after augmentation, mixup and cutmix, which are cheaper on small images: bicubic, or by averaging
            areas where they shrink. None keeps their size.
        balanced: draw the len(data) images of each epoch with replacement, first a class, then an image of it, so
            that all classes with images are equally frequent on average. Needs `shuffle`. Source: Kang et
            al., "Decoupling Representation and Classifier for Long-Tailed Recognition" (2020).
        alternating_flip: mirror half of the images in even epochs and the other half in odd ones, after `augment`: any
            two successive epochs show each image both ways, which random flips do not guarantee. Source: Jordan, "94%
            on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024).
        small_first: (side, epochs): the first `epochs` epochs show a window of `side` x `side` pixels of each image,
            cropped at random after `augment`, which makes training faster; later epochs show whole images. For networks
            that take both sizes. After Howard's progressive resizing (DAWNBench, 2018), which scales instead.
        cutmix: alpha of `augment.cutmix`, applied last; 0 is off. With mixup too, each batch gets one of the two, drawn
            with equal chances, as in timm.
        decode: for `LazyImages`, side or (height, width) in pixels at which the pictures of an epoch are decoded. One
            transform in `augment`, `random_resized_crop(size=...)`, must return them in the size of `data`. Larger than
            that, crops keep more detail. None decodes at the size of `data`, as `example` always does.

    Raises:
        ValueError: the set is empty, or an argument has the wrong range or shape; the message names it.
    """

    def __init__(
        self,
        data: Images | LazyImages,
        batch_size: int = 128,
        mean: npt.ArrayLike | None = None,
        std: npt.ArrayLike | None = None,
        shuffle: bool = False,
        augment: Iterable[Transform] = (),
        mixup: float = 0.0,
        seed: int = 0,
        size: Size | None = None,
        balanced: bool = False,
        alternating_flip: bool = False,
        small_first: tuple[int, int] | None = None,
        cutmix: float = 0.0,
        decode: Size | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}.")
        for name, alpha in (("mixup", mixup), ("cutmix", cutmix)):
            if not alpha >= 0:
                raise ValueError(f"{name} must be 0 (off) or above, not {alpha}.")
        if balanced and not shuffle:
            raise ValueError("balanced=True draws its images at random: it needs shuffle=True.")
        if len(data) == 0:
            raise ValueError("The set of images is empty.")
        _, height, width, channels = data.images.shape
        if small_first and not 1 <= small_first[0] <= min(height, width):
            raise ValueError(
                f"small_first: windows of {small_first[0]} pixels do not fit into images of {height} x {width}. "
                f"Choose 1 to {min(height, width)} pixels."
            )
        if small_first and size is not None:
            raise ValueError("Give either small_first or size: with both, windows would be scaled up again.")
        mean = np.zeros(channels) if mean is None else np.asarray(mean, dtype=np.float64)
        std = np.ones(channels) if std is None else np.asarray(std, dtype=np.float64)
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != (channels,):
                raise ValueError(
                    f"{name} has shape {value.shape}; the images have {channels} channels, so ({channels},) is needed."
                )
        if not (std > 0).all():
            raise ValueError(f"std must be above 0 in every channel, not {std}.")
        self.data, self.batch_size, self.mean, self.std = data, batch_size, mean, std
        self.shuffle, self.augment, self.mixup, self.seed = shuffle, tuple(augment), mixup, seed
        self.size, self.balanced = None if size is None else height_and_width(size), balanced
        self.alternating_flip, self.small_first, self.cutmix = alternating_flip, small_first, cutmix
        self.decode = None if decode is None else height_and_width(decode)
        self._pictures = data.images if self.decode is None else self._decoded_at(self.decode)
        self._scale, self._shift = scale_and_shift(mean, std)
        # The normalised value of each uint8 value, (C, 256).
        self._values = (np.arange(256, dtype=np.uint8) * self._scale + self._shift)[:, 0]

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return -(-len(self.data) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self.epoch(0)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the batches of one epoch.

        Args:
            number: the epoch, from 0.
            start: the first batch to yield; earlier ones are not computed.

        Yields:
            (x, y): float32 (N, C, H, W), normalised; int32 (N,), or float32 (N, K) with mixup or cutmix.
        """
        order = self._order(number)
        for batch in range(start, len(self)):
            indices = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            images, labels = self._pictures[indices], self.data.labels[indices].astype(np.int32)
            rng = np.random.default_rng([self.seed, number, batch])
            for transform in self.augment:
                images = transform(images, rng)
            if self.decode and images.shape[1:3] != self.data.images.shape[1:3]:
                raise ValueError(
                    f"augment returned images of {images.shape[1:3]} pixels, not {self.data.images.shape[1:3]}: with "
                    "decode=..., it needs random_resized_crop(size=...)."
                )
            if self.small_first and number < self.small_first[1]:
                images = random_window(images, self.small_first[0], self.small_first[0], rng)
            if self.alternating_flip:
                images = mirror(images, self._mirrored(number)[indices])
            if self.mixup or self.cutmix:
                images, labels = self._mix(images, labels, rng)
            yield self._for_network(images), labels

    def example(self) -> np.ndarray:
        """Return the first image as the network's input, float32 (1, C, H, W): scaled, but not augmented."""
        return self._for_network(self.data.images[:1])

    def _decoded_at(self, size: tuple[int, int]) -> Decoded:
        if not isinstance(self.data, LazyImages):
            raise ValueError("decode is for pictures that are decoded when needed: give LazyImages, as of open_folder.")
        return self.data.at(size, self.data.images.draft).images

    def _mix(self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        pastes = rng.random() < 0.5 if self.mixup and self.cutmix else self.cutmix > 0
        mix, alpha = (paste, self.cutmix) if pastes else (blend, self.mixup)
        return mix(images, labels, len(self.data.classes), alpha, rng)

    def _for_network(self, images: np.ndarray) -> np.ndarray:
        return self.normalise(images if self.size is None else _resize(images, self.size))

    def _order(self, number: int) -> np.ndarray:
        """Return the positions of the images of one epoch, int (N,)."""
        rng = np.random.default_rng([self.seed, number])
        if self.balanced:
            by_class = np.argsort(self.data.labels, kind="stable")
            _, first, counts = np.unique(self.data.labels[by_class], return_index=True, return_counts=True)
            drawn = rng.integers(len(counts), size=len(by_class))  # classes that have images, from 0
            return by_class[first[drawn] + rng.integers(counts[drawn])]
        order = np.arange(len(self.data))
        if self.shuffle:
            rng.shuffle(order)
        return order

    def _mirrored(self, number: int) -> np.ndarray:
        """Return which images alternating flips mirror in one epoch, bool (len(data),)."""
        in_even_epochs = np.random.default_rng([self.seed, 2**31]).random(len(self.data)) < 0.5
        return in_even_epochs ^ (number % 2 == 1)

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """Convert uint8 images (N, H, W, C) to the network's input, float32 (N, C, H, W)."""
        import cv2  # here, for a quick import of the package

        n, height, width, channels = images.shape
        x = np.empty((n, channels, height, width), dtype=np.float32)
        pixels = images.reshape(n, height * width, channels)
        for channel, values in enumerate(self._values):  # a table takes half the time of arithmetic
            cv2.LUT(cv2.extractChannel(pixels, channel), values, dst=x[:, channel].reshape(n, height * width))
        return x

    def denormalise(self, x: np.ndarray | mx.nd.NDArray) -> np.ndarray:
        """Convert a network's input (N, C, H, W) back to uint8 images (N, H, W, C); scaling is not undone."""
        pixels = ((x.asnumpy() if hasattr(x, "asnumpy") else np.asarray(x)) - self._shift) / self._scale
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def _resize(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale uint8 images (N, H, W, C) to size (height, width)."""
    import cv2  # here, for a quick import of the package

    n, height, width, channels = images.shape
    if (height, width) == size:
        return images
    shrinks = size[0] <= height and size[1] <= width
    # One plane at a time: cv2 would drop the axis of a single channel, and does not shrink more than four channels.
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(-1, height, width)
    scaled = np.empty((n * channels, *size), dtype=np.uint8)
    for plane, result in zip(planes, scaled):
        cv2.resize(plane, size[::-1], dst=result, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return scaled.reshape(n, channels, *size).transpose(0, 2, 3, 1)
