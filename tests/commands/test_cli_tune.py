import argparse
import re
import shlex
import subprocess
import sys

from d2lcls import cli
from d2lcls.commands import tune
from d2lcls.commands.parsers import commands_of, recipe_of
from d2lcls.training import Recipe
from d2lcls.training.search.recipe_space import default_space

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("optuna")

# of the networks of the test with objectives, for two classes
PARAMETERS = {"cnn": "389,410", "mobilenet0.25": "213,586"}


def parse(*arguments):
    parser = argparse.ArgumentParser()
    tune.add(commands_of(parser))
    return parser.parse_args(["tune", *map(str, arguments)])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of two classes of coloured noise, 30 pictures each."""
    root, rng = tmp_path_factory.mktemp("data") / "my photos", np.random.default_rng(0)
    for channel, name in enumerate(("red", "green")):
        (root / "train" / name).mkdir(parents=True)
        for number in range(30):
            image = rng.integers(0, 100, (16, 16, 3), dtype=np.uint8)
            image[..., channel] += 120
            Image.fromarray(image).save(root / "train" / name / f"{number}.png")
    return root


@pytest.fixture
def search(photos, tmp_path, monkeypatch, capsys):
    """Run the command in a folder of its own and return what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        options = parse("--dataset", photos, "--size", 16, "--batch-size", 8, "--epochs", 1, "--ctx", "cpu", *arguments)
        options.run(options)
        return capsys.readouterr().out

    return run


def trials(printed):
    return re.findall(r"^trial +(\d+)  complete", printed, flags=re.MULTILINE)


def test_search_goes_on_and_is_drawn(search, tmp_path):
    first = search("--trials", 2, "--pictures", "few")
    assert "48 training images, 12 for validation" in first and trials(first) == ["0", "1"]
    assert "importance.png is not drawn: Importance needs 4 complete trials" in first
    assert [path.name for path in (tmp_path / "few").iterdir()] == ["history.png"]
    assert trials(search("--trials", 3)) == ["2"]
    assert trials(search("--trials", 3, "--share", 0.5)) == ["0", "1", "2"]  # its accuracies do not compare


def test_pictures_of_history_and_importance(search, tmp_path):
    search("--trials", 6, "--pictures", "a/b")
    pictures = sorted((tmp_path / "a/b").iterdir())
    assert [path.name for path in pictures] == ["history.png", "importance.png"]
    assert all(np.asarray(Image.open(path).convert("L")).std() > 3 for path in pictures)


def test_line_that_is_printed_trains(search, photos):
    line = shlex.split(re.search("Train it in full with: d2lcls (.*)", search("--trials", 1, "--seed", 3))[1])
    recipe = recipe_of(cli.make_parser().parse_args(line), Recipe())
    assert (recipe.dataset, recipe.size, recipe.batch_size, recipe.seed) == (str(photos), 16, 8, 3)
    assert 0.003 <= recipe.lr <= 1 and 1e-5 <= recipe.wd <= 1e-2
    assert (" ".join(recipe.augment) or "none") in default_space()["augment"].values


def test_space_from_options_and_from_a_file_are_the_same_study(search, tmp_path):
    (tmp_path / "space.toml").write_text('lr = [0.01, 0.02]\naugment = ["none", "flip"]\nbalanced = [false, true]\n')
    first = search("--search", "lr=0.01,0.02", "augment=none,flip", "--search", "balanced=false,true", "--trials", 1)
    assert "searching lr choice(0.01, 0.02), augment choice('none', 'flip'), balanced choice(False, True)" in first
    assert trials(first) == ["0"]
    assert trials(search("--space", "space.toml", "--trials", 2)) == ["1"]
    assert trials(search("--search", "lr=0.01,0.02", "--trials", 1)) == ["0"]  # another space, another study


def test_what_is_given_is_not_searched(search):
    out = search("--augment", "flip", "--wd", "0.001", "--trials", 1)
    assert "searching lr log_uniform(0.003, 1.0)\n" in out
    assert re.search(r"--wd 0.001 .*--augment flip --lr \S+\n|--augment flip --wd 0.001 --lr \S+\n", out)


def test_values_that_are_found_become_options():
    options = parse("--seed", 3, "--ctx", "cpu")
    best = {
        "lr": 0.0123456,
        "balanced": True,
        "class_weights": False,
        "train_last": None,
        "augment": "pad_crop:2 flip",
        "small_first": "28:1",
    }
    assert tune._train_command(options, best) == (
        "d2lcls train --ctx cpu --seed 3 --lr 0.01235 --balanced --augment pad_crop:2 flip --small-first 28:1"
    )


def test_pareto_front_is_printed_and_drawn(search, tmp_path):
    arguments = (
        "--search",
        "model=cnn,mobilenet0.25",
        "lr=0.01,0.02",
        "--objective",
        "accuracy",
        "latency",
        "parameters",
    )
    out = search(*arguments, "--trials", 4, "--pictures", "pictures")
    assert "each trial: accuracy, latency (ms), parameters, and the values tried" in out
    table = re.search(r"on this machine.*\n(trial +accuracy +latency \(ms\) +parameters +values\n(?:.*\n)+)Train", out)
    rows = [line.split() for line in table[1].splitlines()[1:]]
    assert 1 <= len(rows) <= 4 and all(float(row[2]) > 0 for row in rows)
    assert all(row[3] == PARAMETERS[row[row.index("model") + 1]] for row in rows)
    assert len(re.findall(r"^trial \d+: d2lcls train .*--model \S+ --lr 0.0[12]$", out, re.MULTILINE)) == len(rows)
    assert {path.name for path in (tmp_path / "pictures").iterdir()} >= {"history.png", "front.png"}
    assert trials(search(*arguments, "--trials", 5)) == ["4"]
    assert trials(search(*arguments[:-1], "--trials", 1)) == ["0"]  # other objectives, another study


def test_objectives_of_the_command_are_those_of_the_package():
    from d2lcls.training.search import recipe_search

    assert tuple(tune.OBJECTIVES) == ("accuracy", *recipe_search.COSTS)


def test_share_is_of_the_images(search):
    assert "24 training images, 6 for validation" in search("--trials", 1, "--share", 0.5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--share", "0"], "--share: must be above 0"),
        (["--share", "1.1"], "--share: must be a share from 0 to 1"),
        (["--trials", "0"], "--trials: must be above 0"),
        (["--trials", "many"], "invalid int value: 'many'"),
        (["--timeout", "-1"], "--timeout: must be above 0"),
        (["--seed", "-1"], "--seed: must be at least 0"),
        (["--search", "lr"], "--search: must be OPTION=VALUES, such as lr=1e-4..1e-1, not 'lr'"),
        (["--search", "lr=0..1"], "argument --search: lr must be above 0, not 0.0"),
        (["--search", "lr=1e-3..1", "lr=1e-2..1"], "argument --search: lr is given twice"),
        (
            ["--search", "lr=1e-3..1", "--lr", "0.1"],
            "argument --lr: is also in the search space; give only one of them",
        ),
        (["--search", "lr=1e-3..1", "--space", "a.json"], "not allowed with argument --search"),
        (
            ["--search", "momentum=0.8..0.9", "optimizer=sgd,adam"],
            "--search: momentum goes with the optimizers sgd and",
        ),
        (["--lr", "0.1", "--wd", "0", "--augment", "none"], "nothing is left to search: leave out lr or wd or augment"),
        (["--objective", "latency"], "--objective: must include accuracy, and each objective only once"),
        (["--objective", "accuracy", "speed"], "--objective: invalid choice: 'speed'"),
    ],
)
def test_wrong_arguments(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        options = parse(*arguments)
        options.run(options)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_help_does_not_wait_for_mxnet_and_optuna():
    code = "import sys, d2lcls.commands.tune; assert not {'mxnet', 'optuna', 'psutil'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
