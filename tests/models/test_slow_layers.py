from d2lcls.machine.gluon import blocks_of
from d2lcls.models import get_model
from d2lcls.models.efficientnet import ReLU6
from d2lcls.models.fusion.fused import fuse
from d2lcls.models.slow_layers import drop_bounds, freeze_depthwise, replace_global_pooling
from d2lcls.models.surgery import train_last
from d2lcls.training import make_trainer, train_step

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon, nd
from mxnet.gluon import nn
from nets import NETWORKS, images, make, moved, values


@pytest.mark.parametrize(
    "name",
    [
        "cifar_resnet20_v1",
        "cifar_resnet20_v2",
        "resnet18_v1",
        "resnet18_v1b",
        "mobilenet0.25",
        "mobilenetv2_0.25",
        "se_resnet18_v1",
        "resnext50_32x4d",
    ],
)
def test_networks_of_gluoncv_keep_outputs_and_gradients_without_global_pooling(name):
    from gluoncv.model_zoo import get_model as stock

    size, found = 32 if name.startswith("cifar") else 64, []
    mine, theirs = get_model(name, classes=10), stock(name, classes=10)
    assert not blocks_of(mine, nn.GlobalAvgPool2D) and blocks_of(theirs, nn.GlobalAvgPool2D)
    assert replace_global_pooling(mine) == 0
    x = images(size, 16)
    for net in (mine, theirs):
        net.initialize(mx.init.MSRAPrelu("in", 0))
        net(x)
    for own, other in zip(mine.collect_params().values(), theirs.collect_params().values()):
        assert own.shape == other.shape and own.name.split("_", 1)[1] == other.name.split("_", 1)[1]
        own.set_data(other.data())
    for net in (mine, theirs):
        net.hybridize()
        with mx.autograd.record():
            loss = gluon.loss.SoftmaxCrossEntropyLoss()(net(x), nd.arange(16) % 10)
        loss.backward()
        found.append(
            [loss.asnumpy(), *(p.grad().asnumpy() for p in net.collect_params().values() if p.grad_req != "null")]
        )
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-3)
    own, other = (np.concatenate([array.ravel() for array in arrays[1:]]) for arrays in found)
    assert 0 < np.linalg.norm(other) < 1e4 and np.linalg.norm(own - other) < 0.01 * np.linalg.norm(other)


def test_pooling_is_replaced_in_attributes_and_compiled_networks_too():
    class Net(gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            self.pool = nn.GlobalAvgPool2D()

        def hybrid_forward(self, F, x):
            return self.pool(x)

    net, x = Net(), images(6)
    net.hybridize()
    expected = net(x).asnumpy()
    assert replace_global_pooling(net) == 1 and not isinstance(net.pool, nn.GlobalAvgPool2D)
    assert net.pool is net._children["pool"] and net(x).shape == (2, 3, 1, 1)
    np.testing.assert_allclose(net(x).asnumpy(), expected, rtol=1e-5, atol=1e-7)
    assert '"op": "mean"' in net(mx.sym.var("data")).tojson()


def test_bounds_are_dropped_in_every_form():
    net = make("efficientnet_lite0")
    x, relus = 100 * images(64), blocks_of(net, ReLU6)
    net.hybridize()
    before = net(x).asnumpy()
    assert relus and "clip" in net(mx.sym.var("data")).tojson()
    drop_bounds(net)
    graph = net(mx.sym.var("data")).tojson()
    assert '"op": "clip"' not in graph and "_minimum_scalar" not in graph
    assert np.abs(net(x).asnumpy() - before).max() > 1e-3 * np.abs(before).max()
    np.testing.assert_allclose(fuse(net)(x).asnumpy(), net(x).asnumpy(), rtol=1e-3, atol=1e-3 * np.abs(before).max())
    y = nd.array([[-1, 0, 5, 7]])
    assert relus[0](y).asnumpy().tolist() == [[0, 0, 5, 7]]


def test_depthwise_filters_are_frozen_for_good():
    net = make("mobilenetv2_1.0")
    depthwise = {
        name
        for name, p in net._collect_params_with_prefix().items()
        if len(p.shape) == 4 and p.shape[1] == 1 < p.shape[0]
    }
    freeze_depthwise(net)
    train_last(net, 10)  # which thaws what was frozen otherwise
    before = values(net)
    trainer = make_trainer(net, "sgd", {"learning_rate": 0.1, "wd": 0.1})
    train_step(net, trainer, images(NETWORKS["mobilenetv2_1.0"]).asnumpy(), np.array([0, 1]), [mx.cpu()])
    changed = moved(before, values(net))
    assert len(depthwise) == 17 and not depthwise & changed
    assert len(changed) > 20
