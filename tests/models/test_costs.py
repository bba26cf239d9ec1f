from d2lcls.models import SmallCNN, get_model, summarize
from d2lcls.models.costs import latency, layer_costs, training_flop

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd
from mxnet.gluon import nn


def small(**kwargs):
    net = SmallCNN(10, (8, 16), **kwargs)
    net.initialize()
    return net


INSIDE = (3 * 12 - 2) * (3 * 10 - 2) * 8 * 3, (3 * 6 - 2) * (3 * 5 - 2) * 16 * 8  # a row of 12: 2 of 36 on padding


def test_costs_counted_by_hand():
    costs = layer_costs(small(), nd.ones((5, 3, 12, 10)), repeats=2)
    assert [(cost.kind, cost.flop, cost.bytes) for cost in costs] == [
        ("Conv2D", 5 * 2 * INSIDE[0], 4 * (5 * 3 * 120 + 216 + 5 * 8 * 120)),
        ("BatchNorm", 5 * 2 * 8 * 30, 4 * (2 * 5 * 8 * 30 + 4 * 8)),  # after pooling, which neither multiplies nor adds
        ("Activation", 5 * 8 * 30, 4 * 2 * 5 * 8 * 30),
        ("Conv2D", 5 * 2 * INSIDE[1], 4 * (5 * 8 * 30 + 1152 + 5 * 16 * 30)),
        ("BatchNorm", 5 * 2 * 16 * 30, 4 * (2 * 5 * 16 * 30 + 4 * 16)),
        ("Activation", 5 * 16 * 30, 4 * 2 * 5 * 16 * 30),
        ("Dense", 5 * 2 * 160, 4 * (5 * 16 + 170 + 5 * 10)),
    ]


def test_intensity_and_rate_belong_together():
    for cost in layer_costs(small(), nd.ones((5, 3, 12, 10)), repeats=1):
        assert 0 < cost.seconds < 1
        assert cost.gflops * 1e9 * cost.seconds == pytest.approx(cost.flop)
        assert cost.intensity == pytest.approx(cost.flop / cost.bytes)


def test_the_network_is_left_as_it_was():
    net, x = small(), nd.random.normal(shape=(2, 3, 12, 10))
    net.hybridize()
    expected = net(x).asnumpy()
    layer_costs(net, x, repeats=1)
    assert net._active and not any(layer._forward_hooks for layer in net.features)
    np.testing.assert_allclose(net(x).asnumpy(), expected, rtol=1e-6)


def test_a_step_is_three_times_a_prediction_less_the_gradient_of_the_images():
    net = small()
    assert training_flop(net, (3, 12, 10)) == 2 * (2 * 25920 + 3 * 34560 + 3 * 160)
    resnet = get_model("cifar_resnet20_v1")
    resnet.initialize()
    first = 16 * 3 * 9 * 32 * 32
    assert training_flop(resnet, (3, 32, 32)) == 2 * (3 * summarize(resnet, (3, 32, 32)).multiply_adds - first)
    assert training_flop(net, (3, 12, 10), padding=False) == 2 * (2 * INSIDE[0] + 3 * INSIDE[1] + 3 * 160)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2D(4, (3, 5), strides=(2, 1), padding=(1, 2), in_channels=2),
        nn.Conv2D(4, 3, padding=2, dilation=2, in_channels=2),
        nn.Conv2D(4, 3, padding=1, groups=2, in_channels=2),
    ],
)
def test_padding_is_found_by_a_convolution_of_ones(layer):
    """With weights and inputs of one, each output is the number of multiplications that made it."""
    layer.initialize(mx.init.One())
    x = nd.ones((3, 2, 7, 6))
    assert layer_costs(layer, x, repeats=1)[0].flop == 2 * layer(x).asnumpy().sum()


def test_what_is_frozen_is_not_computed():
    net = small()
    net.features[0].weight.grad_req = "null"  # its normalisation still trains
    assert training_flop(net, (3, 12, 10)) == 2 * (25920 + 3 * 34560 + 3 * 160)
    net.features.collect_params().setattr("grad_req", "null")
    assert training_flop(net, (3, 12, 10)) == 2 * (25920 + 34560 + 2 * 160)


def test_a_bias_before_it_makes_a_gradient_of_the_inputs_needed():
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3), nn.Conv2D(5, 3, use_bias=False))
    net.initialize()
    net(mx.nd.zeros((1, 3, 7, 7)))
    net[0].weight.grad_req = "null"
    assert training_flop(net, (3, 7, 7)) == 2 * (4 * 3 * 9 * 25 + 3 * 5 * 4 * 9 * 9)


def test_latency_is_the_median_of_single_images():
    net = nn.HybridSequential()
    net.add(nn.Conv2D(16, 3, in_channels=3), nn.Conv2D(16, 3, in_channels=16))
    net.initialize()
    seen = []
    net.register_forward_hook(lambda block, inputs, output: seen.append(inputs[0].shape))
    milliseconds = latency(net, (3, 16, 16), seconds=0.0)
    assert milliseconds > 0 and seen == [(1, 3, 16, 16)] * 25
