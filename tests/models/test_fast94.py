from d2lcls.data import Batches, Images
from d2lcls.models import get_model, summarize
from d2lcls.models.fast94 import FILTERS, Architecture, Fast94, initialise_from_data, whiten

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd


def network():
    net = Fast94()
    net.initialize(mx.init.Zero())  # which the network's own initializers come before
    return net


def images(n=400):
    rough = np.random.default_rng(0).normal(size=(n, 3, 8, 8))
    smooth = rough.repeat(4, axis=2).repeat(4, axis=3)  # neighbours are alike, as in photographs
    return (smooth + 0.3 * np.random.default_rng(1).normal(size=smooth.shape)).astype(np.float32)


def test_whitened_patches_are_uncorrelated_and_of_variance_one():
    net, x = network(), images()
    whiten(net, x)
    seen = net.whitening(nd.array(x)).asnumpy().transpose(0, 2, 3, 1).reshape(-1, FILTERS)[:, : FILTERS // 2]
    np.testing.assert_allclose(seen.T @ seen / len(seen), np.eye(FILTERS // 2), atol=0.02)


def test_half_of_the_filters_are_the_others_turned_round_and_none_is_trained():
    net = network()
    whiten(net, images())
    filters = net.whitening.weight.data().asnumpy()
    np.testing.assert_array_equal(filters[:16], -filters[16:])
    assert net.whitening.weight.grad_req == "null"


def test_convolutions_begin_as_the_identity_and_the_head_small():
    net, x = network(), nd.array(images(4))
    first = net.features[1]  # 32 channels in, 64 out
    seen = nd.random.normal(shape=(2, 32, 9, 9))
    np.testing.assert_allclose(first(seen).asnumpy()[:, :32], seen.asnumpy(), atol=1e-6)
    assert (first(seen).asnumpy()[:, 32:].std(axis=(0, 2, 3)) > 0.01).all()
    with autograd.train_mode():
        assert abs(net(x).asnumpy()).max() < 1


def test_every_layer_but_the_first_learns():
    net, x = network(), nd.array(images(8))
    whiten(net, images())
    with autograd.record():
        loss = (net(x) ** 2).sum()
    loss.backward()
    for name, parameter in net.collect_params().items():
        if parameter.grad_req != "null":
            assert abs(parameter.grad().asnumpy()).sum() > 0, name


def test_the_zoo_knows_it_and_images_of_another_shape_are_refused():
    net = get_model("fast94", classes=7)
    net.initialize()
    assert net(nd.zeros((2, 3, 32, 32))).shape == (2, 7)
    with pytest.raises(ValueError, match=r"Expected images of shape \(N, 3, H, W\)"):
        whiten(net, np.zeros((5, 1, 32, 32), np.float32))


def test_initialising_from_data_whitens_it_and_leaves_other_networks_alone():
    pixels = np.random.default_rng(0).integers(0, 255, (64, 32, 32, 3)).astype(np.uint8)
    batches = Batches(Images(pixels, np.zeros(64, np.int64), ("a",), "noise"))
    net, expected = network(), network()
    initialise_from_data(net, batches)
    whiten(expected, batches.normalise(batches.data.images))
    np.testing.assert_array_equal(net.whitening.weight.data().asnumpy(), expected.whitening.weight.data().asnumpy())
    initialise_from_data(get_model("cnn"), batches)  # not even initialised


def test_names_of_the_family():
    shape = Architecture((48, 96, 64), (1, 2, 3), (3, 5, 3))
    assert shape.name == "fast94-w48x96x64-c1x2x3-k3x5x3" and Architecture.named(shape.name) == shape
    assert Architecture.named("fast94") == Architecture() and Architecture().name == "fast94"
    assert Architecture.named("fast94-c1x1x2") == Architecture(convolutions=(1, 1, 2))
    net = get_model(shape.name, classes=3)
    net.initialize()
    assert net(nd.zeros((2, 3, 32, 32))).shape == (2, 3)
    filters = [parameter.shape for name, parameter in net.collect_params().items() if "conv" in name]
    assert filters == [
        (32, 3, 3, 3),
        (48, 32, 3, 3),
        (96, 48, 5, 5),
        (96, 96, 5, 5),
        (64, 96, 3, 3),
        (64, 64, 3, 3),
        (64, 64, 3, 3),
    ]


@pytest.mark.parametrize("name", ["fast94-w1x2", "fast94-w1x2x0", "fast94-k3x3x3-c1x1x1", "fast94-", "fast94-w1x2x3-"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' must be fast94 with three widths"):
        get_model(name)


def test_even_filters_are_refused():
    with pytest.raises(ValueError, match="kernels odd, not fast94-k3x4x3"):
        get_model("fast94-k3x4x3")


def test_multiply_adds_are_those_that_are_counted():
    for shape in (Architecture(), Architecture((16, 24, 8), (3, 1, 2), (1, 3, 5))):
        net = shape.make()
        net.initialize()
        assert shape.multiply_adds() == summarize(net, (3, 32, 32)).multiply_adds


SUMS = {  # of the absolute initial values with seed 0, as in the version that was measured first
    "conv0_weight": ((32, 3, 3, 3), 84.0),
    "conv1_weight": ((64, 32, 3, 3), 305.6),
    "conv2_weight": ((64, 64, 3, 3), 64.0),
    "conv3_weight": ((256, 64, 3, 3), 2365.8),
    "conv4_weight": ((256, 256, 3, 3), 256.0),
    "conv5_weight": ((256, 256, 3, 3), 256.0),
    "conv6_weight": ((256, 256, 3, 3), 256.0),
    "dense0_weight": ((10, 256), 79.3),
}


def test_initial_values_are_those_that_published_results_began_with():
    mx.random.seed(0)
    net = Fast94()
    net.initialize()
    net(nd.zeros((1, 3, 32, 32)))
    found = {
        name.removeprefix(net.prefix): (parameter.shape, round(float(parameter.data().abs().sum().asscalar()), 1))
        for name, parameter in net.collect_params().items()
        if "weight" in name
    }
    assert found == SUMS
