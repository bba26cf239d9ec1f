"""A folder has one writer at a time, and nothing of a killed writer stays."""

import os
import signal
import subprocess
import sys

from d2lcls.machine.files import FolderInUse, hold_folder, new_folder, write_atomically

import pytest

HOLDER = """
import sys, time
from d2lcls.machine.files import hold_folder
with hold_folder(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "run"], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        yield child
        child.kill()


def test_the_second_process_is_refused_and_both_are_named(holder, tmp_path):
    for _ in range(2):  # a refused attempt leaves the lock as it is
        with pytest.raises(FolderInUse, match=f"run: process {holder.pid} is writing"), hold_folder(tmp_path / "run"):
            pass


def test_kill_9_releases_the_lock(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with hold_folder(tmp_path / "run"), hold_folder(tmp_path / "run"):  # one thread may hold it twice
        assert (tmp_path / "run" / ".lock.pid").read_text() == str(os.getpid())
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_folder_that_stays_empty_is_removed(tmp_path):
    with hold_folder(tmp_path / "a" / "b"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_writers_never_mix_their_files(tmp_path):
    with pytest.raises(FolderInUse, match="model: another process has written"), new_folder(tmp_path / "model") as mine:
        (mine / "mine").touch()
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "theirs").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "theirs"]


def test_only_leftovers_of_dead_processes_are_removed(tmp_path):
    with subprocess.Popen(["true"]) as dead:
        pass
    (tmp_path / f"a.npz.part{dead.pid}").touch()
    (tmp_path / f"model.new{dead.pid}").mkdir()
    kept = {f"a.npz.part{os.getppid()}", "a.npz.part", "a.npz.partial", "b.npz.part01", f"my-a.npz.part{dead.pid}"}
    for name in kept:
        (tmp_path / name).touch()
    write_atomically(tmp_path / "a.npz", lambda file: file.write(b"new"))
    with new_folder(tmp_path / "model"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", "model", *kept}
