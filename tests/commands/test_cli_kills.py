"""kill -9 at random moments of export, quantize, onnx and archive: a model is whole or not there, then made."""

import itertools
import multiprocessing
import os
import random
import sys
import time

from d2lcls import cli

import pytest
from test_cli import nothing_outside, photos, trained  # noqa: F401  fixtures that hold for this file too

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'd2lcls[deploy]'")

# Processes are forked from one that has imported what they need, so that few moments are spent on imports.
STARTER = multiprocessing.get_context("forkserver")
STARTER.set_forkserver_preload(["d2lcls", "mxnet", "onnx", "onnxruntime.quantization", "d2lcls.deploy.onnx.export"])
COMMANDS = ("export run", "onnx mxnet", "quantize mxnet --images 12", "quantize onnx --images 12")
CASES = [
    ("export run", "a new folder", 3),
    *(
        pytest.param(command, place, 30, marks=pytest.mark.slow)
        for command, place in (
            *itertools.product(COMMANDS, ("a new folder", "an empty folder")),
            ("archive onnx", "a new file"),
        )
    ),
]


def run(arguments, environment):
    """Run a command line in the started process."""
    os.environ.update(environment)
    sys.exit(cli.main(arguments))


@pytest.fixture(scope="module")
def models(trained, tmp_path_factory):
    """The folders of a model in MXNet's form and as ONNX."""
    root = tmp_path_factory.mktemp("models")
    assert cli.main(["export", str(trained), "--out", str(root / "mxnet")]) == 0
    assert cli.main(["onnx", str(root / "mxnet"), "--out", str(root / "onnx")]) == 0
    return root


def contents(path):
    files = [path] if path.is_file() else sorted(path.iterdir())
    return {file.name if path.is_dir() else path.suffix: file.read_bytes() for file in files}


@pytest.mark.parametrize("command, place, moments", CASES)
def test_a_model_is_whole_or_not_there(trained, models, tmp_path, command, place, moments):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    name, source, *options = command.split()
    ending = ".mar" if name == "archive" else ""

    def start(out):
        arguments = [name, str(trained if source == "run" else models / source), *options, "--out", str(out)]
        child = STARTER.Process(target=run, args=(arguments, {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}))
        child.start()
        return child

    def complete(out):
        child = start(out)
        child.join()
        assert child.exitcode == 0

    complete(tmp_path / f"warm{ending}")  # which also starts the process that the others are forked from
    begun = time.monotonic()
    complete(tmp_path / f"expected{ending}")
    duration = time.monotonic() - begun
    expected, draw, killed = contents(tmp_path / f"expected{ending}"), random.Random(18), 0
    for moment in range(moments):
        out = tmp_path / "out" / f"{moment // 3}{ending}"
        if place == "an empty folder":
            out.mkdir(parents=True, exist_ok=True)
        child = start(out)
        time.sleep(draw.uniform(0, duration))
        child.kill()
        child.join()
        killed += child.exitcode < 0
        whole = out.is_file() or (out / "manifest.json").exists()
        if whole:
            assert contents(out) == expected
        else:
            assert not out.exists() or all(path.name.startswith((".lock", ".new")) for path in out.iterdir())
        if moment % 3 == 2 or whole:
            if not whole or name == "archive":
                complete(out)
            assert contents(out) == expected
            assert [path.name for path in out.parent.iterdir() if ".new" in path.name or ".part" in path.name] == []
            out.rename(tmp_path / f"done{moment}")
    assert list(temporary.glob("d2lcls-*")) == [] or name != "quantize"
    print(f"{killed} of {moments} were killed at work")
    assert killed >= moments // 3
