"""Frozen layers that are computed fused give what training the whole network gives."""

from d2lcls.data import Batches, Images, flip
from d2lcls.models import get_model
from d2lcls.models.surgery import hold_statistics, layer_groups, train_last
from d2lcls.training import Recipe, fit
from d2lcls.training import session as session_module
from d2lcls.training.transfer.front import FrozenFront, split_front

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon, nd
from mxnet.gluon import nn

SIZE = 40


class Plain(gluon.HybridBlock):
    """Three groups: two convolutions with normalisation, and a dense layer."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.features = nn.HybridSequential()
        self.features.add(nn.Conv2D(8, 3, strides=2), nn.BatchNorm(), nn.Activation("relu"), nn.Dropout(dropout))
        self.features.add(nn.Conv2D(8, 3, strides=2), nn.BatchNorm(), nn.Activation("relu"))
        self.features.add(nn.GlobalAvgPool2D(), nn.Flatten())
        self.output = nn.Dense(3)

    def hybrid_forward(self, F, x):
        return self.output(self.features(x))


class More(Plain):
    """The same with an operator between features and output."""

    def hybrid_forward(self, F, x):
        return self.output(2 * self.features(x))


def held(name):
    """Return a network whose BatchNorms keep their statistics; by those of its few images, rounding grows too fast."""
    net = get_model(name, classes=3)
    hold_statistics(net)
    return net


def network(make=Plain, ctx=None):
    mx.random.seed(3)
    net = make()
    net.initialize(mx.init.MSRAPrelu(slope=0), ctx=ctx)
    for context in ctx or [mx.cpu()]:
        net(nd.zeros((1, 3, SIZE, SIZE), ctx=context)).wait_to_read()
    for parameter in net.collect_params().values():
        if parameter.name.endswith("beta"):  # at exactly 0, graphs differ in the gradient of ReLU6
            parameter.set_data(nd.random.normal(scale=0.3, shape=parameter.shape))
    return net


def batches():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (48, SIZE, SIZE, 3), dtype=np.uint8)
    data = Images(images, rng.integers(0, 3, 48).astype(np.int64), ("a", "b", "c"), "some")
    return Batches(data, 16, (0.5,) * 3, (0.25,) * 3, shuffle=True, augment=[flip()])


def trained(net, ctx=None, **fields):
    fit(net, batches(), recipe=Recipe(num_epochs=4, lr=0.05, schedule="constant", **fields), ctx=ctx, on_epoch=None)
    return {name: parameter.list_data()[0].asnumpy() for name, parameter in net._collect_params_with_prefix().items()}


@pytest.mark.parametrize(
    ("make", "fields"),
    [
        (Plain, {"train_last": 2}),
        (Plain, {"unfreeze": "gradual"}),
        (lambda: held("efficientnet_lite0"), {"train_last": 3}),
        (lambda: held("mobilenetv2_0.25"), {"unfreeze": {0: 1, 2: 4}}),
    ],
    ids=["last", "gradual", "lite0", "mobilenet"],
)
def test_parameters_are_those_of_training_without_a_front(monkeypatch, make, fields):
    fronts = []
    monkeypatch.setattr(
        session_module, "split_front", lambda *arguments: fronts.append(split_front(*arguments)) or fronts[-1]
    )
    found = trained(network(make), **fields)
    assert any(fronts)
    monkeypatch.setattr(session_module, "split_front", lambda *arguments: None)
    expected = trained(network(make), **fields)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_the_front_predicts_and_gets_no_gradients():
    net = network()
    train_last(net, 1)
    front, tail = split_front(net, 1, (SIZE, SIZE))
    model = FrozenFront(front, tail)
    x = nd.random.normal(shape=(4, 3, SIZE, SIZE))
    with mx.autograd.record():
        logits = model(x)
    logits.backward()
    np.testing.assert_allclose(logits.asnumpy(), net(x).asnumpy(), rtol=1e-4, atol=1e-5)
    assert net.output.weight.grad().asnumpy().any()


@pytest.mark.parametrize(("make", "groups"), [(Plain, 3), (lambda: Plain(dropout=0.1), 2), (More, 1)])
def test_what_cannot_be_split_stays_whole(make, groups):
    net = network(make)
    assert len(layer_groups(net)) == 3
    assert split_front(net, groups, (SIZE, SIZE)) is None


def test_several_devices_train_the_whole_network(monkeypatch):
    monkeypatch.setattr(session_module, "split_front", None)  # must not be called
    ctx = [mx.cpu(0), mx.cpu(1)]
    trained(network(ctx=ctx), ctx=ctx, train_last=2)
