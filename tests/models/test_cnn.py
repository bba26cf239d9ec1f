from d2lcls.models import GlobalMean, SmallCNN

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn


def made(*args, **kwargs):
    mx.random.seed(0)
    net = SmallCNN(*args, **kwargs)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    return net


def images(*shape):
    return nd.array(np.random.default_rng(0).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (1, 1, 28, 28), (2, 4, 17, 23), (2, 3, 8, 8), (1, 3, 8, 50)])
def test_any_size_and_any_channels(shape):
    assert made(classes=7, widths=(4, 4, 6, 6))(images(*shape)).shape == (shape[0], 7)


def test_the_network_is_what_its_docstring_says():
    net = made(5, (4, 6))
    net(images(1, 3, 4, 4))
    kinds = [type(layer).__name__ for layer in net.features]
    assert kinds == [
        "Conv2D",
        "MaxPool2D",
        "BatchNorm",
        "Activation",
        "Conv2D",
        "BatchNorm",
        "Activation",
        "GlobalMean",
    ]
    shapes = [p.shape for p in net.collect_params().values() if p.grad_req != "null"]
    assert shapes == [(4, 3, 3, 3), (4,), (4,), (6, 4, 3, 3), (6,), (6,), (5, 6), (5,)]


def test_pooling_before_normalisation_and_relu_is_the_same_network():
    """As long as the scale of BatchNorm is positive, which it is at the start."""
    x = images(4, 3, 8, 8)
    early, late = nn.HybridSequential(), nn.HybridSequential()
    pool, norm, relu = nn.MaxPool2D(2), nn.BatchNorm(), nn.Activation("relu")
    early.add(pool, norm, relu)
    late.add(norm, relu, pool)
    early.initialize()
    np.testing.assert_allclose(early(x).asnumpy(), late(x).asnumpy(), rtol=1e-6)


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_images_down_to_the_stated_size_work_and_smaller_ones_are_named(stages):
    smallest = 2 ** (stages - 1)
    net = made(2, (3,) * stages)
    assert net(images(1, 3, smallest, smallest)).shape == (1, 2)
    if stages > 1:
        with pytest.raises(
            ValueError, match=f"at least {smallest} x {smallest} pixels, got {smallest} x {smallest - 1}"
        ):
            net(images(1, 3, smallest, smallest - 1))


def test_a_batch_in_the_wrong_order_or_number_of_channels_is_named():
    net = made(2, (3, 3))
    net(images(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"Expected images of shape \(N, 3, H, W\), got \(2, 8, 8, 3\).*transposed"):
        net(images(2, 8, 8, 3))
    with pytest.raises(ValueError, match=r"got \(3, 8, 8\)"):
        net(images(3, 8, 8))
    with pytest.raises(ValueError, match=r"got \(1, 1, 8, 8\)"):
        net(images(1, 1, 8, 8))


@pytest.mark.parametrize("options", [{"classes": 0}, {"classes": -1}, {"widths": ()}])
def test_no_class_and_no_stage_are_refused(options):
    with pytest.raises(ValueError, match="classes of 1 or more and at least one width, not classes="):
        SmallCNN(**options)


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 1), (3, 4, 8, 8)])
@pytest.mark.parametrize("hybridized", [False, True])
def test_global_mean_is_global_average_pooling(shape, hybridized):
    ours, theirs = GlobalMean(), nn.GlobalAvgPool2D()
    if hybridized:
        ours.hybridize()
    one, other, weight = images(*shape), images(*shape), images(*shape[:2])
    for x in (one, other):
        x.attach_grad()
    with autograd.record():
        mean = ours(one)
        pooled = theirs(other)
        assert mean.shape == shape[:2] and pooled.shape == (*shape[:2], 1, 1)
        losses = [(mean * weight).sum(), (pooled.reshape(shape[:2]) * weight).sum()]
    autograd.backward(losses)
    np.testing.assert_allclose(mean.asnumpy(), pooled.asnumpy()[:, :, 0, 0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(one.grad.asnumpy(), other.grad.asnumpy(), rtol=1e-5, atol=1e-7)
    assert abs(one.grad.asnumpy()).max() > 0


def test_hybridized_is_imperative():
    """In outputs, gradients and running statistics."""
    results = []
    for hybridized in (False, True):
        net, x = made(3, (4, 6)), images(5, 3, 9, 8)
        net(x)
        if hybridized:
            net.hybridize(static_alloc=True, static_shape=True)
        with autograd.record():
            logits = net(x)
            loss = gluon.loss.SoftmaxCrossEntropyLoss()(logits, nd.array([0, 1, 2, 0, 1])).sum()
        loss.backward()
        nd.waitall()
        parameters = net._collect_params_with_prefix().values()
        results.append(
            [
                logits.asnumpy(),
                net(x).asnumpy(),
                *(p.data().asnumpy() for p in parameters),
                *(p.grad().asnumpy() for p in parameters if p.grad_req != "null"),
            ]
        )
    for one, other in zip(*results):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_exported_network_gives_the_same(tmp_path):
    net, x = made(3, (4, 6)), images(5, 3, 9, 8)
    net.hybridize()
    expected = net(x).asnumpy()
    net.export(str(tmp_path / "net"))
    loaded = gluon.SymbolBlock.imports(str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params"))
    np.testing.assert_array_equal(loaded(x).asnumpy(), expected)
    # Shapes are not frozen in: other sizes and batches work too.
    other = images(2, 3, 12, 14)
    np.testing.assert_allclose(loaded(other).asnumpy(), net(other).asnumpy(), rtol=1e-6)


def test_parameters_are_saved_and_loaded(tmp_path):
    net, other, x = made(3, (4, 6)), SmallCNN(3, (4, 6)), images(5, 3, 9, 8)
    expected = net(x).asnumpy()
    net.save_parameters(str(tmp_path / "net.params"))
    other.load_parameters(str(tmp_path / "net.params"))
    np.testing.assert_array_equal(other(x).asnumpy(), expected)
