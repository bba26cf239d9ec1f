"""Every command that writes, on a small disk and under a limit of file size: one line, and nothing incomplete."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MAIN = [sys.executable, "-c", "import sys; from d2lcls.cli import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with pictures, a run trained on them, and its models in the forms mxnet and onnx."""
    folder, rng = tmp_path_factory.mktemp("made"), np.random.default_rng(0)
    for split, number in (("train", 8), ("test", 2)):
        for label, name in enumerate(("top", "bottom")):
            (folder / "pictures" / split / name).mkdir(parents=True)
            for index in range(number):
                pixels = rng.integers(0, 120, (32, 32, 3)).astype(np.uint8)
                pixels[16 * label : 16 * label + 16] += 100
                Image.fromarray(pixels).save(folder / "pictures" / split / name / f"{index}.png")
    for words in (
        f"train --dataset {folder}/pictures --epochs 1 --validation 0.25 --out {folder}/run",
        f"export {folder}/run --out {folder}/mxnet",
        f"onnx {folder}/mxnet --out {folder}/onnx",
    ):
        done = run(words)
        assert done.returncode == 0, done.stderr
    return folder


def run(words, **options):
    return subprocess.run(
        [*MAIN, *words.split()], text=True, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    )


def listing(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


COMMANDS = [  # and the path that the message names
    ("train --dataset {made}/pictures --epochs 1 --validation 0.25 --out {disk}/run", "{disk}/run/best.npz"),
    ("export {made}/run --out {disk}/model", "{disk}/model"),
    ("quantize {made}/onnx --out {disk}/model", "{disk}/model"),
    ("onnx {made}/mxnet --out {disk}/model", "{disk}/model"),
    ("torch {made}/mxnet --out {disk}/model", "{disk}/model"),
    ("archive {made}/mxnet --out {disk}/cnn.mar", "{disk}/cnn.mar"),
    ("rescue {old} --save {disk}/cnn", "{disk}/cnn-0000.params"),
    ("rescue {old} --onnx {disk}/cnn.onnx", "{disk}/cnn.onnx"),
    ("rescue {old} --torch {disk}/cnn", "{disk}/cnn"),
    ("weights convert {weights} --model cnn --classes 2 --out {disk}/cnn.params", "{disk}/cnn.params"),
    ("weights convert {weights} --model cnn --classes 2 --out {disk}/cnn.safetensors", "{disk}/cnn.safetensors"),
]
SMALL = 200_000  # bytes: less than any of these needs


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from d2lcls.models import get_model

    import mxnet as mx

    net = get_model("cnn", classes=2)
    net.initialize()
    net(mx.nd.zeros((1, 3, 32, 32)))
    path = tmp_path_factory.mktemp("weights") / "cnn.params"
    net.save_parameters(str(path))
    return path


@pytest.mark.parametrize("limited", ["disk", pytest.param("file size", marks=pytest.mark.slow)])
@pytest.mark.parametrize("words, place", COMMANDS, ids=[words.partition(" {disk}")[0][:30] for words, _ in COMMANDS])
def test_a_command_that_writes(made, weights, small_disk, tmp_path, words, place, limited):
    options = {}
    if limited == "disk":
        disk = small_disk(SMALL)
    else:
        disk, limit = tmp_path, (SMALL, resource.RLIM_INFINITY)
        options["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        if "quantize" in words:
            pytest.skip("ONNX Runtime writes larger temporary files, and prints a traceback of its own")
    old = f"{made}/mxnet/model-symbol.json {made}/mxnet/model-0000.params --shape 3,32,32"
    known = {"made": made, "disk": disk, "old": old, "weights": weights}
    (disk / "before").write_bytes(b"untouched")
    done = run(words.format(**known), **options)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"d2lcls: {place.format(**known)}: cannot be written (")
    assert ("No space left on device" if limited == "disk" else "File too large") in line
    left = listing(disk).keys() - {"before", "run/run.json", "run/network.json"}  # a run that --resume continues
    assert not left and (disk / "before").read_bytes() == b"untouched"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which is part of Linux")
@pytest.mark.parametrize("words", ["data list", "evaluate {made}/run", "doctor --json"])
def test_the_output_on_a_full_disk(made, words):
    with open("/dev/full", "wb") as full:
        done = run(words.format(made=made), stdout=full)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1:] == [
        "d2lcls: the output or a file of a library cannot be written (No space left on device). Free some space"
    ]
    assert "Traceback" not in done.stderr


def test_without_any_output(made):
    done = run(f"evaluate {made}/run", stdout=None, preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", ["compare {made}/mxnet {made}/onnx", "quantize {made}/onnx --out {made}/int8"])
def test_no_room_for_temporary_files(made, small_disk, words):
    disk = small_disk(4096)
    (disk / "some").write_bytes(b"")
    done = run(words.format(made=made), env={**os.environ, "TMPDIR": str(disk)})
    assert done.returncode == 1 and not (made / "int8").exists()
    assert done.stderr.startswith(f"d2lcls: {disk}: cannot be written (No space left on device")
    assert done.stderr.count("\n") == 1 and "set TMPDIR" in done.stderr
