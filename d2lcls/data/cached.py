"""Decoded pictures kept in a file, so that later epochs need not decode them again."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from d2lcls.data.lazy import Decoded, LazyImages
from d2lcls.machine.full_disk import disk_full, naming_full_disk

import numpy as np

ADVICE = "Free some space, or train without the cache of decoded pictures"


@contextmanager
def cached(images: LazyImages, file: Path) -> Iterator[LazyImages]:
    """Yield the same set, of which each picture is decoded once and then kept in a file.

    The file has height x width x 3 bytes per picture. It is removed at the end of the `with` statement, and holds
    nothing for another process.

    Raises:
        DiskFull: the pictures do not fit on the disk.
    """
    opened = images.images
    height, width = opened.size
    length, total = height * width * 3, int(opened.positions.max()) + 1
    if shutil.disk_usage(file.parent).free < length * len(images):
        raise disk_full(file, OSError(errno.ENOSPC, ""), length * len(images), ADVICE)
    kept = np.zeros(total, dtype=bool)
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)

    def read(position: int, size: tuple[int, int], draft: bool) -> np.ndarray:
        if kept[position]:  # not a memory map, whose pages would count as memory of the process
            return np.frombuffer(os.pread(handle, length, position * length), np.uint8).reshape(height, width, 3)
        image = opened.read(position, size, draft)
        with naming_full_disk(file, advice=ADVICE):
            os.pwrite(handle, image.tobytes(), position * length)
        kept[position] = True
        return image

    try:
        yield replace(images, images=Decoded(read, opened.positions, opened.size, opened.draft))
    finally:
        os.close(handle)
        file.unlink()
