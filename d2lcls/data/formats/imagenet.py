"""ImageNet, for those who have it: its 1000 classes, and its pictures with their standard labels.

The pictures are decoded when a batch asks for them. Nothing is downloaded: ImageNet's terms do not allow handing it on.
"""

import re
from functools import cache
from pathlib import Path

from d2lcls.data.formats.folders import list_folder
from d2lcls.data.formats.records import record_decoder, scan_records
from d2lcls.data.lazy import Decoded, LazyImages

import numpy as np

LAYOUTS = (
    "Expected {root}/{split}/n01440764/*.JPEG, a folder for each class; or {root}/{split}.rec; "
    "or either of them itself."
)


@cache
def imagenet_classes():
    """Return (wnids, names): the 1000 WordNet ids and English names, in the order of every ImageNet network.

    Two names are not unique: "crane" is a bird and a machine, "maillot" stands there twice. The wnids are.
    """
    from gluoncv.data.imagenet.classification import ImageNet1kAttr

    classes = ImageNet1kAttr()
    return tuple(classes.synset), tuple(classes.classes)


def open_imagenet(root, preprocess, split="val"):
    """Open a split of ImageNet without reading its pictures.

    Labels are the standard positions 0 to 999, also where only some of the classes are there. The layouts:

    - ``root/val/<class>/*.JPEG``, or `root` itself such a folder. Classes are called by wnid (``n01440764``), or
      by name (``tench``) where that is unique.
    - ``root/val/ILSVRC2012_val_00000001.JPEG``, as ImageNet's archive unpacks, with the development kit beside
      it in ``root/ILSVRC2012_devkit_t12``.
    - ``root/val.rec``, or `root` itself a .rec file, as `write_records`, MXNet's im2rec and GluonCV make them. Its
      labels are taken for standard positions, unless a ``.classes`` file beside it names the classes.

    Args:
        root: folder or .rec file.
        preprocess: `Preprocess` of the network to be fed.
        split: name of the folder or record file in `root`, such as "val" or "train".

    Returns:
        `LazyImages` with all 1000 classes. Indexing it raises `BrokenImage`, which names file or record, where
        a picture cannot be read: none is skipped, or the score would not be ImageNet's.

    Raises:
        FileNotFoundError: `root` does not exist or holds none of these.
        ValueError: a folder or label is no class of ImageNet.
        BrokenImage: a record file is damaged.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(f"{root}: no such file or folder. {LAYOUTS.format(root=root, split=split)}")
    folder = root / split if (root / split).is_dir() else root
    rec = root if root.is_file() else root / f"{split}.rec"
    if folder is root and rec.is_file():
        decode, labels = _open_records(rec, preprocess)
    else:
        paths, labels = _list_pictures(root, folder, split)

        def decode(position):
            return preprocess.image(paths[position])

    images = Decoded(decode, np.arange(len(labels)), (preprocess.crop, preprocess.crop))
    return LazyImages(images, labels, imagenet_classes()[1], f"ImageNet {split}")


def _standard_labels(names, where):
    """Return the standard position of each class, given by wnid or unique name, int64 (len(names),)."""
    wnids, titles = imagenet_classes()
    known = {title: k for k, title in enumerate(titles) if titles.count(title) == 1}
    known.update({wnid: k for k, wnid in enumerate(wnids)})
    for name in names:
        if name.replace("_", " ") not in known:
            why = "the name of two classes" if name.replace("_", " ") in titles else "no class of ImageNet"
            raise ValueError(f"{where}: {name!r} is {why}. Name classes by wnid, such as n01440764 for tench.")
    return np.array([known[name.replace("_", " ")] for name in names], dtype=np.int64)


def _list_pictures(root, folder, split):
    """Return (paths, labels) of a folder with one subfolder a class, or of the validation archive as it unpacks."""
    if any(path.is_dir() and path.name[0] not in "._" for path in folder.iterdir()):
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
    return list(numbered.values()), truth[np.array(list(numbered)) - 1]


def _ground_truth(root, folder):
    """Read the development kit: the standard position of each validation image, int64 (N,)."""
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    labels, meta = kit / "ILSVRC2012_validation_ground_truth.txt", kit / "meta.mat"
    if not labels.is_file() or not meta.is_file():
        raise FileNotFoundError(
            f"{folder}: its pictures do not lie in folders of classes, so {labels} and "
            f"{meta.name} of ImageNet's development kit are needed to label them. Unpack the kit "
            f"there, or sort the pictures into folders such as {folder}/n01440764."
        )
    from scipy.io import loadmat

    synsets = loadmat(meta, squeeze_me=True)["synsets"]
    wnids = dict(zip(synsets["ILSVRC2012_ID"].tolist(), synsets["WNID"].tolist()))
    numbers = np.loadtxt(labels, dtype=np.int64, ndmin=1)  # the kit's own numbering of classes, from 1
    kinds, inverse = np.unique(numbers, return_inverse=True)
    if unknown := set(kinds.tolist()) - wnids.keys():
        raise ValueError(f"{labels}: class {min(unknown)} is not in {meta.name}. Unpack the development kit anew.")
    return _standard_labels([wnids[kind] for kind in kinds.tolist()], meta)[inverse]


def _open_records(rec, preprocess):
    """Return (decode, labels) of a record file."""
    offsets, labels = scan_records(rec)
    names = rec.with_suffix(".classes")
    classes = names.read_text(encoding="utf-8").splitlines() if names.is_file() else imagenet_classes()[0]
    wrong = np.flatnonzero(~((labels >= 0) & (labels < len(classes)) & (labels == np.floor(labels))))
    if len(wrong):
        raise ValueError(
            f"{rec}: record {wrong[0]} has the label {labels[wrong[0]]:g}; with {len(classes)} classes "
            f"it must be a whole number from 0 to {len(classes) - 1}."
        )
    return record_decoder(rec, offsets, preprocess.image), _standard_labels(classes, names)[labels.astype(np.int64)]
