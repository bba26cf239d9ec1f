"""kill -9 at random moments of training and of an export: every file is old or new, and training ends the same."""

import os
import random
import signal
import subprocess
import sys
import time

from d2lcls.data import Images
from d2lcls.machine.files import write_atomically
from d2lcls.training.checkpoints import read_progress
from d2lcls.training.runs import load_run

import numpy as np
import pytest
from test_checkpoints import assert_same_run, train

TRAIN = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from d2lcls.data import Images
from test_checkpoints import train
data = Images(np.load(sys.argv[2]), np.load(sys.argv[3]), ("top", "middle", "bottom"), "shapes")
print("ready", flush=True)
train(data, sys.argv[4], checkpoint_steps=1, resume=True)
"""

WRITE = """
import os, sys
from d2lcls.machine.files import new_folder, write_atomically
folder, number = sys.argv[1], 0
print("ready", flush=True)
while True:
    number += 1
    content = bytes([number % 256]) * 1_000_000
    write_atomically(f"{folder}/file", lambda file: [file.write(content[:1000]) for _ in range(1000)])
    with new_folder(f"{folder}/model-{number}") as path:
        for name in "abc":
            (path / name).write_bytes(content)
"""

MOMENTS = [3, pytest.param(30, marks=pytest.mark.slow)]


def kill_after(seconds, code, *arguments):
    """Start a child, kill it so many seconds after it is ready, and say whether it was still at work."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "ready\n"
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
    return child.returncode == -signal.SIGKILL


@pytest.mark.parametrize("moments", MOMENTS)
def test_training_killed_at_random_moments_ends_with_the_same_bits(shapes, tmp_path, moments):
    np.save(tmp_path / "images.npy", shapes.images)
    np.save(tmp_path / "labels.npy", shapes.labels)
    files = os.path.dirname(__file__), tmp_path / "images.npy", tmp_path / "labels.npy"
    data = Images(shapes.images, shapes.labels, shapes.classes, "shapes")
    begun = time.monotonic()
    train(data, tmp_path / "whole", checkpoint_steps=1)
    duration = time.monotonic() - begun
    draw, killed = random.Random(16), 0
    for moment in range(moments):
        folder = tmp_path / f"cut{moment // 3}"  # a run is killed three times
        killed += kill_after(draw.uniform(0, duration), TRAIN, *files, folder)
        for file in folder.glob("*.npz"):
            read_progress(file)
        if moment % 3 == 2:
            train(data, folder, checkpoint_steps=1, resume=True)
            assert_same_run(tmp_path / "whole", folder)
            names = {path.name for path in folder.iterdir()}
            assert names == {path.name for path in (tmp_path / "whole").iterdir()}
            load_run(folder)
    print(f"{killed} of {moments} were killed at work")
    assert killed >= moments // 2


@pytest.mark.parametrize("moments", MOMENTS)
def test_files_and_folders_killed_at_random_moments_are_old_or_new(tmp_path, moments):
    draw = random.Random(17)
    for moment in range(moments):
        folder = tmp_path / str(moment)
        folder.mkdir()
        assert kill_after(draw.uniform(0, 0.3), WRITE, folder)
        for model in folder.glob("model-*"):
            if ".new" not in model.name:
                assert sorted(path.name for path in model.iterdir()) == ["a", "b", "c"]
        for file in [*folder.glob("file"), *folder.glob("model-*[0-9]/?")]:
            if ".new" not in file.parent.name:
                content = file.read_bytes()
                assert len(content) == 1_000_000 and len(set(content)) == 1
        write_atomically(folder / "file", lambda file: file.write(b"next"))
        assert not list(folder.glob("file.part*"))
