"""`surgery.replace_head`: a new last layer, and nothing else touched."""

from d2lcls.data import Batches
from d2lcls.models import SmallCNN, get_model
from d2lcls.models.surgery import replace_head
from d2lcls.training import fit
from d2lcls.training.recipe import Recipe

import numpy as np
import pytest
from mxnet import gluon
from mxnet.gluon import nn
from nets import NETWORKS, TWO, images, is_head, layer_inputs, make, moved, small, values


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
    assert fit(net, Batches(shapes, 32), recipe=Recipe(num_epochs=1), ctx=TWO, on_epoch=None)


def test_a_new_head_is_trained(shapes):
    net = small()
    replace_head(net, 3)
    before = values(net)
    fit(net, Batches(shapes, 50), recipe=Recipe(num_epochs=1), on_epoch=None)
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
