"""The wheel holds the whole package and works outside the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import d2lcls

import pytest

ROOT = Path(__file__).parents[2]
LOAD = """
import d2lcls
from d2lcls.data.download.sample import read_sample
images, labels = read_sample("test")
print(d2lcls.__file__, len(images), d2lcls.__version__)
"""
RESULTS = """
from d2lcls.book import results
try:
    results.value("cnn_cifar10.test_accuracy.mean")
except FileNotFoundError as error:
    print(error)
"""


def pip(command, *arguments):
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", command, "--no-index", "--no-deps", *arguments],
        check=True,
        env={**os.environ, "PIP_FIND_LINKS": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built in a copy because setuptools leaves folders where it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "d2lcls", folder / "d2lcls", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder / "dist", folder)
    (path,) = (folder / "dist").iterdir()
    return path


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """A function that runs Python with the installed wheel in another folder, and returns what it prints."""
    site, elsewhere = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("elsewhere")
    pip("install", "--target", site, wheel)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def output(*arguments):
        process = subprocess.run(
            [sys.executable, *arguments], cwd=elsewhere, env=environment, capture_output=True, text=True
        )
        assert process.returncode == 0, process.stderr
        return process.stdout

    loaded, images, version = output("-c", LOAD).split()
    assert Path(loaded).is_relative_to(site) and int(images) > 0 and version == d2lcls.__version__
    return output


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    tracked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "d2lcls").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == tracked
    assert {"d2lcls/py.typed", "d2lcls/__init__.pyi", "d2lcls/deploy/edge/program/classify.cc"} <= names


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--version"], "d2lcls "),
        (["--help"], "usage: d2lcls"),
        (["data", "list"], "cifar10"),
        (["predict", "--help"], "--model"),
    ],
    ids=" ".join,
)
def test_commands_run_outside_the_repository(run, arguments, expected):
    assert expected in run("-m", "d2lcls", *arguments)


def test_results_are_not_part_of_the_package_and_the_error_says_so(run):
    (line,) = run("-c", RESULTS).splitlines()
    assert "results are part of the repository, not of the installed package" in line
