"""Sets of photographs too large for memory: each picture is decoded when a batch needs it.

Only the batches prepared in advance are in memory; `fit` prepares them while the network computes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from d2lcls.machine.memory import check_memory

import numpy as np


class Decoded:
    """Pictures that can be used like an array of uint8 (N, H, W, 3) and are decoded, in threads, when indexed.

    Args:
        decode: function from a position to uint8 (H, W, 3); called from several threads.
        positions: int (N,), the position of each picture.
        size: (height, width), pixels.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, decode: Callable[[int], np.ndarray], positions: np.ndarray, size: tuple[int, int]) -> None:
        self.decode, self.positions, self.size = decode, positions, size
        self.shape = (len(positions), *size, 3)

    def __len__(self) -> int:
        return len(self.positions)

    def load(self) -> np.ndarray:
        """Decode all pictures, after a check that they fit into memory."""
        check_memory(
            math.prod(self.shape),
            f"Loading {len(self):,} pictures of {self.size[0]} x {self.size[1]} pixels",
            "Choose a smaller size, or use open_folder or open_records, which read pictures when they are needed.",
        )
        return self[:]

    def __getitem__(self, index: Any) -> np.ndarray:
        """Decode the pictures at an int, a slice, an int array or a bool mask."""
        positions = self.positions[index]
        if np.ndim(positions) == 0:
            return self.decode(int(positions))
        images = np.empty((len(positions), *self.shape[1:]), dtype=np.uint8)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow releases the GIL while it decodes
            for number, image in enumerate(pool.map(self.decode, positions.tolist())):
                images[number] = image
        return images


@dataclass(frozen=True, eq=False)
class LazyImages:
    """The counterpart of `Images` for a set that is not in memory: `Batches`, `evaluate` and `predict` take both.

    Args:
        images: (N, H, W, 3).
        labels: int64 (N,), each a position in `classes`.
        classes: names of the classes; a class may have no pictures.
        name: of the set, for titles and messages.
    """

    images: Decoded
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def subset(self, indices: Any) -> LazyImages:
        """Return the `LazyImages` at these positions, or where this bool mask is True, in the order given."""
        images = Decoded(self.images.decode, self.images.positions[indices], self.images.size)
        return LazyImages(images, self.labels[indices], self.classes, self.name)

    def counts(self) -> np.ndarray:
        """Return the number of images of each class, int64 (K,)."""
        return np.bincount(self.labels, minlength=len(self.classes))
