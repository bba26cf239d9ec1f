from d2lcls.data import Batches, channel_statistics
from d2lcls.models import SmallCNN
from d2lcls.models.gradients import check_gradients
from d2lcls.training import fit
from d2lcls.training.losses import cross_entropy, focal
from d2lcls.training.recipe import Recipe

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

WEIGHTS = np.array([0.5, 2.0, 0.0, 1.5])
EVERY = {
    "plain": cross_entropy(),
    "smoothed": cross_entropy(0.1),
    "weighted": cross_entropy(0.1, WEIGHTS),
    "focal": focal(),
    "focal 0.5": focal(0.5),
    "focal weighted": focal(2, WEIGHTS),
}


@pytest.fixture(params=EVERY)
def loss(request):
    return EVERY[request.param]


def examples(images=7, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(scale=3, size=(images, classes)),
        np.arange(images) % classes,
        rng.dirichlet(np.ones(classes), size=images),
    )


def array(x):
    return nd.array(x, dtype=np.asarray(x).dtype)


def gradient(loss, logits, labels):
    logits = array(logits)
    logits.attach_grad()
    with autograd.record():
        values = loss(logits, labels)
    values.backward()
    return values.asnumpy(), logits.grad.asnumpy()


def naive_cross_entropy(logits, shares, smoothing, weights):
    """Image by image, class by class: each class of an image is a smoothed target of its own."""
    losses = []
    for row, share in zip(logits, shares):
        log_p, total = row - np.log(np.exp(row).sum()), 0.0
        for k in range(len(row)):
            for j in range(len(row)):
                target = (1 - smoothing) * (j == k) + smoothing / len(row)
                total -= share[k] * weights[k] * target * log_p[j]
        losses.append(total)
    return losses


def naive_focal(logits, shares, gamma, weights):
    losses = []
    for row, share in zip(logits, shares):
        p = np.exp(row) / np.exp(row).sum()
        losses.append(-sum(share[k] * weights[k] * (1 - p[k]) ** gamma * np.log(p[k]) for k in range(len(row))))
    return losses


@pytest.mark.parametrize("smoothing", [0, 0.1, 0.7])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_against_loops(smoothing, weights):
    logits, labels, shares = examples()
    loss = cross_entropy(smoothing, weights)
    by_class = np.ones(4) if weights is None else weights
    np.testing.assert_allclose(
        loss(array(logits), array(labels)).asnumpy(),
        naive_cross_entropy(logits, np.eye(4)[labels], smoothing, by_class),
        rtol=1e-10,
    )
    np.testing.assert_allclose(
        loss(array(logits), array(shares)).asnumpy(),
        naive_cross_entropy(logits, shares, smoothing, by_class),
        rtol=1e-10,
    )


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 5])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_against_loops(gamma, weights):
    logits, labels, shares = examples()
    loss = focal(gamma, weights)
    by_class = np.ones(4) if weights is None else weights
    np.testing.assert_allclose(
        loss(array(logits), array(labels)).asnumpy(), naive_focal(logits, np.eye(4)[labels], gamma, by_class), rtol=1e-8
    )
    np.testing.assert_allclose(
        loss(array(logits), array(shares)).asnumpy(), naive_focal(logits, shares, gamma, by_class), rtol=1e-8
    )


@pytest.mark.parametrize("sparse", [True, False])
def test_plain_cross_entropy_is_gluons(sparse):
    logits, labels, shares = examples()
    labels = array(labels.astype(np.int32)) if sparse else array(shares.astype(np.float32))
    own = gradient(cross_entropy(), logits.astype(np.float32), labels)
    gluons = gradient(gluon.loss.SoftmaxCrossEntropyLoss(sparse_label=sparse), logits.astype(np.float32), labels)
    for a, b in zip(own, gluons):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_classes_and_one_hot_shares_agree(loss):
    logits, labels, _ = examples()
    for dtype in (np.int32, np.int64, np.float32):
        classes = gradient(loss, logits.astype(np.float32), array(labels.astype(dtype)))
        shares = gradient(loss, logits.astype(np.float32), array(np.eye(4, dtype=np.float32)[labels]))
        for a, b in zip(classes, shares):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("soft", [False, True])
def test_gradients_against_finite_differences(loss, soft):
    logits, labels, shares = examples()
    labels, eps = array(shares if soft else labels), 1e-6
    found = gradient(loss, logits, labels)[1]
    for place in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[place] = eps
        above, below = (loss(array(moved), labels).sum().asscalar() for moved in (logits + step, logits - step))
        assert found[place] == pytest.approx((above - below) / (2 * eps), abs=1e-7)


def test_gradients_through_a_network(loss):
    net = SmallCNN(4, widths=(4, 6))
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net(nd.zeros((1, 3, 8, 8)))
    net.cast("float64")
    x = array(np.random.default_rng(0).normal(size=(4, 3, 8, 8)))
    assert max(check_gradients(net, x, array(np.array([0.0, 1, 3, 0])), loss).values()) < 1e-6


def test_gamma_0_is_cross_entropy():
    logits, labels, shares = examples()
    logits[:2] *= 50  # some of p exactly 1
    for target in (labels, shares):
        for a, b in zip(gradient(focal(0), logits, array(target)), gradient(cross_entropy(), logits, array(target))):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gamma", [0, 0.1, 0.5, 1, 2])
@pytest.mark.parametrize("dtype, rel, tiny", [(np.float32, 2e-2, 1e-7), (np.float64, 1e-6, 1e-16)])
def test_focal_where_the_network_is_sure(gamma, dtype, rel, tiny):
    for logit in (-50.0, -20.0, -9.0, 9.0, 20.0, 50.0):  # of the true class; the other has 0
        miss = 1 / (1 + np.exp(logit))
        p = 1 - miss if logit < 0 else 1 / (1 + np.exp(-logit))
        log_p = -np.log1p(np.exp(-logit))
        slope = (gamma * p * log_p - miss) * miss**gamma  # of the loss, by the logit
        value, found = gradient(focal(gamma), np.array([[logit, 0]], dtype=dtype), nd.array([0]))
        assert value[0] >= 0
        assert value[0] == pytest.approx(-(miss**gamma) * log_p, rel=rel, abs=tiny)
        np.testing.assert_allclose(found, [[slope, -slope]], rtol=rel, atol=tiny)


def test_focal_gradient_is_finite_where_p_is_1_exactly():
    for gamma in (0, 0.1, 0.5, 1, 2, 5):
        for labels in (nd.array([0]), nd.array([[0.5, 0.5, 0]])):
            value, found = gradient(focal(gamma), np.array([[1000, 0, -1000]], dtype=np.float32), labels)
            assert np.isfinite(value).all() and np.isfinite(found).all()


def test_smoothing_does_not_pull_to_a_heavy_class():
    loss = cross_entropy(0.2, np.array([1, 1, 50.0]))
    smoothed = np.log(np.array([[0.2 / 3 + 0.8, 0.2 / 3, 0.2 / 3]]))
    np.testing.assert_allclose(gradient(loss, smoothed, nd.array([0]))[1], np.zeros((1, 3)), atol=1e-12)


def test_a_class_of_weight_0_teaches_nothing():
    values, found = gradient(cross_entropy(0.1, WEIGHTS), np.ones((2, 4)), nd.array([2, 1]))
    assert values[0] == 0 and (found[0] == 0).all() and values[1] > 0


def test_changing_the_weights_later_changes_nothing():
    weights = np.ones(4)
    loss, (logits, labels, _) = cross_entropy(class_weights=weights), examples()
    weights[:] = 7
    np.testing.assert_array_equal(
        loss(array(logits), array(labels)).asnumpy(), cross_entropy()(array(logits), array(labels)).asnumpy()
    )


@pytest.mark.parametrize("make", [lambda w: cross_entropy(0.1, w), lambda w: focal(2, w)])
def test_weights_follow_the_logits_to_their_device(make):
    logits, labels, _ = examples()
    loss, device = make(WEIGHTS), mx.cpu(1)
    moved = loss(array(logits).as_in_context(device), array(labels).as_in_context(device))
    assert moved.context == device
    here = loss(array(logits), array(labels)).asnumpy()
    np.testing.assert_array_equal(moved.asnumpy(), here)
    arguments = array(logits), array(labels)
    with mx.gpu(0):  # MXNet makes new arrays there, if one does not say where: without a GPU that fails
        np.testing.assert_array_equal(loss(*arguments).asnumpy(), here)


def train(data, loss, mixup=0.0):
    mx.random.seed(0)
    net = SmallCNN(3, (8, 16))
    net.initialize(mx.init.MSRAPrelu(slope=0))
    batches = Batches(data, 32, *channel_statistics(data.images), shuffle=True, mixup=mixup)
    return fit(net, batches, recipe=Recipe(num_epochs=6, lr=0.1, loss=loss), on_epoch=None, ctx=[mx.cpu(0), mx.cpu(1)])


@pytest.mark.parametrize("mixup", [0.0, 0.2])
@pytest.mark.parametrize("make", [lambda: cross_entropy(0.1, [1, 2, 1]), lambda: focal(2, [1, 2, 1])])
def test_fit_learns_with_it(shapes, make, mixup):
    records = train(shapes, make(), mixup)
    assert records[-1].train_loss < records[0].train_loss
    assert records[-1].train_accuracy > 0.8


def test_fit_with_plain_cross_entropy_is_fit_without_loss(shapes):
    assert [r.train_loss for r in train(shapes, cross_entropy())] == [r.train_loss for r in train(shapes, None)]


def test_a_weight_that_is_missing_is_told_before_training(shapes):
    with pytest.raises(ValueError, match="There are 2 class_weights, but the network has 3 outputs"):
        train(shapes, cross_entropy(class_weights=[1, 2]))


@pytest.mark.parametrize("value", [-0.1, 1.0, np.nan])
def test_bad_smoothing(value):
    with pytest.raises(ValueError, match="label_smoothing must be 0 .* below 1, not"):
        cross_entropy(value)


@pytest.mark.parametrize("value", [-1, np.nan, np.inf])
def test_bad_gamma(value):
    with pytest.raises(ValueError, match="gamma must be 0 .* finite, not"):
        focal(value)


@pytest.mark.parametrize("make", [lambda w: cross_entropy(0, w), lambda w: focal(2, w)])
@pytest.mark.parametrize(
    "weights, message",
    [
        ([1, -1], "0 or above"),
        ([1, np.nan], "finite"),
        ([1, np.inf], "finite"),
        ([0, 0], "not all 0"),
        ([[1, 2]], r"shape \(K,\)"),
        ([], r"shape \(K,\)"),
        (1.0, r"shape \(K,\)"),
    ],
)
def test_bad_weights(make, weights, message):
    with pytest.raises(ValueError, match=message):
        make(weights)


@pytest.mark.parametrize("logits, labels", [((4, 3), (5,)), ((4, 3), (4, 2)), ((4, 3), (4, 1)), ((4,), (4,))])
def test_shapes_that_do_not_fit(loss, logits, labels):
    with pytest.raises(ValueError, match=r"Expected logits of shape \(N, K\) with labels"):
        loss(nd.zeros(logits), nd.zeros(labels))


def test_works_on_a_hybridized_layer(loss):
    logits, labels, _ = examples()
    net = nn.Dense(4)
    net.initialize()
    net.hybridize(static_alloc=True, static_shape=True)
    grads = []
    for _ in range(2):  # the second call runs in the memory of the first
        with autograd.record():
            value = loss(net(array(logits.astype(np.float32))), array(labels))
        value.backward()
        grads.append(net.weight.grad().asnumpy())
    assert grads[0].any() and (grads[0] == grads[1]).all()
