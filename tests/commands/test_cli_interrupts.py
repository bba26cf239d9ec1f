"""Ctrl-C and SIGTERM at random moments, and a loss that is not finite: one line, and the run can be continued."""

import multiprocessing
import os
import random
import signal
import sys
import time

from d2lcls import cli

import numpy as np
import pytest
from test_cli import TINY, fails, nothing_outside, photos  # noqa: F401  fixtures that hold for this file too

STARTER = multiprocessing.get_context("forkserver")
STARTER.set_forkserver_preload(["d2lcls", "mxnet", "d2lcls.training.pipeline", "d2lcls.commands.train"])


def run(arguments, errors):
    """Run a command line in the started process; its errors go to a file."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(cli.main(arguments))


@pytest.mark.parametrize("moments", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_a_run_that_is_interrupted_at_random_moments_ends_with_the_same_bits(photos, tmp_path, moments):
    errors, draw, stopped = tmp_path / "errors", random.Random(25), 0
    command = ["train", "--dataset", str(photos), "--epochs", "5", "--checkpoint-steps", "1", *TINY, "--out"]

    def start(folder):
        child = STARTER.Process(target=run, args=([*command, str(folder), "--resume"], str(errors)))
        child.start()
        return child

    def complete(folder):
        child = start(folder)
        child.join()
        assert child.exitcode == 0, errors.read_text()

    complete(tmp_path / "warm")
    begun = time.monotonic()
    complete(tmp_path / "whole")
    duration = time.monotonic() - begun
    whole = np.load(tmp_path / "whole" / "best.npz")
    for moment in range(moments):
        folder = tmp_path / f"run{moment // 3}"
        child = start(folder)
        time.sleep(draw.uniform(0.05, duration))
        if child.is_alive():
            os.kill(child.pid, (signal.SIGINT, signal.SIGTERM)[moment % 2])
        child.join()
        text = errors.read_text()
        assert child.exitcode in (0, 130) and "Traceback" not in text and text.strip().count("\n") == 0, text
        stopped += child.exitcode == 130
        if "saved in" in text:
            assert (folder / "last.npz").exists() and "continue with --resume" in text
        if moment % 3 == 2:
            complete(folder)
            best = np.load(folder / "best.npz")
            assert best.files == whole.files
            assert all((best[name] == whole[name]).all() for name in best.files if name != "progress")
            assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
    print(f"{stopped} of {moments} were stopped at work")
    assert stopped


def test_a_loss_that_is_not_finite_in_the_first_epoch_leaves_no_folder(capsys, photos, tmp_path):
    arguments = ["train", "--dataset", photos, "--epochs", 3, *TINY, "--out", tmp_path / "run"]
    line = fails(capsys, *arguments, "--lr", "1e30")
    assert "not a finite number" in line and "No checkpoint was written" in line
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_after_a_checkpoint_names_it(capsys, photos, tmp_path):
    arguments = ["train", "--dataset", photos, "--epochs", 3, *TINY, "--out", tmp_path / "run", "--checkpoint-steps", 1]
    line = fails(capsys, *arguments, "--lr", "1e10", "--warmup-epochs", "1")
    assert "not a finite number" in line and "\n" not in line.strip()
    assert f"checkpoint is {tmp_path / 'run' / 'last.npz'}" in line or not (tmp_path / "run").exists()
