"""`d2lcls train --model package.module:Class`, and what is done with the run afterwards."""

import json
import os
import shutil

from d2lcls.data import load_folder
from d2lcls.training.runs import load_run, read_run

import numpy as np
import pytest
from test_cli import TINY, call, fails, nothing_outside, photos, process  # noqa: F401  its fixtures hold here too

SOURCE = """
from mxnet import gluon
from mxnet.gluon import nn

with open("imported", "a") as file:
    file.write("x")

class Net(gluon.HybridBlock):
    def __init__(self, classes):
        super().__init__()
        self.scale = self.params.get("scale", shape=(1,), init="ones")
        self.features = nn.HybridSequential()
        self.features.add(nn.Conv2D(8, 3), nn.BatchNorm(), nn.Activation("relu"), nn.Dropout(0.1))
        self.features.add(nn.GlobalAvgPool2D(), nn.Flatten())
        self.output = nn.Dense(classes)

    def hybrid_forward(self, F, x, scale):
        return F.broadcast_mul(self.output(self.features(x)), F.relu(scale.reshape((1, 1))))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the module, from which commands are started."""
    folder = tmp_path / "project"
    (folder / "package").mkdir(parents=True)
    (folder / "package/nets.py").write_text(SOURCE)
    monkeypatch.chdir(folder)
    return folder


def run(*arguments, cwd):
    child = process(*arguments, cwd=cwd)
    out, err = child.communicate(timeout=120)
    return child.returncode, out, err


def test_a_run_needs_the_class_only_while_it_is_trained(here, photos, tmp_path):
    arguments = ["train", "--dataset", photos, "--model", "package.nets:Net", *TINY]
    code, out, err = run(*arguments, "--epochs", 2, cwd=here)
    assert (code, err) == (0, "") and "writing to runs/photos-Net" in out
    folder = here / "runs/photos-Net"
    assert json.loads((folder / "run.json").read_text())["recipe"]["model"] == "package.nets:Net"

    away = tmp_path / "away"
    shutil.copytree(folder, away / "run")
    shutil.rmtree(here / "package")
    imported = (here / "imported").read_text()
    code, out, err = run("evaluate", "run", "--json", cwd=away)
    assert (code, err) == (0, "") and json.loads(out)["images"] == 12
    code, out, err = run("predict", "--run", "run", photos / "test/red/0.png", cwd=away)
    assert (code, err) == (0, "") and "red" in out
    code, out, err = run("export", "run", "--out", "model", cwd=away)
    assert (code, err) == (0, "") and json.loads((away / "model/manifest.json").read_text())[
        "name"
    ] == "package.nets:Net"
    code, out, err = run("predict", "--model", "model", photos / "test/red/0.png", cwd=away)
    assert code == 0 and "red" in out
    assert not (away / "imported").exists() and (here / "imported").read_text() == imported


def test_only_the_user_names_the_module(here, photos, tmp_path):
    arguments = ["train", "--dataset", photos, "--model", "package.nets:Net", *TINY]
    assert run(*arguments, "--epochs", 1, "--out", "one", cwd=here)[0] == 0
    (here / "imported").unlink()
    code, out, err = run("train", "--resume", "--out", "one", cwd=here)
    assert code == 2 and "a network of your own: give --model package.nets:Net again" in err
    code, out, err = run("train", "--dataset", photos, "--from", "one", "--epochs", 1, *TINY, cwd=here)
    assert code == 1 and "Name it with --model package.nets:Net, which runs its code" in err
    assert not (here / "imported").exists()
    named = ["--model", "package.nets:Net"]
    assert run("train", "--resume", "--out", "one", *named, cwd=here)[0] == 0
    code, out, err = run(
        "train",
        "--dataset",
        photos,
        "--from",
        "one",
        *named,
        "--train-last",
        1,
        "--epochs",
        1,
        "--out",
        "two",
        cwd=here,
    )
    assert (code, err) == (0, "") and "parameters of package.nets:Net." in out
    assert read_run(here / "two").recipe.from_run == str(here / "one")
    with np.load(here / "one/best.npz") as one, np.load(here / "two/best.npz") as two:
        np.testing.assert_array_equal(one["param/features.0.weight/0"], two["param/features.0.weight/0"])
        assert (one["param/output.weight/0"] != two["param/output.weight/0"]).any()


def test_what_cannot_be_trained_is_one_line(capsys, here, photos, monkeypatch):
    monkeypatch.syspath_prepend(os.getcwd())
    train = ["train", "--dataset", photos, *TINY, "--epochs", 1, "--out", "new"]
    assert "there is no module nowhere" in fails(capsys, *train, "--model", "nowhere:Net")
    assert "there are no ImageNet weights for a network of your own" in fails(
        capsys, *train, "--model", "package.nets:Net", "--pretrained"
    )
    (here / "five.py").write_text(SOURCE.replace("nn.Dense(classes)", "nn.Dense(5)"))
    assert "expected logits of shape (1, 3)" in fails(capsys, *train, "--model", "five:Net")
    assert not (here / "new").exists()


def test_the_graph_gives_what_the_class_gave(capsys, here, photos, monkeypatch):
    from d2lcls.training import Recipe, evaluate, train

    (here / "mine.py").write_text(SOURCE)
    recipe = Recipe(dataset=str(photos), model="mine:Net", size=16, batch_size=8, num_epochs=1, augment=())
    trained = train(recipe, here / "run", on_epoch=None)
    loaded_run, loaded = load_run(here / "run")
    batches = loaded_run.batches(load_folder(photos / "test", 16))
    assert evaluate(trained.net, batches).loss == pytest.approx(evaluate(loaded, batches).loss, rel=1e-6)
