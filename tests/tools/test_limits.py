"""Nothing hangs `make test`: runs of its own commands on tests and notebooks that die or never end."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest

ROOT = Path(__file__).parents[2]
DEADLOCK = """
import ctypes
mutex = ctypes.create_string_buffer(64)
for _ in range(2):  # the second time never returns, nor does PyDLL let other threads or signal handlers run
    ctypes.PyDLL(None).pthread_mutex_lock(mutex)
"""


def run(folder, command, *arguments):
    """Run one of the two commands of `make test` on a folder of its own; returns (exit status, output)."""
    made = subprocess.run(["make", "-n", "test", "NOTEBOOKS="], cwd=ROOT, capture_output=True, text=True, check=True)
    words = shlex.split([line for line in made.stdout.splitlines() if " -m pytest " in line][command])
    options = words[words.index("pytest") + 1 :]
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert re.search(r"\d+ failed.* in [\d.]+s", done.stdout.splitlines()[-1]), done.stdout  # pytest's summary
    return done.returncode, done.stdout


def failed(output):
    """The names of the failed tests in pytest's summary, and what is said of them."""
    return dict(re.findall(r"^FAILED (?:\S*::)?(.+?) - (.*)", output, re.M))


def test_a_test_that_dies_or_never_ends_is_named_and_the_others_run(tmp_path):
    (tmp_path / "test_first.py").write_text("""
import os, signal, subprocess, threading
import pytest

def test_good(): pass

def test_killed():
    subprocess.Popen(["sleep", "9001"])
    os.kill(os.getpid(), signal.SIGKILL)

def test_illegal_instruction(): os.kill(os.getpid(), signal.SIGILL)

def test_waits():
    subprocess.Popen(["sleep", "9002"])
    threading.Event().wait()

@pytest.mark.slow
def test_slow(): assert False
""")
    (tmp_path / "test_second.py").write_text(f"""
import pytest

def test_better(): pass

def test_in_c(): exec({DEADLOCK!r})

@pytest.fixture
def endless():
    yield
    exec({DEADLOCK!r})

def test_teardown(endless): assert False, "before the teardown"

def test_best(): pass
""")
    status, output = run(tmp_path, 0, ".", "--timeout=2", "--basetemp=base")
    found = failed(output)
    assert status == 1 and "3 passed" in output, output
    assert set(found) == {f"test_{name}" for name in ("killed", "illegal_instruction", "waits", "in_c", "teardown")}
    assert "Timeout (>2.0s)" in found["test_waits"]
    for name in ("killed", "illegal_instruction", "in_c", "teardown"):
        assert re.search(rf"worker 'gw\d+' crashed while running '\S+::test_{name}'", output)
    assert "Fatal Python error: Illegal instruction" in output and "in test_illegal_instruction" in output
    assert "Timeout (0:00:03)!" in output and "in endless" in output
    left = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if process.info["cmdline"] in (["sleep", "9001"], ["sleep", "9002"])
    ]
    assert not left


def test_a_cell_that_dies_or_never_ends_is_named_and_the_others_run(tmp_path):
    cells = {
        "killed": "import os\nos.kill(os.getpid(), 9)",
        "endless": "while True: pass",
        "in_c": DEADLOCK,
        "good": "2 + 2",
    }
    for name, source in cells.items():
        notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python"}})
        notebook.cells = [nbformat.v4.new_code_cell(text, execution_count=1) for text in ("x = 1", source, "y = 2")]
        if name == "good":
            notebook.cells[1].outputs = [
                nbformat.v4.new_output("execute_result", {"text/plain": "4"}, execution_count=1)
            ]
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    status, output = run(tmp_path, 1, "--nbval-cell-timeout=5", *(f"{name}.ipynb" for name in cells))
    assert status == 1
    named = set(re.findall(r"^FAILED (.+? \d+)\b", output, re.M))
    assert named >= {f"{name}.ipynb::Cell 1" for name in ("killed", "endless", "in_c")}, output
    assert not named & {"good.ipynb::Cell 1", *(f"{name}.ipynb::Cell 0" for name in cells)}, output
    assert "The kernel died in this cell, with exit status -9." in output
    assert "Timeout of 5 seconds exceeded" in output


@pytest.mark.slow
def test_what_hangs_elsewhere_is_interrupted(tmp_path):
    """A module that never lets itself be imported, which no test's limit covers."""
    (tmp_path / "test_first.py").write_text("import threading\nthreading.Event().wait()\n")
    made = subprocess.run(
        ["make", "-n", "test", "NOTEBOOKS=", "LIMIT=15"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    words = shlex.split([line for line in made.stdout.splitlines() if " -m pytest " in line][0])
    words[words.index("-m") - 1] = sys.executable
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 124 and "KeyboardInterrupt" in done.stdout
    assert re.search(r"no tests ran in [\d.]+s", done.stdout)
