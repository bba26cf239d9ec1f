"""From a set of images to the batches that a network eats."""

from d2lcls.data.decode import height_and_width
from d2lcls.data.transforms.augment import mirror, random_window
from d2lcls.data.transforms.augment import mixup as blend

import numpy as np


class Batches:
    """A set of images, cut into normalised batches; one pass over it is an epoch.

    The images stay uint8 (N, H, W, C) until the last moment and are augmented a batch at a time. Order and
    augmentation of an epoch depend on `seed` and the epoch's number only, so that any epoch, and any batch
    in it, can be made again: that is what lets a killed training resume exactly. The images are only ever
    indexed by arrays of positions or by a slice, so they need not be in memory as a whole.

    Args:
        data: `Images`.
        batch_size: images a batch; the last batch of an epoch may be shorter.
        mean, std: arrays of shape (C,) on the 0..1 scale, as `channel_statistics` returns;
            batches are (x / 255 - mean) / std. None leaves the 0..1 scale.
        shuffle: draw a new order every epoch.
        augment: transforms of `d2lcls.data.transforms.augment`, applied in this order.
        mixup: alpha of `augment.mixup`, applied last; 0 is off.
        seed: int.
        size: side or (height, width) in pixels that the network wants; images of another size are scaled to
            it after augmentation and mixup, which are cheaper on small images: bicubic, or by averaging areas
            where they shrink. None leaves them as they are.
        balanced: draw each epoch's len(data) images with replacement, first a class, then an image of it, so
            that every class that has images comes equally often on average. Needs `shuffle`. Source: Kang et
            al., "Decoupling Representation and Classifier for Long-Tailed Recognition" (2020).
        alternating_flip: mirror half of the images in even epochs and the other half in odd ones, after `augment`: each
            is seen both ways in any two epochs, which chance does not grant. Source: Jordan, "94% on CIFAR-10 in 3.29
            Seconds on a Single GPU" (2024).
        small_first: (side, epochs): in so many first epochs the network sees a window of `side` x `side` pixels of each
            image, cut at random after `augment`, and learns the quicker; in the others whole images. For networks that
            take images of either size. After Howard's progressive resizing (DAWNBench, 2018), which scales instead.

    Raises:
        ValueError: the set is empty, or an argument has the wrong range or shape; says which.
    """

    def __init__(
        self,
        data,
        batch_size=128,
        mean=None,
        std=None,
        shuffle=False,
        augment=(),
        mixup=0.0,
        seed=0,
        size=None,
        balanced=False,
        alternating_flip=False,
        small_first=None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size}.")
        if mixup < 0:
            raise ValueError(f"mixup must be 0 (off) or above, not {mixup}.")
        if balanced and not shuffle:
            raise ValueError("balanced draws its images at random: it needs shuffle=True.")
        if len(data) == 0:
            raise ValueError("The set of images is empty.")
        _, height, width, channels = data.images.shape
        if small_first and not 1 <= small_first[0] <= min(height, width):
            raise ValueError(f"small_first wants windows of {small_first[0]} pixels of images of {height} x {width}.")
        if small_first and size is not None:
            raise ValueError("small_first and size exclude each other: windows would be scaled up again.")
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
        self.alternating_flip, self.small_first = alternating_flip, small_first
        self._scale = (1 / (255 * std)).astype(np.float32)[:, None, None]  # (C, 1, 1)
        self._shift = (-mean / std).astype(np.float32)[:, None, None]
        self._values = (np.arange(256, dtype=np.uint8) * self._scale + self._shift)[:, 0]  # (C, 256), of each pixel

    def __len__(self):
        """Number of batches an epoch."""
        return -(-len(self.data) // self.batch_size)

    def __iter__(self):
        return self.epoch(0)

    def epoch(self, number, start=0):
        """Yield the batches of one epoch.

        Args:
            number: the epoch, from 0.
            start: the first batch wanted; earlier ones are skipped without being computed.

        Yields:
            (x, y): float32 (N, C, H, W), normalised; int32 (N,), or float32 (N, K) with mixup.
        """
        order = self._order(number)
        for batch in range(start, len(self)):
            indices = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            images, labels = self.data.images[indices], self.data.labels[indices].astype(np.int32)
            rng = np.random.default_rng([self.seed, number, batch])
            for transform in self.augment:
                images = transform(images, rng)
            if self.small_first and number < self.small_first[1]:
                images = random_window(images, self.small_first[0], self.small_first[0], rng)
            if self.alternating_flip:
                images = mirror(images, self._mirrored(number)[indices])
            if self.mixup:
                images, labels = blend(images, labels, len(self.data.classes), self.mixup, rng)
            yield self._for_network(images), labels

    def example(self):
        """Return the first image as the network sees it, float32 (1, C, H, W): scaled, but not augmented."""
        return self._for_network(self.data.images[:1])

    def _for_network(self, images):
        return self.normalise(images if self.size is None else _resize(images, self.size))

    def _order(self, number):
        """Positions of the images of one epoch, int (N,)."""
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

    def _mirrored(self, number):
        """Which images alternating flips mirror in one epoch, bool (len(data),)."""
        at_first = np.random.default_rng([self.seed, 2**31]).random(len(self.data)) < 0.5
        return at_first ^ (number % 2 == 1)

    def normalise(self, images):
        """Turn uint8 images (N, H, W, C) into the network's float32 (N, C, H, W)."""
        import cv2  # here, for a quick import of the package

        n, height, width, channels = images.shape
        x = np.empty((n, channels, height, width), dtype=np.float32)
        pixels = images.reshape(n, height * width, channels)
        for channel, values in enumerate(self._values):  # looked up, which takes half as long as to multiply and add
            cv2.LUT(cv2.extractChannel(pixels, channel), values, dst=x[:, channel].reshape(n, height * width))
        return x

    def denormalise(self, x):
        """Turn a network's input (N, C, H, W), numpy's or MXNet's, back into uint8 images (N, H, W, C).

        With `size` these are the scaled images: scaling is not undone.
        """
        pixels = ((x.asnumpy() if hasattr(x, "asnumpy") else np.asarray(x)) - self._shift) / self._scale
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def _resize(images, size):
    """Scale uint8 images (N, H, W, C) to size (height, width)."""
    import cv2  # here, for a quick import of the package

    n, height, width, channels = images.shape
    if (height, width) == size:
        return images
    shrinks = size[0] <= height and size[1] <= width
    # Plane by plane: cv2 would drop the axis of a lone channel, and does not shrink more than four.
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(-1, height, width)
    scaled = np.empty((n * channels, *size), dtype=np.uint8)
    for plane, result in zip(planes, scaled):
        cv2.resize(plane, size[::-1], dst=result, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return scaled.reshape(n, channels, *size).transpose(0, 2, 3, 1)
