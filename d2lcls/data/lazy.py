"""Sets of photographs too large for memory: each picture is decoded when a batch needs it.

Only the batches prepared in advance are in memory; `fit` prepares them while the network computes.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from d2lcls.data.decode import BrokenImage, Size, height_and_width
from d2lcls.data.images import Images
from d2lcls.machine.memory import check_memory
from d2lcls.machine.progress import Progress

import numpy as np

AT_A_TIME = 1000  # calls that wait for a thread; each takes a kilobyte, so that a million would take a gigabyte
Read = Callable[[int, tuple[int, int], bool], np.ndarray]  # position, (height, width), draft -> uint8 (H, W, 3)


class Decoded:
    """Pictures that can be used like an array of uint8 (N, H, W, 3) and are decoded, in threads, when indexed.

    Args:
        read: function from a position, a size and whether to decode a draft to uint8 (H, W, 3); see `read_image`.
            It is called from several threads and raises `BrokenImage` for a picture that cannot be read.
        positions: int (N,), the position of each picture.
        size: side or (height, width), pixels.
        draft: shrink large JPEGs during decoding.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, read: Read, positions: np.ndarray, size: Size, draft: bool = False) -> None:
        self.read, self.positions, self.size, self.draft = read, positions, height_and_width(size), draft
        self.shape = (len(positions), *self.size, 3)

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
            return self._decode(int(positions))
        images = np.empty((len(positions), *self.shape[1:]), dtype=np.uint8)
        for number, image in enumerate(in_threads(self._decode, positions)):
            images[number] = image
        return images

    def _decode(self, position: int) -> np.ndarray:
        return self.read(position, self.size, self.draft)


def in_threads(function: Callable[[int], Any], positions: np.ndarray) -> Iterator[Any]:
    """Yield the results of a function, which releases the GIL as Pillow does while it decodes, in order.

    Args:
        function: takes a position.
        positions: int (N,).
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for begin in range(0, len(positions), AT_A_TIME):
            yield from pool.map(function, positions[begin : begin + AT_A_TIME].tolist())


@dataclass(frozen=True, eq=False)
class LazyImages:
    """The counterpart of `Images` for a set that is not in memory: `Batches`, `evaluate` and `predict` take both.

    Args:
        images: (N, H, W, 3).
        labels: int64 (N,), each a position in `classes`.
        classes: names of the classes; a class may have no pictures.
        name: of the set, for titles and messages.
        check: function of a position that raises `BrokenImage` if the file is certainly broken, without decoding
            it if possible.
        path: function from a position to the path of the picture's file; None if pictures have no files of their own.
    """

    images: Decoded
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str
    check: Callable[[int], None] | None = None
    path: Callable[[int], str] | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def subset(self, indices: Any) -> LazyImages:
        """Return the `LazyImages` at these positions, or where this bool mask is True, in the order given."""
        images = Decoded(self.images.read, self.images.positions[indices], self.images.size, self.images.draft)
        return replace(self, images=images, labels=self.labels[indices])

    def path_of(self, index: int) -> str | None:
        """Return the path of an image's file; None if it has no file of its own."""
        return self.path(int(self.images.positions[index])) if self.path else None

    def at(self, size: Size, draft: bool = False) -> LazyImages:
        """Return the same pictures, decoded at another size."""
        return replace(self, images=Decoded(self.images.read, self.images.positions, size, draft))

    def with_classes(self, classes: Sequence[str]) -> LazyImages:
        """Return the same pictures with the labels of another list of classes, which are found by their names.

        Classes that are only numbered, as those of a record file without names, keep their numbers, unless the list
        has these names too.

        Raises:
            ValueError: a class of this set is not in the list.
        """
        if self.classes == tuple(classes):
            return self
        numbered = self.classes == tuple(map(str, range(len(self.classes)))) and len(self.classes) <= len(classes)
        if numbered and not set(self.classes) <= set(classes):
            return replace(self, classes=tuple(classes))
        positions = {name: label for label, name in enumerate(classes)}
        for name in self.classes:
            if name not in positions:
                raise ValueError(f"{self.name}: {name!r} is not one of the classes.{_similar(name, classes)}")
        labels = np.array([positions[name] for name in self.classes], dtype=np.int64)[self.labels]
        return replace(self, labels=labels, classes=tuple(classes))

    def counts(self) -> np.ndarray:
        """Return the number of images of each class, int64 (K,)."""
        return np.bincount(self.labels, minlength=len(self.classes))

    def load(self) -> Images:
        """Return the set in memory.

        Raises:
            MemoryError: it does not fit.
            BrokenImage: a picture cannot be read.
        """
        return Images(self.images.load(), self.labels, self.classes, self.name)

    def checked(self, skip_broken: bool = False) -> LazyImages:
        """Look at every file before the set is used for hours.

        Args:
            skip_broken: leave out the files that cannot be read and print their number. For this, every picture is
                decoded once; otherwise most files are only looked at for their beginning and end.

        Raises:
            BrokenImage: the first broken file, unless they are skipped.
            ValueError: a class has no readable picture left.
        """
        broken = dict(self._broken(skip_broken))
        if not broken:
            return self
        if not skip_broken:
            raise BrokenImage(f"{broken[min(broken)]} Or leave out such files with --skip-broken (skip_broken=True).")
        print(f"{self.name}: skipped {len(broken)} of {len(self)} files; the first: {broken[min(broken)]}")
        rest = self.subset(np.delete(np.arange(len(self)), list(broken)))
        check_classes_left(self.name, self.classes, np.unique(self.labels), np.unique(rest.labels))
        return rest

    def _broken(self, thorough: bool) -> Iterator[tuple[int, BrokenImage]]:
        """Yield (number of the image, error)."""

        def attempt(position: int) -> BrokenImage | None:
            try:
                if thorough:
                    self.images.read(position, self.images.size, True)
                elif self.check:
                    self.check(position)
            except BrokenImage as error:
                return error
            return None

        with Progress(len(self), verbose=thorough) as progress:
            for number, error in enumerate(in_threads(attempt, self.images.positions)):
                if number % 100 == 0:
                    progress.update(number, f"checking {self.name}")
                if error:
                    yield number, error


def check_classes_left(name: str, classes: Sequence[str], before: np.ndarray, after: np.ndarray) -> None:
    """Raise ValueError if a class lost all of its pictures.

    Args:
        name: of the set.
        classes: its class names.
        before, after: the labels that occur, before and after broken files were left out.
    """
    for lost in np.setdiff1d(before, after):
        raise ValueError(
            f"{name}: not one readable picture of the class {classes[lost]!r}. Add or repair some, or remove its "
            "folder."
        )


def _similar(name: str, classes: Sequence[str]) -> str:
    by_case = {other.casefold(): other for other in classes}
    near = difflib.get_close_matches(name.casefold(), by_case, n=1)
    if near:
        return f" Did you mean {by_case[near[0]]!r}?"
    return f" They are {', '.join(map(repr, classes[:10]))}{', ...' if len(classes) > 10 else ''}."
