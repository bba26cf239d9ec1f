import unicodedata
from pathlib import Path

from d2lcls.data import BrokenImage, list_folder, load, load_folder, open_split, read_image

import numpy as np
import pytest
from PIL import Image


def save(path, value=0, size=(10, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, dtype=np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path):
    """Three classes of 2, 1 and 3 pictures, each of one colour, its value counting up in the order expected."""
    root = tmp_path / "photos"
    names = ["ant/1.png", "ant/2.jpg", "bee/1.png", "wasp/1.png", "wasp/more/2.png", "wasp/z.png"]
    for place in np.random.default_rng(0).permutation(len(names)):
        save(root / names[place], 20 * place)
    return root


def test_classes_and_files_are_in_alphabetical_order(photos):
    paths, labels, classes = list_folder(photos)
    assert classes == ("ant", "bee", "wasp")
    assert [Path(path).relative_to(photos).as_posix() for path in paths] == [
        "ant/1.png",
        "ant/2.jpg",
        "bee/1.png",
        "wasp/1.png",
        "wasp/more/2.png",
        "wasp/z.png",
    ]
    assert labels.dtype == np.int64 and labels.tolist() == [0, 0, 1, 2, 2, 2]


def test_what_is_hidden_is_passed_over(photos):
    for name in (
        ".DS_Store",
        "ant/.DS_Store",
        "ant/._1.png",
        "ant/Thumbs.db",
        "bee/desktop.ini",
        "ant/.ipynb_checkpoints/1.png",
        ".git/config",
        "__MACOSX/1.png",
        "loose.png",
    ):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"nothing")
    assert len(load_folder(photos)) == 6


def test_names_that_begin_with_an_underscore_are_not_hidden(photos):
    (photos / "bee").rename(photos / "_unknown_")
    assert list_folder(photos)[2] == ("_unknown_", "ant", "wasp")


def test_a_class_is_named_in_composed_unicode(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    assert composed != decomposed
    for split, name in (("train", composed), ("test", decomposed)):
        save(tmp_path / split / "ape" / "1.png")
        save(tmp_path / split / name / "1.png")
    for split in ("train", "test"):
        opened = open_split(tmp_path, split)
        assert opened.classes == ("ape", composed) and opened.labels.tolist() == [0, 1]


def test_a_hidden_folder_above_the_root_hides_nothing(tmp_path):
    save(tmp_path / ".cache" / "photos" / "ant" / "1.png")
    assert len(load_folder(tmp_path / ".cache" / "photos")) == 1


def test_pictures_are_loaded(photos):
    data = load_folder(photos, 8)
    assert data.images.shape == (6, 8, 8, 3) and data.name == "photos" and data.classes == ("ant", "bee", "wasp")
    assert abs(data.images[:, 4, 4, 0].astype(int) - np.arange(0, 120, 20)).max() <= 2  # one is a JPEG
    assert data.labels.tolist() == [0, 0, 1, 2, 2, 2]


def test_size_and_interpolation_are_those_of_read_image(photos):
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(photos / "bee" / "1.png")
    for size, interpolation in ((9, "bilinear"), ((7, 11), "bicubic"), ((7, 11), "nearest")):
        np.testing.assert_array_equal(
            load_folder(photos, size, interpolation=interpolation).images[2],
            read_image(photos / "bee" / "1.png", size, interpolation),
        )


def test_the_name_is_the_folders_own(photos, monkeypatch):
    monkeypatch.chdir(photos)
    assert load_folder(".").name == "photos"


def test_a_single_class_is_enough(tmp_path):
    save(tmp_path / "only" / "1.png")
    data = load_folder(tmp_path)
    assert data.classes == ("only",) and data.labels.tolist() == [0]


def test_load_takes_the_split_from_a_folder(photos, tmp_path):
    photos.rename(tmp_path / "train")
    save(tmp_path / "test" / "ant" / "1.png")
    assert len(load(str(tmp_path), "train", size=6)) == 6
    assert load(tmp_path, "test").images.shape == (1, 32, 32, 3)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder.*train/CLASS.*cifar10"):
        load(tmp_path / "nowhere")


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder.*one subfolder for each class.*cats/1.jpg"):
        list_folder(tmp_path / "nowhere")


def test_a_root_without_subfolders_is_named(tmp_path):
    save(tmp_path / "1.png")
    with pytest.raises(ValueError, match="holds no subfolder. Expected one subfolder for each class"):
        list_folder(tmp_path)


def test_an_empty_class_is_named(photos):
    (photos / "empty").mkdir()
    (photos / "empty" / ".DS_Store").touch()
    with pytest.raises(ValueError, match="the class 'empty' holds no picture. Add some or remove the folder"):
        load_folder(photos)


def test_a_broken_file_stops_or_is_skipped(photos, capsys):
    (photos / "ant" / "2.jpg").write_bytes(b"no picture")
    (photos / "wasp" / "1.png").write_bytes((photos / "wasp" / "1.png").read_bytes()[:40])
    with pytest.raises(BrokenImage, match=r"ant/2\.jpg: cannot be read"):
        load_folder(photos)
    assert capsys.readouterr().out == ""
    data = load_folder(photos, 8, on_broken="skip")
    assert data.labels.tolist() == [0, 1, 2, 2]
    assert data.images[:, 4, 4, 0].tolist() == [0, 40, 80, 100]
    out = capsys.readouterr().out
    assert "skipped 2 of 6 files" in out and "ant/2.jpg" in out and out.count("\n") == 1


def test_whole_folders_print_nothing(photos, capsys):
    load_folder(photos, on_broken="skip")
    assert capsys.readouterr().out == ""


def test_a_file_that_is_no_picture_is_noticed(photos):
    (photos / "bee" / "notes.txt").write_text("two bees")
    with pytest.raises(BrokenImage, match=r"notes\.txt: the suffix '\.txt' is not that of an image. Remove the file"):
        load_folder(photos)
    assert len(load_folder(photos, on_broken="skip")) == 6


def test_a_class_of_which_nothing_can_be_read_is_named(photos):
    (photos / "bee" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match="photos: not one readable picture of the class 'bee'"):
        load_folder(photos, on_broken="skip")


def test_bad_arguments(photos):
    with pytest.raises(ValueError, match="on_broken must be 'raise' or 'skip', not 'ignore'"):
        load_folder(photos, on_broken="ignore")
    with pytest.raises(ValueError, match="size must be a number of pixels"):
        load_folder(photos, size=0)
    with pytest.raises(ValueError, match="interpolation must be one of"):
        load_folder(photos, interpolation="cubic")
