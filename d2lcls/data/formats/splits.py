"""Training, validation and test images of one's own pictures: in folders, in one folder, or in a list."""

from __future__ import annotations

from pathlib import Path

from d2lcls.data.decode import Size
from d2lcls.data.formats.folders import class_folders, class_name, open_folder
from d2lcls.data.formats.lists import SPLITS, open_list, read_list
from d2lcls.data.formats.records import open_records
from d2lcls.data.images import split_validation
from d2lcls.data.lazy import LazyImages

TEST_SHARE, TEST_SEED = 0.2, 0  # of a set without test images; fixed, so that all runs are tested on the same images


def has_split(source: Path, split: str) -> bool:
    """Return whether a folder, a list or a record file has images of this split; see `open_pictures`."""
    if source.suffix == ".rec":
        return split == "train"
    if source.suffix == ".csv":
        splits = {of for _, _, of in read_list(source)}
        return split in splits or (splits == {None} and split != "val")
    if not _is_divided(source):
        return split != "val"
    return _folder(source, split) is not None


def open_pictures(source: Path, split: str, size: Size, draft: bool = False, announce: bool = True) -> LazyImages:
    """Open one split of one's own pictures, without reading them.

    Args:
        source: a folder with one or more of `train/CLASS/*.jpg`, `val/...` and `test/...` (without test/, val/ takes
            its place); a folder with `CLASS/*.jpg`, or a CSV list without splits, of whose images a fifth, the same
            every time, become the test images; a CSV list with splits; or a .rec file, which is taken whole.
        split: "train", "val" or "test".
        size, draft: as for `open_folder`.
        announce: say so if the test images are a fifth of the others.

    Returns:
        the set. Its classes are those of the training images, if the source has any.

    Raises:
        FileNotFoundError: the source, or its split, does not exist.
        ValueError: as `open_folder`, `open_list` and `open_records`.
    """
    if source.suffix == ".rec":
        return open_records(source, size, draft=draft)
    if not has_split(source, split):
        raise FileNotFoundError(f"{source}: has no {split} images.{_expected(source, split)}")
    if source.suffix == ".csv":
        if read_list(source)[0][2] is not None:
            return open_list(source, split, size, draft)
        return _share(open_list(source, None, size, draft), split, announce)
    if not _is_divided(source):
        return _share(open_folder(source, size, draft=draft), split, announce)
    folder = _folder(source, split)
    assert folder
    opened = open_folder(folder, size, draft=draft)
    if split == "train" or not (source / "train").is_dir():
        return opened
    return opened.with_classes(tuple(dict.fromkeys(map(class_name, class_folders(source / "train")))))


def _is_divided(source: Path) -> bool:
    """Return whether a folder has subfolders for training or testing, rather than classes of these names."""
    folders = class_folders(source)
    return {folder.name for folder in folders} <= set(SPLITS) or any(
        folder.name in SPLITS and class_folders(folder) for folder in folders
    )


def _folder(source: Path, split: str) -> Path | None:
    """Return the folder of a split; `val` takes the place of a missing `test`, as in many published sets."""
    test, val = source / "test", source / "val"
    folder = {"train": source / "train", "val": val if test.is_dir() else None, "test": test if test.is_dir() else val}
    found = folder[split]
    return found if found and found.is_dir() else None


def _share(opened: LazyImages, split: str, announce: bool) -> LazyImages:
    """Return the training or the test images of a set that is not divided."""
    parts = split_validation(opened, TEST_SHARE, TEST_SEED)
    if announce:
        print(
            f"{opened.name} is not divided into training and test images: {len(parts[1]):,} of its {len(opened):,} "
            "images, the same ones every time, are for testing."
        )
    return parts[split == "test"]


def _expected(source: Path, split: str) -> str:
    if source.suffix == ".csv":
        return f" Give some of its lines the split {split}."
    instead = f" or {source}/val/CLASS/*.jpg" if split == "test" else ""
    return f" Expected {source}/{split}/CLASS/*.jpg{instead}."
