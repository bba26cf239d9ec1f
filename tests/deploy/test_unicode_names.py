"""Layers named in Chinese, Greek and with an emoji: no step changes or loses a name, or fails."""

import zipfile

from d2lcls.cli import main
from d2lcls.deploy import load_model
from d2lcls.deploy.archive import write_archive
from d2lcls.deploy.exporting import export, load_graph
from d2lcls.deploy.onnx.export import export_onnx
from d2lcls.deploy.onnx.quantize import quantize_onnx
from d2lcls.deploy.quantization import quantizable, quantize_model, sensitivity
from d2lcls.deploy.rescue.gluon import load_gluon_parameters
from d2lcls.deploy.rescue.load import load_old_model
from d2lcls.deploy.rescue.report import describe
from d2lcls.deploy.torch.export import export_torch
from d2lcls.models import fuse, quantize, summarize
from d2lcls.models.fusion.folding import nodes

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon, nd
from serving import Serving, png

PREFIX = "分类器_Ελ_🐈_"
CLASSES = ("猫", "σκύλος", "कुत्ता")


def make():
    mx.random.seed(0)
    net = gluon.nn.HybridSequential(prefix=PREFIX)
    with net.name_scope():
        net.add(
            gluon.nn.Conv2D(8, 3, in_channels=3),
            gluon.nn.BatchNorm(in_channels=8),
            gluon.nn.Activation("relu"),
            gluon.nn.GlobalAvgPool2D(),
            gluon.nn.Dense(3, in_units=8),
        )
    net.initialize(mx.init.Normal(0.5))
    return net


@pytest.fixture(scope="module")
def made(tmp_path_factory, preprocess, examples):
    """(network, a model folder of it, inputs, logits)."""
    net, folder = make(), tmp_path_factory.mktemp("models") / "模型"
    export(net, folder, "分类器", CLASSES, preprocess)
    return net, folder, examples, net(nd.array(examples)).asnumpy()


def test_what_is_made_of_a_network(made):
    net, _, x, expected = made
    np.testing.assert_allclose(fuse(net)(nd.array(x)).asnumpy(), expected, atol=1e-5)
    np.testing.assert_allclose(quantize(net, x)(nd.array(x)).asnumpy(), expected, atol=0.1)
    assert f"{PREFIX}conv0" in [layer.name for layer in summarize(net, (3, 16, 16)).layers]


def test_every_form_of_a_model_folder(made, tmp_path, capsys):
    _, folder, x, expected = made
    assert f"{PREFIX}conv0_fwd" in [node["name"] for node in nodes(load_graph(folder)[0])]
    assert PREFIX in (folder / "model-symbol.json").read_text("utf-8")
    quantize_model(folder, tmp_path / "int8", x)
    export_onnx(folder, tmp_path / "onnx")
    quantize_onnx(tmp_path / "onnx", tmp_path / "onnx-int8", x)
    for form, near in (
        (folder, 1e-5),
        (tmp_path / "int8", 0.1),
        (tmp_path / "onnx", 1e-5),
        (tmp_path / "onnx-int8", 0.2),
    ):
        model = load_model(form)
        assert model.manifest.classes == CLASSES
        np.testing.assert_allclose(model.compute(x), expected, atol=near)
    export_torch(folder, tmp_path / "torch")
    compile((tmp_path / "torch/model.py").read_text("utf-8"), "model.py", "exec")
    assert len(quantizable(load_graph(folder)[0])) == len(sensitivity(folder, x)) == 2
    (tmp_path / "a.png").write_bytes(png(size=16))
    assert main(["predict", "--model", str(folder), str(tmp_path / "a.png")]) == 0 and "猫" in capsys.readouterr().out
    with zipfile.ZipFile(write_archive(folder, tmp_path / "猫.mar")) as archive:
        assert PREFIX in archive.read("model-symbol.json").decode()


def test_the_service(made, tmp_path):
    serving = Serving(made[1], tmp_path / "log")
    status, content = serving.predict(png(size=16))
    assert serving.stop() == 0 and status == 200
    assert {entry["class"] for entry in content["predictions"][0]} == set(CLASSES)


def test_a_rescued_model(made, tmp_path, monkeypatch, capsys):
    net, _, x, expected = made
    net.hybridize()
    net(nd.array(x[:1]))
    net.export(str(tmp_path / "旧"))
    files = str(tmp_path / "旧-symbol.json"), str(tmp_path / "旧-0000.params")
    model = load_old_model(*files, (3, 16, 16))
    np.testing.assert_allclose(list(model.run(x).values())[0], expected, atol=1e-5)
    assert f"{PREFIX}conv0_fwd" in [layer.name for layer in describe(model).layers.layers]
    again = load_old_model(*model.save(tmp_path / "新"), (3, 16, 16))
    np.testing.assert_allclose(list(again.run(x).values())[0], expected, atol=1e-5)
    (tmp_path / "names.py").write_text(
        f"""
from mxnet import gluon
def network():
    net = gluon.nn.HybridSequential(prefix={PREFIX!r})
    with net.name_scope():
        net.add(gluon.nn.Conv2D(8, 3, in_channels=3), gluon.nn.BatchNorm(in_channels=8), gluon.nn.Activation("relu"),
                gluon.nn.GlobalAvgPool2D(), gluon.nn.Dense(3, in_units=8))
    return net
""",
        "utf-8",
    )
    monkeypatch.chdir(tmp_path)
    net.save_parameters("net.params")
    outputs = load_gluon_parameters("net.params", "names:network", (3, 16, 16)).run(x)
    np.testing.assert_allclose(list(outputs.values())[0], expected, atol=1e-5)
    options = [
        "--shape",
        "3,16,16",
        "--onnx",
        str(tmp_path / "旧.onnx"),
        "--torch",
        str(tmp_path / "torch"),
        "--save",
        str(tmp_path / "三"),
    ]
    assert main(["rescue", *files, *options]) == 0
    assert "parity of" in capsys.readouterr().out and (tmp_path / "旧.onnx").is_file()
