"""Groups of layers: frozen, thawed, with rates of their own."""

from d2lcls.data import Batches
from d2lcls.machine.gluon import clear_cache
from d2lcls.models.surgery import gradual, layer_groups, set_lr_multipliers, train_last
from d2lcls.training import fit, make_trainer, train_step
from d2lcls.training.recipe import Recipe

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd
from nets import NETWORKS, TWO, images, is_head, layer_inputs, learned, make, moved, names_of, small, values


@pytest.mark.parametrize("name", NETWORKS)
def test_groups_hold_every_parameter_once(name):
    net = make(name)
    groups = layer_groups(net)
    names = [names_of(net, [group]) for group in groups]
    assert sum(map(len, names)) == len(net._collect_params_with_prefix()) == len(set().union(*names))
    assert all(learned(net, group) for group in names)
    assert all(map(is_head, names[-1])) and len(groups) > 3


@pytest.mark.parametrize("ctx", [[mx.cpu()], TWO])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_frozen_layers_and_their_statistics_stay_bit_for_bit(shapes, ctx, groups):
    net = small(ctx)
    fit(
        net, Batches(shapes, 32, shuffle=True), recipe=Recipe(num_epochs=1), ctx=ctx, on_epoch=None
    )  # statistics of their own
    train_last(net, groups)
    before = values(net)
    fit(net, Batches(shapes, 32, shuffle=True), recipe=Recipe(num_epochs=1, lr=0.1, wd=0.1), ctx=ctx, on_epoch=None)
    assert moved(before, values(net)) == names_of(net, layer_groups(net)[-groups:])
    train_last(net, len(layer_groups(net)))
    fit(net, Batches(shapes, 32, shuffle=True), recipe=Recipe(num_epochs=1, lr=0.1, wd=0.1), ctx=ctx, on_epoch=None)
    assert moved(before, values(net)) == set(before)


@pytest.mark.parametrize("name", ["cifar_resnet20_v1", "mobilenetv2_1.0", "resnet18_v1b"])
def test_frozen_layers_of_deeper_networks(name):
    net = make(name)
    train_last(net, 2)
    before = values(net)
    trainer = make_trainer(net, "sgd", {"learning_rate": 0.1, "momentum": 0.9, "wd": 0.1})
    for _ in range(2):
        train_step(net, trainer, images(NETWORKS[name]).asnumpy(), np.array([0, 1]), [mx.cpu()])
    free, changed = names_of(net, layer_groups(net)[-2:]), moved(before, values(net))
    assert changed <= free and learned(net, free) <= changed


def test_weight_decay_alone_spares_the_frozen():
    net = small()
    train_last(net, 1)
    before = values(net)
    trainer = make_trainer(net, "sgd", {"learning_rate": 1.0, "wd": 0.5})
    train_step(
        net,
        trainer,
        images(12).asnumpy(),
        np.array([0, 1]),
        [mx.cpu()],
        loss=lambda logits, labels: (logits * 0).sum(axis=1),
    )
    after = values(net)
    assert moved(before, after) == {"output.weight"}
    np.testing.assert_allclose(after["output.weight"][0], before["output.weight"][0] / 2, rtol=1e-6)


def test_a_frozen_network_computes_as_in_prediction():
    net = small()
    for parameter in net.collect_params(".*running_mean").values():
        parameter.set_data(nd.ones(parameter.shape))
    expected = layer_inputs(net, images(12))
    train_last(net, 1)
    with mx.autograd.train_mode():
        np.testing.assert_allclose(layer_inputs(net, images(12)), expected, rtol=1e-6)
    train_last(net, 2)
    with mx.autograd.train_mode():
        assert np.abs(layer_inputs(net, images(12)) - expected).max() > 1e-3


@pytest.mark.parametrize("groups", [0, -1, 5])
def test_a_number_of_groups_that_there_is_not(groups):
    with pytest.raises(ValueError, match=f"groups must lie between 1 and 4, the number of groups, not {groups}"):
        train_last(small(), groups)


def test_one_step_is_as_long_as_its_multiplier():
    x, y = images(12).asnumpy(), np.array([0, 1])
    steps = []
    for decay in (1, 0.5):
        net = small()
        set_lr_multipliers(net, decay)
        before = values(net)
        train_step(net, make_trainer(net, "sgd", {"learning_rate": 0.1}), x, y, [mx.cpu()])
        after = values(net)
        steps.append({name: after[name][0] - before[name][0] for name in before if "running" not in name})
    groups = layer_groups(net)
    assert len(groups) == 4
    for place, group in enumerate(groups):
        for name in learned(net, names_of(net, [group])):
            assert np.abs(steps[0][name]).max() > 1e-6, name
            np.testing.assert_allclose(
                steps[1][name], steps[0][name] * 0.5 ** (3 - place), rtol=1e-2, atol=1e-7, err_msg=name
            )


def test_multipliers_out_of_range():
    for decay in (0, -1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="decay must lie above 0 and at most at 1"):
            set_lr_multipliers(small(), decay)


@pytest.mark.parametrize("num_epochs", [1, 2, 3, 4, 6, 10, 30, 100])
@pytest.mark.parametrize("start", [1, 2, 4])
def test_plans_unfreeze_at_even_intervals(num_epochs, start):
    plan = gradual(small(), num_epochs, start)
    epochs, groups = list(plan), list(plan.values())
    assert epochs[0] == 0 and groups[0] == start and epochs == sorted(epochs) and epochs[-1] < num_epochs
    assert groups == sorted(set(groups)) and groups[-1] <= 4  # each entry trains more than the one before
    if num_epochs > 1:
        assert groups[-1] == 4 and epochs[-1] <= max(1, num_epochs * 2 / 3)
    if num_epochs >= 6:
        assert groups == list(range(start, 5))  # one by one
        gaps = np.diff(epochs)
        assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_plans_by_hand():
    assert gradual(small(), 9) == {0: 1, 2: 2, 4: 3, 6: 4}
    assert gradual(small(), 3) == {0: 1, 1: 2, 2: 4}
    assert gradual(small(), 1) == {0: 1}
    for start in (0, 5):
        with pytest.raises(ValueError, match=f"start must lie between 1 and 4, the number of groups, not {start}"):
            gradual(small(), 9, start)


def test_compiled_networks_are_traced_anew():
    net, x = small(), images(12)
    net.hybridize(static_alloc=True, static_shape=True)
    with mx.autograd.train_mode():
        first = net(x).asnumpy()
    train_last(net, 1)
    with mx.autograd.train_mode():
        assert np.abs(net(x).asnumpy() - first).max() > 1e-4
    assert net._cached_op is not None
    clear_cache(net)
    assert net._cached_op is None
