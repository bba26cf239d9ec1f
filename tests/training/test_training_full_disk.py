"""A disk that is full during training: one line, and once there is room the run ends with the same bits."""

import re
import shutil
import subprocess
import sys

from d2lcls.machine.full_disk import DiskFull
from d2lcls.training import Curves
from d2lcls.training.loop import Epoch
from d2lcls.training.search import tune, uniform

import pytest
from test_checkpoints import assert_same_run, train


def size(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("share", [0.1, 0.7, 1.1, 1.4])
def test_a_run_goes_on_after_the_disk_was_full(shapes, small_disk, tmp_path, share):
    train(shapes, tmp_path / "whole", checkpoint_steps=2)
    run = small_disk(8192 + int(share * size(tmp_path / "whole"))) / "run"
    with pytest.raises(DiskFull, match=r"run/\w+\.(json|npz): cannot be written .* needed, .* free"):
        train(shapes, run, checkpoint_steps=2)
    assert not [path for path in run.iterdir() if ".part" in path.name or ".lock" in path.name]
    small_disk(64 << 20)
    train(shapes, run, checkpoint_steps=2, resume=True)
    assert_same_run(tmp_path / "whole", run)
    assert {path.name for path in run.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}


@pytest.mark.parametrize("pattern", ["", "*"])
def test_a_folder_removed_during_training_is_named(shapes, tmp_path, pattern):
    def remove(record):
        if not pattern:
            shutil.rmtree(tmp_path / "run")
        for path in tmp_path.glob(f"run/{pattern}"):
            path.unlink()

    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/run: was removed during training.*Train again"):
        train(shapes, tmp_path / "run", on_epoch=remove)
    assert not (tmp_path / "run").exists()


def test_curves_on_a_full_disk(small_disk):
    disk = small_disk(4096)
    curves = Curves(disk / "curves")
    with pytest.raises(DiskFull, match=r"disk/curves/events.out.tfevents.\S+: cannot be written .No space left"):
        for epoch in range(1, 1000):
            curves.write(Epoch(epoch, 0.1, 1.0, 0.5, 1.0, 0.5, 100.0, 1.0))
    assert epoch > 5


SEARCH = """
import sys
from d2lcls.training.search import tune, uniform

def fill(trial, x):
    with open(sys.argv[1] + "/full", "wb", buffering=0) as file:
        while file.write(bytes(65536)) == 65536:
            pass
    return x

tune(fill, {"x": uniform(0, 1)}, trials=2, storage=f"sqlite:///{sys.argv[1]}/tune.db", verbose=False)
"""


def test_a_search_on_a_full_disk(small_disk):
    disk = small_disk(1 << 20)
    child = subprocess.run([sys.executable, "-c", SEARCH, disk], capture_output=True, text=True)
    last = child.stderr.splitlines()[-1]
    assert re.match(r"OSError: The database \S+tune.db cannot be used \(database or disk is full\).*free space", last)
    (disk / "full").unlink()
    study = tune(lambda trial, x: x, {"x": uniform(0, 1)}, trials=2, storage=f"sqlite:///{disk}/tune.db", verbose=False)
    assert sum(trial.state.name == "COMPLETE" for trial in study.trials) == 2


WAITING = """
import os, sys, time
from d2lcls.training.search import studies, tune, uniform

studies.HEARTBEAT = 1
full = sys.argv[1] + "/full"

def objective(trial, x):
    with open(full, "wb", buffering=0) as file:
        while file.write(bytes(65536)) == 65536:
            pass
    time.sleep(2.5)  # two signs of life fail
    os.unlink(full)
    time.sleep(1.5)
    return x

study = tune(objective, {"x": uniform(0, 1)}, trials=1, storage=f"sqlite:///{sys.argv[1]}/tune.db", verbose=False)
print(study.trials[0].state.name)
"""


def test_a_search_survives_a_disk_that_was_full_for_a_while(small_disk):
    child = subprocess.run([sys.executable, "-c", WAITING, small_disk(1 << 20)], capture_output=True, text=True)
    assert (child.stdout, child.stderr) == ("COMPLETE\n", "")


def test_a_database_removed_during_a_search(tmp_path):
    def remove(trial, x):
        (tmp_path / "tune.db").unlink(missing_ok=True)
        return x

    with pytest.raises(OSError, match=f"{tmp_path}/tune.db cannot be used .no such table"):
        tune(remove, {"x": uniform(0, 1)}, trials=2, storage=f"sqlite:///{tmp_path}/tune.db", verbose=False)
