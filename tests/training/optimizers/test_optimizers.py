"""AdamW and LAMB against their formulas."""

from d2lcls.data import Batches
from d2lcls.training import Recipe, fit, make_trainer

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

BETA1, BETA2 = 0.9, 0.999


def adamw(weight, mean, variance, step, lr, wd, epsilon=1e-8):
    corrected = mean / (1 - BETA1**step) / (np.sqrt(variance / (1 - BETA2**step)) + epsilon)
    return weight - lr * (corrected + wd * weight)


def lamb(weight, mean, variance, step, lr, wd, epsilon=1e-6):
    update = mean / (1 - BETA1**step) / (np.sqrt(variance / (1 - BETA2**step)) + epsilon) + wd * weight
    size, length = np.linalg.norm(weight), np.linalg.norm(update)
    return weight - lr * (size / length if size and length else 1) * update


@pytest.mark.parametrize("decay_biases", [False, True])
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("name, formula", [("adamw", adamw), ("lamb", lamb)])
def test_steps_follow_the_formula(name, formula, devices, decay_biases):
    """With a rate that changes, on one device and two, and with biases spared from decay or not."""
    ctx, rng = [mx.cpu(i) for i in range(devices)], np.random.default_rng(0)
    net = nn.Dense(3, in_units=4, bias_initializer=mx.init.Uniform(0.5))
    net.initialize(ctx=ctx)
    net.bias.lr_mult = 0.5
    trainer = make_trainer(net, name, {"learning_rate": 0.1, "wd": 0.3}, decay_biases)
    parameters = list(net.collect_params().values())
    expected = [parameter.data(ctx[0]).asnumpy().astype(np.float64) for parameter in parameters]
    moments = [(np.zeros_like(value), np.zeros_like(value)) for value in expected]
    for step in range(1, 8):
        lr = 0.1 / step
        gradients = [rng.standard_normal(value.shape) * 10.0**-step for value in expected]
        with autograd.record():  # sum(gradient * parameter) has that gradient
            losses = [
                sum((parameter.data(c) * nd.array(g, ctx=c)).sum() for parameter, g in zip(parameters, gradients))
                for c in ctx
            ]
        autograd.backward(losses)
        trainer.set_learning_rate(lr)
        trainer.allreduce_grads()
        trainer.update(4 * devices)
        for index, (parameter, gradient) in enumerate(zip(parameters, gradients)):
            mean, variance = moments[index]
            mean[:] = BETA1 * mean + (1 - BETA1) * gradient / 4
            variance[:] = BETA2 * variance + (1 - BETA2) * (gradient / 4) ** 2
            rate = lr * parameter.lr_mult
            wd = 0.3 if parameter is net.weight else 0.3 / parameter.lr_mult if decay_biases else 0
            expected[index] = formula(expected[index], mean, variance, step, rate, wd)
    for parameter, value in zip(parameters, expected):
        for copy in parameter.list_data():
            np.testing.assert_allclose(copy.asnumpy(), value, rtol=2e-5, atol=1e-6, err_msg=parameter.name)


def test_decay_is_decoupled_from_the_moments():
    """With a gradient of 0, AdamW shrinks a weight by lr * wd; Adam would step by about lr, whatever the decay."""
    weights = {}
    for name in ("adam", "adamw"):
        net = nn.Dense(1, in_units=1, use_bias=False, weight_initializer=mx.init.One())
        net.initialize()
        trainer = make_trainer(net, name, {"learning_rate": 0.1, "wd": 0.01})
        with autograd.record():
            loss = 0 * net.weight.data()
        loss.backward()
        trainer.step(1)
        weights[name] = net.weight.data().asscalar()
    assert weights["adamw"] == pytest.approx(1 - 0.1 * 0.01, rel=1e-6)
    assert weights["adam"] == pytest.approx(1 - 0.1, rel=1e-3)


def test_gradients_are_clipped_and_other_moments_taken():
    net = nn.Dense(1, in_units=1, use_bias=False, weight_initializer=mx.init.One())
    net.initialize()
    arguments = {"learning_rate": 0.1, "beta1": 0.5, "beta2": 0.75, "epsilon": 0.1, "clip_gradient": 2.0}
    trainer = make_trainer(net, "adamw", arguments)
    weight, mean, variance = 1.0, 0.0, 0.0
    for step, gradient in enumerate((5.0, -1.0), 1):
        with autograd.record():
            loss = gradient * net.weight.data()
        loss.backward()
        trainer.step(1)
        clipped = np.clip(gradient, -2, 2)
        mean, variance = 0.5 * mean + 0.5 * clipped, 0.75 * variance + 0.25 * clipped**2
        weight -= 0.1 * mean / (1 - 0.5**step) / (np.sqrt(variance / (1 - 0.75**step)) + 0.1)
        assert net.weight.data().asscalar() == pytest.approx(weight, rel=1e-5)


class Plain(gluon.HybridBlock):
    def __init__(self):
        super().__init__()
        self.layers = nn.HybridSequential()
        self.layers.add(nn.Conv2D(6, 3, activation="tanh"), nn.Dense(3))

    def hybrid_forward(self, F, x):
        return self.layers(x)


@pytest.mark.parametrize("optimizer, lr", [("adamw", 0.01), ("lamb", 0.1)])
def test_a_network_learns_on_two_devices_as_on_one(shapes, optimizer, lr):
    ended = []
    for devices in (1, 2):
        net, ctx = Plain(), [mx.cpu(i) for i in range(devices)]
        mx.random.seed(1)
        net.initialize()
        recipe = Recipe(num_epochs=3, lr=lr, optimizer=optimizer, wd=0.05)
        records = fit(net, Batches(shapes, 32, shuffle=True), Batches(shapes), recipe, ctx=ctx, on_epoch=None)
        assert records[-1].valid_accuracy > 0.95
        parameters = list(net.collect_params().values())
        for parameter in parameters:
            for copy in parameter.list_data():
                np.testing.assert_array_equal(copy.asnumpy(), parameter.list_data()[0].asnumpy())
        ended.append([parameter.list_data()[0].asnumpy() for parameter in parameters])
    for one, two in zip(*ended):
        np.testing.assert_allclose(one, two, atol=2e-3)


@pytest.mark.parametrize(
    "optimizer, rate", [("sgd", 0.1), ("nag", 0.1), ("adam", 0.001), ("adamw", 0.001), ("LAMB", 0.01)]
)
def test_the_usual_rate_depends_on_the_optimizer(optimizer, rate):
    assert Recipe(optimizer=optimizer).peak_lr == rate
    assert Recipe(optimizer=optimizer, pretrained=True).peak_lr == rate / 10
    assert Recipe(optimizer=optimizer, lr=0.5).peak_lr == 0.5
