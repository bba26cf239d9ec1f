"""The sample of Fashion-MNIST that comes with the package and stands in where no data can be fetched."""

from pathlib import Path

from d2lcls.data.download.catalog import DATASETS

import numpy as np
from PIL import Image

SAMPLE_NAME = "fashion_mnist-sample"
FOLDER = Path(__file__).parents[1] / "sample"
SIZES = {"train": 500, "test": 100}  # images a class


def read_sample(split, image_shape=(28, 28, 1)):
    """Read the sample.

    Args:
        split: "train" (5,000 images) or "test" (1,000).
        image_shape: (H, W, C); zeros are put around the images up to H x W, and grey is repeated C times.

    Returns:
        (images, labels): uint8 (N, H, W, C); int64 (N,), which runs 0, 1, ..., 9, 0, 1, ...
    """
    with Image.open(FOLDER / f"{split}.png") as mosaic:
        images = from_mosaic(np.asarray(mosaic))
    height, width, channels = image_shape
    rows, columns = height - images.shape[1], width - images.shape[2]
    top, left = rows // 2, columns // 2
    images = np.pad(images, ((0, 0), (top, rows - top), (left, columns - left), (0, 0)))
    return np.repeat(images, channels, axis=3), np.arange(len(images), dtype=np.int64) % 10


def write_sample(folder, split, images, labels):
    """Write the first images of each class of Fashion-MNIST as the mosaic that `read_sample` reads.

    Args:
        folder: where to write `SPLIT.png`.
        split: "train" or "test".
        images, labels: the whole split; uint8 (N, 28, 28, 1) and int64 (N,).
    """
    classes = range(len(DATASETS["fashion_mnist"].classes))
    first = np.stack([np.flatnonzero(labels == k)[: SIZES[split]] for k in classes], axis=1)  # (n, 10)
    mosaic = to_mosaic(images[first.ravel()])
    Image.fromarray(mosaic).save(Path(folder) / f"{split}.png", optimize=True)


def to_mosaic(images):
    """Lay images (N, 28, 28, 1) out ten a row: one picture (N / 10 * 28, 280), a class a column."""
    return images.reshape(-1, 10, 28, 28).transpose(0, 2, 1, 3).reshape(-1, 280)


def from_mosaic(mosaic):
    """Cut what `to_mosaic` made back into images (N, 28, 28, 1)."""
    return mosaic.reshape(-1, 28, 10, 28).transpose(0, 2, 1, 3).reshape(-1, 28, 28, 1)
