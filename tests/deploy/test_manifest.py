import json
import shutil

from d2lcls.deploy import Accuracy, Manifest, ModelError, load_model, read_manifest
from d2lcls.deploy.manifest import derive, write_manifest

import pytest


@pytest.fixture
def copy(model, tmp_path):
    return shutil.copytree(model, tmp_path / "copy")


def change(folder, **entries):
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**content, **entries}))


def test_all_of_it_comes_back(copy, preprocess):
    manifest = read_manifest(copy)
    assert manifest.classes == ("top", "middle", "bottom") and manifest.preprocess == preprocess
    assert (manifest.name, manifest.form, manifest.dataset, manifest.accuracy) == ("cnn", "mxnet", "shapes", None)
    assert set(manifest.files) == {"model-symbol.json", "model-0000.params"}
    assert manifest.versions["mxnet"] == "1.9.1" and manifest.input_shape(7) == (7, 3, 16, 16)
    child = derive(manifest, "onnx", batch=2, opset=13)
    (copy / "model.onnx").write_text("x")
    child = write_manifest(copy, child)
    assert child.made_from["form"] == "mxnet" and child.made_from["files"] == dict(manifest.files)
    assert child.made_from["opset"] == 13 and child.batch == 2 and "model.onnx" in child.files


def test_accuracy_comes_back(copy):
    manifest = Manifest("n", "mxnet", ("a",), read_manifest(copy).preprocess, accuracy=Accuracy(0.5, 10, "test"))
    assert write_manifest(copy, manifest).accuracy == Accuracy(0.5, 10, "test")
    with pytest.raises(ValueError, match="share from 0 to 1 on one image or more, not 50 on 10"):
        Accuracy(50, 10, "test")


def test_folders_that_hold_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model folder. Make one of a trained run with: d2lcls export RUN"):
        read_manifest(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_manifest(tmp_path / "none")


def test_a_file_that_was_changed_or_lost(copy):
    path = copy / "model-0000.params"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="model-0000.params: not the file that was written with the model"):
        read_manifest(copy)
    assert read_manifest(copy, verify=False).name == "cnn"
    path.unlink()
    with pytest.raises(ModelError, match="model-0000.params is missing"):
        read_manifest(copy)


@pytest.mark.parametrize(
    "entries",
    [
        {"classes": None},
        {"classes": []},
        {"classes": [1]},
        {"form": "caffe"},
        {"preprocess": {"resize": 3}},
        {"preprocess": None},
        {"files": []},
        {"accuracy": {"top1": 7, "images": 1, "data": ""}},
        {"accuracy": 3},
    ],
)
def test_damaged_entries(copy, entries):
    change(copy, **entries)
    with pytest.raises(ModelError, match="manifest.json: damaged"):
        read_manifest(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"manifest": 1}', '{"manifest": NaN}', "[" * 100_000])
def test_damaged_json(copy, text):
    (copy / "manifest.json").write_text(text)
    with pytest.raises(ModelError, match="manifest.json: damaged"):
        read_manifest(copy)


def test_a_later_version(copy):
    change(copy, manifest=2)
    with pytest.raises(ModelError, match="of version 2; this d2lcls reads version 1"):
        read_manifest(copy)


@pytest.mark.parametrize("files", [{}, {"model-symbol.json": "0"}, {"model-0000.params": "0", "x": "0"}])
def test_a_manifest_without_checksums_of_what_its_form_needs(copy, files):
    change(copy, files=files)
    with pytest.raises(ModelError, match="manifest.json: names no model-.*, which a model of form mxnet needs"):
        read_manifest(copy, verify=False)


def test_files_that_are_links(copy, tmp_path):
    (copy / "model-0000.params").rename(tmp_path / "secret")
    (copy / "model-0000.params").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="names the file 'model-0000.params', which is not in this folder"):
        read_manifest(copy)


@pytest.mark.parametrize("listed", ["model.so", "classify"])
def test_machine_code_needs_trust(copy, listed):
    (copy / listed).write_bytes(b"no library")
    write_manifest(copy, derive(read_manifest(copy), "tvm"))
    with pytest.raises(ModelError, match="form tvm is machine code.*--trust .in Python: trust=True."):
        load_model(copy)
    with pytest.raises((ModelError, ImportError)):
        load_model(copy, trust=True)


def test_files_elsewhere_are_not_touched(copy):
    change(copy, files={"../../secret": "0", **read_manifest(copy).files})
    with pytest.raises(ModelError, match="names the file '../../secret', which is not in this folder"):
        read_manifest(copy)
