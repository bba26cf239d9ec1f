import dataclasses
import time

from d2lcls.data import Batches, Images, channel_statistics, flip, pad_crop
from d2lcls.models import SmallCNN, set_bias_multiplier
from d2lcls.training import TrainingDiverged, evaluate, fit, make_trainer, predict, train_step
from d2lcls.training.evaluation import split_and_load
from d2lcls.training.recipe import Recipe
from d2lcls.training.steps import average_running_statistics, check_training_memory, is_finite

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon
from mxnet.gluon import nn


def batches(data, batch_size=32, **kwargs):
    return Batches(data, batch_size, *channel_statistics(data.images), **kwargs)


def network(classes=3, widths=(8, 16)):
    net = SmallCNN(classes, widths)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    return net


def alexnet():
    from d2lcls.models import get_model

    net = get_model("alexnet", classes=3)
    net.initialize()
    return net


def weights(net):
    return [p.data(p.list_ctx()[0]).asnumpy() for p in net._collect_params_with_prefix().values()]


def test_fit_learns(shapes):
    net = network()
    records = fit(net, batches(shapes, shuffle=True), batches(shapes), Recipe(num_epochs=6, lr=0.05), on_epoch=None)
    assert len(records) == 6
    assert records[-1].train_loss < records[0].train_loss
    assert evaluate(net, batches(shapes)).accuracy == max(r.valid_accuracy for r in records) > 0.95


def test_same_seed_same_numbers(shapes):
    def run(seed):
        net = network()
        train = batches(shapes, shuffle=True, augment=(pad_crop(1), flip()), seed=seed)
        records = fit(net, train, recipe=Recipe(num_epochs=2, lr=0.05, seed=seed), on_epoch=None)
        return weights(net), [(r.train_loss, r.train_accuracy) for r in records]

    first, again, other = run(1), run(1), run(2)
    assert all((a == b).all() for a, b in zip(first[0], again[0])) and first[1] == again[1]
    assert any((a != b).any() for a, b in zip(first[0], other[0]))


class Plain(gluon.HybridBlock):
    """Without normalisation, so that shares of a batch do not depend on each other."""

    def __init__(self):
        super().__init__()
        self.layers = nn.HybridSequential()
        self.layers.add(nn.Conv2D(6, 3, activation="tanh"), nn.Dense(3))

    def hybrid_forward(self, F, x):
        return self.layers(x)


@pytest.mark.parametrize("devices", [2, 3])
def test_several_devices_make_the_same_step_as_one(shapes, devices):
    def run(count):
        net = Plain()
        net.initialize()
        fit(
            net,
            batches(shapes, 32, shuffle=True),
            recipe=Recipe(num_epochs=2, lr=0.05, clip_norm=0.5),
            on_epoch=None,
            ctx=[mx.cpu(i) for i in range(count)],
        )
        for parameter in net.collect_params().values():
            for copy in parameter.list_data():  # every device holds the same
                np.testing.assert_array_equal(copy.asnumpy(), parameter.list_data()[0].asnumpy())
        return weights(net)

    for one, several in zip(run(1), run(devices)):
        np.testing.assert_allclose(one, several, rtol=1e-4, atol=1e-6)


def test_a_last_batch_smaller_than_the_number_of_devices(shapes):
    part = shapes.subset(np.arange(33))  # batches of 32 and 1
    one, several = Plain(), Plain()
    for net, count in ((one, 1), (several, 4)):
        net.initialize()
        fit(
            net,
            batches(part, 32),
            recipe=Recipe(num_epochs=1, lr=0.05),
            on_epoch=None,
            ctx=[mx.cpu(i) for i in range(count)],
        )
    for a, b in zip(weights(one), weights(several)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_batchnorm_statistics_of_the_devices_are_averaged(shapes):
    net = network()
    fit(net, batches(shapes), recipe=Recipe(num_epochs=1, lr=0.01), on_epoch=None, ctx=[mx.cpu(0), mx.cpu(1)])
    for name, parameter in net.collect_params(".*running.*").items():
        first, second = (copy.asnumpy() for copy in parameter.list_data())
        np.testing.assert_array_equal(first, second, err_msg=name)


def test_the_average_is_the_mean():
    norm, ctx = nn.BatchNorm(in_channels=2), [mx.cpu(0), mx.cpu(1)]
    norm.initialize(ctx=ctx)
    for value, copy in zip((1, 4), norm.running_mean.list_data()):
        copy[:] = value
    average_running_statistics(norm)
    for copy in norm.running_mean.list_data():
        assert copy.asnumpy().tolist() == [2.5, 2.5]


def test_metrics_weigh_images_not_batches(shapes):
    part = shapes.subset(np.arange(41))  # batches of 16, 16 and 9
    net = network()
    record = fit(net, batches(part, 16), recipe=Recipe(num_epochs=1, lr=1e-12, warmup_epochs=0, wd=0), on_epoch=None)[0]
    logits = predict(net, batches(part, 41))
    loss = (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(41), part.labels]).mean()
    score = evaluate(net, batches(part, 16))
    assert score.images == 41
    assert score.loss == pytest.approx(loss, rel=1e-5)
    assert score.accuracy == pytest.approx((logits.argmax(axis=1) == part.labels).mean())
    # In training mode BatchNorm uses the batch's own statistics, so check the tally against hand-made batches.
    from mxnet import autograd

    losses, hits = [], 0
    for x, y in batches(part, 16):
        with autograd.train_mode():
            out = net(mx.nd.array(x)).asnumpy()
        losses += list(np.log(np.exp(out).sum(axis=1)) - out[np.arange(len(y)), y])
        hits += (out.argmax(axis=1) == y).sum()
    assert record.train_loss == pytest.approx(np.mean(losses), rel=1e-4)
    assert record.train_accuracy == pytest.approx(hits / 41)


def test_top5_is_counted(shapes):
    images = Images(shapes.images[:60], np.arange(60) % 6, tuple("abcdef"), "six")
    net = network(6)
    logits = predict(net, batches(images))
    rank = (logits > logits[np.arange(60), images.labels][:, None]).sum(axis=1)
    assert evaluate(net, batches(images)).top5 == pytest.approx((rank < 5).mean())


def test_schedule_reaches_the_trainer(shapes, monkeypatch):
    seen = []
    step = gluon.Trainer.update

    def spy(trainer, batch_size):
        seen.append(trainer.learning_rate)
        step(trainer, batch_size)

    monkeypatch.setattr(gluon.Trainer, "update", spy)
    records = fit(
        network(),
        batches(shapes, 50),
        recipe=Recipe(num_epochs=3, lr=0.3, warmup_epochs=1, schedule="cosine"),
        on_epoch=None,
    )
    assert seen == pytest.approx([0.1, 0.2, 0.3, 0.3] + [0.3 * (1 + np.cos(np.pi * i / 6)) / 2 for i in range(1, 6)])
    assert [record.lr for record in records] == seen[2::3]  # of the epoch's last step


def test_dropout_depends_on_seed_and_step(shapes):
    def kept(seed):
        masks = []

        def loss(logits, labels):
            masks.append((logits.asnumpy() != 0).tobytes())
            return gluon.loss.SoftmaxCrossEntropyLoss()(logits, labels)

        net = nn.HybridSequential()
        net.add(nn.Dense(20), nn.Dropout(0.5))
        net.initialize()
        fit(net, batches(shapes, 50), recipe=Recipe(num_epochs=2, lr=0.01, seed=seed, loss=loss), on_epoch=None)
        return masks

    assert kept(1) == kept(1) and len(set(kept(1)) | set(kept(2))) == 12  # no two of 2 times 6 steps are the same


def test_lookahead_is_told_of_every_step(shapes, monkeypatch):
    seen = []
    monkeypatch.setattr("d2lcls.training.optimizers.lookahead.Lookahead.after", lambda self, steps: seen.append(steps))
    fit(network(), batches(shapes, 50), recipe=Recipe(num_epochs=2, lr=0.01, lookahead=2), on_epoch=None)
    assert seen == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("decay_biases", [False, True])
def test_weight_decay_spares_biases_and_norms_unless_it_is_told_not_to(shapes, decay_biases):
    net = network()
    x, y = next(iter(batches(shapes)))
    net(mx.nd.array(x))
    set_bias_multiplier(net, 8)  # decay of biases is by as much a step as that of weights, whatever their rate
    before = {name: p.data().asnumpy() for name, p in net._collect_params_with_prefix().items()}
    for parameter in net.collect_params().values():
        if parameter.grad_req != "null":
            parameter.grad_req = "write"
    trainer = make_trainer(net, "sgd", {"learning_rate": 1.0, "wd": 0.5}, decay_biases)
    # A loss that is zero everywhere leaves weight decay alone to act.
    train_step(net, trainer, x, y, [mx.cpu()], loss=lambda logits, labels: (logits * 0).sum(axis=1))
    for name, parameter in net._collect_params_with_prefix().items():
        if parameter.grad_req == "null":
            continue
        expected = before[name] * (0.5 if decay_biases or name.endswith("weight") else 1.0)
        np.testing.assert_allclose(parameter.data().asnumpy(), expected, rtol=1e-6, err_msg=name)


def test_clipping_limits_the_mean_gradient(shapes):
    x, y = next(iter(batches(shapes)))
    moves = []
    for clip_norm in (None, 0.01):
        mx.random.seed(0)
        net = Plain()
        net.initialize()
        net(mx.nd.array(x))
        before = weights(net)
        trainer = make_trainer(net, "sgd", {"learning_rate": 1.0})
        train_step(net, trainer, x, y, [mx.cpu()], clip_norm=clip_norm)
        moves.append(np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(before, weights(net)))))
    assert moves[0] > 0.02
    assert moves[1] == pytest.approx(0.01, rel=1e-3)


def test_early_stop_and_best_epoch(shapes):
    net = network()
    records = fit(net, batches(shapes), batches(shapes), Recipe(num_epochs=30, lr=0.05, patience=2), on_epoch=None)
    best = max(range(len(records)), key=lambda i: records[i].valid_accuracy)
    assert len(records) == best + 1 + 2 < 30
    assert evaluate(net, batches(shapes)).accuracy == records[best].valid_accuracy


def test_nan_stops_with_step_rate_and_checkpoint(shapes, tmp_path):
    poison = {"step": 0}

    def loss(logits, labels):
        poison["step"] += 1
        value = gluon.loss.SoftmaxCrossEntropyLoss()(logits, labels)
        return value * (float("nan") if poison["step"] == 8 else 1.0)

    with pytest.raises(TrainingDiverged, match=rf"step 8 .* rate of 0\.05.*{tmp_path}/last.npz") as caught:
        fit(
            network(),
            batches(shapes, 32),
            recipe=Recipe(num_epochs=3, lr=0.05, warmup_epochs=0, schedule="constant", loss=loss),
            checkpoint_dir=tmp_path,
            on_epoch=None,
        )
    assert "clip_norm" in str(caught.value)


def test_infinite_parameters_never_reach_a_checkpoint(shapes, tmp_path):
    with pytest.raises(TrainingDiverged, match="No checkpoint was written"):
        # The first step's loss is fine; its update is not, and there is no second step to show it.
        fit(
            network(),
            batches(shapes, 150),
            batches(shapes),
            Recipe(num_epochs=1, lr=1e38, warmup_epochs=0, wd=100),
            on_epoch=None,
            checkpoint_dir=tmp_path,
        )
    assert not list(tmp_path.iterdir())


def test_mixup_targets_and_custom_loss(shapes):
    net = network()
    records = fit(net, batches(shapes, shuffle=True, mixup=0.2), recipe=Recipe(num_epochs=4, lr=0.05), on_epoch=None)
    assert records[-1].train_loss < records[0].train_loss


def test_one_image_and_one_class(shapes):
    single = Images(shapes.images[:1], np.zeros(1, dtype=np.int64), ("only",), "single")
    net = network(1)
    record = fit(net, batches(single, 1), batches(single, 1), Recipe(num_epochs=1), on_epoch=None)[0]
    assert record.train_loss == pytest.approx(0, abs=1e-5) and record.valid_accuracy == 1.0


def test_labels_beyond_the_network_are_named(shapes):
    net = network(2)
    with pytest.raises(ValueError, match="label 2, but the network has only 2 outputs.*classes=3"):
        fit(net, batches(shapes), recipe=Recipe(num_epochs=1), on_epoch=None)
    net(mx.nd.zeros((1, 3, 12, 12)))
    with pytest.raises(ValueError, match="label 2, but the network has only 2 outputs.*classes=3"):
        evaluate(net, batches(shapes))


def test_bad_arguments_are_named(shapes):
    with pytest.raises(ValueError, match="not initialised.*net.initialize"):
        fit(SmallCNN(), batches(shapes))
    with pytest.raises(ValueError, match="schedule must be one of .*cosine.*'cosin'"):
        fit(network(), batches(shapes), recipe=Recipe(schedule="cosin"))
    with pytest.raises(ValueError, match="nadam keeps one schedule for all devices.*Use adam"):
        fit(network(), batches(shapes), recipe=Recipe(optimizer="nadam"), ctx=[mx.cpu(0), mx.cpu(1)])
    with pytest.raises(ValueError, match="resume and checkpoint_steps need a folder"):
        fit(network(), batches(shapes), resume=True)
    with pytest.raises(ValueError, match="one output per class: 3, not 5"):
        fit(network(5), batches(shapes, mixup=0.2))
    with pytest.raises(ValueError, match="mixup and cutmix need a network with one output per class: 3, not 5"):
        fit(network(5), batches(shapes, cutmix=1.0))
    with pytest.raises(ValueError, match="AlexNet cannot take images of 12 x 12 pixels with 3 channels"):
        fit(alexnet(), batches(shapes))
    with pytest.raises(ValueError, match="patience needs a validation set"):
        fit(network(), batches(shapes), recipe=Recipe(patience=2))
    with pytest.raises(ValueError, match="different contexts"):
        fit(network(), batches(shapes), ctx=[mx.cpu(0), mx.cpu(0)])


def test_small_first_needs_a_network_that_takes_both_sizes(shapes):
    records = fit(network(), batches(shapes, small_first=(8, 1)), recipe=Recipe(num_epochs=2, lr=0.01), on_epoch=None)
    assert len(records) == 2
    dense = nn.HybridSequential()
    dense.add(nn.Dense(3))
    dense.initialize()
    with pytest.raises(ValueError, match="HybridSequential cannot take images of 8 x 8 pixels"):
        fit(dense, batches(shapes, small_first=(8, 1)), on_epoch=None)


def test_numpy_numbers_are_numbers(shapes, tmp_path):
    records = fit(
        network(),
        batches(shapes),
        recipe=Recipe(num_epochs=np.int64(1), lr=np.float32(0.01), seed=np.int64(3)),
        checkpoint_dir=tmp_path,
        on_epoch=None,
    )
    assert len(records) == 1 and (tmp_path / "last.npz").exists()


def test_split_and_load_shares_out_everything():
    x = np.arange(14, dtype=np.float32).reshape(7, 2)
    parts = split_and_load(x, [mx.cpu(i) for i in range(3)])
    assert [len(p) for p in parts] == [3, 2, 2]
    np.testing.assert_array_equal(np.concatenate([p.asnumpy() for p in parts]), x)


def test_is_finite_of_a_network_with_many_parameters():
    net = mx.gluon.nn.HybridSequential()
    for _ in range(110):
        net.add(mx.gluon.nn.Dense(2, in_units=2))
    net.initialize()
    assert is_finite(net)
    net[109].bias.set_data(mx.nd.array([0, np.nan]))
    assert not is_finite(net)


def test_the_share_of_the_time_that_data_are_waited_for_is_recorded(shapes, monkeypatch):
    clock = [0.0]

    def takes(seconds, result):
        clock[0] += seconds
        return result

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr("d2lcls.training.loop.prefetch", lambda batches: batches)  # one after the other
    cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss()
    record = fit(
        network(),
        batches(shapes, augment=(lambda images, rng: takes(1, images),)),
        recipe=Recipe(num_epochs=1, lr=0.05, loss=lambda logits, labels: takes(3, cross_entropy(logits, labels))),
        on_epoch=None,
    )[0]
    assert (record.waiting, record.seconds, record.images_per_second) == (0.25, 20, 7.5)  # 5 steps, 150 images
    assert str(record).endswith("8 images/s, 25% of the time waiting for data")
    assert str(dataclasses.replace(record, waiting=0.01)).endswith("8 images/s") and len(str(record)) < 110


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"optimizer": "sdg"}, ValueError, "Cannot find optimizer sdg"),
        ({"wd": -1}, ValueError, "wd must be at least 0, not -1"),
        ({"unfreeze": {1: 1}}, ValueError, "unfreeze must map epochs"),
        ({"checkpoint_dir": "file"}, NotADirectoryError, "cannot be written, because .*file is not a folder"),
        ({"checkpoint_dir": "run"}, FileExistsError, "run already holds a training run"),
        (
            {},
            MemoryError,
            "Training on batches of 32 images of 3 x 12 x 12 needs at least 0.0 GB of memory; 0.0 GB are available. "
            "Use a smaller batch size or smaller images",
        ),
    ],
)
def test_a_refused_training_changes_nothing(shapes, tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.npz").write_text("a run")
    before = sorted(tmp_path.rglob("*"))
    if error is MemoryError:
        monkeypatch.setattr("d2lcls.machine.memory.available_memory", lambda: 1e5)
    net = network()
    with pytest.raises(error, match=message):
        fit(
            net,
            batches(shapes),
            recipe=Recipe(num_epochs=1, **{k: v for k, v in options.items() if k != "checkpoint_dir"}),
            checkpoint_dir=options.get("checkpoint_dir"),
            on_epoch=lambda record: pytest.fail("trained"),
        )
    assert sorted(tmp_path.rglob("*")) == before
    parameters = net.collect_params().values()
    assert any(p._deferred_init for p in parameters) and not net._active and {p.wd_mult for p in parameters} == {1.0}


def test_a_run_of_another_recipe_is_refused_before_its_parameters_are_read(shapes, tmp_path):
    fit(network(), batches(shapes), recipe=Recipe(num_epochs=1), checkpoint_dir=tmp_path, on_epoch=None)
    net = network()
    net(mx.nd.zeros((1, 3, 12, 12)))
    before = weights(net)
    with pytest.raises(ValueError, match="another recipe: num_epochs is 1 there and 2 here"):
        fit(net, batches(shapes), recipe=Recipe(num_epochs=2), checkpoint_dir=tmp_path, resume=True, on_epoch=None)
    assert all((a == b).all() for a, b in zip(before, weights(net)))


def test_the_estimate_of_memory_is_what_the_layers_return():
    class Two(gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2D(4, 3, padding=1)

        def hybrid_forward(self, F, x):
            return F.relu(self.convolution(x))

    net, needed = Two(), 4 * 2 * 100 * (3 + 4 + 4) + 4 * (4 * 27 + 4)  # images, two layers, weights
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("d2lcls.machine.memory.available_memory", lambda: needed)
        check_training_memory(net, (2, 3, 10, 10))
        patch.setattr("d2lcls.machine.memory.available_memory", lambda: needed - 1)
        with pytest.raises(MemoryError, match="batches of 2 images of 3 x 10 x 10"):
            check_training_memory(net, (2, 3, 10, 10))
