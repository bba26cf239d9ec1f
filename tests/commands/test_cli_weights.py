"""`d2lcls weights`."""

import re

from d2lcls.models import get_model
from d2lcls.weights import read_tensors
from d2lcls.weights import store as module
from d2lcls.weights.tensors import read_metadata, write_safetensors

import mxnet as mx
import numpy as np
import pytest
from test_cli import call, fails, nothing_outside  # noqa: F401  the fixture holds for this file too

NAME = "mobilenet0.25"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A `.params` file of a network of 1000 classes."""
    net = get_model(NAME, classes=1000)
    net.initialize()
    net(mx.nd.zeros((1, 3, 32, 32)))
    path = tmp_path_factory.mktemp("source") / "net.params"
    net.save_parameters(str(path))
    return path


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "mxnet"))


def cached(tmp_path):
    return tmp_path / "empty-cache" / "weights" / f"{NAME}.safetensors"


def test_list_says_what_can_be_had_and_how(capsys, tmp_path):
    code, out, err = call(capsys, "weights", "list")
    assert code == 0 and err == ""
    assert re.search(
        r"^efficientnet_lite0 +not here: d2lcls weights get efficientnet_lite0; TensorFlow's .*; "
        r"Apache-2.0; published 75.1%, measured .*; sha256 57934424$",
        out,
        re.M,
    )
    assert "MXNET_GLUON_REPO" in out and out.endswith(f"cache: {tmp_path / 'empty-cache' / 'weights'}\n")
    assert not (tmp_path / "empty-cache").exists()  # looking writes nothing


def test_converted_weights_are_listed_with_what_was_told_of_them(capsys, source, tmp_path):
    code, out, err = call(
        capsys,
        "weights",
        "convert",
        source,
        "--model",
        NAME,
        "--source",
        "My own",
        "--licence",
        "MIT",
        "--published",
        0.512,
    )
    assert (code, out, err) == (0, f"{cached(tmp_path)}\n", "")
    out = call(capsys, "weights", "list")[1]
    line = rf"^{NAME} +{cached(tmp_path)}; from My own; MIT; published 51.2%; sha256 [0-9a-f]{{8}}$"
    assert re.search(line, out, re.M)
    assert read_metadata(cached(tmp_path))["network"] == NAME
    net = get_model(NAME, pretrained=True)  # finds it
    expected = mx.nd.load(str(source))
    for name, parameter in net._collect_params_with_prefix().items():
        np.testing.assert_array_equal(parameter.data().asnumpy(), expected[name].asnumpy())
    cached(tmp_path).write_bytes(b"damaged")
    assert re.search(rf"{NAME} .*damaged \(", call(capsys, "weights", "list")[1])


def test_get_prints_the_file_or_every_reason(capsys, source, tmp_path):
    line = fails(capsys, "weights", "get", NAME)
    assert f"pretrained weights of {NAME} could not be fetched" in line and "D2LCLS_OFFLINE=1" in line
    assert f"d2lcls weights convert FILE --model {NAME}" in line
    line = fails(capsys, "weights", "get", "mobilenet.25")
    assert "No image classifier is called 'mobilenet.25'. Did you mean mobilenet0.25" in line
    call(capsys, "weights", "convert", source, "--model", NAME)
    assert call(capsys, "weights", "get", "MobileNet0.25")[:2] == (0, f"{cached(tmp_path)}\n")


def test_weights_go_to_pytorchs_names_and_back(capsys, source, tmp_path):
    there, back = tmp_path / "timm.safetensors", tmp_path / "back.params"
    assert call(capsys, "weights", "convert", source, "--model", NAME, "--to", "timm", "--out", there)[0] == 0
    assert "conv_stem.weight" in read_tensors(there)
    assert call(capsys, "weights", "convert", there, "--model", NAME, "--out", back)[0] == 0
    expected, found = mx.nd.load(str(source)), mx.nd.load(str(back))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name].asnumpy(), value.asnumpy())


def test_weights_of_other_classes_are_converted_and_verified_too(capsys, tmp_path):
    net = get_model(NAME, classes=7)
    net.initialize()
    net(mx.nd.zeros((1, 3, 32, 32)))
    net.save_parameters(str(tmp_path / "seven.params"))
    seven = ["--model", NAME, "--classes", 7]
    out = tmp_path / "seven.safetensors"
    assert call(capsys, "weights", "convert", tmp_path / "seven.params", *seven, "--out", out)[0] == 0
    assert call(capsys, "weights", "verify", out, *seven)[:2] == (0, f"{NAME}: {out}: OK\n")
    code, said, _ = call(capsys, "weights", "verify", out, "--model", NAME)
    assert code == 1 and "seven.safetensors: does not fit. 'output.weight' has the shape (7, 256)" in said


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["convert", "x.pth"], "required: --model"),
        (["convert", "x.pth", "--model", NAME, "--to", "keras"], "invalid choice: 'keras'"),
        (["convert", "x.pth", "--model", NAME, "--to", "timm"], "name another file with --out"),
        (["convert", "x.pth", "--model", NAME, "--classes", "10"], "name another file with --out"),
        (["convert", "x.pth", "--model", NAME, "--out", "x.params", "--licence", "MIT"], "has no room for"),
        (["convert", "x.pth", "--model", NAME, "--published", "75.1"], "must be a share from 0 to 1, not 75.1"),
        (["verify", "--model", NAME], "--model names the network of a FILE"),
    ],
)
def test_wrong_arguments_exit_with_2(capsys, arguments, message):
    code, out, err = call(capsys, "weights", *arguments)
    assert code == 2 and out == "" and message in err and err.startswith("d2lcls weights")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere.pth", "--model", NAME], "nowhere.pth: no such file of weights"),
        (["SOURCE", "--model", "mobilenet0.20"], "Did you mean mobilenet0.25"),
        (["SOURCE", "--model", "mobilenet0.5"], "net.params: does not fit MobileNet"),
        (["SOURCE", "--model", NAME, "--out", "x.onnx"], "x.onnx: expected a name ending in .safetensors"),
        (["SOURCE", "--model", NAME, "--to", "timm", "--out", "x.params"], "x.params: expected a name ending in"),
        (["SOURCE", "--model", NAME, "--to", "lukemelas", "--out", "x.safetensors"], "not in 'lukemelas'"),
    ],
)
def test_what_cannot_be_converted_is_one_readable_line(capsys, source, tmp_path, arguments, message):
    line = fails(capsys, "weights", "convert", *[source if text == "SOURCE" else text for text in arguments])
    assert message in line and len(line) < 400
    assert not list(tmp_path.glob("x.*")) and not cached(tmp_path).exists()


def test_verify_looks_into_every_file_that_is_here(capsys, source, tmp_path):
    code, out, _ = call(capsys, "weights", "verify")
    assert code == 0 and "No weights are here" in out
    assert f"The weights of {NAME} are not here" in fails(capsys, "weights", "verify", NAME)
    call(capsys, "weights", "convert", source, "--model", NAME)
    for arguments in ([], [NAME], [source, "--model", NAME]):
        code, out, err = call(capsys, "weights", "verify", *arguments)
        path = source if source in arguments else cached(tmp_path)
        assert (code, out, err) == (0, f"{NAME}: {path}: OK\n", "")
    assert call(capsys, "weights", "verify", source)[0] == 2  # whose are they?

    arrays = read_tensors(cached(tmp_path))
    arrays["output.bias"][3] = np.nan
    write_safetensors(cached(tmp_path), arrays)
    code, out, _ = call(capsys, "weights", "verify")
    assert code == 1 and "'output.bias' contains a number that is not finite" in out
    cached(tmp_path).write_bytes(cached(tmp_path).read_bytes()[:9000])
    code, out, _ = call(capsys, "weights", "verify", NAME)
    assert code == 1 and "cannot be read as safetensors" in out and out.count("\n") == 1


def test_verify_compares_checksums_where_they_are_known(capsys, source, tmp_path):
    path = tmp_path / "mxnet" / "models" / f"{module._stored_name(NAME)}.params"
    path.parent.mkdir(parents=True)
    path.write_bytes(source.read_bytes())  # a good file, but not the one of the store's table
    code, out, _ = call(capsys, "weights", "verify")
    assert code == 1 and f"{path}: damaged: has checksum" in out
    assert f"{NAME:<20} {path}; GluonCV's store" in call(capsys, "weights", "list")[1]
