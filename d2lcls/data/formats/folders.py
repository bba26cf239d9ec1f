"""Folders of pictures with one subfolder for each class, the usual form of one's own data."""

from collections.abc import Collection, Sequence
from pathlib import Path

from d2lcls.data.decode import BrokenImage, Size, check_interpolation, height_and_width, is_image_name, read_image
from d2lcls.data.images import Images
from d2lcls.data.lazy import Decoded, LazyImages

import numpy as np


def list_folder(root: str | Path) -> tuple[list[Path], np.ndarray, tuple[str, ...]]:
    """List the pictures under `root/<class>/`, in alphabetical order of classes and files.

    Files and folders whose name starts with a dot or an underscore are ignored (``.DS_Store``,
    ``._photo.jpg``, ``.ipynb_checkpoints``).

    Args:
        root: the folder with one subfolder for each class.

    Returns:
        (paths, labels, classes): N paths, int64 array of shape (N,), class names.
        All other files are listed too, so that a file that is no image causes an error when it is read.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: it has no subfolder, or a subfolder has no file.
    """
    root = Path(root)
    expected = f"Expected one subfolder for each class, for example {root}/cats/1.jpg."
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder. {expected}")
    folders = class_folders(root)
    if not folders:
        raise ValueError(f"{root}: holds no subfolder. {expected}")
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        files = sorted(p for p in folder.rglob("*") if p.is_file() and not _is_hidden(p.relative_to(folder)))
        if not files:
            raise ValueError(f"{folder}: the class {folder.name!r} holds no picture. Add some or remove the folder.")
        paths += files
        labels += [label] * len(files)
    return paths, np.array(labels, dtype=np.int64), tuple(p.name for p in folders)


def class_folders(root: Path) -> list[Path]:
    """Return the subfolders of a folder that stand for classes, in alphabetical order."""
    return sorted(p for p in root.iterdir() if p.is_dir() and not _is_hidden(p.relative_to(root)))


def _is_hidden(path: Path) -> bool:
    return any(part[0] in "._" for part in path.parts)


def check_on_broken(on_broken: str) -> None:
    """Raise ValueError unless this is "raise" or "skip"."""
    if on_broken not in ("raise", "skip"):
        raise ValueError(f"on_broken must be 'raise' or 'skip', not {on_broken!r}.")


def check_classes_left(root: str | Path, labels: Collection[int], classes: Sequence[str]) -> None:
    """Raise ValueError unless each class of a folder is among the labels of its readable pictures."""
    for label, name in enumerate(classes):
        if label not in labels:
            raise ValueError(
                f"{root}: not one readable picture of the class {name!r}. Add or repair some, or remove its folder."
            )


def open_folder(root: str | Path, size: Size = 224, interpolation: str = "bilinear", draft: bool = False) -> LazyImages:
    """Open a folder of pictures without reading them: each is decoded when a batch needs it.

    For sets too large for memory; `Batches`, `fit` and `evaluate` take them in place of `Images`.

    Args:
        root: the folder with one subfolder for each class.
        size: side or (height, width) that each picture is scaled to cover and then centre-cropped to.
        interpolation: "nearest", "bilinear" or "bicubic".
        draft: shrink large JPEGs during decoding; see `read_image`.

    Returns:
        the set, named after the folder, with images of shape (N, height, width, 3). Indexing them raises
        `BrokenImage`, which names the file, if a picture cannot be read.

    Raises:
        FileNotFoundError, ValueError: as `list_folder`; ValueError also for arguments that `read_image` refuses.
    """
    check_interpolation(interpolation)
    paths, labels, classes = list_folder(root)

    def decode(position):
        path = paths[position]
        if not is_image_name(path):
            raise BrokenImage(
                f"{path}: the suffix {path.suffix!r} is not that of an image. "
                "Remove the file, or load the folder with on_broken='skip'."
            )
        return read_image(path, size, interpolation, draft)

    images = Decoded(decode, np.arange(len(paths)), height_and_width(size))
    return LazyImages(images, labels, classes, Path(root).resolve().name)


def load_folder(
    root: str | Path, size: Size = 32, on_broken: str = "raise", interpolation: str = "bilinear", draft: bool = False
) -> Images:
    """Load a folder of pictures into memory, all cropped to one size.

    Args:
        root, size, interpolation, draft: as for `open_folder`.
        on_broken: "raise" stops at the first file that is no readable image; "skip" ignores such files
            and prints one line with their number and the first of them.

    Returns:
        the set, named after the folder, with images of shape (N, height, width, 3).

    Raises:
        BrokenImage: a file is no readable image and `on_broken` is "raise"; the message names the file.
        ValueError: a class has no readable picture; or as `list_folder`.
    """
    check_on_broken(on_broken)
    opened = open_folder(root, size, interpolation, draft)
    broken: dict[int, BrokenImage] = {}

    def decode(position):
        try:
            return opened.images.decode(position)
        except BrokenImage as error:
            if on_broken == "raise":
                raise
            broken[position] = error
            return 0

    images = Decoded(decode, opened.images.positions, opened.images.size).load()
    if not broken:
        return Images(images, opened.labels, opened.classes, opened.name)
    print(f"{root}: skipped {len(broken)} of {len(images)} files; the first: {broken[min(broken)]}")
    kept = np.delete(np.arange(len(images)), list(broken))
    check_classes_left(root, opened.labels[kept], opened.classes)
    return Images(images[kept], opened.labels[kept], opened.classes, opened.name)
