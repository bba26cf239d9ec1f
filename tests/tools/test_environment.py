"""environment.yml, pyproject.toml, requirements.lock, the workflow and the version in several files agree."""

import itertools
import re
import subprocess
import tomllib
from pathlib import Path

import d2lcls

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK_TEXT = (ROOT / "requirements.lock").read_text()
PINS = [Requirement(line.removesuffix("\\")) for line in LOCK_TEXT.splitlines() if not line.startswith(" ")]
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")


def environment(python, machine):
    """Return the variables of markers, for CPython on Linux."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_machine": machine,
    }


def lock(python, machine="x86_64"):
    """Return what the lock installs on Linux: a dict from names to versions."""
    variables = environment(python, machine)
    pins = [
        (pin.name, str(pin.specifier).removeprefix("=="))
        for pin in PINS
        if pin.marker is None or pin.marker.evaluate(variables)
    ]
    assert len(pins) == len(dict(pins)), "a package has two versions in one environment"
    return dict(pins)


def declared(*extras):
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize(
    "requirement", declared("cpu", "weights", "tune", "deploy", "serve", "book", "test", "check", "lock"), ids=str
)
def test_the_lock_fulfils_every_requirement(requirement):
    for python, machine in itertools.product(PYTHONS, MACHINES):
        if requirement.marker and not requirement.marker.evaluate(environment(python, machine)):
            continue
        version = lock(python, machine)[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"the lock has {version} for Python {python} on {machine}"


def test_the_lock_is_for_every_python_that_the_package_is_for():
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(20) if allowed.contains(f"3.{minor}")] == list(PYTHONS)
    different = set(lock("3.12").items()) ^ set(lock("3.13").items())
    assert {name for name, _ in different} == {"numpy"}


def test_the_lock_pins_and_hashes_every_package_and_names_no_index():
    assert all(str(pin.specifier).startswith("==") for pin in PINS)
    entries = re.split(r"\n(?=\S)", LOCK_TEXT.strip())
    assert len(entries) == len(PINS)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}$", entry) for entry in entries)
    assert "://" not in LOCK_TEXT and "--index" not in LOCK_TEXT


def test_the_lock_has_one_mxnet_and_one_opencv():
    assert [n for n in lock("3.11") if n.startswith("mxnet")] == ["mxnet"]
    assert [n for n in lock("3.11") if n.startswith("opencv")] == ["opencv-python-headless"]


def test_conda_installs_the_lock_and_nothing_else():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip = conda["dependencies"][0], conda["dependencies"][-1]["pip"]
    assert pip == ["-r requirements.lock"]
    assert python.removeprefix("python=") in PYTHONS


# Commands of pip that install from a network without hashes, and why: the files say the same.
UNHASHED = {
    "Makefile": ["-r benchmarks/rivals/requirements.txt"],  # PyTorch has different files of one version
    "environment.yml": ["mxnet-cu117", "nvidia-"],  # the GPU extra is not in the lock file
}


@pytest.mark.parametrize("name", ["Makefile", "Dockerfile", "environment.yml", "README.md", "tools/venv.sh", ".ci/run"])
def test_packages_are_installed_with_hashes(name):
    for line in (ROOT / name).read_text().splitlines():
        command = re.search(r"\bpip\"? (install|download)\b(.*)", line)
        local = command and ("--no-index" in line or line.rstrip("`").endswith("-e ."))
        if command and not local and not any(allowed in line for allowed in UNHASHED.get(name, [])):
            assert "--require-hashes" in line, line


def test_conda_spells_out_the_gpu_extra():
    comments = " ".join(
        line.lstrip("# ") for line in (ROOT / "environment.yml").read_text().splitlines() if line.startswith("#")
    )
    named = set(re.findall(r"(?:mxnet-cu117|nvidia-[a-z-]+-cu11)(?:[=<>]+[0-9.]*[0-9])?", comments))
    wanted = set(PROJECT["optional-dependencies"]["cu118"])
    assert {n for n in named if n != "mxnet-cu117"} == wanted
    assert "no package called mxnet-cu118" in comments.lower()


def test_workflow_and_ci_run_the_readmes_commands():
    workflow = yaml.safe_load((ROOT / ".github/workflows/book.yml").read_text())
    build = workflow["jobs"]["build"]
    assert build["strategy"]["matrix"]["python"] == list(PYTHONS)
    assert "bash .ci/run" in [step.get("run") for step in build["steps"]]
    commands = re.findall(r"^make \w+$", (ROOT / ".ci/run").read_text(), re.M)
    assert commands == ["make check", "make book", "make test"]
    for command in commands:
        assert re.search(rf"^{command}\b", (ROOT / "README.md").read_text(), re.M)


def test_pre_commit_runs_the_tools_of_make_check():
    hooks = [
        hook
        for repository in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
        for hook in repository["hooks"]
    ]
    assert all(hook["language"] == "system" for hook in hooks), "would download the tool"
    recipe = subprocess.run(
        ["make", "-n", "check", "BIN=.venv/bin"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    checked = [line.split(" --check")[0] for line in recipe.splitlines() if re.match(r"\.venv/bin/(ruff|mypy)", line)]
    assert [hook["entry"].removesuffix(" --force-exclude") for hook in hooks] == checked


def test_the_citation_and_the_changelog_have_the_version_of_the_package():
    assert PROJECT["dynamic"] == ["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == d2lcls.__version__
    release = re.search(r"^## (\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert release.groups() == (d2lcls.__version__, citation["date-released"])
