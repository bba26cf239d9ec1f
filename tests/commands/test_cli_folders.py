"""Pictures of one's own on the command line: the cache, broken files, a folder for validation, and lists."""

import json
import re
import shutil

from d2lcls.data import write_records

import numpy as np
import pytest
from test_cli import TINY, call, fails, nothing_outside, photos, process  # noqa: F401  two of them are fixtures


@pytest.fixture
def own(photos, tmp_path):
    """The folder of photos, to be changed."""
    return shutil.copytree(photos, tmp_path / "own")


def train(capsys, dataset, *arguments, epochs=1):
    """Train into the folder run; return what was printed."""
    code, out, err = call(capsys, "train", "--dataset", dataset, "--epochs", epochs, "--out", "run", *TINY, *arguments)
    assert (code, err) == (0, "")
    return out


def results(printed):
    """The lines of the epochs, without their speed."""
    return re.findall(r"^(epoch .*%)  [\d,.]+ images/s", printed, re.MULTILINE)


def images_scored(capsys, *arguments):
    code, out, err = call(capsys, "evaluate", "run", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)["images"]


# the cache


def test_a_cache_changes_no_number_and_leaves_nothing_behind(capsys, own, tmp_path):
    without = results(train(capsys, own, epochs=2))
    shutil.rmtree("run")
    assert results(train(capsys, own, "--cache", epochs=2)) == without and len(without) == 2
    assert {file.name for file in (tmp_path / "run").iterdir()} == {"run.json", "network.json", "last.npz", "best.npz"}


@pytest.mark.parametrize("cache", [[], ["--cache"]], ids=["without", "with"])
def test_with_a_cache_the_pictures_are_read_in_the_first_epoch_only(own, tmp_path, cache):
    arguments = ["--dataset", own, "--epochs", 200, "--patience", 30, "--out", "run", *TINY, *cache]
    child = process("train", *arguments, cwd=tmp_path)
    for line in child.stdout:
        if line.startswith("epoch   1"):
            break
    for picture in (own / "train").glob("*/*"):
        picture.unlink()
    out, err = child.communicate(timeout=120)
    if cache:
        assert (child.returncode, err) == (0, "") and "Done." in out
    else:
        assert child.returncode == 1 and re.search(r"own/train/.*png: No such file", err), err
    assert not list((tmp_path / "run").glob("*.decoded"))


def test_photographs_to_be_cropped_are_decoded_larger_and_scored_as_they_are(capsys, own, tmp_path):
    """64 pixels are enough for random crops; the pictures for training are then decoded at 73, the others at 64."""
    crop = ["--size", 64, "--augment", "standard"]
    without = results(train(capsys, own, *crop))
    described = json.loads((tmp_path / "run" / "run.json").read_text())
    assert described["image_shape"] == [64, 64, 3] and described["size"] is None
    assert described["recipe"]["augment"] == ["random_resized_crop:0.35", "flip"]
    assert json.loads(str(np.load(tmp_path / "run" / "last.npz")["progress"]))["recipe"]["decoded_size"] == [73, 73]
    assert images_scored(capsys, "--split", "train") == 32 and images_scored(capsys) == 12
    assert results(train(capsys, own, *crop, "--cache", "--out", "second")) == without


# broken files


def break_two(folder):
    """Cut a picture short and put a text beside the others."""
    picture = folder / "red" / "3.png"
    picture.write_bytes(picture.read_bytes()[:60])
    (folder / "green" / "notes.txt").write_text("all pictures are by me")


def test_broken_pictures_are_named_or_skipped(capsys, own):
    break_two(own / "train")
    line = fails(capsys, "train", "--dataset", own, "--out", "run", *TINY)
    assert "green/notes.txt: the suffix '.txt' is not that of an image. Remove the file. Or leave out" in line
    (own / "train" / "green" / "notes.txt").unlink()
    line = fails(capsys, "train", "--dataset", own, "--out", "run", *TINY)
    assert "red/3.png: cannot be read as an image" in line and "leave out such files with --skip-broken" in line
    (own / "train" / "green" / "notes.txt").write_text("again")
    out = train(capsys, own, "--skip-broken")
    assert "train: skipped 2 of 37 files; the first: " in out and "31 training images, 4 for validation" in out
    assert images_scored(capsys, "--split", "train") == 31 and images_scored(capsys) == 12
    assert len(results(train(capsys, own, "--skip-broken", "--resume"))) == 0  # it is the same run, and finished


def test_broken_test_pictures_are_skipped_as_in_training(capsys, own):
    break_two(own / "test")
    train(capsys, own)
    assert "green/notes.txt: the suffix '.txt'" in fails(capsys, "evaluate", "run")
    assert images_scored(capsys, "--skip-broken") == 11
    shutil.rmtree("run")
    train(capsys, own, "--skip-broken")
    code, out, err = call(capsys, "evaluate", "run", "--json")
    assert code == 0 and json.loads(out)["images"] == 11  # and what is announced goes elsewhere:
    assert err.startswith("test: skipped 2 of 13 files; the first: ") and err.count("\n") == 1


def test_a_class_of_broken_pictures_only_is_refused(capsys, own):
    for picture in (own / "train" / "blue").iterdir():
        picture.write_bytes(b"")
    line = fails(capsys, "train", "--dataset", own, "--out", "run", "--skip-broken", *TINY)
    assert "not one readable picture of the class 'blue'" in line


def test_broken_records_are_named_or_skipped(capsys, own, tmp_path):
    write_records(own / "train", "train")
    broken = (own / "train" / "red" / "3.png").read_bytes()
    content = (tmp_path / "train.rec").read_bytes()
    assert content.count(broken) == 1
    (tmp_path / "train.rec").write_bytes(content.replace(broken, broken[:60] + bytes(len(broken) - 60)))
    line = fails(capsys, "train", "--dataset", "train.rec", "--out", "run", *TINY)
    assert re.search(r"train\.rec: record \d+: <bytes>: cannot be read as an image", line)
    out = train(capsys, "train.rec", "--skip-broken", "--validation", 0.25)
    assert "train: skipped 1 of 36 files; the first: " in out and "26 training images, 9 for validation" in out
    write_records(own / "test", "test")
    assert images_scored(capsys, "--dataset", "test.rec") == 12


# images for validation


def test_validation_images_of_another_folder(capsys, own):
    assert "36 training images, 12 for validation, 3 classes" in train(capsys, own, "--validation-folder", own / "test")
    assert images_scored(capsys, "--split", "validation") == 12
    assert images_scored(capsys, "--split", "train") == 36
    (own / "test" / "red").rename(own / "test" / "rad")
    line = fails(capsys, "evaluate", "run", "--split", "validation")
    assert "test: 'rad' is not one of the classes. Did you mean 'red'?" in line
    line = fails(capsys, "train", "--dataset", own, "--validation-folder", "gone", "--out", "other", *TINY)
    assert "gone: no such folder. Expected one subfolder for each class" in line
    code, _, err = call(capsys, "train", "--dataset", own, "--validation-folder", own, "--validation", 0.1)
    assert code == 2 and "--validation-folder takes the place of validation: give only one of them" in err


# lists


def write_list(own, file, splits):
    """List the pictures of a folder, relative to the list's own place; `splits` maps folders to names or to None."""
    rows = []
    for folder, split in splits.items():
        for picture in sorted((own / folder).glob("*/*")):
            rows.append([str(picture.relative_to(file.parent)), picture.parent.name, *([split] if split else [])])
    file.write_text("".join(",".join(row) + "\n" for row in rows))


def test_a_list_with_splits(capsys, own, tmp_path, monkeypatch):
    write_list(own, own / "list.csv", {"train": "train", "test": "test"})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # paths are relative to the list
    assert "32 training images, 4 for validation, 3 classes" in train(capsys, own / "list.csv", "--cache")
    assert images_scored(capsys) == 12 and images_scored(capsys, "--split", "validation") == 4
    write_list(own, own / "val.csv", {"train": "train", "test": "val"})
    assert "36 training images, 12 for validation" in train(capsys, own / "val.csv", "--out", "second")
    assert "val.csv: has no test images. Give some of its lines the split test." in fails(capsys, "evaluate", "second")
    assert images_scored(capsys, "--dataset", own) == 12  # of the first run


def test_a_list_without_splits_is_divided(capsys, own, tmp_path):
    write_list(own, own / "list.csv", {"train": None})
    out = train(capsys, own / "list.csv")
    assert "list is not divided into training and test images: 7 of its 36 images" in out
    assert "26 training images, 3 for validation, 3 classes" in out
    assert images_scored(capsys) == 7


def test_a_list_names_what_is_wrong_with_it(capsys, own):
    write_list(own, own / "list.csv", {"train": "train", "test": "test"})
    text = (own / "list.csv").read_text()
    (own / "list.csv").write_text(text + "train/red/0.png;red;train\n")
    line = fails(capsys, "train", "--dataset", own / "list.csv", "--out", "run", *TINY)
    assert "list.csv, line 49: expected PATH,CLASS or PATH,CLASS,SPLIT" in line
    (own / "list.csv").write_text(text + "train/red/99.png,red,train\n")
    line = fails(capsys, "train", "--dataset", own / "list.csv", "--out", "run", *TINY)
    assert "train/red/99.png: No such file" in line
    assert "gone.csv: No such file" in fails(capsys, "train", "--dataset", "gone.csv", "--out", "run", *TINY)
