"""`d2lcls train` with pretrained weights, other losses and other ways to draw images."""

import json
import re
import signal

from d2lcls.cli import make_parser
from d2lcls.commands.parsers import recipe_of
from d2lcls.data import Batches, Images, load_folder, read_image
from d2lcls.models import get_model
from d2lcls.training import RECIPES, predict, softmax
from d2lcls.training.runs import classify, load_run
from d2lcls.weights import read_tensors
from d2lcls.weights.tensors import write_safetensors

import mxnet as mx
import numpy as np
import pytest
from test_cli import call, fails, nothing_outside, photos, process  # noqa: F401  its fixtures hold for this file too

NAME = "mobilenet0.25"
TINY = ["--size", "32", "--batch-size", "8", "--augment", "none", "--model", NAME, "--pretrained"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A file of weights that stands for pretrained ones."""
    mx.random.seed(0)
    net = get_model(NAME, classes=1000)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net(mx.nd.zeros((1, 3, 32, 32)))
    path = tmp_path_factory.mktemp("source") / f"{NAME}.safetensors"
    write_safetensors(path, {name: p.data().asnumpy() for name, p in net._collect_params_with_prefix().items()})
    return path


@pytest.fixture(autouse=True)
def weights(source, tmp_path):
    """The same in the cache, where `--pretrained` finds it."""
    path = tmp_path / "empty-cache" / "weights" / source.name
    path.parent.mkdir(parents=True)
    path.symlink_to(source)
    return path


def parameters(run, file="last.npz"):
    with np.load(run / file) as arrays:
        return {name.split("/")[1]: arrays[name] for name in arrays if name.startswith("param/")}


def recipe(run):
    return json.loads(str(np.load(run / "last.npz")["progress"]))["recipe"]


def test_the_whole_path(capsys, photos, source, tmp_path):
    run = tmp_path / "run"
    code, out, err = call(capsys, "train", "--dataset", photos, *TINY, "--train-last", 1, "--epochs", 3, "--out", run)
    assert code == 0 and err == "" and "epoch   3 " in out
    told = json.loads((run / "run.json").read_text())
    assert (
        told["mean"] == [0.485, 0.456, 0.406] and told["std"] == [0.229, 0.224, 0.225] and told["recipe"]["pretrained"]
    )
    assert recipe(run)["lr"] == 0.01

    begun, now = read_tensors(source), parameters(run)
    assert begun.keys() == now.keys() and now["output.weight"].shape == (3, 256)
    for name in begun:
        if not name.startswith("output"):
            np.testing.assert_array_equal(now[name], begun[name], err_msg=name)  # running statistics too

    code, out, _ = call(capsys, "evaluate", run, "--json")
    assert code == 0 and json.loads(out)["images"] == 12
    assert call(capsys, "predict", "--run", run, photos / "test" / "red" / "0.png")[0] == 0


def test_pictures_have_the_size_the_weights_were_trained_for(capsys, photos, tmp_path):
    arguments = ["train", "--dataset", photos, "--model", NAME, "--pretrained", "--train-last", 1, "--epochs", 1]
    assert call(capsys, *arguments, "--out", tmp_path / "run")[0] == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["image_shape"] == [224, 224, 3]


def test_a_named_set_is_scaled_in_training_and_ever_after(capsys, photos, tmp_path, monkeypatch):
    few = load_folder(photos / "train")  # 32 x 32, as CIFAR-10 is
    monkeypatch.setattr("d2lcls.data.load", lambda name, split, size=None: few)
    code, out, _ = call(
        capsys,
        "train",
        "--dataset",
        "cifar10",
        "--size",
        40,
        "--epochs",
        1,
        "--batch-size",
        8,
        "--out",
        tmp_path / "run",
    )
    assert code == 0 and recipe(tmp_path / "run")["image_size"] == [40, 40]
    run, net = load_run(tmp_path / "run")
    assert run.size == (40, 40) and run.image_shape == (32, 32, 3)
    path = photos / "test" / "red" / "0.png"
    image = Images(read_image(path, 32)[None], np.zeros(1, np.int64), run.classes, "one")
    expected = softmax(predict(net, Batches(image, 1, run.mean, run.std, size=40)))
    np.testing.assert_allclose(classify(run, net, [path]), expected, rtol=1e-5)
    assert call(capsys, "evaluate", tmp_path / "run", "--split", "validation")[0] == 0


def test_how_layers_thaw_and_learn_is_in_the_recipe(capsys, photos, tmp_path):
    run = tmp_path / "run"
    code, _, _ = call(
        capsys,
        "train",
        "--dataset",
        photos,
        *TINY,
        "--unfreeze",
        "gradual",
        "--train-last",
        2,
        "--layer-lr-decay",
        0.5,
        "--epochs",
        3,
        "--lr",
        0.002,
        "--out",
        run,
    )
    assert code == 0
    found = recipe(run)
    assert found["unfreeze"] == "gradual" and found["train_last"] == 2 and found["lr"] == 0.002
    assert "features.0.weight" in found["frozen"] and "output.weight" not in found["frozen"]
    rates = found["lr_multipliers"]
    assert rates["features.0.weight"] == 0.5**27 and "output.weight" not in rates


@pytest.fixture(scope="module")
def plain(photos, tmp_path_factory):
    """The parameters of an epoch with no option of these."""
    from d2lcls import cli

    run = tmp_path_factory.mktemp("plain") / "run"
    assert cli.main(["train", "--dataset", str(photos), *CNN, "--out", str(run)]) == 0
    return parameters(run)


CNN = ["--size", "16", "--batch-size", "8", "--augment", "none", "--epochs", "1"]


@pytest.mark.parametrize(
    "option",
    [
        ["--loss", "focal"],
        ["--label-smoothing", "0.1"],
        ["--class-weights"],
        ["--balanced"],
        ["--l1", "0.01"],
        ["--augment", "randaugment"],
        ["--layer-lr-decay", "0.5"],
    ],
    ids=" ".join,
)
def test_every_option_changes_what_is_learned(capsys, photos, plain, tmp_path, option):
    code, _, err = call(capsys, "train", "--dataset", photos, *CNN, "--out", tmp_path / "run", *option)
    assert code == 0 and err == ""
    found = parameters(tmp_path / "run")
    assert any(np.abs(found[name] - plain[name]).max() > 1e-4 for name in plain)


@pytest.mark.parametrize(
    "begun, then, message",
    [
        (["--loss", "focal"], ["--loss", "cross_entropy"], "loss is 'focal' there and 'cross_entropy' here"),
        ([], ["--label-smoothing", "0.1"], "label_smoothing is 0.0 there and 0.1 here"),
        ([], ["--balanced"], "balanced is False there and True here"),
        ([], ["--l1", "0.1"], "l1 is 0.0 there and 0.1 here"),
    ],
)
def test_a_run_goes_on_only_with_its_own_loss(capsys, photos, tmp_path, begun, then, message):
    arguments = ["train", "--dataset", photos, *CNN, "--out", tmp_path / "run"]
    assert call(capsys, *arguments, *begun)[0] == 0
    assert message in fails(capsys, *arguments, *then, "--resume")


def test_an_interrupted_fine_tuning_goes_on_exactly(capsys, photos, tmp_path, weights):
    arguments = [
        "train",
        "--dataset",
        photos,
        *TINY,
        "--augment",
        "flip",
        "--batch-size",
        2,
        "--unfreeze",
        "gradual",
        "--layer-lr-decay",
        0.8,
        "--label-smoothing",
        0.1,
        "--epochs",
        4,
        "--seed",
        3,
    ]
    assert call(capsys, *arguments, "--out", tmp_path / "whole")[0] == 0
    child = process(*arguments, "--out", tmp_path / "run", cwd=tmp_path)
    for line in child.stdout:
        if line.startswith("epoch   1"):
            break
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130 and re.search(r"stopped after step (\d+)", err), err
    weights.unlink()  # to go on, they are not needed
    code, out, _ = call(capsys, *arguments, "--out", tmp_path / "run", "--resume")
    assert code == 0 and "epoch   1 " not in out and "epoch   4 " in out
    for file in ("last.npz", "best.npz"):
        whole, resumed = parameters(tmp_path / "whole", file), parameters(tmp_path / "run", file)
        for name, value in whole.items():
            np.testing.assert_array_equal(resumed[name], value, err_msg=name)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--train-last", "1"], "must start from trained weights"),
        (["--unfreeze", "gradual"], "must start from trained weights"),
        (
            ["--loss", "focal", "--label-smoothing", "0.1"],
            "--label-smoothing goes with the loss cross_entropy only, not focal",
        ),
        (["--unfreeze", "slowly"], "invalid choice: 'slowly'"),
        (["--layer-lr-decay", "0"], "must be above 0"),
        (["--label-smoothing", "1"], "--label-smoothing must be below 1, not 1.0"),
        (["--layer-lr-decay", "1.5"], "argument --layer-lr-decay: must be at most 1, not 1.5"),
    ],
)
def test_options_that_do_not_go_together_exit_with_2(capsys, arguments, message):
    code, out, err = call(capsys, "train", *arguments)
    assert code == 2 and out == "" and message in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--train-last", "99"], "groups must lie between 1 and 28"),
        (["--model", "cnn"], "pretrained weights of cnn could not be fetched"),
        (["--dataset", "fashion_mnist"], "Pretrained networks take colour images"),
    ],
)
def test_bad_input_is_one_readable_line(capsys, photos, tmp_path, arguments, message):
    line = fails(capsys, "train", "--dataset", photos, *TINY, "--epochs", 1, "--out", tmp_path / "run", *arguments)
    assert message in line and not (tmp_path / "run" / "last.npz").exists()


def test_a_named_recipe_takes_validation_images_from_a_folder():
    parser = make_parser()
    options = parser.parse_args(["train", "--recipe", "fast94", "--validation-folder", "here"])
    recipe = recipe_of(options, RECIPES["fast94"])
    assert (recipe.validation, recipe.validation_folder) == (None, "here")
