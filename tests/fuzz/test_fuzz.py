import runpy
import sys
from pathlib import Path

import pytest


def test_without_atheris_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "atheris", None)
    with pytest.raises(SystemExit, match="Fuzzing needs the package atheris, .* Install it with: pip"):
        runpy.run_path(str(Path(__file__).with_name("fuzz.py")))
