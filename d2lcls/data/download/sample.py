"""The sample of Fashion-MNIST in the package, which replaces data sets that cannot be fetched."""

from pathlib import Path

from d2lcls.data.download.catalog import DATASETS

import numpy as np
from PIL import Image

SAMPLE_NAME = "fashion_mnist-sample"
FOLDER = Path(__file__).parents[1] / "sample"
SIZES = {"train": 500, "test": 100}  # images per class


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
