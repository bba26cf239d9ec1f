"""Grocery Store by name on the command line: its sample, at a size of the caller's choice, from training to a model."""

import json

import pytest
from test_cli import call, fails, nothing_outside  # noqa: F401  the fixture is used for every test


def test_photographs_by_name_are_trained_scored_and_exported_at_the_size_that_was_asked_for(capsys, tmp_path):
    words = ["--model", "cnn", "--size", "32", "--epochs", "1", "--batch-size", "64", "--validation", "0"]
    code, out, err = call(capsys, "train", "--dataset", "grocery", *words, "--out", tmp_path / "run")
    assert code == 0 and "347 training images" in out and out.count("a sample of ten of its classes") == 1, err
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["image_shape"] == [32, 32, 3] and run["size"] is None and "Granny-Smith" in run["classes"]
    code, out, err = call(capsys, "evaluate", tmp_path / "run")
    assert code == 0 and "on 172 images" in out, err
    score = out.partition("top-1 ")[2].partition("%")[0]
    code, out, err = call(capsys, "export", tmp_path / "run", "--out", tmp_path / "model")
    assert code == 0 and f"top-1 {score}% on 172 images of grocery-sample" in out, err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--from", "."],
            "5,425 of the 5,425 files of Grocery Store are wrong or missing; the first: train/Fruit/Apple",
        ),
        (["--from", "nowhere"], "nowhere: no such folder. Expected one that holds train/, val/, test/, train.txt"),
        ([], "its authors' repository (github.com): not asked, as D2LCLS_OFFLINE=1"),
    ],
)
def test_a_data_set_that_cannot_be_got_is_said_in_one_line(capsys, arguments, message):
    assert message in fails(capsys, "data", "get", "grocery", *arguments)
