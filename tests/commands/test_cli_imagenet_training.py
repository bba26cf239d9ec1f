"""`d2lcls train --dataset imagenet`, on a miniature tree of real photographs."""

import json
import re
import shutil

from d2lcls.data import write_records
from d2lcls.data.download.sample import FOLDER
from d2lcls.data.formats.records import record_reader, scan_records

import pytest
from test_cli import call, fails, nothing_outside  # noqa: F401  the fixture holds for this file too
from test_cli_finetune import NAME, source, weights  # noqa: F401  fixtures: weights that stand for pretrained ones

# Photographs of Grocery Store and the ImageNet class that each stands for here.
CLASSES = {"Granny-Smith": "n07742313", "Arla-Medium-Fat-Milk": "n02971356", "Cantaloupe": "n07716906"}
SMALL = ["--size", "16", "--batch-size", "16", "--augment", "none", "--lr", "0.05", "--ctx", "cpu"]


def unpack(split, folder, most):
    """Write up to `most` photographs of each class as files, named as in ImageNet."""
    rec = FOLDER / "grocery" / f"{split}.rec"
    offsets, labels, names = scan_records(rec)
    content = record_reader(rec, offsets)
    for name, wnid in CLASSES.items():
        (folder / wnid).mkdir(parents=True)
        for position in (labels == names.index(name)).nonzero()[0][:most]:
            (folder / wnid / f"{wnid}_{position}.JPEG").write_bytes(content(position))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """64 photographs to train on and 24 to validate."""
    root = tmp_path_factory.mktemp("imagenet")
    unpack("train", root / "train", 22)
    unpack("test", root / "val", 8)
    for wnid in sorted(CLASSES.values())[:2]:
        sorted((root / "train" / wnid).iterdir())[-1].unlink()
    assert len(list(root.glob("train/*/*.JPEG"))) == 64 and len(list(root.glob("val/*/*.JPEG"))) == 24
    return root


def train(capsys, root, *arguments, epochs=1, out="run"):
    words = ["--dataset", "imagenet", "--root", root, *SMALL, "--epochs", epochs, "--out", out]
    code, printed, err = call(capsys, "train", *words, *arguments)
    assert (code, err) == (0, "")
    return printed


def score(capsys, *arguments):
    code, out, err = call(capsys, "evaluate", *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def results(printed):
    """The lines of the epochs, without their speed."""
    return re.findall(r"^(epoch .*%)  [\d,.]+ images/s", printed, re.MULTILINE)


def test_the_training_path_learns_64_photographs(capsys, tree, tmp_path):
    out = train(capsys, tree, "--validation", 0, epochs=60)
    assert "64 training images, 0 for validation, 1000 classes; writing to run" in out
    assert results(out)[-1].endswith("100.00%")
    assert "Score it once on the test set with: d2lcls evaluate run\n" in out
    learned = score(capsys, "run", "--split", "train")
    assert (learned["accuracy"], learned["images"]) == (1.0, 64) and learned["loss"] < 0.1
    tested = score(capsys, "run")  # on val/, and by name: a thousandth would be right by chance
    assert tested["images"] == 24 and tested["accuracy"] > 0.5

    code, out, _ = call(capsys, "evaluate", "run", "--per-class", "classes.csv")
    assert code == 0 and [line.split(",")[:3] for line in (tmp_path / "classes.csv").read_text().splitlines()[1:]] == [
        ["478", "carton", "8"],
        ["940", "spaghetti squash", "8"],
        ["948", "Granny Smith", "8"],
    ]
    picture = next((tree / "train" / "n07742313").iterdir())
    code, out, _ = call(capsys, "predict", "--run", "run", "--top", 1, picture)
    assert code == 0 and out.split("%")[1].strip() == "Granny Smith"


def test_records_are_trained_on_as_folders_are(capsys, tree, tmp_path):
    for split in ("train", "val"):
        write_records(tree / split, tmp_path / "packed" / split)
    from_folders = train(capsys, tree, epochs=2)
    from_records = train(capsys, tmp_path / "packed", epochs=2, out="second")
    assert results(from_folders) == results(from_records) and len(results(from_records)) == 2
    assert "58 training images, 6 for validation, 1000 classes" in from_records
    assert score(capsys, "second") == score(capsys, "run")
    out = train(capsys, tmp_path / "packed" / "train.rec", epochs=2, out="third")  # and no test images
    assert results(out) == results(from_folders) and "d2lcls evaluate third --split validation" in out
    line = fails(capsys, "evaluate", "third")
    assert "train.rec holds the training images. Name ImageNet's validation images with --root" in line
    assert score(capsys, "third", "--root", "packed/val.rec") == score(capsys, "run")


def test_resume_notices_another_root(capsys, tree, tmp_path):
    train(capsys, tree)
    other = shutil.copytree(tree, tmp_path / "other")
    words = ["--dataset", "imagenet", *SMALL, "--epochs", 1, "--out", "run", "--resume"]
    line = fails(capsys, "train", *words, "--root", other)
    assert f"belongs to another recipe: root is '{tree}' there and '{other}' here" in line
    assert call(capsys, "train", *words, "--root", tree)[0] == 0
    assert score(capsys, "run", "--root", other) == score(capsys, "run")


def test_with_pretrained_weights_and_validation_on_val(capsys, tree, weights):
    words = ["--model", NAME, "--pretrained", "--size", 32, "--train-last", 1, "--validation-folder", tree / "val"]
    out = train(capsys, tree, *words, "--cache", epochs=2)
    assert "64 training images, 24 for validation, 1000 classes" in out and len(results(out)) == 2
    assert score(capsys, "run", "--split", "validation") == {**score(capsys, "run"), "split": "validation"}


def test_a_rate_can_be_searched_for(capsys, tree):
    words = ["--dataset", "imagenet", "--root", tree, "--size", 16, "--batch-size", 16, "--steps", 40]
    code, out, err = call(capsys, "lr-find", *words)
    assert (code, err) == (0, "") and f"--root {tree} --lr " in out


def test_broken_pictures_are_found_before_training(capsys, tree, tmp_path):
    root = shutil.copytree(tree, tmp_path / "copy")
    picture = next((root / "train" / "n02971356").iterdir())
    picture.write_bytes(picture.read_bytes()[:-500])
    words = ["train", "--dataset", "imagenet", "--root", root, *SMALL, "--epochs", 1, "--out", "run"]
    assert f"{picture.name}: cannot be read as an image" in fails(capsys, *words)
    out = train(capsys, root, "--skip-broken")
    assert "ImageNet train: skipped 1 of 64 files" in out and "57 training images, 6 for validation" in out


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["--dataset", "imagenet"], 2, "--root is needed with the dataset imagenet: the folder that holds train/"),
        (["--dataset", "cifar10", "--root", "TREE"], 2, "--root is only for the dataset imagenet"),
        (["--root", "TREE"], 2, "--root is only for the dataset imagenet"),
        (["--dataset", "imagenet", "--root", "gone"], 1, "gone: no such file or folder. Expected"),
        (["--dataset", "imagenet", "--root", "VAL"], 1, "has no train images. Expected"),
    ],
)
def test_what_cannot_be_trained_on_is_one_readable_line(capsys, tree, tmp_path, arguments, code, message):
    shutil.copytree(tree / "val", tmp_path / "tree" / "val")
    places = {"TREE": tree, "VAL": tmp_path / "tree"}
    words = [places.get(word, word) for word in arguments]
    if code == 1:
        assert message in fails(capsys, "train", *words, *SMALL, "--out", "run")
    else:
        found, _, err = call(capsys, "train", *words)
        assert found == 2 and message in err
    assert not (tmp_path / "run" / "run.json").exists()
