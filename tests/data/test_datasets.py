"""Images in memory: what is accepted, how it is loaded, split and measured."""

import hashlib
import pathlib
import struct
import sys

from d2lcls.data.download import catalog
from d2lcls.data.download.cache import DataUnavailable
from d2lcls.data.download.catalog import DATASETS
from d2lcls.data.download.dataset import Dataset, File
from d2lcls.data.download.sample import FOLDER, from_mosaic, read_sample, to_mosaic, write_sample
from d2lcls.data.images import Images, channel_statistics, split_validation
from d2lcls.data.loading import is_sample, load

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def empty_cache_without_a_network(tmp_path, own_cache, monkeypatch):
    monkeypatch.setenv("D2LCLS_HOME", str(tmp_path))
    monkeypatch.setenv("D2LCLS_OFFLINE", "1")


def make(counts, name="made"):
    """A set with so many images of each class, shuffled; an image's pixels are its own number."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
    images = np.arange(len(labels), dtype=np.uint32).view(np.uint8).reshape(-1, 2, 2, 1)
    return Images(images, labels, tuple("abcdefghij"[: len(counts)]), name)


def numbers(data):
    return np.ascontiguousarray(data.images).reshape(-1).view(np.uint32)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Put files into the cache, and a data set that consists of them into the catalog, as "fake"."""

    def cached(layout, image_shape, contents):
        (tmp_path / "fake").mkdir()
        files = []
        for (split, name), content in contents.items():
            (tmp_path / "fake" / name).write_bytes(content)
            files.append(File(name, len(content), hashlib.sha1(content).hexdigest(), split))
        monkeypatch.setitem(
            catalog.DATASETS,
            "fake",
            Dataset(
                "fake",
                "Fake",
                ("one", "two", "three"),
                image_shape,
                {"train": 4, "test": 1},
                tuple(files),
                layout,
                (),
                0,
                "",
                "",
            ),
        )

    return cached


# What Images accepts


def test_images_know_their_length_counts_and_parts():
    data = make([3, 0, 2])
    assert len(data) == 5 and data.counts().tolist() == [3, 0, 2]
    part = data.subset(np.array([4, 1]))
    assert numbers(part).tolist() == [4, 1] and part.labels.tolist() == data.labels[[4, 1]].tolist()
    assert part.classes == data.classes and part.name == data.name
    assert numbers(data.subset(data.labels == 2)).tolist() == np.flatnonzero(data.labels == 2).tolist()


PIXELS, LABELS = np.zeros((3, 2, 2, 1), dtype=np.uint8), np.array([0, 1, 0])


@pytest.mark.parametrize(
    "images, labels, error, message",
    [
        (PIXELS.astype(np.float32), LABELS, TypeError, "images must be a numpy array of uint8, not float32"),
        (PIXELS.tolist(), LABELS, TypeError, "images must be a numpy array of uint8, not list"),
        (PIXELS[0], LABELS, ValueError, r"images must have 4 axes \(N, H, W, C\), not the shape \(2, 2, 1\)"),
        (PIXELS, LABELS.astype(np.int32), TypeError, "labels must be a numpy array of int64, not int32"),
        (PIXELS, LABELS[:, None], ValueError, r"labels must have 1 axes \(N\), not the shape \(3, 1\)"),
        (PIXELS, LABELS[:2], ValueError, "3 images but 2 labels"),
        (PIXELS, np.array([0, 2, -1]), ValueError, "label 1 is 2; with 2 classes it must be 0 to 1"),
        (PIXELS, np.array([0, 1, -1]), ValueError, "label 2 is -1; with 2 classes it must be 0 to 1"),
    ],
)
def test_images_refuse_what_does_not_fit_and_say_what_it_was(images, labels, error, message):
    with pytest.raises(error, match=f"mine: {message}"):
        Images(images, labels, ("a", "b"), "mine")


def test_class_names_must_be_a_tuple_of_str():
    for classes in (["a", "b"], (0, 1), "ab"):
        with pytest.raises(TypeError, match="mine: classes must be a tuple of str"):
            Images(PIXELS, LABELS, classes, "mine")


# load


def test_cifar_records_are_read_as_label_then_planes_in_the_order_of_the_files(cached):
    image = np.arange(2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 3)
    record = bytes(image[..., 0].ravel()) + bytes(image[..., 1].ravel()) + bytes(image[..., 2].ravel())
    cached(
        "cifar",
        (2, 2, 3),
        {
            ("train", "1"): b"\2" + record + b"\0" + record[::-1],
            ("train", "2"): b"\1" + record,
            ("test", "3"): b"\0" + record,
        },
    )
    data = load("fake")
    assert data.labels.tolist() == [2, 0, 1] and data.labels.dtype == np.int64
    assert (data.images[[0, 2]] == image).all()
    assert (data.images[1] == image[::-1, ::-1, ::-1]).all()
    assert len(load("fake", "test")) == 1
    assert (data.name, data.classes) == ("fake", ("one", "two", "three")) and not is_sample(data)


def test_idx_files_are_read_after_their_headers(cached):
    images = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3, 1)
    cached(
        "idx",
        (2, 3, 1),
        {
            ("train", "images"): struct.pack(">4i", 2051, 4, 2, 3) + images.tobytes(),
            ("train", "labels"): struct.pack(">2i", 2049, 4) + bytes([2, 1, 0, 2]),
        },
    )
    data = load("fake")
    assert (data.images == images).all() and data.labels.tolist() == [2, 1, 0, 2]
    data.images[0] = 0  # an array of one's own, not a view of a file


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:5] + bytes([b[5] ^ 1]) + b[6:]])
def test_a_damaged_file_is_named_together_with_the_command_that_repairs_it(cached, tmp_path, damage):
    content = b"\0" + bytes(range(12))
    cached("cifar", (2, 2, 3), {("train", "batch"): content})
    path = tmp_path / "fake" / "batch"
    path.write_bytes(damage(content))
    with pytest.raises(OSError, match=f"{path} is damaged: .*`d2lcls data get fake --force`"):
        load("fake")


def test_a_file_is_read_once_only(cached, tmp_path, monkeypatch):
    cached("cifar", (2, 2, 3), {("train", "batch"): b"\0" + bytes(12)})
    read, original = [], pathlib.Path.read_bytes
    monkeypatch.setattr(pathlib.Path, "read_bytes", lambda self: read.append(self.name) or original(self))
    monkeypatch.setattr(
        sys.modules["d2lcls.data.download.cache"], "file_checksum", lambda *args: pytest.fail("read a second time")
    )
    load("fake")
    assert read == ["batch"]


def test_unknown_splits_and_names_are_refused():
    with pytest.raises(ValueError, match="CIFAR-10 has no split 'valid', only train and test"):
        load("cifar10", "valid")
    with pytest.raises(ValueError, match="Did you mean 'cifar10'"):
        load("cifar_10")


# The sample that stands in


def test_without_any_source_the_sample_stands_in_and_one_line_says_so(capsys):
    data = load("cifar10")
    output = capsys.readouterr()
    assert output.out.count("\n") == 1 and output.err == ""
    assert "CIFAR-10 cannot be reached" in output.out and "5,000 train images" in output.out
    assert "`d2lcls data get cifar10`" in output.out
    assert is_sample(data) and data.name == "fashion_mnist-sample"
    assert data.classes == DATASETS["fashion_mnist"].classes
    assert data.images.shape == (5000, 32, 32, 3) and data.counts().tolist() == [500] * 10
    grey, _ = read_sample("train")
    assert (data.images[:, 2:-2, 2:-2] == grey).all()  # in every channel
    border = data.images.astype(np.int64).sum() - data.images[:, 2:-2, 2:-2].astype(np.int64).sum()
    assert border == 0 and grey.any()


def test_the_sample_has_the_layout_of_the_set_it_stands_for(capsys):
    data = load("fashion_mnist", "test")
    assert data.images.shape == (1000, 28, 28, 1) and data.counts().tolist() == [100] * 10
    assert is_sample(data) and "Fashion-MNIST cannot be reached" in capsys.readouterr().out


def test_whoever_wants_no_sample_gets_the_reasons(capsys):
    with pytest.raises(DataUnavailable, match="University of Toronto .*D2LCLS_OFFLINE"):
        load("cifar10", fallback=False)
    assert capsys.readouterr().out == ""


def test_a_part_of_the_sample_is_still_the_sample():
    assert is_sample(load("cifar10", "test").subset(np.arange(10)))


def test_the_sample_shows_what_its_labels_say():
    images, labels = read_sample("train")
    mean = np.stack([images[labels == k].mean(axis=0)[..., 0] for k in range(10)])  # (10, 28, 28)
    trouser, sneaker, boot = (
        mean[DATASETS["fashion_mnist"].classes.index(name)] for name in ("Trouser", "Sneaker", "Ankle boot")
    )
    assert trouser[20, 14] < trouser[20, 10] and trouser[20, 14] < trouser[20, 18]  # a gap between two legs
    assert sneaker[6].mean() < 10 < boot[6].mean()  # only the boot has a shaft


def test_the_sample_is_small_and_names_its_licence():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 3_000_000
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "MIT" in text and "Zalando SE" in text


def test_a_sample_is_made_of_the_first_images_of_each_class(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(10), 600)).astype(np.int64)
    images = rng.integers(0, 256, (6000, 28, 28, 1), dtype=np.uint8)
    write_sample(tmp_path, "train", images, labels)
    made = from_mosaic(np.asarray(Image.open(tmp_path / "train.png")))
    for k in range(10):
        assert (made[k::10] == images[labels == k][:500]).all()


def test_a_mosaic_has_a_class_a_column():
    images = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.ones((1, 28, 28, 1), dtype=np.uint8)
    mosaic = to_mosaic(images)
    assert mosaic.shape == (56, 280) and (mosaic[28:, 28:56] == 11).all()
    assert (from_mosaic(mosaic) == images).all()


# split_validation


@pytest.mark.parametrize(
    "size, expected",
    [(50, [25, 15, 10]), (0.1, [5, 3, 2]), (np.int64(7), [4, 2, 1]), (1, [1, 0, 0]), (99, [49, 30, 20])],
)
def test_each_class_gives_its_share_and_the_total_is_exact(size, expected):
    data = make([50, 30, 20])
    train, validation = split_validation(data, size)
    assert validation.counts().tolist() == expected
    both = np.concatenate([numbers(train), numbers(validation)])
    assert sorted(both) == list(range(100))
    for part in (train, validation):
        assert (np.diff(numbers(part).astype(np.int64)) > 0).all()  # the order of the data
        assert (part.labels == data.labels[numbers(part)]).all()


def test_an_image_of_each_class_stays_in_train_while_there_is_room():
    train, validation = split_validation(make([2, 2, 96]), 97)
    assert train.counts().tolist() == [1, 1, 1] and validation.counts().tolist() == [1, 1, 95]


def test_the_seed_decides_the_split():
    data = make([50, 50])
    first, again, other = (numbers(split_validation(data, 20, seed)[1]).tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_a_single_class_and_an_empty_one_can_be_split():
    train, validation = split_validation(make([10]), 3)
    assert (len(train), len(validation)) == (7, 3)
    assert split_validation(make([10, 0]), 0.5)[1].counts().tolist() == [5, 0]


@pytest.mark.parametrize(
    "size, message",
    [
        (10, "asks for 10 of the 10 images of made"),
        (11, "asks for 11"),
        (0, "asks for 0"),
        (-1, "asks for -1"),
        (0.01, "size=0.01 asks for 0"),
        (1.0, "not 1.0"),
        (0.0, "not 0.0"),
        (5.0, "not 5.0"),
        (True, "not True"),
        ("5", "not '5'"),
        (None, "not None"),
    ],
)
def test_a_size_out_of_range_is_refused(size, message):
    with pytest.raises(ValueError, match=message):
        split_validation(make([5, 5]), size)


def test_a_class_with_a_single_image_is_named():
    with pytest.raises(ValueError, match="made: class 'b' has a single image"):
        split_validation(make([5, 1, 4]), 2)


# channel_statistics


def test_statistics_are_those_of_numpy_in_float64():
    rng = np.random.default_rng(0)
    images = rng.integers(0, [[[[40, 200, 256]]]], (2345, 5, 4, 3), dtype=np.uint8)
    mean, std = channel_statistics(images)
    scaled = images.astype(np.float64) / 255
    assert mean.dtype == std.dtype == np.float64 and mean.shape == std.shape == (3,)
    np.testing.assert_allclose(mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-11)  # that of numpy's own sums
    np.testing.assert_allclose(std, scaled.std(axis=(0, 1, 2)), rtol=1e-11)


def test_statistics_of_a_flat_grey_are_exact():
    mean, std = channel_statistics(np.full((3, 7, 7, 1), 51, dtype=np.uint8))
    assert mean.tolist() == [0.2] and std.tolist() == [0.0]


@pytest.mark.parametrize(
    "images", [np.zeros((2, 2, 2, 1)), np.zeros((2, 2, 2), np.uint8), np.zeros((0, 2, 2, 1), np.uint8)]
)
def test_statistics_refuse_other_arrays(images):
    with pytest.raises(ValueError, match=r"uint8 of shape \(N, H, W, C\) and not empty, not"):
        channel_statistics(images)
