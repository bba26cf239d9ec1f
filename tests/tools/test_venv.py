"""tools/venv.sh finds a Python that the lock is for, or says what to install."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools/venv.sh"
PYTHON = f"""case "$2" in "import ensurepip" | "import ctypes;"*) exit;; esac  # as if this system lacked nothing
[ "$1 $2" = "-m venv" ] && set -- -m venv --without-pip "$3"  # pip takes seconds
exec {sys.executable} "$@\""""


@pytest.fixture
def commands(tmp_path):
    """A folder for PATH with the few programs that the script uses, and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("cat", "dirname", "ls", "mktemp", "rm", "sed", "sh", "uname"):
        (folder / name).symlink_to(shutil.which(name))
    return folder


def add(folder, name, script):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def make(commands, *arguments):
    return subprocess.run(
        ["sh", SCRIPT, "environment", *arguments],
        env={"PATH": str(commands)},
        cwd=commands.parent,
        capture_output=True,
        text=True,
    )


def test_it_passes_over_a_name_that_does_not_run_and_takes_the_next(commands, tmp_path):
    add(commands, "python3.11", "exit 127")  # as pyenv has for versions that are not chosen
    add(commands, "python3.12", PYTHON)
    done = make(commands)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "environment/bin/python").exists()


def test_a_named_python_that_does_not_fit_is_refused(commands, tmp_path):
    add(commands, "python3.9", '[ "$1" = --version ] && echo Python 3.9.1')
    done = make(commands, "python3.9")
    assert done.returncode == 1 and not (tmp_path / "environment").exists()
    assert "is for Python 3.11, 3.12 or 3.13; python3.9 is Python 3.9.1. Name one that fits" in done.stderr


def test_without_a_python_and_a_network_it_says_what_to_install(commands, tmp_path):
    add(commands, "uv", "exit 2")
    done = make(commands)
    assert done.returncode == 1 and not (tmp_path / "environment").exists()
    assert "asking uv for one" in done.stderr and "sudo apt-get install python3 python3-venv" in done.stderr


def test_uv_s_python_is_taken(commands, tmp_path):
    add(commands.parent, "found", PYTHON)
    add(commands, "uv", f'[ "$1 $2" = "python find" ] && echo {commands.parent}/found')
    assert make(commands).returncode == 0
    assert (tmp_path / "environment/bin/python").exists()
