"""Features computed once give what training on the images gives."""

from d2lcls.data import Batches, flip
from d2lcls.models import SmallCNN, get_model
from d2lcls.models.surgery import split_constant, train_last
from d2lcls.training import Recipe, evaluate, fit, load_run
from d2lcls.training import loop as loop_module
from d2lcls.training.transfer.frozen import find_frozen

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon, nd
from mxnet.gluon import nn

LAST = {"train_last": 1, "num_epochs": 3, "lr": 0.05}
MESSAGE = "The frozen layers' features are computed once: nothing in front of the last layer changes.\n"


class Dropped(gluon.HybridBlock):
    """A network with dropout in front of its last layer, and another block after that."""

    def __init__(self, classes=3):
        super().__init__()
        self.features = nn.HybridSequential()
        self.features.add(nn.Conv2D(6, 3), nn.BatchNorm(), nn.Activation("relu"), nn.GlobalAvgPool2D())
        self.features.add(nn.Dropout(0.4), nn.Flatten())
        self.output = nn.Dense(classes)

    def hybrid_forward(self, F, x):
        return self.output(self.features(x))


class Dropping(Dropped):
    """The same with dropout in its first layer, so that no features are constant."""

    def __init__(self):
        super().__init__()
        self.features = nn.HybridSequential()
        self.features.add(nn.Dropout(0.1), nn.Conv2D(6, 3), nn.GlobalAvgPool2D(), nn.Flatten())


class More(Dropped):
    """The same with an operator between features and output."""

    def hybrid_forward(self, F, x):
        return self.output(2 * self.features(x))


def network(make=Dropped, ctx=None):
    mx.random.seed(1)
    net = make()
    net.initialize(mx.init.MSRAPrelu(slope=0), ctx=ctx)
    for context in ctx or [mx.cpu()]:
        net(nd.zeros((1, 3, 12, 12), ctx=context)).wait_to_read()
    return net


def small():
    return SmallCNN(3, (4, 6, 8))


def trained(shapes, monkeypatch, once, make=Dropped, devices=1, folder=None, valid=True, **kwargs):
    """Train the last layer, with or without the features computed once; return the network and the records."""
    ctx = [mx.cpu(i) for i in range(devices)]
    net = network(make, ctx)
    with monkeypatch.context() as patch:
        if not once:
            patch.setattr(loop_module, "find_frozen", lambda *arguments: None)
        records = fit(
            net,
            Batches(shapes, 32, (0.4,) * 3, (0.2,) * 3, shuffle=True, seed=2),
            Batches(shapes, 40, (0.4,) * 3, (0.2,) * 3) if valid else None,
            Recipe(**{**LAST, **kwargs}),
            ctx=ctx,
            checkpoint_dir=folder,
            on_epoch=lambda record: None,
        )
    return net, records


@pytest.mark.parametrize(
    "make, devices, options",
    [
        (Dropped, 1, {}),
        (Dropped, 2, {}),
        (small, 1, {}),
        (small, 1, {"optimizer": "adamw", "lr": 0.01, "ema": 0.9, "clip_norm": 1.0}),
        (small, 1, {"label_smoothing": 0.1, "l1": 0.01, "valid": False}),
    ],
)
def test_the_result_is_that_of_training_on_the_images(shapes, tmp_path, monkeypatch, capsys, make, devices, options):
    slow, expected = trained(shapes, monkeypatch, False, make, devices, tmp_path / "slow", **options)
    assert MESSAGE not in capsys.readouterr().out
    quick, found = trained(shapes, monkeypatch, True, make, devices, tmp_path / "quick", **options)
    assert capsys.readouterr().out == MESSAGE
    for one, other in zip(expected, found):
        assert other.train_loss == pytest.approx(one.train_loss, abs=1e-5)
        assert other.train_accuracy == one.train_accuracy and other.valid_accuracy == one.valid_accuracy
    assert found[-1].train_loss < found[0].train_loss
    parameters = quick._collect_params_with_prefix()
    for name, parameter in slow._collect_params_with_prefix().items():
        for one, other in zip(parameter.list_data(), parameters[name].list_data()):
            np.testing.assert_allclose(other.asnumpy(), one.asnumpy(), atol=1e-5, err_msg=name)
            if "output" not in name:
                np.testing.assert_array_equal(other.asnumpy(), one.asnumpy(), err_msg=name)
    batches = Batches(shapes, 40, (0.4,) * 3, (0.2,) * 3)
    assert evaluate(quick, batches).loss == pytest.approx(evaluate(slow, batches).loss, abs=1e-5)
    _, loaded = load_run(tmp_path / "quick")  # the run's folder holds the whole network
    assert evaluate(loaded, batches).loss == pytest.approx(evaluate(quick, batches).loss, abs=1e-5)


def test_the_front_runs_once_for_each_image(shapes, monkeypatch):
    seen = []
    run = Batches.epoch
    monkeypatch.setattr(
        Batches, "epoch", lambda self, number, start=0: seen.append(len(self.data)) or run(self, number, start)
    )
    trained(shapes, monkeypatch, True)
    assert seen == [150, 150]  # training and validation images
    seen.clear()
    trained(shapes, monkeypatch, False)
    assert len(seen) == 6


def test_dropout_is_drawn_anew_at_every_step(shapes):
    net = network()
    train_last(net, 1)
    front, tail = split_constant(net, (12, 12))
    assert [type(block).__name__ for block in front] == ["Conv2D", "BatchNorm", "Activation", "GlobalAvgPool2D"]
    assert [type(block).__name__ for block in tail.features] == ["Dropout", "Flatten"]
    x = nd.array(Batches(shapes, 20).example())
    np.testing.assert_array_equal(tail(front(x)).asnumpy(), net(x).asnumpy())
    with mx.autograd.train_mode():
        features = front(x)
        first, second = (tail(features).asnumpy() for _ in range(2))
    assert (first != second).any()


def test_a_killed_run_goes_on_as_if_nothing_had_happened(shapes, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def run(folder, last=None, resume=False):
        def stop(record):
            if record.epoch == last:
                raise Stop

        return fit(
            network(),
            Batches(shapes, 32, shuffle=True),
            Batches(shapes),
            Recipe(**LAST),
            checkpoint_dir=folder,
            resume=resume,
            on_epoch=stop,
        )

    run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "cut", last=2)
    run(tmp_path / "cut", resume=True)
    for file in ("best.npz", "last.npz"):
        with np.load(tmp_path / "whole" / file) as whole, np.load(tmp_path / "cut" / file) as cut:
            for name in set(whole) - {"progress"}:
                np.testing.assert_array_equal(whole[name], cut[name], err_msg=name)


def found(shapes, make=Dropped, fields=None, valid=None, **options):
    net = network(make)
    recipe = Recipe(**{**LAST, **(fields or {})})
    train_last(net, recipe.train_last or 1)
    return find_frozen(net, recipe, Batches(shapes, 32, shuffle=True, **options), valid)


def test_it_applies_only_where_nothing_changes(shapes, monkeypatch):
    assert found(shapes) and found(shapes, valid=Batches(shapes)) and found(shapes, make=small)
    for fields in ({"train_last": 2}, {"train_last": None}, {"unfreeze": "gradual"}, {"precision": "bfloat16"}):
        assert found(shapes, fields=fields) is None, fields
    for options in (
        {"augment": (flip(),)},
        {"mixup": 0.2},
        {"cutmix": 1.0},
        {"balanced": True},
        {"alternating_flip": True},
        {"small_first": (8, 1)},
    ):
        assert found(shapes, **options) is None, options
    assert found(shapes, valid=Batches(shapes, size=14)) is None
    assert found(shapes, make=Dropping) is None and found(shapes, make=More) is None
    monkeypatch.setattr("d2lcls.training.transfer.frozen.available_memory", lambda: 4 * 6 * 150)
    assert found(shapes) is None


@pytest.mark.parametrize(
    "name, size", [("resnet18_v1b", 32), ("mobilenetv2_1.0", 32), ("efficientnet_lite0", 33), ("squeezenet1.1", 224)]
)
def test_networks_of_the_zoo_are_split(name, size):
    mx.random.seed(0)
    net = get_model(name, classes=3)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    x = nd.array(np.random.default_rng(0).standard_normal((2, 3, size, size)))
    net(x).wait_to_read()
    train_last(net, 1)
    front, tail = split_constant(net, (size, size))
    drops = [type(block).__name__ for block in tail.features]
    assert drops == (["Dropout"] if name in ("efficientnet_lite0", "squeezenet1.1") else [])
    np.testing.assert_allclose(tail(front(x)).asnumpy(), net(x).asnumpy(), rtol=1e-5, atol=1e-6)
