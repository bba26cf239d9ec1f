"""Damaged files of every kind: each is opened or refused in one line, within five seconds and bounded memory."""

import json
import random
import select
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

OPENER = Path(__file__).with_name("opener.py")
REFERENCE = Path(__file__).parents[1] / "weights" / "reference"
SECONDS = 5


class Opener:
    """The process of opener.py, started again when it ends or hangs."""

    def __init__(self):
        self.process = None

    def open(self, kind, path):
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", OPENER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        self.process.stdin.write(json.dumps([kind, str(path)]) + "\n")
        self.process.stdin.flush()
        limit = SECONDS if self.started else 60  # the first one imports MXNet
        self.started = True
        if not select.select([self.process.stdout], [], [], limit)[0]:
            self.stop()
            return f"more than {limit} s"
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.stop()
            return f"the process ended with {code}"
        return json.loads(line)

    started = False

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.communicate()
            self.process, self.started = None, False


@pytest.fixture(scope="module")
def opener():
    opener = Opener()
    yield opener
    opener.stop()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small valid file of each kind."""
    from d2lcls.data.formats.records import write_records
    from d2lcls.data.preprocess import Preprocess
    from d2lcls.deploy.exporting import export
    from d2lcls.deploy.onnx.export import export_onnx
    from d2lcls.weights.tensors import write_safetensors

    import mxnet as mx
    from mxnet.gluon import nn

    folder = tmp_path_factory.mktemp("files")
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, activation="relu"), nn.BatchNorm(), nn.Flatten(), nn.Dense(3))
    net.initialize()
    preprocess = Preprocess(8, 8, (0.5,) * 3, (0.5,) * 3, "bilinear")
    export(net, folder / "model", "small", ["red", "green", "blue"], preprocess)
    export_onnx(folder / "model", folder / "onnx")
    write_safetensors(folder / "a.safetensors", {"weight": np.ones((3, 4), np.float32)})
    mx.nd.save(str(folder / "a.params"), {"arg:weight": mx.nd.ones((3, 4)), "aux:mean": mx.nd.ones(4)})
    np.savez(folder / "a.npz", progress=json.dumps({"epoch": 1}), **{"param/weight/0": np.ones((3, 4), np.float32)})
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    for name in ("red", "green"):
        (folder / "pictures" / name).mkdir(parents=True)
        Image.fromarray(noise).save(folder / "pictures" / name / "a.png")
    write_records(folder / "pictures", folder / "a")
    for kind in ("png", "jpeg", "gif"):
        Image.fromarray(noise).save(folder / f"a.{kind}")
    (folder / "run").mkdir()
    (folder / "run" / "run.json").write_text(json.dumps(run_json()))
    return {
        "pth": REFERENCE / "torch_tensors.zip.pth",
        "legacy pth": REFERENCE / "torch_tensors.legacy.pth",
        "safetensors": folder / "a.safetensors",
        "params": folder / "a.params",
        "npz": folder / "a.npz",
        "rec": folder / "a.rec",
        "symbol": folder / "model" / "model-symbol.json",
        "manifest": folder / "model" / "manifest.json",
        "run": folder / "run" / "run.json",
        "onnx": next((folder / "onnx").glob("*.onnx")),
        "png": folder / "a.png",
        "jpeg": folder / "a.jpeg",
        "gif": folder / "a.gif",
    }


def run_json():
    from d2lcls.training.recipe import Recipe

    return {"recipe": {"model": Recipe().model}, "classes": ["red", "green"]}


def mutate(content, generator):
    """Return a file that differs: flipped bits, a cut, a splice, an extreme number, or a part that comes twice."""
    data = bytearray(content)
    for _ in range(generator.randint(1, 3)):
        kind, at = generator.randrange(6), generator.randrange(len(data) or 1)
        if kind == 0:
            for _ in range(generator.randint(1, 8)):
                data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            to = generator.randrange(len(data) or 1)
            data[at:at] = data[to : to + generator.randint(1, 64)]
        elif kind == 3:
            number = generator.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, 10_000_000))
            data[at : at + 8] = struct.pack("<Q", number)
        elif kind == 4:
            number = generator.choice((0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 24))
            data[at : at + 4] = struct.pack(generator.choice(("<I", ">I")), number)
        else:
            data[at : at + 1] = generator.choice((b"[", b"{", b'"', b"-1", b"1e999", b"9" * 30, b"null", b"\xff"))
        if not data:
            break
    return bytes(data)


KINDS = [
    "pth",
    "legacy pth",
    "safetensors",
    "params",
    "npz",
    "rec",
    "symbol",
    "manifest",
    "run",
    "onnx",
    "png",
    "jpeg",
    "gif",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
def test_damaged_files_are_opened_or_refused(opener, files, tmp_path, kind, count):
    source = files[kind]
    target = tmp_path / source.name
    for other in source.parent.iterdir():
        if kind in ("manifest", "symbol", "run", "rec", "onnx") and other.is_file():
            shutil.copy(other, tmp_path)
    shutil.copy(source, target)
    content, generator, failures = source.read_bytes(), random.Random(kind), []
    if kind != "run":
        assert opener.open(kind, target) == "opened"
    for number in range(count):
        mutated = mutate(content, generator)
        target.write_bytes(mutated)
        outcome = opener.open(kind, target)
        if outcome not in ("opened", "refused"):
            failures.append((number, outcome[:300]))
    assert not failures, f"{len(failures)} of {count}: {failures[:5]}"
