"""Forms of one model in one folder, and the choice of the fastest."""

import hashlib
import json
import shutil

from d2lcls.deploy import ModelError, fastest_form, find_forms, load_model
from d2lcls.deploy import forms as module
from d2lcls.deploy.quantization import quantize_model

import numpy as np
import pytest


@pytest.fixture
def folder(model, examples, tmp_path):
    """The model in mxnet's form and in int8, and a folder without a model."""
    shutil.copytree(model, tmp_path / "cnn/a-mxnet")
    quantize_model(model, tmp_path / "cnn/int8", examples)
    (tmp_path / "cnn/notes").mkdir()
    return tmp_path / "cnn"


def change(path, **content):
    """Change entries of a manifest."""
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, **content}))


def test_the_fastest_form_is_loaded(folder, examples):
    choice = fastest_form(folder, threads=1)
    assert list(choice.ms) in (["a-mxnet", "int8"], ["int8", "a-mxnet"])
    assert choice.folder == folder / next(iter(choice.ms)) and choice.ms[choice.folder.name] == min(choice.ms.values())
    assert not choice.left_out and str(choice).startswith(
        f"{choice.folder} (form {choice.form}); {choice.folder.name} "
    )
    assert load_model(folder).compute(examples).shape == (64, 3)


def test_one_form_is_chosen_without_timing_it(folder, model, monkeypatch):
    monkeypatch.setattr(module, "Sleeper", None)
    assert [manifest.form for manifest in find_forms(folder).values()] == ["mxnet", "mxnet-int8"]
    assert fastest_form(folder, "mxnet-int8").folder == folder / "int8"
    assert load_model(folder, "mxnet-int8").manifest.form == "mxnet-int8"
    assert fastest_form(model).folder == model == fastest_form(model, "mxnet").folder
    assert str(fastest_form(model)) == f"{model} (form mxnet)"
    with pytest.raises(ModelError, match="holds no model of form onnx. Choose from: auto, mxnet, mxnet-int8."):
        fastest_form(folder, "onnx")
    with pytest.raises(ModelError, match="holds no model of form tvm. Choose from: auto, mxnet."):
        load_model(model, "tvm")


def test_forms_that_cannot_be_loaded_are_left_out(folder, model, monkeypatch):
    for name, form in (("torch", "torch"), ("tvm", "tvm")):
        shutil.copytree(model, folder / name)
        files = {"torch": ("model.py", "weights.safetensors", "check.py"), "tvm": ("model.so",)}[form]
        for file in files:
            (folder / name / file).write_bytes(b"")
        empty = hashlib.sha256(b"").hexdigest()
        change(folder / name, form=form, made_from={"form": "onnx"}, files=dict.fromkeys(files, empty))
    (folder / "int8/model-0000.params").write_bytes(b"cut")
    choice = fastest_form(folder)
    assert (
        choice.form == "mxnet" and list(choice.ms) == ["a-mxnet"] and list(choice.left_out) == ["tvm", "int8", "torch"]
    )
    assert "its sha256 differs" in choice.left_out["int8"] and "machine code; --trust" in choice.left_out["tvm"]
    assert choice.left_out["torch"].startswith(f"{folder}/torch: a model of form torch is run by PyTorch")
    assert "; torch left out (" in str(choice)
    assert "machine code" not in str(fastest_form(folder, trust=True))
    shutil.rmtree(folder / "a-mxnet")
    with pytest.raises(ModelError, match="none of its forms can be used on this machine. tvm: .*; int8: .*; torch: "):
        fastest_form(folder)


def test_int8_for_other_processors_is_left_out(folder, monkeypatch):
    made_from = json.loads((folder / "int8/manifest.json").read_text())["made_from"]
    change(folder / "int8", made_from={**made_from, "vnni": True})
    monkeypatch.setattr(module, "int8_saturates", lambda: True)
    choice = fastest_form(folder)
    assert choice.form == "mxnet" and list(choice.left_out) == ["int8"] and "VNNI" in str(choice)


def test_different_models_in_one_folder(folder, model):
    for content in ({"classes": ["one", "two", "three"]}, {"name": "other"}):
        shutil.copytree(model, folder / "other")
        change(folder / "other", **content)
        with pytest.raises(ModelError, match=f"a-mxnet and other are different models.*'{[*content][0]}'"):
            fastest_form(folder)
        shutil.rmtree(folder / "other")
    with pytest.raises(FileNotFoundError, match="holds no manifest.json"):
        fastest_form(folder / "notes")


def test_one_onnx_file_beside_mxnet(folder, examples):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from d2lcls.deploy.onnx.export import export_onnx

    export_onnx(folder / "a-mxnet", folder / "onnx")
    assert set(fastest_form(folder).ms) == {"a-mxnet", "int8", "onnx"}
    expected = load_model(folder, "mxnet").compute(examples)
    np.testing.assert_allclose(load_model(folder, "onnx").compute(examples), expected, rtol=1e-3, atol=1e-3)
