import unicodedata

from d2lcls.data import BrokenImage, has_split, load, open_list, open_split

import numpy as np
import pytest
from PIL import Image


def save(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((10, 12, 3), value, dtype=np.uint8)).save(path)


@pytest.fixture
def flat(tmp_path):
    """Two classes of ten pictures, without folders for training and testing."""
    for number in range(20):
        save(tmp_path / "flat" / ("ant", "bee")[number % 2] / f"{number:02d}.png", 10 * number)
    return tmp_path / "flat"


def values(opened):
    return opened.images[:][:, 0, 0, 0].tolist()


def test_a_folder_that_is_not_divided_is_divided_the_same_way_every_time(flat, capsys):
    train, test = open_split(flat, "train", size=8), open_split(flat, "test", size=8)
    assert "4 of its 20 images, the same ones every time, are for testing" in capsys.readouterr().out
    assert test.counts().tolist() == [2, 2] and train.counts().tolist() == [8, 8]
    assert sorted(values(train) + values(test)) == [10 * number for number in range(20)]
    assert values(open_split(flat, "test", size=8)) == values(test)
    assert has_split(flat, "train") and has_split(flat, "test") and not has_split(flat, "val")
    with pytest.raises(FileNotFoundError, match="has no val images"):
        open_split(flat, "val")


def test_val_takes_the_place_of_a_missing_test_folder(tmp_path):
    for split in ("train", "val"):
        save(tmp_path / split / "ant" / f"{split}.png", 100)
    assert len(load(tmp_path, "test")) == 1 and not has_split(tmp_path, "val")
    save(tmp_path / "test" / "ant" / "1.png", 200)
    assert has_split(tmp_path, "val") and values(open_split(tmp_path, "val")) == [100]
    assert values(open_split(tmp_path, "test")) == [200]


def test_a_folder_with_test_images_only_is_divided(tmp_path, capsys):
    for name in ("ant", "bee"):
        save(tmp_path / "test" / name / "1.png")
    test = open_split(tmp_path, "test", size=8)
    assert test.classes == ("ant", "bee") and len(test) == 2 and capsys.readouterr().out == ""
    assert has_split(tmp_path, "test") and not has_split(tmp_path, "train") and not has_split(tmp_path, "val")
    with pytest.raises(FileNotFoundError, match="has no train images. Expected .*/train/CLASS"):
        open_split(tmp_path, "train")


def test_a_class_may_be_called_train_and_pictures_beside_classes_are_refused(tmp_path):
    for name in ("bus", "train"):
        for number in range(5):
            save(tmp_path / "vehicles" / name / f"{number}.png")
    assert open_split(tmp_path / "vehicles", "train", size=8).classes == ("bus", "train")
    save(tmp_path / "unsorted" / "train" / "1.png")
    save(tmp_path / "unsorted" / "test" / "1.png")
    with pytest.raises(ValueError, match="unsorted/train: holds no subfolder. Expected one subfolder for each class"):
        open_split(tmp_path / "unsorted", "train")


def test_labels_are_those_of_the_training_images(tmp_path):
    for split, classes in (("train", ("ant", "bee", "wasp")), ("test", ("ant", "wasp"))):
        for name in classes:
            save(tmp_path / split / name / "1.png")
    test = open_split(tmp_path, "test")
    assert test.classes == ("ant", "bee", "wasp") and test.labels.tolist() == [0, 2]
    (tmp_path / "test" / "ant").rename(tmp_path / "test" / "Ant")
    with pytest.raises(ValueError, match="test: 'Ant' is not one of the classes. Did you mean 'ant'?"):
        open_split(tmp_path, "test")
    (tmp_path / "test" / "Ant").rename(tmp_path / "test" / "zebra")
    with pytest.raises(ValueError, match="'zebra' is not one of the classes. They are 'ant', 'bee', 'wasp'"):
        open_split(tmp_path, "test")


def test_a_list_names_paths_classes_and_splits(flat):
    decomposed = unicodedata.normalize("NFD", "caf\u00e9")
    file = flat / "list.csv"
    file.write_text(f"path,class,split\nant/00.png,{decomposed},train\nbee/01.png,bee,train\nbee/03.png,bee,test\n")
    train, test = open_split(file, "train", size=8), open_split(file, "test", size=8)
    assert train.classes == test.classes == ("bee", unicodedata.normalize("NFC", decomposed))
    assert train.labels.tolist() == [1, 0] and values(train) == [0, 10] and values(test) == [30]
    assert open_list(file, size=8).counts().tolist() == [2, 1]
    with pytest.raises(FileNotFoundError, match="list.csv: has no val images"):
        open_split(file, "val")


@pytest.mark.parametrize(
    "text, reason",
    [
        ("ant/00.png\n", "line 1: expected PATH,CLASS or PATH,CLASS,SPLIT.*not 'ant/00.png'"),
        ("ant/00.png,ant,train\nbee/01.png,bee,dev\n", "line 2: expected .*train, val, test, not 'bee/01.png,bee,dev'"),
        ("ant/00.png,ant,train\nbee/01.png,bee\n", "some lines have a split and others have none"),
        ("path,label\n", "lists no picture"),
    ],
)
def test_what_is_no_list_of_pictures(flat, text, reason):
    (flat / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=reason):
        open_list(flat / "list.csv")


def test_a_list_that_is_not_utf8(flat):
    (flat / "list.csv").write_bytes(b"ant/00.png,caf\xe9\n")
    with pytest.raises(ValueError, match="expected a CSV file in UTF-8"):
        open_list(flat / "list.csv")


def test_a_file_that_was_cut_short_is_found_before_it_is_needed(flat, capsys):
    path = flat / "ant" / "02.jpg"
    Image.effect_noise((300, 200), 50).convert("RGB").save(path)
    whole = open_split(flat).checked()
    assert len(whole) == 17
    path.write_bytes(path.read_bytes()[:2000])
    opened = open_split(flat, "train", size=8)
    with pytest.raises(BrokenImage, match="ant/02.jpg: cannot be read as an image"):
        opened.checked()
    assert len(opened.checked(skip_broken=True)) == len(opened) - 1
    assert f"skipped 1 of {len(opened)} files" in capsys.readouterr().out


def test_what_a_camera_appends_to_a_jpeg_does_no_harm(flat):
    path = flat / "ant" / "02.jpg"
    Image.effect_noise((300, 200), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes() + b"SEFT" + bytes(20))
    open_split(flat).checked()
