from d2lcls.data import Batches
from d2lcls.models import SmallCNN, train_last
from d2lcls.training import Recipe, evaluate, fit, load_run
from d2lcls.training.optimizers.ema import MovingAverage

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd
from mxnet.gluon import nn


def test_the_average_follows_the_formula_and_replaces_the_weights_at_the_end():
    net = nn.Dense(1, use_bias=False, in_units=1)
    net.initialize(mx.init.Zero(), ctx=[mx.cpu(0), mx.cpu(1)])

    def weight():
        first, second = (copy.asnumpy().item() for copy in net.weight.list_data())
        assert first == second
        return first

    average, expected = MovingAverage(net, total_steps=20, decay=0.6), 0.0
    for step in range(1, 21):
        current = float(step**2)  # what an optimizer might do
        net.weight.set_data(nd.array([[current]]))
        average.after(step)
        decay = min(0.6, (1 + step) / (10 + step))  # 2/11, 3/12, ... up to 0.6
        expected = decay * expected + (1 - decay) * current
        if step < 20:
            assert weight() == current
            with average.in_network():
                assert weight() == pytest.approx(expected, rel=1e-6)
            assert weight() == current
    assert weight() == pytest.approx(expected, rel=1e-6)


def test_the_weights_come_back_after_an_error():
    net = nn.Dense(1, in_units=1)
    net.initialize(mx.init.One())
    average = MovingAverage(net, 10, 0.9)
    net.weight.set_data(nd.array([[5]]))
    with pytest.raises(KeyboardInterrupt), average.in_network():
        assert net.weight.data().asscalar() == 1
        raise KeyboardInterrupt
    assert net.weight.data().asscalar() == 5


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay):
    net = nn.Dense(1, in_units=1)
    net.initialize()
    with pytest.raises(ValueError, match="ema must be a decay from 0 to below 1"):
        MovingAverage(net, 10, decay)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"ema": 0.9, "lookahead": 5}, "ema and lookahead both average the weights: give only one of them"),
        ({"ema": 1.0}, "ema must be below 1, not 1.0"),
        ({"ema": -0.5}, "ema must be at least 0, not -0.5"),
    ],
)
def test_recipes_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)


class Recorded(MovingAverage):
    """An average that keeps the weights before the first step and after each, to average them again."""

    history = []

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.history.append(weights(self.net))

    def after(self, steps):
        self.history.append(weights(self.net))
        super().after(steps)


def weights(net):
    nd.waitall()
    return {name: [c.asnumpy() for c in p.list_data()] for name, p in net._collect_params_with_prefix().items()}


def network(ctx):
    mx.random.seed(1)
    net = SmallCNN(3, (4, 8))
    net.initialize(mx.init.MSRAPrelu(slope=0), ctx=ctx)
    return net


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("validated", [True, False])
def test_what_is_validated_and_saved_is_the_average(shapes, tmp_path, monkeypatch, devices, validated):
    monkeypatch.setattr("d2lcls.training.session.MovingAverage", Recorded)
    monkeypatch.setattr(Recorded, "history", [])
    ctx = [mx.cpu(i) for i in range(devices)]
    net, train, valid = network(ctx), Batches(shapes, 50, shuffle=True), Batches(shapes, 64)
    records = fit(
        net,
        train,
        valid if validated else None,
        Recipe(num_epochs=4, lr=0.05, ema=0.8),
        ctx=ctx,
        checkpoint_dir=tmp_path,
        on_epoch=None,
    )
    best = max(records, key=lambda record: record.valid_accuracy).epoch if validated else 4
    average, *history = Recorded.history
    for step, current in enumerate(history[: 3 * best], 1):
        decay = min(0.8, (1 + step) / (10 + step))
        for name, copies in current.items():
            average[name] = [decay * mean + (1 - decay) * copy for mean, copy in zip(average[name], copies)]
    parameters = net._collect_params_with_prefix()
    for name, parameter in parameters.items():
        expected = np.mean(average[name], axis=0)  # statistics differ between devices until they are averaged
        for copy in parameter.list_data():
            np.testing.assert_allclose(copy.asnumpy(), expected, rtol=1e-4, atol=1e-5, err_msg=name)
    _, loaded = load_run(tmp_path)
    assert evaluate(loaded, valid).loss == pytest.approx(evaluate(net, valid).loss, rel=1e-5)
    if validated:
        assert evaluate(net, valid).accuracy == records[best - 1].valid_accuracy
        assert evaluate(net, valid).loss == pytest.approx(records[best - 1].valid_loss, rel=1e-5)


def test_training_itself_is_not_changed(shapes):
    losses = []
    for ema in (0.0, 0.9):
        recipe = Recipe(num_epochs=2, lr=0.05, ema=ema)
        records = fit(network(None), Batches(shapes, 50, shuffle=True), Batches(shapes), recipe, on_epoch=None)
        losses.append([record.train_loss for record in records])
    assert losses[0] == losses[1]


def test_frozen_layers_stay_bit_for_bit(shapes):
    net = network(None)
    net(nd.zeros((1, 3, 12, 12))).wait_to_read()
    train_last(net, 1)
    before = {name: p.data().asnumpy() for name, p in net._collect_params_with_prefix().items()}
    fit(net, Batches(shapes, 50), recipe=Recipe(num_epochs=2, lr=0.05, ema=0.7), on_epoch=None)
    for name, parameter in net._collect_params_with_prefix().items():
        assert (parameter.data().asnumpy() == before[name]).all() != name.startswith("output"), name
