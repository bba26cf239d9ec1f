from d2lcls.data import Batches, Images, channel_statistics
from d2lcls.models import SmallCNN
from d2lcls.training import fit, make_trainer
from d2lcls.training.recipe import Recipe
from d2lcls.training.search.range_test import RangeTest, lr_range_test

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn


def batches(data, batch_size=32, **kwargs):
    return Batches(data, batch_size, *channel_statistics(data.images), shuffle=True, **kwargs)


def network(classes=3, channels=0):
    """With deferred shapes, or with all parameters drawn if the channels are told."""
    mx.random.seed(5)
    net = nn.HybridSequential()
    net.add(
        nn.Conv2D(6, 3, in_channels=channels),
        nn.BatchNorm(in_channels=6 if channels else 0),
        nn.Activation("relu"),
        nn.Dropout(0.3),
        nn.GlobalMaxPool2D(),
        nn.Dense(classes, in_units=6 if channels else 0),
    )
    net.initialize(mx.init.MSRAPrelu(slope=0))
    return net


def state(net):
    nd.waitall()  # reading running statistics does not wait for their update
    return [copy.asnumpy() for p in net._collect_params_with_prefix().values() for copy in p.list_data()]


def same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)


def quick(net, data, steps=12, lowest=1e-5, highest=10, ctx=None, **fields):
    return lr_range_test(net, batches(data), Recipe(**fields), steps=steps, lowest=lowest, highest=highest, ctx=ctx)


def test_rates_climb_geometrically_over_several_epochs(shapes):
    result = lr_range_test(network(), batches(shapes, 50), lowest=0.0001, highest=0.1, steps=10)  # 3 batches an epoch
    np.testing.assert_allclose(result.rates, 10.0 ** (-4 + np.arange(10) / 3))
    assert len(result.losses) == len(result.smoothed) == 10


def test_the_losses_are_those_of_a_training_with_these_rates(shapes):
    """Batch for batch what `fit` does, with batches as epochs so that its records hold each loss."""
    train = Batches(shapes, 150)
    rates = np.geomspace(1e-3, 1e-1, 5)
    records = fit(
        network(), train, recipe=Recipe(num_epochs=5, schedule=lambda step: rates[step], seed=3), on_epoch=None
    )
    result = lr_range_test(network(), train, recipe=Recipe(seed=3), lowest=0.001, highest=0.1, steps=5)
    assert list(result.losses) == pytest.approx([r.train_loss for r in records], rel=1e-6)
    for step in range(5):
        shares = 0.9 ** np.arange(step, -1, -1)
        assert result.smoothed[step] == pytest.approx((shares * result.losses[: step + 1]).sum() / shares.sum())


def test_it_finds_a_rate_that_trains(shapes):
    result = lr_range_test(network(), batches(shapes), steps=100)
    assert 1e-3 < result.suggestion < 1
    assert result.suggestion == pytest.approx(result.rates[result.smoothed.argmin()] / 10)
    good = fit(network(), batches(shapes), recipe=Recipe(num_epochs=5, lr=result.suggestion), on_epoch=None)[
        -1
    ].train_loss
    assert good < fit(network(), batches(shapes), recipe=Recipe(num_epochs=5, lr=0.0001), on_epoch=None)[-1].train_loss


def test_it_stops_when_the_loss_explodes(shapes):
    result = lr_range_test(network(), batches(shapes), highest=1000000.0, steps=60)
    assert len(result.rates) == len(result.losses) == len(result.smoothed) < 60
    assert np.isfinite(result.losses).all()
    assert (result.smoothed[:-1] <= 4 * np.minimum.accumulate(result.smoothed)[:-1]).all()


def losses_from(values):
    """A loss that is what the list says, call by call, whatever the logits."""
    values = iter(values)

    def loss(logits, labels):
        return logits.sum(axis=1) * 0 + next(values)

    return loss


def test_it_stops_at_four_times_the_least_smoothed_loss(shapes):
    result = quick(network(), shapes, loss=losses_from([1.0, 1, 1, 20, 20, 20, 20, 20, 20, 20, 20, 20]))
    assert len(result.losses) == 4  # (1 + 0.9 + 0.81) of 1 ... the smoothed loss is 6.5 at once
    assert result.smoothed[-1] == pytest.approx((20 + 0.9 + 0.81 + 0.729) / (1 + 0.9 + 0.81 + 0.729))


def test_a_loss_that_is_not_finite_ends_the_test_and_is_left_out(shapes):
    result = quick(network(), shapes, loss=losses_from([3.0, 2, np.nan]))
    assert list(result.losses) == [3, 2]
    net = network(channels=3)
    before = state(net)
    with pytest.raises(ValueError, match="loss of the first batch is not a finite number"):
        quick(net, shapes, loss=losses_from([np.inf]))
    same(before, state(net))


def test_suggestion():
    rates = np.geomspace(1e-4, 1, 5)
    result = RangeTest(rates, np.array([2, 2, 1, 3, 4.0]), np.array([2, 2, 1.5, 1.2, 3]))
    assert result.suggestion == pytest.approx(1e-2)
    assert str(result) == ("5 rates from 0.0001 to 1, lowest smoothed loss 1.2000 at 0.1, suggestion 0.01")
    never = RangeTest(rates, np.arange(5) + 1.0, np.arange(5) + 1.0)
    assert never.suggestion is None and str(never).endswith("no suggestion")


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_network_is_put_back_bit_for_bit(shapes, hybrid):
    net, x = network(channels=3), nd.array(batches(shapes).example())
    net[5].weight.grad_req = "add"
    net[0].weight.grad_req = "null"
    net[0].bias.lr_mult, net[5].weight.wd_mult = 0.5, 0.25
    if hybrid:
        net.hybridize(static_alloc=True, static_shape=True)
    with autograd.record():
        value = net(x).sum()
    value.backward()  # gradients and running statistics that are not those of the beginning
    before, output = state(net), net(x).asnumpy()
    parameters = net.collect_params().values()
    arrays = [id(p.data()) for p in parameters]
    gradients = [p.grad().asnumpy() for p in parameters if p.grad_req != "null"]
    settings = [(p.grad_req, p.lr_mult, p.wd_mult, p.list_ctx()) for p in parameters]
    flags = [(layer._active, layer._flags) for layer in [net, *net]]
    quick(net, shapes, highest=1e3)
    same(before, state(net))
    same(gradients, [p.grad().asnumpy() for p in parameters if p.grad_req != "null"])
    assert arrays == [id(p.data()) for p in parameters]
    assert settings == [(p.grad_req, p.lr_mult, p.wd_mult, p.list_ctx()) for p in parameters]
    assert flags == [(layer._active, layer._flags) for layer in [net, *net]]
    np.testing.assert_array_equal(output, net(x).asnumpy())


def test_what_a_layer_notes_of_its_calls_is_put_back(shapes):
    class Noting(nn.Dense):
        def forward(self, x):
            self.calls = getattr(self, "calls", 0) + 1
            return super().forward(x)

    net = nn.HybridSequential()
    net.add(Noting(3))
    net.initialize()
    quick(net, shapes)
    assert not hasattr(net[0], "calls")


def test_the_network_goes_back_to_its_devices(shapes):
    net = network(channels=3)
    net.collect_params().reset_ctx([mx.cpu(1), mx.cpu(2), mx.cpu(3)])
    for place, copy in enumerate(net[1].running_mean.list_data()):
        copy[:] = place  # each device's own
    before = state(net)
    result = quick(net, shapes, ctx=[mx.cpu(0), mx.cpu(1)])
    assert len(result.losses) == 12
    assert net[0].weight.list_ctx() == [mx.cpu(1), mx.cpu(2), mx.cpu(3)]
    same(before, state(net))


@pytest.mark.parametrize("channels", [0, 3], ids=["deferred", "drawn"])
@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_following_fit_gives_the_same_numbers(shapes, channels, hybrid, optimizer):
    def run(tested):
        net = network(channels=channels)
        if hybrid:
            net.hybridize()
        if tested:
            quick(net, shapes, optimizer=optimizer, highest=1.0, seed=0)
        records = fit(
            net, batches(shapes), recipe=Recipe(num_epochs=2, lr=0.01, optimizer=optimizer, seed=1), on_epoch=None
        )
        return state(net), [r.train_loss for r in records]

    (first, losses), (second, again) = run(True), run(False)
    same(first, second)
    assert losses == again


def test_initial_values_still_to_be_drawn_stay_so(shapes):
    net = network()
    net[5].weight.initialize(mx.init.Constant(0.5), force_reinit=True)
    quick(net, shapes)
    with pytest.raises(gluon.parameter.DeferredInitializationError):
        net[0].weight.data()
    assert net[0].weight.shape == (6, 0, 3, 3)
    net(nd.zeros((1, 1, 12, 12)))  # other images than the test's are as good as before
    assert net[0].weight.shape == (6, 1, 3, 3)
    assert (net[5].weight.data().asnumpy() == 0.5).all()


def test_the_tested_start_is_the_one_that_fit_draws(shapes):
    train = Batches(shapes, 150)
    first = fit(network(), train, recipe=Recipe(num_epochs=1, lr=0.1, seed=4), on_epoch=None)[0].train_loss
    losses = [lr_range_test(network(), train, recipe=Recipe(seed=seed), steps=2).losses[0] for seed in (4, 5)]
    assert losses[0] == pytest.approx(first, rel=1e-6) and losses[1] != pytest.approx(first, rel=1e-3)


def test_an_optimizer_of_the_callers_own_goes_on_undisturbed(shapes):
    def run(tested):
        net = network(channels=3)
        x, y = next(iter(batches(shapes)))
        trainer = make_trainer(net, "adam", {"learning_rate": 0.01})
        for step in range(4):
            if tested and step == 2:
                quick(net, shapes)
            mx.random.seed(step)
            with autograd.record():
                value = gluon.loss.SoftmaxCrossEntropyLoss()(net(nd.array(x)), nd.array(y))
            value.backward()
            nd.waitall()
            trainer.allreduce_grads()
            trainer.update(len(x))
        return state(net)

    same(run(True), run(False))


def test_same_seed_same_numbers(shapes):
    first, again, other = (quick(network(), shapes, seed=seed) for seed in (1, 1, 2))
    assert list(first.losses) == list(again.losses) != list(other.losses)


def test_an_interrupted_test_puts_the_network_back_too(shapes):
    def loss(logits, labels, calls=[]):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return gluon.loss.SoftmaxCrossEntropyLoss()(logits, labels)

    net = network(channels=3)
    before = state(net)
    with pytest.raises(KeyboardInterrupt):
        quick(net, shapes, loss=loss)
    same(before, state(net))
    assert not net._active


def test_with_mixup_and_the_books_network(shapes):
    net = SmallCNN(3, (4, 8))
    net.initialize()
    result = lr_range_test(net, batches(shapes, mixup=0.2), recipe=Recipe(clip_norm=1.0), steps=5)
    assert len(result.losses) == 5


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"lowest": 0}, "lowest and highest must be"),
        ({"lowest": 20}, "lowest and highest must be"),
        ({"highest": np.inf}, "lowest and highest must be"),
        ({"highest": np.nan}, "lowest and highest must be"),
        ({"lowest": -1}, "lowest and highest must be"),
        ({"steps": 1}, "steps must be 2 or more, not 1"),
        ({"ctx": []}, "ctx must be one or more"),
    ],
)
def test_bad_arguments(shapes, kwargs, message):
    with pytest.raises(ValueError, match=message):
        quick(network(), shapes, **kwargs)


def test_a_network_that_does_not_fit(shapes):
    with pytest.raises(ValueError, match="label 2, but the network has only 2 outputs"):
        quick(network(2), shapes)
    with pytest.raises(ValueError, match="one output per class: 3, not 4"):
        lr_range_test(network(4), batches(shapes, mixup=0.2), steps=3)
    with pytest.raises(ValueError, match="one output per class: 3, not 4"):
        lr_range_test(network(4), batches(shapes, cutmix=1.0), steps=3)
    with pytest.raises(ValueError, match="was not initialised"):
        quick(SmallCNN(3), shapes)
    small = Images(shapes.images[:, :2, :2].copy(), shapes.labels, shapes.classes, "small")
    with pytest.raises(ValueError, match="cannot take images of 2 x 2"):
        quick(network(channels=3), small)
