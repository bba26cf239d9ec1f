from d2lcls.data import Batches, Images
from d2lcls.models.fast94 import Architecture
from d2lcls.training import Recipe, evaluate, predict
from d2lcls.training.search.architecture import draw
from d2lcls.training.search.supernet import Supernet, recompute_statistics, shared_accuracy, train_supernet

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, nd
from mxnet.gluon import nn

NARROW = Architecture((16, 16, 16))
SMALLER = Architecture((8, 24, 16), (1, 3, 2), (5, 3, 3))


def images(n=96):
    """Noise of which one class is brighter in one half than in the other."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    pixels = rng.integers(0, 150, (n, 32, 32, 3))
    pixels[labels == 1, :, :16] += 100
    return Batches(Images(pixels.astype(np.uint8), labels, ("even", "left"), "halves"), 16, shuffle=True)


@pytest.fixture
def supernet():
    mx.random.seed(0)
    supernet = Supernet(NARROW, classes=2)
    supernet.initialize()
    supernet.net(nd.zeros((1, 3, 32, 32)))
    return supernet


@pytest.mark.parametrize("architecture", [SMALLER, NARROW, Architecture((32,) * 3, (3,) * 3, (5,) * 3)])
def test_a_sub_network_computes_what_a_network_with_its_weights_computes(supernet, architecture):
    x, _ = next(images().epoch(0))
    own = supernet.extract(architecture, [(x, None)])
    with autograd.train_mode():
        shared, expected = supernet(nd.array(x), architecture).asnumpy(), own(nd.array(x)).asnumpy()
    np.testing.assert_allclose(shared, expected, atol=1e-5)
    assert [parameter.shape for parameter in own.collect_params(".*weight").values()] == [
        parameter.shape for parameter in _made(architecture).collect_params(".*weight").values()
    ]


def _made(architecture):
    net = architecture.make(2)
    net.initialize()
    net(nd.zeros((1, 3, 32, 32)))
    return net


def test_a_step_changes_the_weights_of_its_sub_network_only(supernet):
    before = [p.data().asnumpy() for p in supernet.net.collect_params(".*conv.*weight").values()]
    recipe = Recipe(num_epochs=1, lr=0.1, wd=0.0, warmup_epochs=0)
    train_supernet(supernet, images(16), recipe, lambda rng: SMALLER)
    after = [p.data().asnumpy() for p in supernet.net.collect_params(".*conv.*weight").values()]
    changed = [new != old for new, old in zip(after[1:], before[1:])]  # the first is the whitening
    first = changed[0]
    assert first.shape == (32, 32, 5, 5) and first[:8].mean() > 0.99 and not first[8:].any()
    assert not changed[1].any() and not changed[2].any()  # the group has one convolution here
    second = changed[3]
    centre = second[:24, :8, 1:4, 1:4]  # of the filters
    assert second.sum() == centre.sum()
    assert centre[:16].mean() > 0.9  # the others have no way to the output yet: the last group begins as the identity
    assert changed[5].any() and changed[7].any() and not changed[8].any()


def test_statistics_are_the_means_of_those_of_the_batches(supernet):
    batches = [x for x, _ in images(48).epoch(0)]
    net = supernet.extract(NARROW, [])
    recompute_statistics(net, [(x, None) for x in batches])
    norm = next(layer for layer in net.features if isinstance(layer, nn.BatchNorm))
    expected = []
    for x in batches:
        given = nd.array(x)
        for layer in [net.whitening, *net.features[:3]]:
            given = layer(given)
        expected.append(given.asnumpy())
    np.testing.assert_allclose(
        norm.running_mean.data().asnumpy(), np.mean([x.mean(axis=(0, 2, 3)) for x in expected], axis=0), atol=1e-5
    )
    np.testing.assert_allclose(
        norm.running_var.data().asnumpy(), np.mean([x.var(axis=(0, 2, 3)) for x in expected], axis=0), rtol=1e-3
    )


def test_shared_weights_learn_for_all(supernet):
    train = images()
    untrained = shared_accuracy(supernet, SMALLER, train, train, 2)
    recipe = Recipe(num_epochs=4, lr=0.05, label_smoothing=0.1)
    train_supernet(supernet, train, recipe, lambda rng: draw(rng, NARROW))
    rng = np.random.default_rng(1)
    accuracies = [shared_accuracy(supernet, draw(rng, NARROW), train, train, 6) for _ in range(4)]
    assert untrained < 0.8 and min(accuracies) > 0.9
    assert evaluate(supernet.extract(NARROW, train.epoch(0)), train).accuracy > 0.9


def test_same_seed_same_weights():
    logits = []
    for _ in range(2):
        mx.random.seed(0)
        net = Supernet(NARROW, classes=2)
        net.initialize()
        train_supernet(net, images(32), Recipe(num_epochs=1, lr=0.05), lambda rng: draw(rng, NARROW))
        logits.append(predict(net.extract(NARROW, images(32).epoch(0)), images(32)))
    np.testing.assert_array_equal(*logits)


def test_divergence_ends_it(supernet):
    with pytest.raises(ArithmeticError, match="loss of step .* is not a finite number. Use a lower lr"):
        train_supernet(supernet, images(), Recipe(num_epochs=9, lr=1e20, warmup_epochs=0), lambda rng: NARROW)
