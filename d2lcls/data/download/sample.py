"""The samples in the package, of Fashion-MNIST and of Grocery Store, which replace data sets that cannot be fetched."""

import dataclasses
import tempfile
from pathlib import Path, PurePosixPath

from d2lcls.data.decode import Size, open_image
from d2lcls.data.download.catalog import DATASETS
from d2lcls.data.download.grocery import GROCERY
from d2lcls.data.formats.records import open_records, write_records
from d2lcls.data.lazy import LazyImages

import numpy as np
from PIL import Image, ImageOps

SAMPLE_NAME = "fashion_mnist-sample"
FOLDER = Path(__file__).parents[1] / "sample"
SIZES = {"train": 500, "test": 100}  # images per class
GROCERY_SAMPLE = "grocery-sample"
SIDE, QUALITY = 128, 75  # of its photographs: pixels, and that of JPEG


def read_sample(split: str, image_shape: tuple[int, int, int] = (28, 28, 1)) -> tuple[np.ndarray, np.ndarray]:
    """Read the sample.

    Args:
        split: "train" (5,000 images) or "test" (1,000).
        image_shape: (H, W, C); images are padded with zeros to H x W, and grey is repeated C times.

    Returns:
        (images, labels): uint8 (N, H, W, C); int64 (N,): 0, 1, ..., 9, 0, 1, ...
    """
    with Image.open(FOLDER / f"{split}.png", formats=("PNG",)) as mosaic:
        images = from_mosaic(np.asarray(mosaic))
    height, width, channels = image_shape
    rows, columns = height - images.shape[1], width - images.shape[2]
    top, left = rows // 2, columns // 2
    images = np.pad(images, ((0, 0), (top, rows - top), (left, columns - left), (0, 0)))
    return np.repeat(images, channels, axis=3), np.arange(len(images), dtype=np.int64) % 10


def write_sample(folder: str | Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Write the first images of each class of Fashion-MNIST as a mosaic for `read_sample`.

    Args:
        folder: where to write `SPLIT.png`.
        split: "train" or "test".
        images, labels: the whole split; uint8 (N, 28, 28, 1) and int64 (N,).
    """
    classes = range(len(DATASETS["fashion_mnist"].classes))
    first = np.stack([np.flatnonzero(labels == k)[: SIZES[split]] for k in classes], axis=1)  # (n, 10)
    mosaic = to_mosaic(images[first.ravel()])
    Image.fromarray(mosaic).save(Path(folder) / f"{split}.png", optimize=True)


def to_mosaic(images: np.ndarray) -> np.ndarray:
    """Arrange images (N, 28, 28, 1) in rows of ten: one picture (N / 10 * 28, 280), with one class per column."""
    return images.reshape(-1, 10, 28, 28).transpose(0, 2, 1, 3).reshape(-1, 280)


def from_mosaic(mosaic: np.ndarray) -> np.ndarray:
    """Divide the picture of `to_mosaic` into its images (N, 28, 28, 1)."""
    return mosaic.reshape(-1, 28, 10, 28).transpose(0, 2, 1, 3).reshape(-1, 28, 28, 1)


def open_grocery_sample(split: str, size: Size, draft: bool = False) -> LazyImages:
    """Open the sample of Grocery Store: photographs of ten classes, in five groups.

    Args:
        split: "train" (347 photographs), "val" (51) or "test" (172).
        size, draft: as for `read_image`.
    """
    return dataclasses.replace(open_records(FOLDER / "grocery" / split, size, draft=draft), name=GROCERY_SAMPLE)


def grocery_classes() -> list[str]:
    """Return the classes of the sample: of the first five groups with two validated classes, the first two each."""
    validated = {PurePosixPath(file.name).parent.name for file in GROCERY.files if file.split == "val"}
    members: dict[str, list[str]] = {}
    for name, group in zip(GROCERY.classes, GROCERY.groups):
        if name in validated:
            members.setdefault(group, []).append(name)
    pairs = [names[:2] for names in members.values() if len(names) > 1]
    return [name for pair in pairs[:5] for name in pair]


def write_grocery_sample(origin: str | Path, folder: str | Path) -> None:
    """Write all training and validation photographs of these classes, and every second for the test, scaled down.

    Args:
        origin: a folder with the files of the data set.
        folder: where to write a record set for each split.
    """
    for split in GROCERY.splits:
        with tempfile.TemporaryDirectory() as temporary:
            for name in grocery_classes():
                Path(temporary, name).mkdir()
                paths = [
                    f.name for f in GROCERY.files if f.split == split and PurePosixPath(f.name).parent.name == name
                ]
                for path in paths[:: 2 if split == "test" else 1]:
                    photograph = ImageOps.fit(open_image(Path(origin, path)), (SIDE, SIDE), Image.Resampling.LANCZOS)
                    target = Path(temporary, name, PurePosixPath(path).name)
                    photograph.save(target, quality=QUALITY, optimize=True)
            write_records(temporary, Path(folder, split))
