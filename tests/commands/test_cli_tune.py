import argparse
import re
import shlex
import subprocess
import sys

from d2lcls import cli
from d2lcls.commands import tune
from d2lcls.commands.parsers import commands_of, recipe_of
from d2lcls.training import Recipe

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("optuna")


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
    assert " ".join(recipe.augment) or "none" in tune.AUGMENTATIONS


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
