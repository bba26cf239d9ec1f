"""`d2lcls lr-find`: a suggested learning rate, its picture and the command that trains with it."""

import re
import shlex
from dataclasses import replace

from d2lcls import cli
from d2lcls.commands.parsers import recipe_of
from d2lcls.training import Recipe, train
from d2lcls.training.search import find_lr

import numpy as np
import pytest
from PIL import Image
from test_cli import call, fails, nothing_outside, photos  # noqa: F401  fixtures
from test_cli_finetune import NAME, source, weights  # noqa: F401  fixtures: weights that stand for pretrained ones

SMALL = ["--size", "16", "--batch-size", "8", "--augment", "none", "--ctx", "cpu"]


def find(capsys, *arguments):
    code, out, err = call(capsys, "lr-find", *arguments)
    assert (code, err) == (0, "")
    return out


def suggested(printed):
    """The words after `d2lcls` of the command that was printed."""
    return shlex.split(re.search("^Train with the suggested rate: d2lcls (.*)$", printed, re.MULTILINE)[1])


def test_the_rate_that_is_suggested_trains(capsys, photos, tmp_path):
    out = find(capsys, "--dataset", photos, *SMALL, "--steps", 60, "--seed", 1, "--out", "rates.png")
    assert {path.name for path in tmp_path.iterdir()} == {"rates.png", "empty-cache"}  # and no run
    assert np.asarray(Image.open("rates.png").convert("L")).std() > 3
    assert out.startswith("32 training images, 3 classes\n")
    rate = float(re.search(r"rates from 1e-05 to \S+, lowest smoothed loss [\d.]+ at \S+, suggestion (\S+)", out)[1])
    words = suggested(out)
    recipe = recipe_of(cli.make_parser().parse_args(words), Recipe())
    assert recipe == Recipe(str(photos), size=16, batch_size=8, augment=(), seed=1, lr=rate) and 1e-4 < rate < 1
    code, out, _ = call(capsys, *words, "--epochs", 4, "--out", "run")
    assert code == 0 and float(re.search(r"epoch   4 .* train [\d.]+ +([\d.]+)%", out)[1]) > 90


def test_with_pretrained_weights(capsys, photos, weights):
    before = weights.read_bytes()
    words = ["--dataset", photos, "--model", NAME, "--pretrained", "--size", 32, "--train-last", 1]
    out = find(capsys, *words, "--batch-size", 8, "--augment", "flip", "rotate:10", "--steps", 30)
    assert suggested(out)[:-1] == [
        *["train", "--dataset", str(photos), "--model", NAME, "--batch-size", "8", "--size", "32"],
        *["--augment", "flip", "rotate:10", "--pretrained", "--train-last", "1", "--lr"],
    ]
    assert weights.read_bytes() == before


def test_the_losses_are_those_of_a_run_with_these_rates(photos, tmp_path):
    """Epochs of one batch, so that the records of a run hold the loss of each step."""
    fields = {"model": NAME, "pretrained": True, "size": 32, "augment": (), "train_last": 1, "bias_lr": 3.0}
    recipe = Recipe(str(photos), **fields, batch_size=64, decay_biases=True, l1=1e-5, wd=1e-3, seed=2)
    result = find_lr(recipe, lowest=1, highest=100, steps=4)
    rates = {"num_epochs": 4, "schedule": lambda step: 100 ** (step / 3)}
    trained = train(replace(recipe, **rates), tmp_path / "run", ctx="cpu", on_epoch=None)
    assert list(result.losses) == pytest.approx([epoch.train_loss for epoch in trained.epochs], rel=1e-5)
    for other in ({"train_last": None}, {"bias_lr": 1.0}, {"l1": 0.0}, {"decay_biases": False}):  # each has an effect
        losses = find_lr(replace(recipe, **other), lowest=1, highest=100, steps=4).losses
        assert losses[0] == pytest.approx(result.losses[0], rel=1e-5)
        assert abs(losses[3] / result.losses[3] - 1) > 5e-4, other


def test_a_loss_that_only_rises_suggests_nothing_but_is_drawn(capsys, photos, tmp_path):
    words = [
        "lr-find",
        "--dataset",
        photos,
        *SMALL,
        "--lowest",
        5,
        "--highest",
        50,
        "--steps",
        10,
        "--out",
        "rates.png",
    ]
    assert "the loss did not fall for long enough, starting from 5" in fails(capsys, *words)
    assert (tmp_path / "rates.png").is_file()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--lowest", "1", "--highest", "0.1"], "--lowest must be below --highest, not 1 and 0.1"),
        (["--lowest", "0"], "argument --lowest: must be above 0"),
        (["--steps", "1"], "argument --steps: must be 2 or more"),
        (["--lr", "0.1"], "unrecognized arguments: --lr 0.1"),
    ],
)
def test_wrong_arguments(capsys, arguments, message):
    code, out, err = call(capsys, "lr-find", *arguments)
    assert code == 2 and out == "" and message in err


def test_what_cannot_be_tested_is_one_readable_line(capsys, photos, tmp_path):
    assert "gone/photos: no such folder" in fails(capsys, "lr-find", "--dataset", "gone/photos")
    (tmp_path / "file").write_text("")
    assert "file" in fails(capsys, "lr-find", "--dataset", photos, *SMALL, "--out", tmp_path / "file" / "rates.png")
