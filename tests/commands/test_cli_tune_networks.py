"""`d2lcls tune` with pretrained weights, and for a network's shape."""

import re
import shlex

from d2lcls import cli
from d2lcls.commands.parsers import recipe_of
from d2lcls.models.fast94 import Architecture
from d2lcls.training import RECIPES

import pytest
from test_cli import call, fails, nothing_outside, photos  # noqa: F401  its fixtures hold for this file too
from test_cli_finetune import NAME, TINY, source, weights  # noqa: F401

pytest.importorskip("optuna")


def tune(photos, tmp_path, *arguments):
    storage = f"sqlite:///{tmp_path}/tune.db"
    return ("tune", "--dataset", photos, "--epochs", 1, "--storage", storage, "--trials", 2, *arguments)


def test_depth_of_fine_tuning_is_searched(capsys, photos, tmp_path):
    arguments = tune(photos, tmp_path, *TINY, "--search", "train_last=1..3", "lr=1e-3..1e-2")
    code, out, err = call(capsys, *arguments)
    assert code == 0 and err == "" and len(re.findall("^trial .* complete", out, re.MULTILINE)) == 2
    assert "searching train_last integer(1, 3), lr log_uniform(0.001, 0.01)" in out
    found = re.search(r"d2lcls train .*--pretrained .*--train-last ([123]) --lr (0\.\d+)$", out, re.MULTILINE)
    assert found and 0.001 <= float(found[2]) <= 0.01
    (tmp_path / "space.json").write_text('{"train_last": "1..3", "lr": "1e-3..1e-2"}')
    again = call(capsys, *arguments[: -len(("--search", "train_last", "lr"))], "--space", tmp_path / "space.json")
    assert again[0] == 0 and "trial" not in again[1].split("best:")[0]  # the same study, which is finished


def test_depths_that_a_network_does_not_have_are_refused(capsys, photos, tmp_path):
    message = fails(capsys, *tune(photos, tmp_path, *TINY, "--search", "train_last=1..99"))
    assert re.search(rf"train_last must be at most \d+ for {NAME}, not 99", message)
    message = fails(capsys, *tune(photos, tmp_path, "--search", "train_last=1..2"))
    assert "must start from trained weights" in message


def test_pretrained_networks_get_lower_rates(capsys, photos, tmp_path):
    out = call(capsys, *tune(photos, tmp_path, *TINY))[1]
    assert "searching lr log_uniform(0.0003, 0.1), wd log_uniform(1e-05, 0.01)\n" in out


def test_architectures_are_searched_within_the_budget(capsys, photos, tmp_path):
    reference = Architecture((16, 32, 32))
    arguments = ("--architecture", "--model", reference.name, "--batch-size", 8, "--size", 32, "--precision", "float32")
    code, out, err = call(capsys, *tune(photos, tmp_path, *arguments, "--objective", "accuracy", "multiply_adds"))
    assert code == 0 and err == ""
    lines = re.findall(r"^trial \d+: d2lcls (train .*)$", out, re.MULTILINE)
    assert lines
    for line in lines:
        recipe = recipe_of(cli.make_parser().parse_args(shlex.split(line)), RECIPES["fast94"])
        found = Architecture.named(recipe.model)
        assert abs(found.multiply_adds() / reference.multiply_adds() - 1) <= 0.05 and line.count("--model") == 1
        assert "--recipe fast94" in line and recipe.label_smoothing == 0.2 and recipe.batch_size == 8


def test_architectures_of_other_families_are_refused(capsys, photos, tmp_path):
    assert "'cnn' must be fast94 with three widths" in fails(
        capsys, *tune(photos, tmp_path, "--architecture", "--model", "cnn")
    )
