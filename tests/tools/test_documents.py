"""CONTRIBUTING.md names files that exist, and every folder of the package."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:d2lcls|tests|book|benchmarks|tools)/[\w./-]*)", CONTRIBUTING)))
)
def test_files_that_contributing_names_exist(path):
    assert (ROOT / path).exists()


def test_every_folder_of_the_package_is_in_contributing():
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "d2lcls").rglob("__init__.py")} - {Path("d2lcls")}
    for folder in folders:
        named = f"`{folder}/`" if len(folder.parts) == 2 else f"`{folder.name}/`"
        assert named in CONTRIBUTING, f"{folder} is not in the table"
