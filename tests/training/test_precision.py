from d2lcls.data import Batches, channel_statistics
from d2lcls.machine.cores import has_bfloat16, onednn_flags
from d2lcls.models import SmallCNN, get_model
from d2lcls.training import CheckpointError, fit, make_trainer, precision, train_step
from d2lcls.training.checkpoints import parameters_to_arrays
from d2lcls.training.evaluation import staging
from d2lcls.training.precision import candidate, choose, lower
from d2lcls.training.recipe import Recipe
from d2lcls.training.steps import LossScale, is_finite, settle_shapes

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd

needs_bf16 = pytest.mark.skipif(not has_bfloat16(), reason="this processor has no instructions for bfloat16")
# With AVX-512 alone oneDNN computes bfloat16 too, slowly; without, it has no kernels for it.
needs_avx512 = pytest.mark.skipif("avx512bw" not in onednn_flags(), reason="this processor has no AVX-512")


def network(name="cnn", classes=3):
    net = SmallCNN(classes, (16, 32)) if name == "cnn" else get_model(name, classes=classes)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    return net


def batches(data):
    return Batches(data, 32, *channel_statistics(data.images), shuffle=True)


def outputs_and_gradients(net, block, x, y):
    with autograd.record():
        loss = gluon.loss.SoftmaxCrossEntropyLoss()(block(x), y)
    loss.backward()
    return loss.asnumpy(), {p.name: p.grad().asnumpy() for p in net.collect_params().values() if p.grad_req != "null"}


@needs_avx512
@pytest.mark.parametrize("name", ["cnn", "cifar_resnet20_v1", "fast94"])
def test_bfloat16_computes_nearly_the_same_with_the_same_float32_parameters(name):
    net, x = network(name), nd.random.normal(shape=(16, 3, 32, 32))
    y = nd.array(np.arange(16) % 3)
    settle_shapes(net, x.asnumpy(), [mx.cpu()], 0)
    block = lower(net, "bfloat16")
    loss, gradients = outputs_and_gradients(net, net, x, y)
    lower_loss, lower_gradients = outputs_and_gradients(net, block, x, y)
    np.testing.assert_allclose(lower_loss, loss, atol=0.1)
    assert (lower_loss != loss).any()  # else it had not been computed in 16 bits
    assert all(gradient.dtype == np.float32 for gradient in lower_gradients.values())
    one, other = (np.concatenate([g[name].ravel() for name in gradients]) for g in (gradients, lower_gradients))
    assert one @ other > 0.95 * np.linalg.norm(one) * np.linalg.norm(other)
    assert block(x).dtype == np.float32


def test_float32_is_the_network_itself_and_nonsense_is_refused():
    net = network()
    assert lower(net, "float32") is net
    with pytest.raises(ValueError, match="precision must be (auto or )?one of float32, bfloat16, float16.* not 'int8'"):
        lower(net, "int8")


@needs_bf16
def test_fit_learns_in_bfloat16_and_on_two_devices(shapes):
    for ctx in (mx.cpu(), [mx.cpu(0), mx.cpu(1)]):
        net = network()
        records = fit(
            net, batches(shapes), recipe=Recipe(num_epochs=5, lr=0.05, precision="bfloat16"), ctx=ctx, on_epoch=None
        )
        assert records[-1].train_accuracy > 0.9


@needs_bf16
@pytest.mark.parametrize("gain, expected", [(0.5, "bfloat16"), (0.97, "float32"), (2.0, "float32")])
def test_auto_takes_what_is_quicker_and_leaves_the_parameters_alone(monkeypatch, gain, expected):
    net, x, y = network(), np.random.default_rng(0).normal(size=(8, 3, 16, 16)).astype("float32"), np.arange(8) % 3
    settle_shapes(net, x, [mx.cpu()], 0)
    measure = precision._seconds

    def measured(block, *arguments):
        assert measure(block, *arguments) > 0
        return 1.0 if block is net else gain

    monkeypatch.setattr(precision, "_seconds", measured)
    before = parameters_to_arrays(net)
    assert choose(net, x, y, [mx.cpu()]) == expected
    after = parameters_to_arrays(net)
    assert all((before[name] == after[name]).all() for name in before)


def test_what_may_be_quicker_depends_on_the_device(monkeypatch):
    assert candidate([mx.gpu(0)]) == "float16"  # a context is but a name: no GPU is asked
    for flags, limit, expected in (
        (set(), "", "float32"),
        ({"avx512_bf16"}, "", "bfloat16"),
        ({"avx512_bf16"}, "AVX2", "float32"),
        ({"amx_bf16"}, "AVX512_CORE_AMX", "bfloat16"),
        ({"avx512bw", "avx512_vnni"}, "", "float32"),
    ):
        monkeypatch.setattr("d2lcls.machine.cores.cpu_flags", lambda: flags)
        monkeypatch.setenv("DNNL_MAX_CPU_ISA", limit)
        assert candidate([mx.cpu()]) == expected


def test_a_resumed_run_keeps_the_precision_that_was_measured(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr("d2lcls.training.session.choose", lambda *arguments: "float32")
    recipe = Recipe(num_epochs=2, lr=0.05, precision="auto")
    options = {"checkpoint_dir": tmp_path, "on_epoch": None}
    fit(network(), batches(shapes), recipe=recipe, **options)

    def refuse(*arguments):
        raise AssertionError("measured again")

    monkeypatch.setattr("d2lcls.training.session.choose", refuse)
    assert len(fit(network(), batches(shapes), recipe=recipe, resume=True, **options)) == 2
    with pytest.raises(CheckpointError, match="precision is 'auto' there and 'float32' here"):
        fit(network(), batches(shapes), recipe=Recipe(num_epochs=2, lr=0.05), resume=True, **options)


def test_gpus_fetch_from_pinned_memory():
    assert [staging(c) for c in (mx.gpu(1), mx.cpu(0))] == [mx.cpu_pinned(1), mx.cpu(0)]
    x = nd.array([1.0, 2.0], ctx=mx.cpu_pinned(0)).as_in_context(mx.cpu(1))  # what a GPU does with its share
    assert x.context == mx.cpu(1) and x.asnumpy().tolist() == [1, 2]


@pytest.mark.parametrize(
    "wanted, ctx, message",
    [
        ("float16", mx.cpu(), "cannot train in float16 on a CPU. Use float32, or auto"),
        ("bfloat16", mx.gpu(0), "cannot train in bfloat16 on a GPU. Use float32, or auto"),
        (
            "bfloat16",
            mx.cpu(),
            r"no instructions for it \(avx512_bf16\), or DNNL_MAX_CPU_ISA=AVX2 hides them. Use float32, or",
        ),
        ("int8", mx.cpu(), "precision must be (auto or )?one of float32, bfloat16, float16.* not 'int8'"),
    ],
)
def test_a_precision_that_a_device_has_no_instructions_for_is_refused(
    shapes, tmp_path, monkeypatch, wanted, ctx, message
):
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")  # oneDNN has read it long ago, the check reads it now
    net = network()
    with pytest.raises(ValueError, match=message):
        fit(
            net,
            batches(shapes),
            recipe=Recipe(num_epochs=1, precision=wanted),
            ctx=ctx,
            checkpoint_dir=tmp_path / "run",
            on_epoch=None,
        )
    assert not list(tmp_path.iterdir())
    assert any(parameter._deferred_init for parameter in net.collect_params().values())  # the network is as it was


def test_a_run_whose_measured_precision_is_not_here_does_not_go_on(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr("d2lcls.training.session.choose", lambda *arguments: "bfloat16")
    monkeypatch.setattr("d2lcls.training.session.lower", lambda net, precision: net)
    monkeypatch.setattr("d2lcls.machine.cores.cpu_flags", lambda: {"avx512_bf16"})
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    recipe = Recipe(num_epochs=1, precision="auto")
    options = {"checkpoint_dir": tmp_path, "on_epoch": None}
    fit(network(), batches(shapes), recipe=recipe, **options)
    monkeypatch.setattr("d2lcls.machine.cores.cpu_flags", lambda: {"avx2"})
    with pytest.raises(ValueError, match="cannot train in bfloat16 here"):
        fit(network(), batches(shapes), recipe=recipe, resume=True, **options)


def overflowing(logits, labels):
    return gluon.loss.SoftmaxCrossEntropyLoss()(logits, labels) * 1e30


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("clip_norm, l1", [(None, 0.0), (0.1, 0.01)])
def test_the_scale_of_the_loss_changes_no_step(devices, clip_norm, l1):
    x, y = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype("float32"), np.arange(8) % 3
    ctx, found = [mx.cpu(i) for i in range(devices)], []
    for scale in (None, LossScale(2.0**10)):
        mx.random.seed(0)
        net = network()
        settle_shapes(net, x, ctx, 0)
        train_step(
            net,
            make_trainer(net, "sgd", {"learning_rate": 0.1}),
            x,
            y,
            ctx,
            clip_norm=clip_norm,
            l1=l1,
            loss_scale=scale,
        )
        found.append(parameters_to_arrays(net))
    for name in found[0]:
        np.testing.assert_allclose(found[1][name], found[0][name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_step_that_overflows_is_left_out_and_halves_the_scale():
    x, y = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype("float32"), np.arange(8) % 3
    net, scale = network(), LossScale(2.0**30, patience=2)
    settle_shapes(net, x, [mx.cpu()], 0)
    trainer = make_trainer(net, "sgd", {"learning_rate": 0.01})
    before = [p.data().asnumpy() for p in net.collect_params().values() if p.grad_req != "null"]
    train_step(net, trainer, x, y, [mx.cpu()], loss=overflowing, loss_scale=scale)
    after = [p.data().asnumpy() for p in net.collect_params().values() if p.grad_req != "null"]
    assert all((a == b).all() for a, b in zip(before, after)) and scale.scale == 2.0**29
    for _ in range(2):  # two good steps in a row double it again
        train_step(net, trainer, x, y, [mx.cpu()], loss_scale=scale)
    assert scale.scale == 2.0**30 and scale.good == 0


def test_one_gradient_that_overflows_is_enough():
    x, y = np.ones((8, 2), "float32"), np.zeros(8, int)
    net, scale = gluon.nn.HybridSequential(), LossScale(2.0)
    net.add(gluon.nn.Dense(4), gluon.nn.Dense(3, weight_initializer="zeros"))  # the first layer's gradient is 0
    net.initialize()
    net(nd.array(x))
    train_step(
        net,
        make_trainer(net, "sgd", {"learning_rate": 0.01}),
        x,
        y,
        [mx.cpu()],
        loss_scale=scale,
        loss=lambda logits, labels: gluon.loss.SoftmaxCrossEntropyLoss()(logits, labels) * 1.5e38,
    )
    assert scale.scale == 1 and is_finite(net)


def test_the_scale_never_falls_below_one():
    scale = LossScale(2.0)
    for _ in range(3):
        scale.update(False)
    assert scale.scale == 1.0
