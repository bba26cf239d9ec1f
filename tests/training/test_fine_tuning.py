from d2lcls.data import Batches
from d2lcls.models import SmallCNN
from d2lcls.models.surgery import gradual, layer_groups, set_lr_multipliers, train_last
from d2lcls.training import CheckpointError, fit, make_trainer, train_step
from d2lcls.training.recipe import Recipe

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd

PLAN = {0: 1, 1: 2, 2: 4}


def network(ctx=None):
    mx.random.seed(1)
    net = SmallCNN(3, (4, 6, 8))
    net.initialize(mx.init.MSRAPrelu(slope=0), ctx=ctx)
    for context in ctx or [mx.cpu()]:
        net(nd.zeros((1, 3, 12, 12), ctx=context)).wait_to_read()
    return net


def contexts(count):
    return [mx.cpu(place) for place in range(count)]


def batches(data, batch_size=16):
    return Batches(data, batch_size, shuffle=True, seed=3)


def values(net):
    nd.waitall()
    return {name: [copy.asnumpy() for copy in p.list_data()] for name, p in net._collect_params_with_prefix().items()}


def moved(before, after):
    return {name for name, copies in before.items() if any((a != b).any() for a, b in zip(copies, after[name]))}


def in_last(net, groups):
    wanted = {
        id(p) for group in layer_groups(net)[-groups:] for block in group for p in block.collect_params().values()
    }
    return {name for name, p in net._collect_params_with_prefix().items() if id(p) in wanted}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        for a, b in zip(first[name], second[name]):
            np.testing.assert_array_equal(a, b, err_msg=name)


def train(data, folder=None, devices=1, net=None, resume=False, on_epoch=None, **kwargs):
    net = net or network(contexts(devices))
    options = {"num_epochs": 3, "lr": 0.02, "wd": 0.01, "unfreeze": PLAN, **kwargs}
    records = fit(
        net,
        batches(data),
        recipe=Recipe(**options),
        ctx=contexts(devices),
        checkpoint_dir=folder,
        resume=resume,
        on_epoch=on_epoch,
    )
    return values(net), records


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_the_plan_is_followed(shapes, devices):
    net = network(contexts(devices))
    seen = [values(net)]
    fit(
        net,
        batches(shapes),
        recipe=Recipe(num_epochs=4, lr=0.02, wd=0.01, unfreeze=PLAN),
        ctx=contexts(devices),
        on_epoch=lambda record: seen.append(values(net)),
    )
    for groups, before, after in zip((1, 2, 4, 4), seen, seen[1:]):
        assert moved(before, after) == in_last(net, groups)


def test_a_plan_of_gradual_trains_to_the_end(shapes):
    net = network()
    before = values(net)
    records = fit(net, batches(shapes), recipe=Recipe(num_epochs=6, lr=0.05, unfreeze=gradual(net, 6)), on_epoch=None)
    assert records[-1].train_loss < records[0].train_loss
    assert moved(before, values(net)) == set(before)


def test_a_plan_overrides_what_was_frozen_and_none_leaves_it(shapes):
    net = network()
    train_last(net, 4)
    before = values(net)
    fit(net, batches(shapes), recipe=Recipe(num_epochs=1, unfreeze={0: 1}), on_epoch=None)
    assert moved(before, values(net)) == in_last(net, 1)
    before = values(net)
    fit(net, batches(shapes), recipe=Recipe(num_epochs=1), on_epoch=None)
    assert moved(before, values(net)) == in_last(net, 1)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("optimizer, devices", [("sgd", 1), ("sgd", 2), ("adam", 1)])
@pytest.mark.parametrize("step", [7, 12, 25])  # an epoch has 10 steps: before the first boundary, after it, after both
def test_a_run_killed_around_a_boundary_ends_with_the_same_bits(
    shapes, tmp_path, monkeypatch, optimizer, devices, step
):
    options = {"optimizer": optimizer, "devices": devices, "checkpoint_steps": 5}
    whole, records = train(shapes, tmp_path / "whole", **options)
    update, steps = gluon.Trainer.update, []

    def update_until_killed(trainer, batch_size):
        steps.append(batch_size)
        if len(steps) == step:
            raise Killed
        update(trainer, batch_size)

    monkeypatch.setattr(gluon.Trainer, "update", update_until_killed)
    with pytest.raises(Killed):
        train(shapes, tmp_path / "cut", **options)
    monkeypatch.setattr(gluon.Trainer, "update", update)
    resumed, again = train(shapes, tmp_path / "cut", resume=True, **options)
    assert_same(whole, resumed)
    assert [record.train_loss for record in records] == [record.train_loss for record in again]


@pytest.mark.parametrize("last", [1, 2])
def test_a_run_ended_on_a_boundary_ends_with_the_same_bits(shapes, tmp_path, last):
    whole, records = train(shapes)

    def stop(record):
        if record.epoch == last:
            raise Killed

    with pytest.raises(Killed):
        train(shapes, tmp_path, on_epoch=stop)
    resumed, again = train(shapes, tmp_path, resume=True)
    assert_same(whole, resumed)
    assert [record.train_loss for record in records] == [record.train_loss for record in again]


@pytest.mark.parametrize("devices", [1, 2])
def test_the_l1_step_is_the_sign_of_the_weight(shapes, devices):
    ctx, l1 = contexts(devices), 0.03
    x, y = next(iter(Batches(shapes, 17)))
    ended = []
    for factor in (0.0, l1):
        net = network(ctx)
        for parameter in net.collect_params().values():
            parameter.lr_mult = 1
        before = values(net)
        train_step(net, make_trainer(net, "sgd", {"learning_rate": 0.5}), x, y, ctx, l1=factor)
        ended.append(values(net))
    for name in before:
        for start, without, with_l1 in zip(before[name], *(end[name] for end in ended)):
            expected = -0.5 * l1 * np.sign(start) if name.endswith("weight") else 0 * start
            np.testing.assert_allclose(with_l1 - without, expected, atol=1e-6, err_msg=name)


def test_the_l1_step_follows_finite_differences(shapes):
    l1, net = 0.05, network()
    x, y = next(iter(Batches(shapes, 20)))
    weight = net.output.weight

    def objective():
        with autograd.train_mode():
            loss = gluon.loss.SoftmaxCrossEntropyLoss()(net(nd.array(x)), nd.array(y)).asnumpy().mean(dtype=np.float64)
        weights = [value[0] for name, value in values(net).items() if name.endswith("weight")]
        return loss + l1 * sum(np.abs(value.astype(np.float64)).sum() for value in weights)

    start, slopes, eps = weight.data().asnumpy(), {}, 1e-3
    for place in [(0, 0), (1, 3), (2, 7)]:
        assert abs(start[place]) > eps
        ends = []
        for side in (eps, -eps):
            changed = start.copy()
            changed[place] += side
            weight.set_data(nd.array(changed))
            ends.append(objective())
        slopes[place] = (ends[0] - ends[1]) / (2 * eps)
    weight.set_data(nd.array(start))
    train_step(net, make_trainer(net, "sgd", {"learning_rate": 1.0}), x, y, [mx.cpu()], l1=l1)
    for place, slope in slopes.items():
        assert start[place] - weight.data().asnumpy()[place] == pytest.approx(slope, abs=2e-3)


def test_l1_spares_the_frozen(shapes):
    net = network()
    train_last(net, 1)
    before = values(net)
    fit(net, batches(shapes), recipe=Recipe(num_epochs=1, l1=0.1), on_epoch=None)
    assert moved(before, values(net)) == {"output.weight", "output.bias"}


def test_l1_drives_weights_to_zero(shapes):
    shares = []
    for l1 in (0.0, 0.05):
        net = network()
        fit(net, batches(shapes), recipe=Recipe(num_epochs=4, lr=0.05, wd=0, l1=l1), on_epoch=None)
        weights = np.concatenate([v[0].ravel() for name, v in values(net).items() if name.endswith("weight")])
        shares.append(((np.abs(weights) < 5e-3).mean(), np.abs(weights).mean()))
    assert shares[1][0] > 5 * shares[0][0] and shares[1][1] < 0.4 * shares[0][1]


def test_clipping_limits_the_l1_step_too(shapes):
    net = network()
    x, y = next(iter(Batches(shapes, 20)))
    before = values(net)
    train_step(net, make_trainer(net, "sgd", {"learning_rate": 1.0}), x, y, [mx.cpu()], l1=10.0, clip_norm=0.1)
    after = values(net)
    step = np.sqrt(sum(((after[name][0] - before[name][0]) ** 2).sum() for name in before if "running" not in name))
    assert step == pytest.approx(0.1, rel=1e-3)


def test_on_epoch_sees_every_record(shapes):
    seen = []
    _, records = train(shapes, on_epoch=seen.append)
    assert seen == records and [record.epoch for record in seen] == [1, 2, 3]


def test_what_on_epoch_raises_ends_a_run_that_can_go_on(shapes, tmp_path):
    class Enough(Exception):
        pass

    def stop(record):
        if record.epoch == 2:
            raise Enough("two will do")

    with pytest.raises(Enough, match="two will do"):
        train(shapes, tmp_path, on_epoch=stop)
    seen = []
    _, records = train(shapes, tmp_path, on_epoch=seen.append, resume=True)
    assert [record.epoch for record in seen] == [3] and [record.epoch for record in records] == [1, 2, 3]


@pytest.mark.parametrize(
    "name, change",
    [
        ("unfreeze", {"unfreeze": {0: 1, 2: 4}}),
        ("unfreeze", {"unfreeze": None}),
        ("l1", {"l1": 0.1}),
        ("frozen", {"unfreeze": {0: 2, 1: 2, 2: 4}}),
    ],
)
def test_another_way_to_fine_tune_is_another_recipe(shapes, tmp_path, name, change):
    train(shapes, tmp_path, num_epochs=1)
    with pytest.raises(CheckpointError, match=f"another recipe: ({name}|unfreeze) is .* there and .* here"):
        train(shapes, tmp_path, num_epochs=1, resume=True, **change)


@pytest.mark.parametrize(
    "name, change",
    [
        ("frozen", lambda net: train_last(net, 2)),
        ("frozen", lambda net: train_last(net, 4)),
        ("lr_multipliers", lambda net: set_lr_multipliers(net, 0.5)),
    ],
)
def test_other_frozen_layers_or_rates_are_another_recipe(shapes, tmp_path, name, change):
    nets = [network(), network()]
    for net in nets:
        train_last(net, 1)
    train(shapes, tmp_path, net=nets[0], unfreeze=None)
    change(nets[1])
    with pytest.raises(CheckpointError, match=f"another recipe: {name} is .* there and .* here"):
        train(shapes, tmp_path, net=nets[1], unfreeze=None, resume=True)


def test_the_same_way_to_fine_tune_goes_on(shapes, tmp_path):
    def prepared():
        net = network()
        train_last(net, 2)
        set_lr_multipliers(net, 0.3)
        return net

    first, _ = train(shapes, tmp_path, net=prepared(), unfreeze=None, l1=0.01)
    again, _ = train(shapes, tmp_path, net=prepared(), unfreeze=None, l1=0.01, resume=True)
    assert_same(first, again)


def test_a_plan_that_asks_for_too_much_is_refused_before_the_first_step(shapes):
    net = network()
    for plan in ({1: 1}, {0: 1, 2: 99}, {0: 0}, {0: 1, -1: 2}):
        with pytest.raises(ValueError, match="unfreeze must map epochs"):
            fit(net, batches(shapes), recipe=Recipe(num_epochs=3, unfreeze=plan), on_epoch=None)


def test_a_network_frozen_entirely_is_refused(shapes):
    net = network()
    for parameter in net.collect_params().values():
        parameter.grad_req = "null"
    with pytest.raises(ValueError, match="Every parameter is frozen"):
        fit(net, batches(shapes), recipe=Recipe(num_epochs=1), on_epoch=None)


def test_negative_l1_is_refused(shapes):
    with pytest.raises(ValueError, match="l1 must be at least 0"):
        fit(network(), batches(shapes), recipe=Recipe(num_epochs=1, l1=-0.001), on_epoch=None)
