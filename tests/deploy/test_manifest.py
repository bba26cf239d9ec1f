import json
import shutil

from d2lcls.deploy import Accuracy, Manifest, ModelError, load_model, read_manifest
from d2lcls.deploy.manifest import derive, write_manifest, write_model

import numpy as np
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


HUGE = "9" * 4000
WRONG = {
    "name": [None, 3, [], {}, "a\nb", "x" * 2000],
    "form": [None, 3, [], {}, "mxnet\n"],
    "classes": [None, 3, "abc", {"a": 1}, [None], [["a"]], ["a\x1b[2J"], ["\ud800"], ["x" * 2000]],
    "preprocess": [3, [], "x", {"crop": 1}],
    "input_name": [None, 3, [], {}, "\0"],
    "batch": [0, -1, 1.5, True, "1", [], {}, int(HUGE)],
    "dataset": [3, [], {}, "a\nb"],
    "accuracy": [0, "", [], {}, {"top1": 1, "images": 1}],
    "files": [None, 3, "x", ["model-symbol.json"], {"model-symbol.json": 3}, {"a\0b": "0"}],
    "made_from": [3, "x", [], {"a": {"a": {"a": {"a": {"a": 1}}}}}],
    "versions": [None, 3, [], {"mxnet": 1}],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in WRONG.items() for value in values])
def test_entries_of_a_wrong_type_are_named(copy, name, value):
    change(copy, **{name: value})
    with pytest.raises(ModelError, match=f"^{copy}/manifest.json: damaged .{name}.*Make the model anew.$") as error:
        read_manifest(copy)
    assert len(str(error.value)) < 1000 and str(error.value).isprintable()


@pytest.mark.parametrize("part, entries", [
    ("preprocess", {"resize": [None, "3", [], 1.5, True, 0, int(HUGE), 10**6], "crop": [None, "3", 0, int(HUGE)],
                    "mean": [None, 3, "abc", [1], [[1], [1], [1]], [None] * 3, ["a"] * 3, [int(HUGE)] * 3],
                    "std": [None, [0, 0, 0], {}], "interpolation": [None, 3, [], {}, "nearest"]}),
    ("accuracy", {"top1": [None, "1", [], 2, int(HUGE)], "images": [None, "1", 1.5, 0, -int(HUGE)],
                  "data": [None, 3, "\n"]}),
])  # fmt: skip
def test_entries_of_preprocess_and_accuracy(copy, part, entries):
    good = json.loads((copy / "manifest.json").read_text())["preprocess"] if part == "preprocess" else {
        "top1": 0.5, "images": 10, "data": "test"
    }  # fmt: skip
    change(copy, **{part: good})
    assert read_manifest(copy)
    for name, values in entries.items():
        for value in values:
            change(copy, **{part: {**good, name: value}})
            with pytest.raises(ModelError, match=f"manifest.json: damaged .{part}: .*{name[:5]}") as error:
                read_manifest(copy)
            assert len(str(error.value)) < 1000 and str(error.value).isprintable()


def test_a_huge_manifest(copy):
    with open(copy / "manifest.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ModelError, match="manifest.json: damaged .it has more than 16 MB"):
        read_manifest(copy)


@pytest.mark.parametrize("name", ["x" * 300, "\u20ac" * 100, "..", "", "a/b"])
def test_names_of_files_that_no_folder_has(copy, name):
    change(copy, files={name: "0", **read_manifest(copy).files})
    with pytest.raises(ModelError, match="which is not in this folder|is missing"):
        read_manifest(copy)


def test_logits_that_differ_are_reported_under_the_final_name(model, tmp_path):
    with pytest.raises(ModelError, match=f"^{tmp_path}/new: in form mxnet, the model's logits differ by"):
        write_model(
            tmp_path / "new",
            read_manifest(model),
            [],
            write=lambda path: None,
            compute=lambda path: np.ones((1, 3)),
            expected=np.zeros((1, 3)),
        )


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
