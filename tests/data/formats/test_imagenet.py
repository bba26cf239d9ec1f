import csv
import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path

from d2lcls.data import Batches, BrokenImage, has_split, open_folder, open_split, write_records
from d2lcls.data.download.sample import read_sample
from d2lcls.data.formats.imagenet import imagenet_classes, open_imagenet, open_imagenet_split
from d2lcls.data.preprocess import Preprocess

import mxnet as mx
import numpy as np
import pytest
from mxnet import recordio
from PIL import Image

SMALL = Preprocess(40, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")
WNIDS = ("n01440764", "n01443537", "n02012849", "n15075141")  # positions 0, 1, 134 (a crane) and 999
MAGIC = struct.pack("<I", 0xCED7230A)  # RecordIO's
PHOTOGRAPHS = os.environ.get("D2LCLS_PHOTOGRAPHS", "")  # a folder of ImageNet photographs with a labels.csv


@pytest.fixture
def root(tmp_path):
    """A tree of 4 classes with 3 pictures each, of different sizes."""
    images, _ = read_sample("test", (28, 28, 3))
    for k, wnid in enumerate(WNIDS):
        (tmp_path / "val" / wnid).mkdir(parents=True)
        for i in range(3):
            picture = Image.fromarray(images[3 * k + i]).resize((50 + 9 * i, 60 - 7 * k))
            picture.save(tmp_path / "val" / wnid / f"ILSVRC2012_val_0000{k}{i}.JPEG")
    return tmp_path


def all_paths(root):
    return sorted((root / "val").glob("*/*"))


def test_the_1000_classes_are_in_the_standard_order():
    wnids, names = imagenet_classes()
    assert len(wnids) == len(names) == 1000 and list(wnids) == sorted(set(wnids))
    assert [names[k] for k in (0, 134, 207, 281, 517, 999)] == [
        "tench",
        "crane",
        "golden retriever",
        "tabby",
        "crane",
        "toilet tissue",
    ]


@pytest.mark.skipif(not PHOTOGRAPHS, reason="D2LCLS_PHOTOGRAPHS names no folder of ImageNet photographs")
def test_real_photographs_get_their_labels(tmp_path):
    with open(Path(PHOTOGRAPHS, "labels.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        (tmp_path / row["wnid"]).mkdir()
        (tmp_path / row["wnid"] / row["file"]).symlink_to(Path(PHOTOGRAPHS, row["file"]).resolve())
    data = open_imagenet(tmp_path, Preprocess(256, 224, (0.5,) * 3, (0.5,) * 3, "bicubic"))
    assert len(data) == len(rows) > 0
    assert data.labels.tolist() == sorted(int(row["class_index"]) for row in rows)
    assert {data.classes[label] for label in data.labels} == {row["name"] for row in rows}
    assert data.images[[0, -1]].std(axis=(1, 2)).min() > 5


@pytest.mark.parametrize("place", ["", "val"])
def test_a_miniature_tree_keeps_the_standard_labels(root, place):
    data = open_imagenet(root / place, SMALL)
    assert data.labels.dtype == np.int64 and data.labels.tolist() == [0] * 3 + [1] * 3 + [134] * 3 + [999] * 3
    assert len(data) == 12 and len(data.classes) == 1000 and data.name == "ImageNet val"
    assert data.counts().sum() == 12 and data.counts()[[0, 134, 135]].tolist() == [3, 3, 0]


def test_indexing_is_that_of_an_array(root):
    data = open_imagenet(root, SMALL)
    whole = np.stack([SMALL.image(path) for path in all_paths(root)])
    assert data.images.shape == whole.shape == (12, 32, 32, 3) and data.images.dtype == whole.dtype
    bright = whole.mean(axis=(1, 2, 3)) > 128
    assert 0 < bright.sum() < 12
    for index in (slice(None), slice(2, 9, 3), slice(0, 0), np.array([5, 0, 5]), [3, 1], bright, 7, -1):
        np.testing.assert_array_equal(data.images[index], whole[index])
    part = data.subset(np.array([10, 2]))
    np.testing.assert_array_equal(part.images[:], whole[[10, 2]])
    assert part.labels.tolist() == [999, 0] and len(part.subset(part.labels > 5)) == 1
    with pytest.raises(IndexError):
        data.images[12]


def test_batches_are_those_of_a_set_in_memory(root):
    data = open_imagenet(root, SMALL)
    seen = list(Batches(data, 5, SMALL.mean, SMALL.std))
    assert [len(y) for _, y in seen] == [5, 5, 2]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in seen]), SMALL(all_paths(root)))
    np.testing.assert_array_equal(np.concatenate([y for _, y in seen]), data.labels)


def test_only_the_pictures_asked_for_are_read(root):
    data = open_imagenet(root, SMALL)
    all_paths(root)[11].write_bytes(b"broken")
    all_paths(root)[4].unlink()
    assert data.images[:4].shape == (4, 32, 32, 3)
    with pytest.raises(FileNotFoundError, match=all_paths(root)[3].parent.name):
        data.images[4]
    with pytest.raises(BrokenImage, match="n15075141.*val_000032.JPEG.*not an image"):
        data.images[np.array([0, 11, 1])]


def test_reading_in_threads_leaves_warnings_as_they_were(root):
    data = open_imagenet(root, SMALL)
    before = list(warnings.filters)
    for _ in range(20):
        data.images[np.arange(12).repeat(3)]
    assert warnings.filters == before


def test_classes_may_be_called_by_name(root):
    for wnid, name in zip(WNIDS, ("tench", "great_white shark", None, "toilet tissue")):
        if name:
            (root / "val" / wnid).rename(root / "val" / name)
    assert np.unique(open_imagenet(root, SMALL).labels).tolist() == [0, 2, 134, 999]
    (root / "val" / WNIDS[2]).rename(root / "val" / "crane")
    with pytest.raises(ValueError, match="'crane' is the name of two classes.*by wnid"):
        open_imagenet(root, SMALL)
    (root / "val" / "crane").rename(root / "val" / "unicorn")
    with pytest.raises(ValueError, match="val: 'unicorn' is no class of ImageNet. Name classes by wnid"):
        open_imagenet(root, SMALL)


def test_a_missing_set_is_named_with_the_layouts(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="gone: no such file or folder. Expected .*gone/val/n01440764"):
        open_imagenet(tmp_path / "gone", SMALL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: holds no pictures of ImageNet. Expected .*train.rec"):
        open_imagenet(tmp_path / "empty", SMALL, "train")


def test_for_training_pictures_are_cropped_as_those_of_a_folder(root, tmp_path):
    (root / "val").rename(root / "train")
    write_records(root / "train", tmp_path / "packed" / "train")
    folder = open_folder(root / "train", 24, draft=True)
    for place in (root, tmp_path / "packed", tmp_path / "packed" / "train.rec"):
        data = open_imagenet_split(place, "train", 24, draft=True)
        assert data.labels.tolist() == [0] * 3 + [1] * 3 + [134] * 3 + [999] * 3 and data.name == "ImageNet train"
        np.testing.assert_array_equal(data.images[:], folder.images[:])
        np.testing.assert_array_equal(data.at(30).images[[7, 2]], open_folder(root / "train", 30).images[[7, 2]])
        assert data.checked() is data
    assert has_split("imagenet", "train", root) and not has_split("imagenet", "test", root)
    (root / "val").mkdir()
    assert has_split("imagenet", "test", root) and not has_split("imagenet", "val", root)
    with pytest.raises(ValueError, match="imagenet has no split 'val', only train and test, which is its val"):
        open_split("imagenet", "val", root=root)
    with pytest.raises(ValueError, match="imagenet needs root: the folder that holds"):
        open_split("imagenet")


def test_a_picture_that_was_cut_short_is_found_before_it_is_needed(root, tmp_path):
    picture = all_paths(root)[4]
    picture.write_bytes(picture.read_bytes()[:-30])
    with pytest.raises(BrokenImage, match=f"{picture.name}: cannot be read as an image"):
        open_imagenet_split(root, "val", 24).checked()
    assert len(open_imagenet_split(root, "val", 24).checked(skip_broken=True)) == 11


# The validation archive as it unpacks, with the development kit


@pytest.fixture
def flat(root):
    from scipy.io import savemat

    for number, path in enumerate(all_paths(root), 1):
        path.rename(root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG")
    for wnid in WNIDS:
        (root / "val" / wnid).rmdir()
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    order = (WNIDS[3], WNIDS[0], WNIDS[2], WNIDS[1], "n00001740")  # the kit numbers classes in an order of its own
    synsets = np.array(
        [(k, wnid, "words", "gloss", 0) for k, wnid in enumerate(order, 1)],
        dtype=[(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")],
    )
    savemat(kit / "meta.mat", {"synsets": synsets[:, None]})
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n2\n2\n4\n4\n4\n3\n3\n3\n1\n1\n1\n")
    return root


def test_the_archive_is_labelled_by_the_development_kit(flat):
    data = open_imagenet(flat, SMALL)
    assert data.labels.tolist() == [0] * 3 + [1] * 3 + [134] * 3 + [999] * 3
    (flat / "val" / "ILSVRC2012_val_00000001.JPEG").unlink()
    data = open_imagenet(flat, SMALL)
    assert data.labels.tolist() == [0] * 2 + [1] * 3 + [134] * 3 + [999] * 3
    np.testing.assert_array_equal(data.images[0], SMALL.image(flat / "val" / "ILSVRC2012_val_00000002.JPEG"))


def test_an_archive_without_a_fitting_kit_is_explained(flat):
    kit = flat / "ILSVRC2012_devkit_t12" / "data"
    truth = kit / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("2\n1\n")
    with pytest.raises(ValueError, match="numbered 1 to 12, but the development kit has 2 labels"):
        open_imagenet(flat, SMALL)
    truth.write_text("9\n" * 12)
    with pytest.raises(ValueError, match="class 9 is not in meta.mat"):
        open_imagenet(flat, SMALL)
    (kit / "meta.mat").unlink()
    with pytest.raises(FileNotFoundError, match="sort the pictures into folders such as .*val/n01440764"):
        open_imagenet(flat, SMALL)


# RecordIO


@pytest.fixture
def rec(root):
    """As im2rec writes it: standard labels, an index, no names."""
    data = open_imagenet(root, SMALL)
    writer = recordio.MXIndexedRecordIO(str(root / "val.idx"), str(root / "val.rec"), "w")
    for i, (path, label) in enumerate(zip(all_paths(root), data.labels)):
        label = float(label) if i % 2 else np.array([label], dtype=np.float32)  # both forms of one label
        writer.write_idx(i, recordio.pack(recordio.IRHeader(0, label, i, 0), path.read_bytes()))
    writer.close()
    return root / "val.rec"


def test_records_are_the_folder(root, rec):
    folder = open_imagenet(root, SMALL)
    (root / "val").rename(root / "hidden")
    paths = sorted((root / "hidden").glob("*/*"))
    for place in (root, rec):
        data = open_imagenet(place, SMALL)
        np.testing.assert_array_equal(data.labels, folder.labels)
        np.testing.assert_array_equal(data.images[np.array([11, 0, 6])], [SMALL.image(paths[k]) for k in (11, 0, 6)])
    rec.with_suffix(".idx").unlink()
    assert open_imagenet(rec, SMALL).images[:].shape == (12, 32, 32, 3)


def test_our_own_records_name_their_classes(root):
    write_records(root / "val", root / "val")
    assert open_imagenet(root / "val.rec", SMALL).labels.tolist() == [0] * 3 + [1] * 3 + [134] * 3 + [999] * 3


def test_records_that_hold_the_magic_number_are_put_together(tmp_path):
    """MXNet's writer cuts such a record where the number is aligned, and joining it again is the reader's work."""
    pictures = [b"P6\n#" + b"x" * length + b"\n24 24\n255\n" + MAGIC * 432 for length in range(4)]
    writer = recordio.MXRecordIO(str(tmp_path / "val.rec"), "w")
    for label, picture in enumerate(pictures):
        writer.write(recordio.pack(recordio.IRHeader(0, float(label), 0, 0), picture))
    writer.close()
    assert len((tmp_path / "val.rec").read_bytes().split(MAGIC)) > 4 * 400  # they are in there
    data = open_imagenet(tmp_path, SMALL)
    assert data.labels.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(data.images[:], [SMALL.image(picture) for picture in pictures])


def test_damaged_records_are_named(rec):
    whole = rec.read_bytes()
    rec.write_bytes(whole[:-40])
    with pytest.raises(BrokenImage, match="val.rec: cut short"):
        open_imagenet(rec, SMALL)
    rec.write_bytes(whole + b"\0" * 5)
    with pytest.raises(BrokenImage, match="val.rec: damaged after 12 records"):
        open_imagenet(rec, SMALL)
    rec.write_bytes(b"JPEG" + whole)
    with pytest.raises(BrokenImage, match="val.rec: damaged after 0 records"):
        open_imagenet(rec, SMALL)
    rec.write_bytes(b"")
    with pytest.raises(BrokenImage, match="holds no record"):
        open_imagenet(rec, SMALL)
    rec.write_bytes(whole)
    rec.with_suffix(".idx").write_text("0\t0\n")
    with pytest.raises(BrokenImage, match="holds 12 records, but val.idx lists 1"):
        open_imagenet(rec, SMALL)


@pytest.mark.parametrize(
    "label, content, error, message",
    [
        (1000.0, b"", ValueError, "record 0 has the label 1000; with 1000 classes"),
        (-1.0, b"", ValueError, "record 0 has the label -1"),
        (2.5, b"", ValueError, "label 2.5.*whole number"),
        (float("nan"), b"", ValueError, "label nan"),
        ([1.0, 2.0], b"", ValueError, "record 0 has 2 labels; a classifier needs one"),
        (3.0, b"no picture", BrokenImage, "val.rec: record 0: <bytes>.*not an image"),
    ],
)
def test_bad_records_are_named(tmp_path, label, content, error, message):
    writer = recordio.MXRecordIO(str(tmp_path / "val.rec"), "w")
    writer.write(recordio.pack(recordio.IRHeader(0, label, 0, 0), content))
    writer.close()
    with pytest.raises(error, match=message):
        open_imagenet(tmp_path, SMALL).images[:]


def test_what_im2rec_writes_is_read(root):
    """MXNet's own tool, run as its users do."""
    tool = Path(mx.__file__).parent / "tools" / "im2rec.py"
    listing = "".join(
        f"{i}\t{label}\t{path.relative_to(root / 'val')}\n"
        for i, (path, label) in enumerate(zip(all_paths(root), open_imagenet(root, SMALL).labels))
    )
    (root / "packed.lst").write_text(listing)
    code = "import sys, runpy, d2lcls; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-W", "ignore", "-c", code, tool, root / "packed", root / "val", "--pass-through"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    packed, folder = open_imagenet(root / "packed.rec", SMALL), open_imagenet(root, SMALL)
    np.testing.assert_array_equal(packed.labels, folder.labels)
    np.testing.assert_array_equal(packed.images[:], folder.images[:])
