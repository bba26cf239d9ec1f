"""environment.yml, pyproject.toml and requirements.lock say the same."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = {(r := Requirement(line)).name.lower().replace("_", "-"): r
        for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")}


def declared(*extras):
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("requirement", declared("cpu", "book", "test"), ids=str)
def test_the_lock_fulfils_every_requirement(requirement):
    locked = LOCK[requirement.name.lower()]
    version = re.fullmatch(r"==(.+)", str(locked.specifier)).group(1)
    assert requirement.specifier.contains(version), f"pyproject.toml wants {requirement}, the lock has {version}"


def test_the_lock_pins_every_line_and_names_no_index():
    text = (ROOT / "requirements.lock").read_text()
    assert all(str(r.specifier).startswith("==") for r in LOCK.values())
    assert "://" not in text and "--" not in text


def test_the_lock_has_one_mxnet_and_one_opencv():
    assert [n for n in LOCK if n.startswith("mxnet")] == ["mxnet"]
    assert [n for n in LOCK if n.startswith("opencv")] == ["opencv-python-headless"]


def test_conda_installs_the_lock_and_nothing_else():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip = conda["dependencies"][0], conda["dependencies"][-1]["pip"]
    assert pip == ["-r requirements.lock", "-e ."]
    version = python.removeprefix("python=")
    assert f"--python-version {version}" in (ROOT / "Makefile").read_text()
    from packaging.specifiers import SpecifierSet
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)


def test_conda_spells_out_the_gpu_extra():
    comments = " ".join(line.lstrip("# ") for line in (ROOT / "environment.yml").read_text().splitlines()
                        if line.startswith("#"))
    named = set(re.findall(r"(?:mxnet-cu117|nvidia-[a-z-]+-cu11)(?:[=<>]+[0-9.]*[0-9])?", comments))
    wanted = set(PROJECT["optional-dependencies"]["cu118"])
    assert {n for n in named if n != "mxnet-cu117"} == wanted
    assert "no package called mxnet-cu118" in comments.lower()


def test_workflow_and_ci_run_the_readmes_commands():
    workflow = yaml.safe_load((ROOT / ".github/workflows/book.yml").read_text())
    steps = [step.get("run") for step in workflow["jobs"]["build"]["steps"]]
    assert "bash .ci/run" in steps
    ci, readme = (ROOT / ".ci/run").read_text(), (ROOT / "README.md").read_text()
    for command in ("make book", "make test"):
        assert re.search(rf"^{command}$", ci, re.M) and re.search(rf"^{command}\b", readme, re.M)
