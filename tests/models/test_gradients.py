from d2lcls.models import SmallCNN
from d2lcls.models.gradients import check_gradients

import mxnet as mx
import numpy as np
import pytest


def prepared(dtype="float64"):
    net = SmallCNN(3, widths=(4, 6))
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net(mx.nd.zeros((1, 3, 8, 8)))
    net.cast(dtype)
    rng = np.random.default_rng(0)
    x = mx.nd.array(rng.normal(size=(4, 3, 8, 8)), dtype=dtype)
    return net, x, mx.nd.array([0, 1, 2, 0], dtype=dtype)


def test_backpropagation_agrees_with_finite_differences():
    net, x, y = prepared()
    before = [p.data().asnumpy() for p in net.collect_params().values()]
    errors = check_gradients(net, x, y)
    learned = [n for n, p in net._collect_params_with_prefix().items() if p.grad_req != "null"]
    assert set(errors) == set(learned)
    assert max(errors.values()) < 1e-6
    for name, old, p in zip(net.collect_params(), before, net.collect_params().values()):
        if "running" not in name:  # the check itself runs BatchNorm in training mode
            np.testing.assert_array_equal(old, p.data().asnumpy())


def test_a_wrong_gradient_is_found():
    class Wrong(mx.autograd.Function):
        def forward(self, x):
            return x * 2

        def backward(self, dy):
            return dy * 1.9

    net, x, y = prepared()
    inner = net.output.forward
    net.output.forward = lambda features: inner(Wrong()(features))
    errors = check_gradients(net, x, y)
    assert errors["features.0.weight"] > 0.01
    assert errors["output.weight"] < 1e-6  # after the fault


def test_float32_is_refused():
    net, x, y = prepared("float32")
    with pytest.raises(ValueError, match="features.0.weight is float32; call net.cast"):
        check_gradients(net, x, y)
