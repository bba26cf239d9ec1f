import io
import shutil
import subprocess
import sys

from d2lcls.data import BrokenImage
from d2lcls.deploy import ModelError, load_model
from d2lcls.deploy.exporting import export, load_graph, shrink
from d2lcls.models.fusion.folding import fold_batch_norm, fold_constants, nodes
from d2lcls.models.fusion.fused import assemble, trace

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon, nd
from PIL import Image

NAMES = ("cnn", "cifar_resnet20_v1", "cifar_resnet20_v2", "mobilenet0.25", "mobilenetv2_0.25", "efficientnet_lite0")


@pytest.mark.parametrize("name", NAMES)
def test_exported_networks_compute_the_same(network, tmp_path, preprocess, examples, name):
    net = network(name)
    export(net, tmp_path / "m", name, ("a", "b", "c"), preprocess)
    expected = net(nd.array(examples)).asnumpy()
    np.testing.assert_allclose(
        load_model(tmp_path / "m").compute(examples), expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max()
    )  # fused: rounded otherwise


def test_gluon_reads_it_without_this_package(model, examples):
    code = """
import sys
import d2lcls  # only so that MXNet can be imported beside a numpy of today
from mxnet import gluon, nd
net = gluon.SymbolBlock.imports(sys.argv[1] + "/model-symbol.json", ["data"], sys.argv[1] + "/model-0000.params")
print(net(nd.zeros((2, 3, 16, 16))).shape)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(model)], capture_output=True, text=True)
    assert done.stdout.strip() == "(2, 3)", done.stderr


def test_a_picture_in_any_form_gets_the_same_answer(model, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "p.png")
    predictor = load_model(model)
    answer = predictor.predict(tmp_path / "p.png")
    assert answer == predictor.predict((tmp_path / "p.png").read_bytes()) == predictor.predict(picture)
    many = predictor.predict_many([picture] * 3)
    assert many[0] == many[2] and [name for name, _ in many[0]] == [name for name, _ in answer]
    assert [share for _, share in many[0]] == pytest.approx([share for _, share in answer], rel=1e-5)
    assert sorted(name for name, _ in answer) == ["bottom", "middle", "top"]
    shares = [share for _, share in answer]
    assert shares == sorted(shares, reverse=True) and abs(sum(shares) - 1) < 1e-6
    assert predictor.predict(picture, top=1) == answer[:1]


def test_broken_pictures(model):
    predictor = load_model(model)
    for broken in (b"", b"no picture", io.BytesIO().getvalue()):
        with pytest.raises(BrokenImage):
            predictor.predict(broken)
    with pytest.raises(ValueError, match=r"uint8 of shape \(H, W, 3\), not float64 of \(8, 8, 3\)"):
        predictor.predict(np.zeros((8, 8, 3)))


def test_what_cannot_be_exported(network, tmp_path, preprocess, model):
    with pytest.raises(ValueError, match=r"shape \(2, 3\) for two pictures, which are not the logits of the 2 classes"):
        export(network(), tmp_path / "m", "cnn", ("a", "b"), preprocess)
    with pytest.raises(ValueError, match="already exists and is not an empty folder"):
        export(network(), model, "cnn", ("a", "b", "c"), preprocess)


def test_a_layer_that_is_random_is_detected(network, tmp_path, preprocess):
    class Noise(gluon.HybridBlock):
        def hybrid_forward(self, F, x):
            return F.random.uniform_like(x)

    net = gluon.nn.HybridSequential()
    net.add(network(), Noise())
    net.initialize()
    with pytest.raises(ModelError, match="logits differ.*random at prediction"):
        export(net, tmp_path / "m", "noise", ("a", "b", "c"), preprocess)


def test_a_graph_that_does_not_fit_its_manifest(model, tmp_path):
    import json

    copy = shutil.copytree(model, tmp_path / "copy")
    content = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**content, "classes": ["one", "two"]}))
    with pytest.raises(ModelError, match=r"shape \(1, 3\), which are not the logits of 2 classes"):
        load_model(copy)


def test_constants_are_folded(network, examples):
    net = network("efficientnet_lite0")
    symbol, arguments, statistics = trace(net)
    folded, values = fold_constants(symbol, arguments)
    pads = [node for node in nodes(symbol) if node["op"] == "Pad"]
    assert pads and not [node for node in nodes(folded) if node["op"] == "Pad"]
    assert set(values) == set(folded.list_arguments()) - {"data"}
    x = nd.array(examples)
    actual = assemble(folded, values, statistics)(x).asnumpy()
    np.testing.assert_allclose(actual, net(x).asnumpy(), rtol=1e-5)  # oneDNN may add in another order
    again, same = fold_constants(folded, values)
    assert again is folded and same is values


@pytest.mark.parametrize("name", NAMES)
def test_batch_norms_are_folded(network, examples, name):
    net = network(name)
    symbol, arguments, statistics = trace(net)
    symbol, arguments, statistics = fold_batch_norm(*fold_constants(symbol, arguments), statistics)
    before, after = (sum(node["op"] == "BatchNorm" for node in nodes(graph)) for graph in (trace(net)[0], symbol))
    assert after < before
    expected = net(nd.array(examples)).asnumpy()
    actual = assemble(symbol, arguments, statistics)(nd.array(examples)).asnumpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("sign, folded", [(1, True), (-1, False)])
def test_a_batch_norm_after_pooling_is_folded_where_it_turns_no_sign(network, examples, sign, folded):
    net = network()  # conv, pool, norm, relu; all drawn gammas are positive
    gamma = net.features[2].gamma
    values = gamma.data().asnumpy()
    values[0] *= sign
    gamma.set_data(nd.array(values))
    symbol, arguments, statistics = fold_batch_norm(*trace(net))
    ops = [node["op"] for node in nodes(symbol) if node["op"] != "null"]
    assert ops[:3] == (["Convolution", "Activation", "Pooling"] if folded else ["Convolution", "Pooling", "BatchNorm"])
    assert "BatchNorm" not in ops[3:]
    expected = net(nd.array(examples)).asnumpy()
    actual = assemble(symbol, arguments, statistics)(nd.array(examples)).asnumpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.1


def test_a_convolution_that_others_use_keeps_its_batch_norm(examples):
    x = mx.sym.var("data")
    convolution = mx.sym.Convolution(x, kernel=(1, 1), num_filter=3, name="c")
    for head in (
        mx.sym.BatchNorm(convolution, name="n") + convolution,
        mx.sym.Group([mx.sym.BatchNorm(convolution), convolution]),
    ):
        shapes, _, states = head.infer_shape(data=(2, 3, 4, 4))
        arguments = {n: nd.random.uniform(shape=s) for n, s in zip(head.list_arguments(), shapes) if n != "data"}
        statistics = {n: nd.ones(s) for n, s in zip(head.list_auxiliary_states(), states)}
        symbol, _, _ = fold_batch_norm(head, arguments, statistics)
        assert sum(node["op"] == "BatchNorm" for node in nodes(symbol)) == 1


def test_weights_are_rounded_once():
    weight = nd.array(np.random.default_rng(0).normal(size=(4, 3, 3, 3)))
    weight[2] = 0
    rounded, stored = shrink({"w": weight, "b": nd.ones((4,))}, ["w"])
    assert stored["arg:w"].dtype == np.int8 and stored["scale:w"].shape == (4, 1, 1, 1)
    error = np.abs(rounded["w"].asnumpy() - weight.asnumpy()).max(axis=(1, 2, 3))
    assert (error <= np.abs(weight.asnumpy()).max(axis=(1, 2, 3)) / 254 * 1.001).all() and error[2] == 0
    twice, _ = shrink(rounded, ["w"])
    np.testing.assert_allclose(twice["w"].asnumpy(), rounded["w"].asnumpy(), rtol=1e-6)


def test_a_model_of_another_form_has_no_graph(model, tmp_path):
    import json

    copy = shutil.copytree(model, tmp_path / "copy")
    content = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**content, "form": "onnx"}))
    with pytest.raises(ModelError, match="a model of form onnx; this step takes one of form mxnet"):
        load_graph(copy)
