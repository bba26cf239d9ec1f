from d2lcls.models import GlobalMean, SmallCNN, get_model, summarize

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon, nd
from mxnet.gluon import nn


def initialised(net):
    net.initialize()
    return net


def stack(*layers, kind=nn.HybridSequential):
    net = kind()
    for layer in layers:
        net.add(layer)
    return initialised(net)


def test_a_small_network_counted_by_hand():
    summary = summarize(initialised(SmallCNN(10, (8, 16))), (3, 12, 10))
    rows = [(layer.kind, layer.shape, layer.parameters, layer.multiply_adds) for layer in summary.layers]
    assert rows == [
        ("Conv2D", (8, 12, 10), 8 * 3 * 9, 8 * 3 * 9 * 120),
        ("MaxPool2D", (8, 6, 5), 0, 0),
        ("BatchNorm", (8, 6, 5), 16, 0),  # scale and shift; the running statistics are not learned
        ("Activation", (8, 6, 5), 0, 0),
        ("Conv2D", (16, 6, 5), 16 * 8 * 9, 16 * 8 * 9 * 30),
        ("BatchNorm", (16, 6, 5), 32, 0),
        ("Activation", (16, 6, 5), 0, 0),
        ("GlobalMean", (16,), 0, 0),
        ("Dense", (10,), 170, 160),
    ]
    assert summary.parameters == 216 + 16 + 1152 + 32 + 170
    assert summary.multiply_adds == 25920 + 34560 + 160


@pytest.mark.parametrize(
    "layer, shape, parameters, multiply_adds",
    [
        (nn.Conv2D(6, 3, strides=2, padding=1), (4, 8, 8), 6 * 4 * 9 + 6, 6 * 4 * 9 * 16),
        (nn.Conv2D(8, 3, groups=4, use_bias=False), (8, 6, 6), 8 * 2 * 9, 8 * 2 * 9 * 16),  # grouped
        (nn.Conv2D(8, 3, padding=1, groups=8, use_bias=False), (8, 5, 5), 72, 72 * 25),  # depthwise
        (nn.Conv2D(5, (1, 3), use_bias=False), (2, 4, 6), 30, 30 * 16),
        (nn.Dense(7), (2, 3, 4), 24 * 7 + 7, 24 * 7),
        (nn.Dense(7, flatten=False, use_bias=False), (2, 3, 4), 28, 28 * 6),
        (nn.MaxPool2D(), (2, 4, 4), 0, 0),
        (GlobalMean(), (2, 4, 4), 0, 0),
    ],
)
def test_single_layers(layer, shape, parameters, multiply_adds):
    summary = summarize(initialised(layer), shape)
    assert (summary.parameters, summary.multiply_adds) == (parameters, multiply_adds)


def test_resnet20_counted_by_hand():
    """He et al. (2015): 0.27 million parameters, 41 million multiply-adds."""
    summary = summarize(initialised(get_model("cifar_resnet20_v1")), (3, 32, 32))
    convolutions = [(3, 16, 9, 32)] + 6 * [(16, 16, 9, 32)]  # in, out, kernel pixels, output side
    convolutions += [(16, 32, 9, 16)] + 5 * [(32, 32, 9, 16)] + [(32, 64, 9, 8)] + 5 * [(64, 64, 9, 8)]
    convolutions += [(16, 32, 1, 16), (32, 64, 1, 8)]  # the shortcuts that change width
    weights = sum(i * o * k for i, o, k, _ in convolutions)
    norms = sum(2 * o for _, o, _, _ in convolutions)
    assert summary.parameters == weights + norms + 64 * 10 + 10 == 272_474
    assert summary.multiply_adds == sum(i * o * k * s * s for i, o, k, s in convolutions) + 640 == 40_813_184


@pytest.mark.parametrize("name, shape", [("cnn", (3, 32, 32)), ("mobilenetv2_0.25", (3, 64, 64))])
def test_parameters_are_those_gluon_knows(name, shape):
    net = initialised(get_model(name))
    summary = summarize(net, shape)
    assert summary.parameters == sum(
        int(np.prod(p.shape)) for p in net.collect_params().values() if p.grad_req != "null"
    )


def test_shared_parameters_count_once_and_their_work_twice():
    first = nn.Dense(4, in_units=4, flatten=False)
    second = nn.Dense(4, in_units=4, flatten=False, params=first.params)
    summary = summarize(stack(first, second), (1, 1, 4))
    assert [layer.parameters for layer in summary.layers] == [20, 0] and summary.multiply_adds == 32


def test_one_layer_used_twice_is_listed_twice():
    layer = nn.Dense(4, in_units=4, flatten=False)
    summary = summarize(stack(layer, layer), (1, 1, 4))
    assert [layer.parameters for layer in summary.layers] == [20, 0] and summary.multiply_adds == 32


def test_frozen_parameters_are_not_learned():
    net = initialised(SmallCNN(10, (8, 16)))
    net.features.collect_params().setattr("grad_req", "null")
    assert summarize(net, (3, 12, 10)).parameters == 170


class Scaled(gluon.HybridBlock):
    """A block of blocks with a parameter of its own."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.inner = nn.Dense(3, use_bias=False)
            self.scale = self.params.get("scale", shape=(1, 3))

    def hybrid_forward(self, F, x, scale):
        return F.broadcast_mul(self.inner(x), scale)


@pytest.mark.parametrize("hybridized", [False, True])
def test_parameters_beside_children_are_counted(hybridized):
    net = initialised(Scaled())
    if hybridized:
        net.hybridize()
    assert summarize(net, (1, 1, 4)).parameters == 12 + 3


def test_twice_is_the_same_and_leaves_nothing_behind():
    net = initialised(SmallCNN(10, (8, 16)))
    first = summarize(net, (3, 12, 10))
    assert summarize(net, (3, 12, 10)) == first

    def hooks(block):
        return len(block._forward_hooks) + sum(map(hooks, block._children.values()))

    assert hooks(net) == 0


def test_hooks_are_removed_after_a_failure():
    net = initialised(SmallCNN(10, (8, 16)))
    with pytest.raises(ValueError, match="at least 2 x 2 pixels"):
        summarize(net, (3, 1, 1))
    assert not any(layer._forward_hooks for layer in net.features)
    assert summarize(net, (3, 12, 10)).parameters == 1586


def test_a_hybridized_network_stays_hybridized_with_its_own_flags():
    net = initialised(SmallCNN(10, (8, 16)))
    plain, x = summarize(net, (3, 12, 10)), nd.ones((1, 3, 12, 10))
    net.hybridize(static_alloc=True, inline_limit=5)
    expected, flags = net(x).asnumpy(), net._flags
    assert summarize(net, (3, 12, 10)) == plain
    assert net._active and net._flags == flags and dict(flags)["inline_limit"] == 5
    np.testing.assert_allclose(net(x).asnumpy(), expected, rtol=1e-6)
    assert net._cached_op is not None


@pytest.mark.filterwarnings("ignore:All children of this Sequential layer")
def test_a_network_hybridized_in_part():
    inner = nn.HybridSequential()
    inner.add(nn.Dense(4), nn.Dense(2))
    net = stack(inner, kind=nn.Sequential)
    net.hybridize()
    assert [layer.parameters for layer in summarize(net, (1, 1, 3)).layers] == [16, 10]
    assert inner._active


def test_running_statistics_are_left_alone():
    net = initialised(SmallCNN(10, (8, 16)))
    summarize(net, (3, 12, 10))
    statistics = [p.data().asnumpy() for name, p in net.collect_params().items() if "running" in name]
    assert len(statistics) == 4 and all(np.isin(value, (0, 1)).all() for value in statistics)


def test_printed_as_a_table():
    lines = str(summarize(initialised(SmallCNN(10, (8, 16))), (3, 12, 10))).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["layer", "output", "shape", "parameters", "multiply-adds"]
    assert lines[2].split() == ["Conv2D", "8", "x", "12", "x", "10", "216", "25,920"]
    assert lines[-1].split() == ["total", "1,586", "60,640"]


@pytest.mark.parametrize("shape", [(3, 12), (3, 12, 10, 1), (3, 0, 10), ()])
def test_a_shape_that_is_none_is_refused(shape):
    with pytest.raises(ValueError, match="shape must be"):
        summarize(initialised(SmallCNN()), shape)


def test_a_network_that_is_not_initialised_is_named():
    with pytest.raises(RuntimeError, match="has not been initialized"):
        summarize(SmallCNN(), (3, 12, 10))


def test_the_context_is_the_networks():
    net = SmallCNN(10, (8, 16))
    net.initialize(ctx=mx.cpu(1))
    assert summarize(net, (3, 12, 10)).parameters == 1586


def test_a_network_that_has_seen_no_batch_yet():
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3), nn.Flatten(), nn.Dense(2))
    net.initialize()
    assert [layer.shape for layer in summarize(net, (3, 8, 8)).layers] == [(4, 6, 6), (144,), (2,)]
