"""`load` and `open_split`: a data set by its name, from a folder of pictures, or from a RecordIO file."""

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from d2lcls.data.decode import Size, read_image
from d2lcls.data.download import catalog
from d2lcls.data.download.cache import DataUnavailable, fetch
from d2lcls.data.download.dataset import Dataset, File
from d2lcls.data.download.sample import GROCERY_SAMPLE, SAMPLE_NAME, open_grocery_sample, read_sample
from d2lcls.data.formats.imagenet import has_imagenet_split, open_imagenet_split
from d2lcls.data.formats.splits import has_split as pictures_have_split
from d2lcls.data.formats.splits import open_pictures
from d2lcls.data.images import Images
from d2lcls.data.lazy import Decoded, LazyImages
from d2lcls.machine.files import cache_folder

import numpy as np


def open_split(
    name: str | Path,
    split: str = "train",
    fallback: bool = True,
    size: Size | None = None,
    draft: bool = False,
    root: str | Path | None = None,
) -> Images | LazyImages:
    """Open one split of a data set, which is fetched first if it is not in the cache.

    Args:
        name: a name in `DATASETS`; "imagenet"; or a folder, a CSV list or a `.rec` file, as for `open_pictures` (a
            folder with the name of a data set is written as `./cifar10`).
        split: "train", "val" or "test".
        fallback: if no source can be reached, print one line and return the package's sample: ten classes of
            Grocery Store for that set, Fashion-MNIST in the image shape of the data set for the others; see
            `is_sample`. False raises instead.
        size: side or (height, width) in pixels that photographs are cropped to; None is 32 for pictures of one's own,
            `image_shape` for Grocery Store, and 224 for ImageNet. It does not apply to the other data sets by name.
        draft: shrink large JPEGs during decoding; see `read_image`.
        root: for "imagenet", where it is; see `open_imagenet`. Its `val` is the split "test".

    Returns:
        `LazyImages` of photographs, which are decoded when a batch needs them; `Images` of the other data sets by name.

    Raises:
        ValueError: the data set or split is unknown; or as `open_pictures`.
        FileNotFoundError: the folder, file or split does not exist.
        DataUnavailable: no source can be reached and `fallback` is False.
        OSError: a file in the cache is damaged, or the cache cannot be written.
    """
    if str(name) == "imagenet":
        if root is None:
            raise ValueError("imagenet needs root: the folder that holds its train/ and val/, or a .rec file.")
        if split not in ("train", "test"):
            raise ValueError(f"imagenet has no split {split!r}, only train and test, which is its val.")
        return open_imagenet_split(root, "val" if split == "test" else split, size or 224, draft)
    path = Path(name)
    if path.suffix in (".rec", ".csv") or (path.is_dir() and str(name) not in catalog.DATASETS):
        return open_pictures(path, split, size or 32, draft)
    if path.parent != Path(".") and str(name) not in catalog.DATASETS:
        raise FileNotFoundError(
            f"{name}: no such folder. Expected one with train/CLASS/*.jpg or CLASS/*.jpg, a .csv list, a .rec file, "
            f"or the name of a data set: {', '.join(sorted([*catalog.DATASETS, 'imagenet']))}."
        )
    name = str(name)
    dataset = catalog.find(name)
    if split not in dataset.splits:
        raise ValueError(f"{dataset.title} has no split {split!r}, only {' and '.join(dataset.splits)}.")
    folder, files = cache_folder() / name, [file for file in dataset.files if file.split == split]
    try:
        if not all((folder / file.name).is_file() for file in files):
            fetch(name)
    except DataUnavailable:
        if not fallback:
            raise
        return _open_sample(dataset, split, size, draft)
    if dataset.layout == "photographs":
        return _open_photographs(dataset, files, size or dataset.image_shape[:2], draft)
    contents = [np.frombuffer(_read(folder / file.name, file, name), dtype=np.uint8) for file in files]
    images, labels = {"cifar": _from_cifar, "idx": _from_idx}[dataset.layout](contents, dataset.image_shape)
    return Images(images, labels, dataset.classes, name)


def has_split(name: str | Path, split: str, root: str | Path | None = None) -> bool:
    """Return whether a data set has images of this split; `name` and `root` as for `open_split`."""
    if str(name) == "imagenet":
        return root is not None and has_imagenet_split(root, split)
    if str(name) in catalog.DATASETS:
        return split in catalog.DATASETS[str(name)].splits
    return Path(name).exists() and pictures_have_split(Path(name), split)


def load(name: str | Path, split: str = "train", fallback: bool = True, size: Size | None = None) -> Images:
    """Load one split of a data set into memory; it is fetched first if it is not in the cache.

    Args:
        name, split, fallback, size: as for `open_split`.

    Raises:
        BrokenImage: a picture cannot be read.
        MemoryError: the pictures do not fit into memory.
        Others: as `open_split`.
    """
    opened = open_split(name, split, fallback, size)
    return opened.load() if isinstance(opened, LazyImages) else opened


def is_sample(data: Images | LazyImages) -> bool:
    """Return whether these images are the sample that replaces data that could not be fetched."""
    return data.name in (SAMPLE_NAME, GROCERY_SAMPLE)


def _open_sample(dataset: Dataset, split: str, size: Size | None, draft: bool) -> Images | LazyImages:
    """Say that a sample stands in for a data set, and return it."""
    data: Images | LazyImages
    if dataset.layout == "photographs":
        data, what = (
            open_grocery_sample(split, size or dataset.image_shape[:2], draft),
            "a sample of ten of its classes",
        )
    else:
        images, labels = read_sample(split, dataset.image_shape)
        data = Images(images, labels, catalog.DATASETS["fashion_mnist"].classes, SAMPLE_NAME)
        what = "a sample of Fashion-MNIST"
    print(
        f"{dataset.title} cannot be reached: {what} ({len(data):,} {split} images) stands in. "
        f"For the real data: `d2lcls data get {dataset.name}`."
    )
    return data


def _open_photographs(dataset: Dataset, files: Sequence[File], size: Size, draft: bool) -> LazyImages:
    """Open photographs in the cache; each is checked when it is read."""
    folder = cache_folder() / dataset.name
    label_of = {name: label for label, name in enumerate(dataset.classes)}
    labels = np.array([label_of[PurePosixPath(file.name).parent.name] for file in files], dtype=np.int64)

    def read(position: int, size: tuple[int, int], draft: bool) -> np.ndarray:
        file = files[position]
        return read_image(_read(folder / file.name, file, dataset.name), size, draft=draft)

    def path(position: int) -> str:
        return str(folder / files[position].name)

    images = Decoded(read, np.arange(len(files)), size, draft)
    return LazyImages(images, labels, dataset.classes, dataset.name, path=path)


def _read(path: Path, file: File, name: str) -> bytes:
    """Read a file and check it."""
    content = path.read_bytes()
    if (checksum := hashlib.sha1(file.header + content).hexdigest()) != file.sha1:
        raise OSError(
            f"{path} is damaged: {len(content)} bytes with sha1 {checksum}, expected {file.size} "
            f"bytes with {file.sha1}. Fetch it again: `d2lcls data get {name} --force`."
        )
    return content


def _from_cifar(contents: Sequence[np.ndarray], image_shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Read records of a label byte and the image's colour planes; see `sources.cifar_from_png`."""
    height, width, channels = image_shape
    contents = [content.reshape(-1, 1 + height * width * channels) for content in contents]
    images = np.empty((sum(map(len, contents)), height, width, channels), dtype=np.uint8)
    begin = 0
    for records in contents:
        planes = records[:, 1:].reshape(-1, channels, height, width)
        images[begin : begin + len(records)] = planes.transpose(0, 2, 3, 1)
        begin += len(records)
    return images, np.concatenate([records[:, 0] for records in contents]).astype(np.int64)


def _from_idx(contents: Sequence[np.ndarray], image_shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Read a file of images (16 bytes of header) and one of labels (8 bytes)."""
    pixels, labels = contents
    return pixels[16:].reshape(-1, *image_shape).copy(), labels[8:].astype(np.int64)
