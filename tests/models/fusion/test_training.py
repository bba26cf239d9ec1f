"""A graph rewritten for training has the outputs and gradients of the original, and none of its slow kernels."""

import os
import subprocess
import sys

from d2lcls.models import SmallCNN, get_model
from d2lcls.models.fusion.training import constants, faster_training
from d2lcls.models.surgery import hold_statistics, train_last
from d2lcls.training.precision import lower

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn


def network(name, size):
    """Return a network whose BatchNorms have typical statistics, and a batch that reaches both bounds of ReLU6."""
    mx.random.seed(0)
    net = get_model(name, classes=5)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    x = 3 * nd.random.normal(shape=(4, 3, size, size))
    net(x)
    for parameter in net.collect_params().values():
        for word, low, high in (("gamma", 1, 3), ("beta", -1, 2), ("var", 0.5, 1.5), ("mean", -1, 1)):
            if word in parameter.name:
                parameter.set_data(nd.random.uniform(low, high, shape=parameter.shape))
    return net, x


def step(net, model, x):
    """Return logits and all gradients, and running statistics after the pass."""
    mx.random.seed(1)
    labels = nd.arange(len(x)) % 5
    with autograd.record():
        logits = model(x)
        loss = gluon.loss.SoftmaxCrossEntropyLoss()(logits, labels)
    loss.backward()
    nd.waitall()
    parameters = net.collect_params().values()
    return (
        logits.asnumpy(),
        {p.name: p.grad().asnumpy() for p in parameters if p.grad_req != "null"},
        {p.name: p.data().asnumpy() for p in parameters if p.grad_req == "null"},
    )


def assert_near(values, expected, rtol=1e-3):
    assert abs(values - expected).max() <= rtol * abs(expected).max()


@pytest.mark.parametrize(
    ("name", "size"),
    [("efficientnet_lite0", 64), ("efficientnet_lite0", 75), ("efficientnet_b0", 64), ("mobilenetv2_0.25", 64)],
)
def test_outputs_and_gradients_are_those_of_the_network(name, size):
    net, x = network(name, size)
    hold_statistics(net)
    faster = lower(net, "float32")
    assert faster is not net
    logits, gradients, _ = step(net, net, x)
    found, found_gradients, _ = step(net, faster, x)
    assert_near(found, logits)
    for key, gradient in gradients.items():
        assert_near(found_gradients[key], gradient)


def test_batch_norms_keep_learning_their_statistics():
    net, x = network("mobilenetv2_0.25", 64)
    faster = lower(net, "float32")
    before = {p.name: p.data().copy() for p in net.collect_params().values() if p.grad_req == "null"}
    logits, _, statistics = step(net, net, x)
    for name, value in before.items():
        net.collect_params()[name].set_data(value)
    found, _, found_statistics = step(net, faster, x)
    assert_near(found, logits)
    for key, value in statistics.items():
        assert abs(value - before[key].asnumpy()).max() > 0
        assert_near(found_statistics[key], value)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "parts"),
    [(5, 1, 2, 2), (5, 2, 2, 2), (5, 1, 3, 2), (4, 1, 1, 2), (6, 1, 3, 2), (6, 2, 2, 1), (5, 1, 0, 1), (7, 1, 3, 1)],
)
@pytest.mark.parametrize("size", [12, 13])
def test_wide_depthwise_filters_are_split(kernel, stride, padding, parts, size):
    net = nn.HybridSequential()
    net.add(nn.Conv2D(8, kernel, stride, padding, groups=8, in_channels=8, use_bias=False), nn.Flatten(), nn.Dense(5))
    net.initialize(mx.init.Normal(0.3))
    x = nd.random.normal(shape=(3, 8, size, size))
    x.attach_grad()
    net(x)
    faster = lower(net, "float32")
    graph = faster(mx.sym.var("data")).tojson()
    assert graph.count('"op": "Convolution"') == parts
    results = []
    for model in (net, faster):
        logits, gradients, _ = step(net, model, x)
        results.append([logits, x.grad.asnumpy(), *gradients.values()])
    for expected, found in zip(*results):
        assert_near(found, expected)


def test_what_is_fast_already_stays_as_it_is():
    net = SmallCNN(5)
    net.initialize()
    net(nd.zeros((1, 3, 32, 32)))
    symbol = net(mx.sym.var("data"))
    assert faster_training(symbol, set(net.collect_params())) is symbol
    assert lower(net, "float32") is net and constants(symbol) == {}


def test_sequences_stay_as_they_are():
    net = nn.HybridSequential()
    net.add(nn.Conv1D(4, 5, groups=4, in_channels=4, use_bias=False), nn.Flatten(), nn.Dense(5))
    net.initialize()
    net(nd.zeros((1, 4, 12)))
    assert lower(net, "float32") is net


def test_frozen_filters_stay_whole():
    net, _ = network("efficientnet_lite0", 64)
    hold_statistics(net)
    train_last(net, 2)
    convolutions = net(mx.sym.var("data")).tojson().count('"op": "Convolution"')
    learned = {p.name for p in net.collect_params().values() if p.grad_req != "null"}
    assert faster_training(net(mx.sym.var("data")), learned).tojson().count('"op": "Convolution"') == convolutions


SLOW = """
import d2lcls, mxnet as mx
from mxnet import autograd, nd
from d2lcls.models import get_model
from d2lcls.models.surgery import hold_statistics
from d2lcls.training.precision import lower
net = get_model("efficientnet_lite0", classes=5)
net.initialize(mx.init.MSRAPrelu(slope=0))
x = nd.random.normal(shape=(2, 3, 160, 160))
net(x)
hold_statistics(net)
net = lower(net, "float32") if {lowered} else net
with autograd.record():
    y = net(x)
y.backward()
nd.waitall()
"""


@pytest.mark.parametrize("lowered", [False, True])
def test_no_depthwise_gradient_needs_the_general_kernel(lowered):
    code = SLOW.format(lowered=lowered)
    environment = {**os.environ, "DNNL_VERBOSE": "1"}
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    lines = [line.split(",") for line in output.stdout.splitlines() if line.startswith("dnnl_verbose,exec")]
    gradients = [line for line in lines if line[3] == "convolution" and line[5] == "backward_weights"]
    assert gradients
    slow = [line for line in gradients if line[9].startswith("g") and ("gemm" in line[4] or "ref" in line[4])]
    assert bool(slow) != lowered


def test_constants_are_made_once_for_each_length():
    net, _ = network("mobilenetv2_0.25", 64)
    faster = faster_training(net(mx.sym.var("data")), set(net.collect_params()))
    found = constants(faster)
    assert len(found) == len(set(found)) and {value for value, _ in found.values()} == {-1, 6, 0, 1}
    assert set(faster.list_auxiliary_states()) >= {name for name in found if "_mean_" in name or "_var_" in name}


def test_the_bounds_of_relu6_are_kept():
    net, x = network("mobilenetv2_0.25", 64)
    hold_statistics(net)
    symbol = faster_training(net(mx.sym.var("data")), set(net.collect_params()))
    activation = next(name for name in symbol.get_internals().list_outputs() if "relu6" in name)
    inner = gluon.SymbolBlock(symbol.get_internals()[activation], mx.sym.var("data"), params=net.collect_params())
    for name, (value, length) in constants(symbol).items():
        if name in inner.collect_params():
            constant = inner.collect_params()[name]
            constant.shape = (length,)
            constant.initialize(mx.init.Constant(value))
    values = inner(x).asnumpy()
    assert values.min() == 0 and np.isclose(values.max(), 6)
