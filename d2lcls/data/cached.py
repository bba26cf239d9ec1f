"""Decoded pictures kept in a file, so that later epochs need not decode them again."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from d2lcls.data.decode import Size, height_and_width
from d2lcls.data.lazy import Decoded, LazyImages
from d2lcls.machine.full_disk import disk_full, naming_full_disk

import numpy as np

ADVICE = "Free some space, or train without the cache of decoded pictures"


@contextmanager
def cached(images: LazyImages, file: Path, size: Size | None = None) -> Iterator[LazyImages]:
    """Yield the same set, of which each picture is decoded once and then kept in a file.

    The file has height x width x 3 bytes per picture. It is removed at the end of the `with` statement, and holds
    nothing for another process.

    Args:
        images: the set.
        file: where to keep the pictures.
        size: side or (height, width) in pixels at which they are kept, that of `Batches(decode=...)`; None is the size
            of the set. Pictures wanted at another size are decoded every time.

    Raises:
        DiskFull: the pictures do not fit on the disk.
    """
    opened = images.images
    height, width = opened.size if size is None else height_and_width(size)
    length, total = height * width * 3, int(opened.positions.max()) + 1
    if shutil.disk_usage(file.parent).free < length * len(images):
        raise disk_full(file, OSError(errno.ENOSPC, ""), length * len(images), ADVICE)
    kept = np.zeros(total, dtype=bool)
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)

    def read(position: int, wanted: tuple[int, int], draft: bool) -> np.ndarray:
        if wanted != (height, width):
            return opened.read(position, wanted, draft)
        if kept[position]:  # not a memory map, whose pages would count as memory of the process
            return np.frombuffer(os.pread(handle, length, position * length), np.uint8).reshape(height, width, 3)
        image = opened.read(position, wanted, draft)
        with naming_full_disk(file, advice=ADVICE):
            if os.pwrite(handle, image.tobytes(), position * length) < length:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        kept[position] = True
        return image

    try:
        yield replace(images, images=Decoded(read, opened.positions, opened.size, opened.draft))
    finally:
        os.close(handle)
        file.unlink()
