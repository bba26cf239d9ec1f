"""ImageNet, if you have a copy: its 1000 classes, and its pictures with their standard labels.

The pictures are decoded when a batch needs them. Nothing is downloaded: ImageNet's terms forbid redistribution.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path

from d2lcls.data.decode import Size, check_complete, read_image
from d2lcls.data.formats.folders import class_folders, list_folder
from d2lcls.data.formats.records import check_record, naming_record, record_reader, scan_records
from d2lcls.data.lazy import Decoded, LazyImages
from d2lcls.data.preprocess import Preprocess

import numpy as np

LAYOUTS = (
    "Expected {root}/{split}/n01440764/*.JPEG, a folder for each class; or {root}/{split}.rec; "
    "or the path of one of these."
)


@cache
def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (wnids, names): the 1000 WordNet ids and English names, in the usual order of ImageNet networks.

    The wnids are unique, two names are not: "crane" is a bird and a machine, "maillot" occurs twice.
    """
    from gluoncv.data.imagenet.classification import ImageNet1kAttr

    classes = ImageNet1kAttr()
    return tuple(classes.synset), tuple(classes.classes)


def open_imagenet(root: str | Path, preprocess: Preprocess, split: str = "val") -> LazyImages:
    """Open a split of ImageNet without reading its pictures.

    Labels are the standard positions 0 to 999, even if only some of the classes are present. The layouts:

    - ``root/val/<class>/*.JPEG``, or `root` itself such a folder. Classes are named by wnid (``n01440764``), or
      by English name (``tench``) if it is unique.
    - ``root/val/ILSVRC2012_val_00000001.JPEG``, as in ImageNet's archive, with the development kit beside
      it in ``root/ILSVRC2012_devkit_t12``.
    - ``root/val.rec``, or `root` itself a .rec file, written by `write_records`, MXNet's im2rec or GluonCV. Its
      labels are standard positions, unless a ``.classes`` file beside it names the classes.

    Args:
        root: folder or .rec file.
        preprocess: the preprocessing of the network.
        split: name of the folder or record file in `root`, such as "val" or "train".

    Returns:
        the set with all 1000 classes. Indexing it raises `BrokenImage`, which names the file or record, if
        a picture cannot be read: with pictures skipped, an accuracy would not be comparable.

    Raises:
        FileNotFoundError: `root` does not exist or has none of these layouts.
        ValueError: a folder or label is no class of ImageNet.
        BrokenImage: a record file is damaged.
    """
    return _open(root, split, preprocess.crop, lambda source, size, draft: preprocess.image(source))


def open_imagenet_split(root: str | Path, split: str = "train", size: Size = 224, draft: bool = False) -> LazyImages:
    """Open a split of ImageNet for training, without reading its pictures, which are cropped as those of `open_folder`.

    Args:
        root, split: as for `open_imagenet`.
        size, draft: as for `open_folder`.

    Returns:
        the set with all 1000 classes.

    Raises:
        As `open_imagenet`.
    """
    return _open(root, split, size, lambda source, size, draft: read_image(source, size, draft=draft), draft)


def has_imagenet_split(root: str | Path, split: str) -> bool:
    """Return whether a folder or .rec file has "train" or "test" images; the latter are in val/ or val.rec.

    A .rec file, or a folder of classes, holds training images only. There is no split "val": ImageNet's validation
    images take the place of its test images, which were not published with labels.
    """
    return split == "train" or (split == "test" and (Path(root, "val").is_dir() or Path(root, "val.rec").is_file()))


def _open(
    root: str | Path,
    split: str,
    size: Size,
    image: Callable[[str | bytes, tuple[int, int], bool], np.ndarray],
    draft: bool = False,
) -> LazyImages:
    """Open a split; `image` makes the array of a picture from its path or its bytes, a size and whether to draft."""
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such file or folder. {LAYOUTS.format(root=root, split=split)}")
    folder = root / split if (root / split).is_dir() else root
    rec = root if root.is_file() else root / f"{split}.rec"
    packed = folder is root and rec.is_file()
    source: Callable[[int], str | bytes]
    if packed:
        offsets, labels, classes = scan_records(rec, imagenet_classes()[0])
        labels = _standard_labels(classes, rec.with_suffix(".classes"))[labels]
        source = record_reader(rec, offsets)
    else:
        paths, labels = _list_pictures(root, folder, split)
        source = paths.__getitem__

    def read(position: int, size: tuple[int, int], draft: bool) -> np.ndarray:
        with naming_record(rec, position) if packed else nullcontext():
            return image(source(position), size, draft)

    def check(position: int) -> None:
        if packed:
            check_record(rec, offsets, position)
        else:
            check_complete(paths[position])

    images = Decoded(read, np.arange(len(labels)), size, draft)
    path = None if packed else paths.__getitem__
    return LazyImages(images, labels, imagenet_classes()[1], f"ImageNet {split}", check, path)


def _standard_labels(names: Sequence[str], source: Path) -> np.ndarray:
    """Return the standard position of each class, given by wnid or unique name in `source`, int64 (len(names),)."""
    wnids, titles = imagenet_classes()
    positions = {title: k for k, title in enumerate(titles) if titles.count(title) == 1}
    positions.update({wnid: k for k, wnid in enumerate(wnids)})
    for name in names:
        if name.replace("_", " ") not in positions:
            problem = "the name of two classes" if name.replace("_", " ") in titles else "no class of ImageNet"
            raise ValueError(f"{source}: {name!r} is {problem}. Name classes by wnid, such as n01440764 for tench.")
    return np.array([positions[name.replace("_", " ")] for name in names], dtype=np.int64)


def _list_pictures(root: Path, folder: Path, split: str) -> tuple[list[str], np.ndarray]:
    """Return (paths, labels) of a folder with one subfolder for each class, or of the unpacked validation archive."""
    classes = {found.name for found in class_folders(folder)}
    if classes and classes <= {"train", "val", "test"}:
        raise FileNotFoundError(f"{root}: has no {split} images. {LAYOUTS.format(root=root, split=split)}")
    if classes:
        paths, labels, names = list_folder(folder)
        return paths, _standard_labels(names, folder)[labels]
    numbered = {
        int(match[1]): path
        for path in sorted(folder.iterdir())
        if (match := re.fullmatch(r"ILSVRC2012_val_(\d{8})\.JPEG", path.name))
    }
    if not numbered:
        raise FileNotFoundError(f"{folder}: holds no pictures of ImageNet. {LAYOUTS.format(root=root, split=split)}")
    truth = _ground_truth(root, folder)
    if max(numbered) > len(truth) or min(numbered) < 1:
        raise ValueError(
            f"{folder}: its pictures are numbered {min(numbered)} to {max(numbered)}, but the "
            f"development kit has {len(truth)} labels, for 1 to {len(truth)}."
        )
    return [str(path) for path in numbered.values()], truth[np.array(list(numbered)) - 1]


def _ground_truth(root: Path, folder: Path) -> np.ndarray:
    """Read the standard position of each validation image from the development kit, int64 (N,)."""
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    labels, meta = kit / "ILSVRC2012_validation_ground_truth.txt", kit / "meta.mat"
    if not labels.is_file() or not meta.is_file():
        raise FileNotFoundError(
            f"{folder}: its pictures are not in folders of classes, so {labels} and "
            f"{meta.name} of ImageNet's development kit are needed to label them. Unpack the kit "
            f"there, or sort the pictures into folders such as {folder}/n01440764."
        )
    from scipy.io import loadmat

    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        wnids = dict(zip(synsets["ILSVRC2012_ID"].tolist(), synsets["WNID"].tolist()))
    except Exception as error:  # for a damaged file scipy raises a dozen kinds
        raise ValueError(f"{meta}: damaged ({error}). Unpack the development kit again.") from error
    try:
        numbers = np.loadtxt(labels, dtype=np.int64, ndmin=1)  # in the kit's own numbering of classes, from 1
    except ValueError as error:
        raise ValueError(f"{labels}: damaged ({error}). Unpack the development kit again.") from error
    present, inverse = np.unique(numbers, return_inverse=True)
    if unknown := set(present.tolist()) - wnids.keys():
        raise ValueError(f"{labels}: class {min(unknown)} is not in {meta.name}. Unpack the development kit again.")
    return _standard_labels([wnids[number] for number in present.tolist()], meta)[inverse]
