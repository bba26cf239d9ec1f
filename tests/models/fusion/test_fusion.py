import json
import runpy
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from d2lcls.machine.cores import int8_saturates
from d2lcls.machine.gluon import blocks_of
from d2lcls.models import SmallCNN, get_model
from d2lcls.models.efficientnet import ReLU6
from d2lcls.models.efficientnet_lite import make_efficientnet
from d2lcls.models.fusion.fused import assemble, fuse, fuse_graph, quantize, quantize_graph, trace
from d2lcls.models.surgery import split
from d2lcls.weights.files import load_weights
from d2lcls.weights.store import find_weights

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd

# The error that rounding to eight bits, or to seven without VNNI, may cause in random networks.
FAR = 1 if int8_saturates() else 0.5
SIZES = {"cnn": 32, "mobilenetv2_0.5": 64, "efficientnet_lite0": 64}


def make(name):
    mx.random.seed(1)
    net = make_efficientnet(name, 10) if "efficientnet" in name else get_model(name, classes=10)
    net.initialize(mx.init.MSRAPrelu("in", 0))
    x = images(SIZES[name], 8, seed=1)
    with mx.autograd.train_mode():  # running statistics that are not 0 and 1
        for _ in range(5):
            net(x).wait_to_read()
    return net


def images(size, n, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, 3, size, size), dtype=np.float32)
    return nd.array(x + np.linspace(-1, 1, n, dtype=np.float32)[:, None, None, None])  # different in brightness


def values(net):
    nd.waitall()
    return {name: p.data().asnumpy() for name, p in net._collect_params_with_prefix().items()}


def operators(net):
    return [node["op"] for node in json.loads(net(mx.sym.var("data")).tojson())["nodes"] if node["op"] != "null"]


def error(found, expected):
    """Return the root mean square of the difference, as a share of that of the values."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def distance(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("name", SIZES)
def test_a_fused_network_computes_the_same(name):
    net = make(name)
    fused = fuse(net)
    for n, seed in ((4, 0), (4, 2), (3, 3), (1, 4), (4, 0)):
        x = images(SIZES[name], n, seed)
        assert distance(fused(x).asnumpy(), net(x).asnumpy()) < 1e-5
    found = operators(fused)
    assert "_sg_mkldnn_conv" in found
    assert ("BatchNorm" in found) == (name == "cnn")  # there, pooling lies between convolution and normalisation


@pytest.mark.parametrize("name", SIZES)
def test_a_quantised_network_computes_nearly_the_same(name):
    net = make(name)
    quantized = quantize(net, images(SIZES[name], 40).asnumpy())
    batches = [images(SIZES[name], n, seed) for n, seed in ((8, 0), (8, 2), (5, 3), (1, 4), (8, 5))]
    found = [quantized(x).asnumpy() for x in batches]
    assert any("quantize" in name for name in operators(quantized))
    for x, outputs in zip(batches, found):
        expected = net(x).asnumpy()
        assert outputs.shape == expected.shape
        # Random weights in twenty layers carry rounding far; those of a trained network are tested below.
        assert 1e-6 < error(outputs, expected) < (0.05 if name == "cnn" else FAR)
    # With static_shape=True MXNet gave the first batch's outputs for ever.
    assert distance(found[1], found[0]) > 1e-3 and distance(found[4], found[0]) > 1e-3
    np.testing.assert_array_equal(quantized(batches[0]).asnumpy(), found[0])


def test_a_quantised_trained_network_sees_the_same_in_photographs():
    path, folder = find_weights("efficientnet_lite0"), find_spec("skimage")
    if path is None or folder is None:
        pytest.skip("needs scikit-image and the weights: d2lcls weights get efficientnet_lite0")
    maker = runpy.run_path(str(Path(__file__).parents[1] / "reference/make_lite_reference.py"))
    x = maker["photographs"](Path(folder.origin).parent / "data", 224)
    net = make_efficientnet("efficientnet_lite0")
    net.initialize()
    load_weights(net, path)
    quantized, expected = quantize(net, x), net(nd.array(x)).asnumpy()
    found = np.concatenate([quantized(nd.array(x[:2])).asnumpy(), quantized(nd.array(x[2:])).asnumpy()])
    likeliest = np.argsort(found, axis=1)[:, -2 if int8_saturates() else -1 :]  # with seven bits, cats are confused
    assert all(known in seen for known, seen in zip(expected.argmax(axis=1), likeliest))
    assert error(found, expected) < FAR / 2


@pytest.mark.parametrize("hybrid", [False, True])
def test_the_source_is_left_as_it_was(hybrid):
    net, x = make("efficientnet_lite0"), images(64, 4)
    if hybrid:
        net.hybridize(static_alloc=True, static_shape=True)
    before, expected = values(net), net(x).asnumpy()
    for other in (fuse(net), quantize(net, x.asnumpy())):
        for name, value in values(net).items():
            np.testing.assert_array_equal(value, before[name], err_msg=name)
        np.testing.assert_array_equal(net(x).asnumpy(), expected)
        for parameter in other.collect_params().values():
            parameter.set_data(parameter.data() * 0)
        np.testing.assert_array_equal(net(x).asnumpy(), expected)  # nothing is shared


def test_what_the_source_learns_later_does_not_reach_it():
    net, x = make("cnn"), images(32, 2)
    fused = fuse(net)
    expected = fused(x).asnumpy()
    for parameter in net.collect_params().values():
        parameter.set_data(parameter.data() + 1)
    np.testing.assert_array_equal(fused(x).asnumpy(), expected)


def test_both_forms_of_relu6_are_traced_as_clip():
    net, x = make("efficientnet_lite0"), images(64, 2)
    forms = [relu.by_clip for relu in blocks_of(net, ReLU6)]
    assert set(forms) == {True, False}
    symbol, arguments, statistics = trace(net)
    operators = Counter(node["op"] for node in json.loads(symbol.tojson())["nodes"])
    assert operators["clip"] == len(forms) and not operators["_minimum_scalar"] and not operators["Activation"]
    assert arguments.keys() | statistics.keys() == {p.name for p in net.collect_params().values()}
    np.testing.assert_allclose(assemble(symbol, arguments, statistics)(x).asnumpy(), net(x).asnumpy(), rtol=1e-5)


@pytest.mark.parametrize("small", [fuse, lambda front: quantize(front, images(64, 16).asnumpy())])
def test_the_front_of_a_network(small):
    net, x = make("efficientnet_lite0"), images(64, 4)
    front, tail = split(net, 2, size=64)
    found = tail(small(front)(x)).asnumpy()
    assert found.shape == (4, 10) and error(found, net(x).asnumpy()) < (1e-5 if small is fuse else FAR)


def test_calibration_takes_any_number_of_images():
    net = make("cnn")
    for n in (1, 63, 65):
        assert quantize(net, images(32, n).asnumpy())(images(32, 2)).shape == (2, 10)


def test_a_network_that_never_saw_an_image_cannot_be_fused():
    net = SmallCNN(3)
    net.initialize()
    with pytest.raises(Exception, match="(?i)deferred|shape|initialized"):
        fuse(net)


def drawn(name, count):
    """Return a network with drawn weights, that many images, and its logits for them."""
    net = get_model(name, classes=3)
    mx.random.seed(0)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    x = nd.random.normal(shape=(count, 3, 16, 16))
    return net, x, net(x).asnumpy()


def test_a_sum_gets_what_it_should_where_a_normalisation_follows_the_same_convolution():
    """MXNet's own fusion is wrong here, by a tenth of the largest logit; the day it is not, `_keep_apart` can go."""
    net, x, expected = drawn("cifar_resnet20_v2", 4)
    largest = np.abs(expected).max()
    assert np.abs(fuse(net)(x).asnumpy() - expected).max() < 1e-5 * largest
    symbol, arguments, statistics = trace(net)
    bare = assemble(symbol.get_backend_symbol("MKLDNN"), arguments, statistics)(x).asnumpy()
    assert np.abs(bare - expected).max() > 1e-3 * largest


def test_a_sum_is_fused_where_no_normalisation_follows_the_same_convolution():
    """In the first block of cifar_resnet20_v1, once the normalisation is folded; it saves a quarter of the time."""
    from d2lcls.models.fusion.folding import fold_batch_norm

    net, x, expected = drawn("cifar_resnet20_v1", 4)
    symbol, arguments, statistics = fold_batch_norm(*trace(net))
    fused = fuse_graph(symbol)
    assert "broadcast_add" not in fused.tojson() and "elemwise_add" not in [
        node["op"] for node in json.loads(fused.tojson())["nodes"]
    ]
    found = assemble(fused, arguments, statistics)(x).asnumpy()
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_the_mean_of_maps_is_pooling_in_int8():
    net, x, expected = drawn("cifar_resnet20_v1", 8)
    symbol, arguments, statistics = trace(net)
    assert "mean" in [node["op"] for node in json.loads(symbol.tojson())["nodes"]]
    quantised = quantize_graph(symbol, arguments, statistics, x.asnumpy())
    ops = [node["op"] for node in json.loads(quantised[0].tojson())["nodes"]]
    assert "mean" not in ops and "_contrib_quantized_pooling" in ops
    assert np.abs(assemble(*quantised)(x).asnumpy() - expected).max() < 0.2 * np.abs(expected).max()
