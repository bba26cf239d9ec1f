"""Folders of pictures with one subfolder for each class, the usual form of one's own data."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from d2lcls.data.decode import BrokenImage, Size, check_complete, check_interpolation, is_image_name, read_image
from d2lcls.data.images import Images
from d2lcls.data.lazy import Decoded, LazyImages

import numpy as np

# What file managers and archivers leave behind: never a class or a picture.
LEFTOVERS = {"__MACOSX", "Thumbs.db", "ehthumbs.db", "desktop.ini"}


def list_folder(root: str | Path) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """List the pictures under `root/<class>/`, in alphabetical order of classes and files.

    Hidden files and folders, whose names start with a dot, and what file managers leave behind (``Thumbs.db``,
    ``desktop.ini``, ``__MACOSX``) are ignored. A class is named after its folder, in Unicode's composed form (NFC):
    macOS writes an accented letter as two characters, which look the same.

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
    names = tuple(dict.fromkeys(class_name(folder) for folder in folders))
    positions = {name: label for label, name in enumerate(names)}
    paths: list[str] = []  # of which Path objects would take several times as much memory
    counts: list[int] = []
    for folder in folders:
        files = sorted(_files(folder))
        if not files:
            raise ValueError(f"{folder}: the class {folder.name!r} holds no picture. Add some or remove the folder.")
        paths += files
        counts.append(len(files))
    labels = np.array([positions[class_name(folder)] for folder in folders], dtype=np.int64)
    return paths, labels.repeat(counts), names


def class_folders(root: Path) -> list[Path]:
    """Return the subfolders of a folder that stand for classes, in alphabetical order."""
    return sorted((p for p in root.iterdir() if p.is_dir() and not is_ignored(p.name)), key=class_name)


def class_name(folder: Path) -> str:
    """Return the name of the class whose pictures are in this folder."""
    return unicodedata.normalize("NFC", folder.name)


def is_ignored(name: str) -> bool:
    """Return whether a file or folder of this name is hidden, or left behind by a file manager."""
    return name.startswith(".") or name in LEFTOVERS


def _files(folder: str | Path) -> Iterator[str]:
    """Yield the paths of all files below a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_ignored(entry.name):
                continue
            if entry.is_dir():
                yield from _files(entry.path)
            else:
                yield entry.path


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
    paths, labels, names = list_folder(root)
    return open_files(paths, labels, names, Path(root).resolve().name, size, interpolation, draft)


def open_files(
    paths: Sequence[str],
    labels: np.ndarray,
    classes: tuple[str, ...],
    name: str,
    size: Size,
    interpolation: str = "bilinear",
    draft: bool = False,
) -> LazyImages:
    """Open a list of picture files without reading them; arguments and result as for `open_folder`."""
    check_interpolation(interpolation)

    def source(position: int) -> str:
        path = paths[position]
        if not is_image_name(path):
            raise BrokenImage(f"{path}: the suffix {Path(path).suffix!r} is not that of an image. Remove the file.")
        return path

    def read(position: int, size: tuple[int, int], draft: bool) -> np.ndarray:
        return read_image(source(position), size, interpolation, draft)

    images = Decoded(read, np.arange(len(paths)), size, draft)
    return LazyImages(
        images,
        labels,
        classes,
        name,
        lambda position: check_complete(source(position)),
        lambda position: paths[position],
    )


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
    return (opened.checked(skip_broken=True) if on_broken == "skip" else opened).load()


def check_on_broken(on_broken: str) -> None:
    """Raise ValueError unless this is "raise" or "skip"."""
    if on_broken not in ("raise", "skip"):
        raise ValueError(f"on_broken must be 'raise' or 'skip', not {on_broken!r}.")
