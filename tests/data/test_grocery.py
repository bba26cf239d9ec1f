"""Photographs by name: loaded at any size, with fine and coarse labels, from the cache or from the sample."""

import os
from pathlib import Path

from d2lcls.data import (
    DATASETS,
    Batches,
    Images,
    LazyImages,
    class_groups,
    fetch,
    is_sample,
    load,
    open_split,
    read_image,
)
from d2lcls.data.download.cache import DataUnavailable
from d2lcls.data.download.sample import FOLDER, GROCERY_SAMPLE, grocery_classes, write_grocery_sample
from d2lcls.data.formats.records import open_records
from d2lcls.machine.files import cache_folder

import numpy as np
import pytest

GROCERY = os.environ.get("D2LCLS_GROCERY", "")  # a folder with the files of the data set
needs_data = pytest.mark.skipif(not GROCERY, reason="D2LCLS_GROCERY names no folder with the files of Grocery Store")
dataset = DATASETS["grocery"]


@pytest.fixture(autouse=True)
def offline(own_cache, monkeypatch):
    monkeypatch.setenv("D2LCLS_OFFLINE", "1")


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache that holds the data set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("D2LCLS_HOME", str(tmp_path_factory.mktemp("cache")))
        fetch("grocery", origin=GROCERY)
        return cache_folder()


def listed(split):
    """(path, fine, coarse) of each photograph, from the data set's own lists."""
    rows = [line.split(", ") for line in Path(GROCERY, f"{split}.txt").read_text().splitlines()]
    return [(path, int(fine), int(coarse)) for path, fine, coarse in rows]


# The description


def test_the_description_has_the_published_numbers():
    assert len(dataset.classes) == len(set(dataset.classes)) == len(dataset.groups) == 81
    assert len(set(dataset.groups)) == 43
    assert dataset.splits == {"train": 2640, "val": 296, "test": 2485}
    assert "MIT" in dataset.licence and "WACV" in dataset.citation


def test_the_list_agrees_with_the_description():
    for split, number in dataset.splits.items():
        folders = [Path(file.name).parent for file in dataset.files if file.split == split]
        assert len(folders) == number and {folder.name for folder in folders} <= set(dataset.classes)
        assert all(folder.parts[0] == split for folder in folders)
    assert [file.name for file in dataset.files if not file.split] == ["train.txt", "val.txt", "test.txt", "LICENSE"]


def test_the_numbers_of_classes_and_groups_are_those_of_the_lists():
    assert [dataset.classes[k] for k in (0, 9, 32, 45, 80)] == [
        "Golden-Delicious",
        "Lime",
        "God-Morgon-Orange-Red-Grapefruit-Juice",
        "Oatly-Oat-Milk",
        "Zucchini",
    ]
    names = tuple(dict.fromkeys(dataset.groups))
    assert [names.index(dataset.groups[k]) for k in (0, 9, 32, 45, 80)] == [0, 5, 19, 22, 42]


# The whole data set


@needs_data
@pytest.mark.parametrize("split", dataset.splits)
def test_labels_are_those_of_the_lists(filled, monkeypatch, split):
    monkeypatch.setenv("D2LCLS_HOME", str(filled))
    data, rows = open_split("grocery", split, size=64), listed(split)
    assert isinstance(data, LazyImages) and data.images.shape == (dataset.splits[split], 64, 64, 3)
    assert data.labels.tolist() == [fine for _, fine, _ in rows] and not is_sample(data)
    names, of = class_groups(data)
    assert of[data.labels].tolist() == [coarse for _, _, coarse in rows] and len(names) == 43
    for number in (0, len(rows) // 2, len(rows) - 1):
        expected = read_image(Path(GROCERY, rows[number][0]), 64)
        np.testing.assert_array_equal(data.images[number], expected)


@needs_data
def test_loaded_photographs_are_those_that_are_opened(filled, monkeypatch):
    monkeypatch.setenv("D2LCLS_HOME", str(filled))
    loaded, opened = load("grocery", "val", size=(40, 32)), open_split("grocery", "val", size=(40, 32))
    assert isinstance(loaded, Images) and loaded.classes == dataset.classes and loaded.name == "grocery"
    np.testing.assert_array_equal(loaded.images, opened.images[:])
    assert open_split("grocery").images.shape == (2640, 224, 224, 3)
    x, y = next(iter(Batches(opened, 4)))
    assert x.shape == (4, 3, 40, 32) and y.tolist() == loaded.labels[:4].tolist()


@needs_data
def test_a_damaged_photograph_is_named_when_it_is_read(filled, monkeypatch):
    monkeypatch.setenv("D2LCLS_HOME", str(filled))
    path = filled / "grocery" / dataset.files[3].name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    try:
        data = open_split("grocery", size=32)
        assert data.images[:3].shape == (3, 32, 32, 3)
        with pytest.raises(OSError, match=f"{path.name} is damaged: .*`d2lcls data get grocery --force`"):
            data.images[:4]
    finally:
        path.write_bytes(content)


@needs_data
def test_the_sample_is_made_of_the_data_set(tmp_path):
    write_grocery_sample(GROCERY, tmp_path)
    for split in dataset.splits:
        made, stored = open_records(tmp_path / split, 128), open_records(FOLDER / "grocery" / split, 128)
        assert made.classes == stored.classes and made.labels.tolist() == stored.labels.tolist()
        for number in range(0, len(made), 40):  # another version of Pillow may round otherwise
            difference = made.images[number].astype(int) - stored.images[number]
            assert abs(difference).mean() < 2


# The sample


@pytest.mark.parametrize("split, number", [("train", 347), ("val", 51), ("test", 172)])
def test_without_any_source_the_sample_stands_in_and_one_line_says_so(capsys, split, number):
    data = load("grocery", split, size=96)
    output = capsys.readouterr()
    assert output.out == (
        f"Grocery Store cannot be reached: a sample of ten of its classes ({number} {split} images) stands in. "
        "For the real data: `d2lcls data get grocery`.\n"
    )
    assert is_sample(data) and is_sample(data.subset(np.arange(3))) and data.name == GROCERY_SAMPLE
    assert data.images.shape == (number, 96, 96, 3) and (data.counts() > 0).all()


def test_the_sample_has_classes_and_groups_of_the_data_set():
    data = open_split("grocery", "val")
    assert isinstance(data, LazyImages) and data.images.shape == (51, 224, 224, 3) and is_sample(data)
    assert sorted(data.classes) == sorted(grocery_classes()) and len(data.classes) == 10
    names, of = class_groups(data)
    assert sorted(names) == ["Apple", "Juice", "Melon", "Milk", "Soyghurt"]
    assert np.bincount(of).tolist() == [2] * 5
    assert {names[of[label]] for label, name in enumerate(data.classes) if name.startswith("Arla")} == {"Milk"}


def test_the_sample_shows_what_its_labels_say():
    data = load("grocery", "train", size=64)
    centres = data.images[:, 24:40, 24:40].astype(int).mean(axis=(1, 2))  # (N, 3)
    green, yellow = (
        centres[data.labels == data.classes.index(name)].mean(axis=0) for name in ("Granny-Smith", "Golden-Delicious")
    )
    assert green[1] > green[0] > green[2] and yellow[0] - yellow[1] > green[0] - green[1]


def test_whoever_wants_no_sample_gets_the_reasons(capsys):
    with pytest.raises(
        DataUnavailable, match=r"--from FOLDER` with a folder that holds train/, val/, test/, train\.txt"
    ):
        open_split("grocery", fallback=False)
    assert capsys.readouterr().out == ""


def test_the_sample_is_small_and_names_its_licence():
    files = list((FOLDER / "grocery").iterdir())
    assert sum(path.stat().st_size for path in files) < 3_000_000 and len(files) == 10
    text = (FOLDER / "grocery" / "README.md").read_text(encoding="utf-8")
    assert "MIT License" in text and "Marcus Klasson" in text and dataset.revision in text


def test_splits_that_there_are_not_are_refused():
    with pytest.raises(ValueError, match="Grocery Store has no split 'valid', only train and val and test"):
        load("grocery", "valid")


def test_sets_without_groups_are_refused():
    with pytest.raises(
        ValueError, match=r"the class 'T-shirt/top' belongs to no group. Data sets with groups: grocery\."
    ):
        class_groups(load("fashion_mnist", "test"))
