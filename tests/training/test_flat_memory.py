"""Training on photographs takes as much memory for many as for few."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[2]
FEW, MANY = 1_000, 31_000


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """Lists with the same 20 pictures of 8 x 8 pixels over and over."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(20):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number:02d}.bmp")
    for entries in (FEW, MANY):
        text = "".join(f"{number % 20:02d}.bmp,class{number % 10}\n" for number in range(entries))
        (folder / f"{entries}.csv").write_text(text)
    return folder


def peak_memory(source, run):
    """Train for an epoch in a process of its own; return the bytes that it had resident at most."""
    words = ["--size", 8, "--epochs", 1, "--batch-size", 500, "--augment", "none", "--lr", 0.01, "--ctx", "cpu"]
    command = [sys.executable, "-m", "d2lcls", "train", "--dataset", source, *words, "--out", run]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([str(word) for word in command], env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return usage.ru_maxrss * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count ru_maxrss in other units")
def test_thirty_thousand_more_pictures_take_less_than_half_a_kilobyte_each(lists, tmp_path):
    few, many = (peak_memory(lists / f"{entries}.csv", tmp_path / str(entries)) for entries in (FEW, MANY))
    assert (many - few) / (MANY - FEW) < 512  # a path takes 130, a task of a thread pool 2,000
