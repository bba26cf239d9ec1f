import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon, nd
from mxnet.gluon import nn

from d2lcls.data import Batches
from d2lcls.models import SmallCNN, get_model
from d2lcls.models.efficientnet import ReLU6, blocks_of
from d2lcls.models.efficientnet_lite import make_efficientnet
from d2lcls.models.fusion import fuse
from d2lcls.models.surgery import (drop_bounds, forget_compiled, gradual, head_name, layer_groups,
                                   replace_global_pooling, replace_head, set_lr_multipliers, split, train_last)
from d2lcls.training import fit, make_trainer, train_step

NETWORKS = {"cnn": 12, "cifar_resnet20_v1": 32, "resnet18_v1": 64, "resnet18_v1b": 64, "mobilenetv2_1.0": 64,
            "efficientnet_lite0": 64}
TWO = [mx.cpu(0), mx.cpu(1)]


def make(name, classes=10):
    mx.random.seed(1)
    net = make_efficientnet(name, classes) if "efficientnet" in name else get_model(name, classes=classes)
    # Scaled by the inputs of each layer, so that the logits do not vanish and can be compared.
    net.initialize(mx.init.MSRAPrelu("in", 0))
    net(images(NETWORKS[name])).wait_to_read()
    return net


def images(size, n=2):
    return nd.array(np.random.default_rng(0).standard_normal((n, 3, size, size), dtype=np.float32))


def small(ctx=None, widths=(4, 6, 8)):
    mx.random.seed(1)
    net = SmallCNN(3, widths)
    net.initialize(mx.init.MSRAPrelu(slope=0), ctx=ctx)
    for context in ctx or [mx.cpu()]:
        net(nd.zeros((1, 3, 12, 12), ctx=context)).wait_to_read()
    return net


def values(net):
    nd.waitall()
    return {name: [copy.asnumpy() for copy in p.list_data()] for name, p in net._collect_params_with_prefix().items()}


def moved(before, after):
    """Return the names of the parameters that are another on any device."""
    return {name for name, copies in before.items()
            if any((a != b).any() for a, b in zip(copies, after[name]))}


def names_of(net, groups):
    """Return the names of the parameters in these groups."""
    wanted = {id(p) for group in groups for block in group for p in block.collect_params().values()}
    return {name for name, p in net._collect_params_with_prefix().items() if id(p) in wanted}


def learned(net, names):
    parameters = net._collect_params_with_prefix()
    return {name for name in names if parameters[name]._differentiable}


def is_head(name):
    return name.startswith(("output.", "fc."))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("hybrid", [False, True])
def test_a_new_head_changes_nothing_else(name, hybrid):
    net, x = make(name), images(NETWORKS[name])
    if hybrid:
        net.hybridize(static_alloc=True, static_shape=True)
    before, old = values(net), net(x).asnumpy()
    seen = layer_inputs(net, x)
    replace_head(net, 7)
    after, new = values(net), net(x).asnumpy()
    assert old.shape == (2, 10) and new.shape == (2, 7)
    kept = {key for key in before if not is_head(key)}
    assert kept == {key for key in after if not is_head(key)} and not moved({key: before[key] for key in kept}, after)
    np.testing.assert_array_equal(layer_inputs(net, x), seen)
    assert not np.array_equal(net(x).asnumpy()[0], net(x).asnumpy()[1])


def layer_inputs(net, x):
    """Return what comes into a network's head."""
    seen = []
    head = getattr(net, head_name(net))
    handle = head.register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0].asnumpy()))
    active, net._active = net._active, False  # hooks run only where no compiled network skips them
    net(x)
    net._active = active
    handle.detach()
    return seen[0]


def test_the_copied_recipe_wipes_what_was_learned():
    net = make("cnn")
    before = values(net)
    replace_head(net, 5)
    assert moved({key: value for key, value in before.items() if not is_head(key)}, values(net)) == set()
    net.initialize(force_reinit=True)  # as many copied examples do
    assert "features.0.weight" in moved({"features.0.weight": before["features.0.weight"]}, values(net))


def test_a_new_head_is_drawn_from_its_seed():
    drawn = []
    for seed in (0, 0, 1):
        net = small()
        replace_head(net, 50, seed)
        drawn.append(net.output.weight.data().asnumpy())
        assert not net.output.bias.data().asnumpy().any()
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    assert drawn[0].std() == pytest.approx(0.01, rel=0.1) and abs(drawn[0].mean()) < 0.002


def test_a_new_head_is_the_same_on_all_devices(shapes):
    net = small(TWO)
    replace_head(net, 3)
    for copies in values(net).values():
        np.testing.assert_array_equal(copies[0], copies[1])
    assert fit(net, Batches(shapes, 32), num_epochs=1, ctx=TWO, verbose=False)


def test_a_new_head_is_trained(shapes):
    net = small()
    replace_head(net, 3)
    before = values(net)
    fit(net, Batches(shapes, 50), num_epochs=1, verbose=False)
    assert moved(before, values(net)) == set(before)


class Bare(gluon.HybridBlock):
    """Ends in a bare convolution."""

    def __init__(self, kernel=1):
        super().__init__()
        self.features = nn.HybridSequential()
        self.features.add(nn.Conv2D(4, 3, in_channels=3))
        self.output = nn.Conv2D(5, kernel, in_channels=4)

    def hybrid_forward(self, F, x):
        return F.mean(self.output(self.features(x)), axis=(2, 3))


def test_a_bare_convolution_is_replaced_by_one():
    net = Bare()
    net.initialize()
    replace_head(net, 7)
    assert isinstance(net.output, nn.Conv2D) and net(images(8)).shape == (2, 7)


def test_what_follows_the_last_layer_stays():
    net = get_model("squeezenet1.1", classes=10)  # ends in a 1x1 convolution and the mean over its pixels
    net.initialize()
    assert net(images(224, 1)).shape == (1, 10)
    replace_head(net, 7)
    assert net(images(224, 1)).shape == (1, 7)


def test_heads_that_cannot_be_replaced_are_named():
    for odd in (Bare(kernel=3), nn.HybridSequential(), nn.Dense(3)):
        odd.initialize()
        with pytest.raises(ValueError, match="has no last layer called output or fc that is dense or a 1x1"):
            replace_head(odd, 3)
    with pytest.raises(ValueError, match="classes of 1 or more, not 0"):
        replace_head(small(), 0)
    with pytest.raises(ValueError, match="is not initialised"):
        replace_head(get_model("resnet18_v1"), 3)
    with pytest.raises(ValueError, match="is not initialised"):
        replace_head(SmallCNN(3), 3)
    net = SmallCNN(3)
    net.initialize()
    with pytest.raises(ValueError, match="shapes are not known yet"):
        replace_head(net, 3)


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
    fit(net, Batches(shapes, 32, shuffle=True), num_epochs=1, ctx=ctx, verbose=False)  # statistics of their own
    train_last(net, groups)
    before = values(net)
    fit(net, Batches(shapes, 32, shuffle=True), num_epochs=1, lr=0.1, wd=0.1, ctx=ctx, verbose=False)
    assert moved(before, values(net)) == names_of(net, layer_groups(net)[-groups:])
    train_last(net, len(layer_groups(net)))
    fit(net, Batches(shapes, 32, shuffle=True), num_epochs=1, lr=0.1, wd=0.1, ctx=ctx, verbose=False)
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
    train_step(net, trainer, images(12).asnumpy(), np.array([0, 1]), [mx.cpu()],
               loss=lambda logits, labels: (logits * 0).sum(axis=1))
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
            np.testing.assert_allclose(steps[1][name], steps[0][name] * 0.5 ** (3 - place), rtol=1e-2, atol=1e-7,
                                       err_msg=name)


def test_multipliers_out_of_range():
    for decay in (0, -1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="decay must lie above 0 and at most at 1"):
            set_lr_multipliers(small(), decay)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("groups", [1, 3])
def test_the_two_halves_are_the_whole(name, groups):
    net, x = make(name), images(NETWORKS[name])
    expected = net(x).asnumpy()
    assert np.abs(expected).max() > 1e-2
    front, tail = split(net, groups, size=NETWORKS[name])
    for _ in range(2):
        np.testing.assert_allclose(tail(front(x)).asnumpy(), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
        front.hybridize(static_alloc=True, static_shape=True)
        tail.hybridize(static_alloc=True, static_shape=True)
    assert len(layer_groups(tail)) == groups
    parts = [set(map(id, part.collect_params().values())) for part in (front, tail, net)]
    assert parts[0] | parts[1] == parts[2] and not parts[0] & parts[1]


@pytest.mark.parametrize("size", [97, 64])
def test_the_halves_pad_for_the_size_they_are_cut_for(size):
    net = make("efficientnet_lite0")
    front, tail = split(net, 2, size=size)
    x = images(size)
    np.testing.assert_allclose(tail(front(x)).asnumpy(), net(x).asnumpy(), rtol=1e-4, atol=1e-5)


def test_training_the_tail_changes_the_network():
    net, x = small(), images(12)
    front, tail = split(net, 2)
    before, expected = values(net), net(x).asnumpy()
    trainer = make_trainer(tail, "sgd", {"learning_rate": 0.1})
    train_step(tail, trainer, front(x).asnumpy(), np.array([0, 1]), [mx.cpu()])
    assert moved(before, values(net)) == names_of(net, layer_groups(net)[-2:])
    np.testing.assert_array_equal(tail(front(x)).asnumpy(), net(x).asnumpy())
    assert np.abs(net(x).asnumpy() - expected).max() > 1e-4


class Between(SmallCNN):
    """Does something of its own between features and output."""

    def hybrid_forward(self, F, x):
        return self.output(F.relu(self.features(x) - 1))


def test_networks_that_cannot_be_split():
    with pytest.raises(ValueError, match="groups must lie between 1 and 3, one less than there are, not 4"):
        split(small(), 4)
    with pytest.raises(ValueError, match="groups must lie between 1 and 3, one less than there are, not 0"):
        split(small(), 0)
    with pytest.raises(ValueError, match="padding depends on the size of its images: pass size="):
        split(make("efficientnet_lite0"), 2)
    net = Between(3)
    net.initialize()
    with pytest.raises(ValueError, match="Between does more than run its `features` and its head"):
        split(net, 1)
    with pytest.raises(ValueError, match="GoogLeNet has no `features`"):
        layer_groups(get_model("googlenet"))


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
    forget_compiled(net)
    assert net._cached_op is None


@pytest.mark.parametrize("name", ["cifar_resnet20_v1", "cifar_resnet20_v2", "resnet18_v1", "resnet18_v1b", "mobilenet0.25",
                                  "mobilenetv2_0.25", "se_resnet18_v1", "resnext50_32x4d"])
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
        found.append([loss.asnumpy(), *(p.grad().asnumpy() for p in net.collect_params().values() if p.grad_req != "null")])
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-3)
    own, other = (np.concatenate([array.ravel() for array in arrays[1:]]) for arrays in found)
    assert 0 < np.linalg.norm(other) < 1e4 and np.linalg.norm(own - other) < 0.01 * np.linalg.norm(other)


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
