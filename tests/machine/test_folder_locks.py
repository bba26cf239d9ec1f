"""A folder has one writer at a time, and nothing of a killed writer stays."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys

from d2lcls.machine.files import FolderInUse, check_held, hold_folder, new_folder, write_atomically
from d2lcls.machine.temporary import temporary_folder

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


def test_a_folder_that_was_removed_and_locked_by_another_process_is_not_written(tmp_path):
    with hold_folder(tmp_path / "run"):
        check_held(tmp_path / "run")
        shutil.rmtree(tmp_path / "run")
        check_held(tmp_path / "run")  # nobody has it
        command = [sys.executable, "-c", HOLDER, tmp_path / "run"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "held\n"
        with pytest.raises(FolderInUse, match=f"run: process {child.pid} is writing"):
            check_held(tmp_path / "run")
    with pytest.raises(FolderInUse, match=f"run: process {child.pid} is writing"), hold_folder(tmp_path / "run"):
        pass  # its lock is still there
    child.kill()
    child.communicate()


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


def test_a_lock_protects_what_another_container_writes(tmp_path):
    with subprocess.Popen(["true"]) as dead:
        pass
    theirs = tmp_path / f"a.npz.part{dead.pid}-01234567"  # in this container, no process has this id
    with open(theirs, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomically(tmp_path / "a.npz", lambda file: file.write(b"new"))
        assert theirs.exists()
    write_atomically(tmp_path / "a.npz", lambda file: file.write(b"new"))
    assert not theirs.exists()


def test_after_a_restart_of_a_container_the_same_process_id_is_another_process(tmp_path):
    (tmp_path / f"model.new{os.getpid()}").mkdir()
    (tmp_path / f"model.new{os.getpid()}-01234567").mkdir()
    with new_folder(tmp_path / "model") as folder:
        (folder / "file").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "file"]


FILLER = """
import sys, time
from d2lcls.machine.files import new_folder
with new_folder(sys.argv[1]) as folder:
    (folder / "half").write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("exists", [False, True])
def test_the_second_writer_of_a_new_folder_is_refused_at_once_and_a_killed_one_leaves_nothing(tmp_path, exists):
    target = tmp_path / "models" / "new"
    if exists:
        target.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", FILLER, target], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "half\n"
        assert not list(target.glob("half"))
        with pytest.raises(FolderInUse, match=f"new: process {child.pid} is writing"), new_folder(target):
            pytest.fail("two processes fill one folder")
        child.kill()
    with new_folder(target) as folder:
        (folder / "whole").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["models", "new", "whole"]


def test_temporary_folders_of_killed_processes_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code = (
        "import os; from d2lcls.machine.temporary import temporary_folder\n"
        "with temporary_folder() as folder: (folder / 'file').touch(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert len(list(tmp_path.rglob("*"))) == 2
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with temporary_folder() as folder:
        assert [*tmp_path.iterdir()] == [folder] and folder.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []


def test_a_folder_whose_files_were_not_all_moved_is_filled_again(tmp_path):
    code = """
import os, pathlib, sys
from d2lcls.machine.files import new_folder
moves = []
def rename(path, to):
    moves.append(os.replace(path, to))
    if len(moves) == 2:
        os.kill(os.getpid(), 9)
pathlib.Path.rename = rename
with new_folder(sys.argv[1]) as folder:
    for name in "abcd":
        (folder / name).touch()
"""
    target = tmp_path / "model"
    target.mkdir()
    assert subprocess.run([sys.executable, "-c", code, target]).returncode == -9
    assert sum(not path.name.startswith(".") for path in target.iterdir()) == 2
    (tmp_path / "other").touch()
    with open(next(target.glob(".new*/.moved")), "a") as file:  # as if a stranger had made the folder
        file.write(f"\n..\n../other\n{tmp_path / 'other'}\n.\n")
    with new_folder(target) as folder:
        (folder / "b").touch()
    assert [path.name for path in target.iterdir()] == ["b"] and (tmp_path / "other").exists()
