"""Sets of photographs too large for memory: each picture is decoded when a batch asks for it.

A set then needs no more memory than the batches that are ready, and `fit` prepares those while the network computes.
"""

import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from d2lcls.machine.memory import check_memory

import numpy as np


class Decoded:
    """Pictures that look like an array of uint8 (N, H, W, 3) and are decoded, in threads, when indexed.

    Args:
        decode: function from a position to uint8 (H, W, 3); called from several threads.
        positions: int array, the positions that make up the array.
        size: (height, width), pixels.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, decode, positions, size):
        self.decode, self.positions, self.size = decode, positions, size
        self.shape = (len(positions), *size, 3)

    def __len__(self):
        return len(self.positions)

    def load(self):
        """Decode all pictures, after a check that they fit into memory."""
        check_memory(
            math.prod(self.shape),
            f"Loading {len(self):,} pictures of {self.size[0]} x {self.size[1]} pixels",
            "Choose a smaller size, or open them with open_folder or open_records, which load as they go.",
        )
        return self[:]

    def __getitem__(self, index):
        """Decode the pictures at an int, a slice, an int array or a bool mask."""
        positions = self.positions[index]
        if np.ndim(positions) == 0:
            return self.decode(int(positions))
        images = np.empty((len(positions), *self.shape[1:]), dtype=np.uint8)
        # Pillow lets other threads run while it decodes. `open_image` switches warnings off and on, which is
        # the whole process's state: unless they are off around all threads, one could leave them off for good.
        with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            warnings.simplefilter("ignore")
            for place, image in zip(images, pool.map(self.decode, positions.tolist())):
                place[...] = image
        return images


@dataclass(frozen=True, eq=False)
class LazyImages:
    """What `Images` is, for a set that is not in memory: `Batches`, `evaluate` and `predict` take either.

    Args:
        images: `Decoded`, of shape (N, H, W, 3).
        labels: int64 (N,), each a position in `classes`.
        classes: tuple of the classes' names; a class may be without pictures.
        name: what the set is called in titles and messages.
    """

    images: Decoded
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str

    def __len__(self):
        """Number of images."""
        return len(self.images)

    def subset(self, indices):
        """Return the `LazyImages` at these positions, or where this bool mask is True, in the order given."""
        images = Decoded(self.images.decode, self.images.positions[indices], self.images.size)
        return LazyImages(images, self.labels[indices], self.classes, self.name)

    def counts(self):
        """Return the number of images of each class, int64 (K,)."""
        return np.bincount(self.labels, minlength=len(self.classes))
