import os
import threading

from d2lcls.data import (
    Batches,
    BrokenImage,
    LazyImages,
    flip,
    load_folder,
    open_folder,
    open_records,
    pad_crop,
    random_resized_crop,
    read_records,
    write_records,
)
from d2lcls.models import SmallCNN
from d2lcls.training import fit
from d2lcls.training.recipe import Recipe

import mxnet as mx
import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photos(tmp_path):
    """Two classes of 12 JPEGs, each of a size of its own; bees are dark."""
    root, rng = tmp_path / "photos", np.random.default_rng(0)
    for number in range(24):
        path = root / ("bee", "ant")[number % 2] / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 120, (5, 4, 3), dtype=np.uint8) + np.uint8(100 * (number % 2))
        Image.fromarray(coarse).resize((60 + 9 * number, 70 + 5 * number), Image.Resampling.BICUBIC).save(path)
    return root


@pytest.mark.parametrize("draft", [False, True])
def test_opened_pictures_are_those_that_are_loaded(photos, tmp_path, draft):
    write_records(photos, tmp_path / "packed")
    loaded = load_folder(photos, (20, 24), draft=draft)
    for opened in (
        open_folder(photos, (20, 24), draft=draft),
        open_records(tmp_path / "packed", (20, 24), draft=draft),
    ):
        assert isinstance(opened, LazyImages) and opened.images.shape == (24, 20, 24, 3)
        assert opened.classes == loaded.classes == ("ant", "bee")
        np.testing.assert_array_equal(opened.images[:], loaded.images)
        np.testing.assert_array_equal(opened.labels, loaded.labels)
        np.testing.assert_array_equal(opened.subset(opened.labels == 1).images[[3, 0]], loaded.images[12:][[3, 0]])
    np.testing.assert_array_equal(read_records(tmp_path / "packed.rec", (20, 24), draft=draft).images, loaded.images)


def test_the_number_of_threads_changes_no_batch(photos, monkeypatch):
    seen, used = {}, {}
    for cores in (1, 2, 8):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        opened, threads = open_folder(photos, 16), set()
        inner = opened.images.read
        opened.images.read = lambda *arguments: threads.add(threading.get_ident()) or inner(*arguments)
        batches = Batches(opened, 7, shuffle=True, augment=(pad_crop(2), flip()), seed=4)
        seen[cores], used[cores] = list(batches.epoch(3)), threads
    assert used[1] and threading.get_ident() not in used[8]
    for cores in (2, 8):
        for (x, y), (x1, y1) in zip(seen[cores], seen[1]):
            np.testing.assert_array_equal(x, x1)
            np.testing.assert_array_equal(y, y1)


def test_pictures_to_be_cropped_are_decoded_larger(photos):
    opened, transform = open_folder(photos, 28, draft=True), random_resized_crop(size=28)
    batches = Batches(opened, 24, augment=[transform, flip()], decode=32, seed=3)
    rng = np.random.default_rng([3, 2, 0])  # of epoch 2 and batch 0
    larger = transform(load_folder(photos, 32, draft=True).images, rng)
    np.testing.assert_array_equal(batches.denormalise(next(batches.epoch(2))[0]), flip()(larger, rng))
    np.testing.assert_array_equal(batches.denormalise(batches.example()), opened.images[:1])  # the centre
    assert batches.data is opened


def test_what_does_not_go_with_decode(photos):
    with pytest.raises(ValueError, match="decode is for pictures that are decoded when needed"):
        Batches(load_folder(photos, 28), decode=32)
    with pytest.raises(ValueError, match=r"images of \(32, 32\) pixels, not \(28, 28\).*needs random_resized_crop"):
        next(Batches(open_folder(photos, 28), augment=[flip()], decode=32).epoch(0))


def test_training_from_disk_is_training_from_memory(photos):
    def train(data):
        net = SmallCNN(2, (4, 8))
        net.initialize(mx.init.MSRAPrelu(slope=0))
        batches = Batches(data, 6, shuffle=True, augment=(flip(),), seed=1)
        return [record.train_loss for record in fit(net, batches, recipe=Recipe(num_epochs=2, lr=0.01), on_epoch=None)]

    assert train(open_folder(photos, 16)) == train(load_folder(photos, 16))


def test_nothing_is_read_before_it_is_asked_for(photos):
    opened = open_folder(photos, 16)
    path = sorted((photos / "ant").iterdir())[2]
    path.write_bytes(b"no picture")
    (photos / "bee" / "notes.txt").write_text("two bees")
    assert opened.images[:2].shape == (2, 16, 16, 3)
    with pytest.raises(BrokenImage, match=f"ant/{path.name}: cannot be read"):
        opened.images[:]
    with pytest.raises(BrokenImage, match=r"notes\.txt: the suffix '\.txt'"):
        open_folder(photos, 16).images[-1]


def test_the_first_of_several_broken_files_is_named(photos, capsys):
    paths = sorted((photos / "ant").iterdir())
    for path in (paths[9], paths[3], paths[7]):
        path.write_bytes(b"no picture")
    for _ in range(5):
        with pytest.raises(BrokenImage, match=f"ant/{paths[3].name}: cannot be read"):
            load_folder(photos, 16)
    assert len(load_folder(photos, 16, on_broken="skip")) == 21
    out = capsys.readouterr().out
    assert "skipped 3 of 24 files" in out and paths[3].name in out and paths[7].name not in out


def test_bad_arguments_are_noticed_at_once(photos):
    with pytest.raises(ValueError, match="size must be a number of pixels"):
        open_folder(photos, 0)
    with pytest.raises(ValueError, match="interpolation must be one of"):
        open_folder(photos, interpolation="cubic")


def test_classes_called_by_numbers_are_found_by_name(tmp_path):
    """Sorted as words, "10" comes before "2"."""
    for split, names in {"train": ("0", "1", "2", "10"), "test": ("0", "1", "2")}.items():
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (9, 9)).save(tmp_path / split / name / "a.png")
    train, test = (open_folder(tmp_path / split, 8) for split in ("train", "test"))
    assert train.classes == ("0", "1", "10", "2")
    same = test.with_classes(train.classes)
    assert [train.classes[label] for label in same.labels] == ["0", "1", "2"]
