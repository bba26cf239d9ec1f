"""The parts of the container that can be checked without building it; tools/container.py builds it and runs it."""

import json
import subprocess
import sys
from pathlib import Path, PurePath

from d2lcls.cli import make_parser

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import container  # noqa: E402

STEPS = container.instructions((ROOT / "Dockerfile").read_text())
COMMANDS = make_parser()._subparsers._group_actions[0].choices


@pytest.fixture
def entrypoint(tmp_path):
    """Run the entry point where each program only prints how it was called."""
    for name in ("jupyter", "d2lcls", "python"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path / name).chmod(0o755)

    def run(*arguments):
        command = ["sh", ROOT / dict(STEPS)["ENTRYPOINT"].split('"')[3], *arguments]
        return subprocess.run(command, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True).stdout

    return run


def test_the_container_starts_jupyterlab_for_the_outside(entrypoint):
    started = entrypoint()
    assert started.startswith("jupyter lab --ip=0.0.0.0 ")
    assert "token" not in started and "password" not in started  # Jupyter's own token stays on


@pytest.mark.parametrize("name", COMMANDS)
def test_any_command_may_follow(entrypoint, name):
    assert entrypoint(name, "--help") == f"d2lcls {name} --help\n"


def test_other_programs_and_options_may_follow(entrypoint):
    assert entrypoint("python", "-c", "1") == "python -c 1\n"
    assert entrypoint("d2lcls", "doctor") == "d2lcls doctor\n"
    assert entrypoint("--help") == "d2lcls --help\n"


def test_no_program_of_the_environment_hides_a_command():
    assert not {path.name for path in Path(sys.executable).parent.iterdir()} & set(COMMANDS)


def test_the_container_is_not_roots():
    assert STEPS[0][0] == "FROM"
    user = [argument for name, argument in STEPS if name == "USER"]
    assert user == ["reader"] and "--user" not in dict(STEPS)["ENTRYPOINT"]
    dev = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    folder = dict(STEPS)["WORKDIR"]
    assert (dev["remoteUser"], dev["workspaceFolder"]) == ("reader", folder)
    assert f"target={folder}," in dev["workspaceMount"] and any(f"target={folder}/.venv," in at for at in dev["mounts"])
    assert (ROOT / ".devcontainer" / dev["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (ROOT / ".devcontainer" / dev["build"]["context"]).resolve() == ROOT


def test_what_git_ignores_stays_out_of_the_image():
    patterns = (ROOT / ".dockerignore").read_text().split()
    for name in (ROOT / ".gitignore").read_text().split():
        assert container.left_out(PurePath(name.replace("*", "x").rstrip("/"), "file"), patterns), name
    for name in ("book/start/.ipynb_checkpoints/x.ipynb", "d2lcls/data/__pycache__/x.pyc", ".git/config"):
        assert container.left_out(PurePath(name), patterns), name
    for name in ("requirements.lock", "d2lcls/training/runs.py", "book/start/introduction.ipynb"):
        assert not container.left_out(PurePath(name), patterns), name
