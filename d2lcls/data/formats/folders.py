"""Folders of pictures, one subfolder a class: the form in which most people hold their own data."""

from pathlib import Path

from d2lcls.data.decode import BrokenImage, check_interpolation, height_and_width, is_image_name, read_image
from d2lcls.data.images import Images
from d2lcls.data.lazy import Decoded, LazyImages

import numpy as np


def list_folder(root):
    """List the pictures under `root/<class>/`, in alphabetical order of classes and files.

    Files and folders whose name starts with a dot or an underscore are passed over (``.DS_Store``,
    ``._photo.jpg``, ``.ipynb_checkpoints``).

    Args:
        root: the folder that holds one subfolder a class.

    Returns:
        (paths, labels, classes): a list of N `Path`, int64 array of shape (N,), tuple of class names.
        Every other file is listed too, so that a non-image is noticed when it is read, not lost.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no subfolder, or a subfolder holds no file.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root}: no such folder. Expected one that holds one subfolder a class, for example {root}/cats/1.jpg."
        )
    folders = sorted(p for p in root.iterdir() if p.is_dir() and p.name[0] not in "._")
    if not folders:
        raise ValueError(f"{root}: holds no subfolder. Expected one subfolder a class, for example {root}/cats/1.jpg.")
    paths, labels = [], []
    for label, folder in enumerate(folders):
        files = sorted(p for p in folder.rglob("*") if p.is_file() and not _is_hidden(p.relative_to(folder)))
        if not files:
            raise ValueError(f"{folder}: the class {folder.name!r} holds no picture. Add some or remove the folder.")
        paths += files
        labels += [label] * len(files)
    return paths, np.array(labels, dtype=np.int64), tuple(p.name for p in folders)


def _is_hidden(path):
    return any(part[0] in "._" for part in path.parts)


def open_folder(root, size=224, interpolation="bilinear", draft=False):
    """Open a folder of pictures without reading them: each is decoded when a batch asks for it.

    For sets too large for memory; `Batches`, `fit` and `evaluate` take them as they take `Images`.

    Args:
        root: the folder that holds one subfolder a class.
        size: int or (height, width) that every picture is scaled to cover and then centre-cropped to.
        interpolation: "nearest", "bilinear" or "bicubic".
        draft: let large JPEGs be shrunk while they are decoded; see `read_image`.

    Returns:
        `LazyImages` with images of shape (N, height, width, 3), named after the folder. Indexing them raises
        `BrokenImage`, which names the file, where a picture cannot be read.

    Raises:
        FileNotFoundError, ValueError: as `list_folder`; ValueError also for arguments that `read_image` refuses.
    """
    check_interpolation(interpolation)
    paths, labels, classes = list_folder(root)

    def decode(position):
        path = paths[position]
        if not is_image_name(path):
            raise BrokenImage(
                f"{path}: the ending {path.suffix!r} is not that of an image. "
                "Remove the file, or load the folder with on_broken='skip'."
            )
        return read_image(path, size, interpolation, draft)

    images = Decoded(decode, np.arange(len(paths)), height_and_width(size))
    return LazyImages(images, labels, classes, Path(root).resolve().name)


def load_folder(root, size=32, on_broken="raise", interpolation="bilinear", draft=False):
    """Load a folder of pictures into memory, all cropped to one size.

    Args:
        root, size, interpolation, draft: as for `open_folder`.
        on_broken: "raise" stops at the first file that is no readable image; "skip" leaves such files
            out and prints one line with their number and the first of them.

    Returns:
        `Images` with images of shape (N, height, width, 3), named after the folder.

    Raises:
        BrokenImage: a file is no readable image and `on_broken` is "raise"; the message names the file.
        ValueError: nothing, or nothing of some class, could be read; or as `list_folder`.
    """
    if on_broken not in ("raise", "skip"):
        raise ValueError(f"on_broken must be 'raise' or 'skip', not {on_broken!r}.")
    opened, broken = open_folder(root, size, interpolation, draft), {}

    def decode(position):
        try:
            return opened.images.decode(position)
        except BrokenImage as error:
            if on_broken == "raise":
                raise
            broken[position] = error
            return 0

    images = Decoded(decode, opened.images.positions, opened.images.size).load()
    kept = np.array([position not in broken for position in range(len(images))])
    if broken:
        print(f"{root}: skipped {len(broken)} of {len(images)} files; the first: {broken[min(broken)]}")
    empty = np.setdiff1d(np.arange(len(opened.classes)), opened.labels[kept])
    if len(empty):
        raise ValueError(f"{root}: not one readable picture of the class {opened.classes[empty[0]]!r}.")
    return Images(images[kept] if broken else images, opened.labels[kept], opened.classes, opened.name)
