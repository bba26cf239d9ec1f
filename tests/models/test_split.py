"""`surgery.split`: a front and a tail that are the whole."""

from d2lcls.models import SmallCNN, get_model
from d2lcls.models.surgery import layer_groups, split
from d2lcls.training import make_trainer, train_step

import mxnet as mx
import numpy as np
import pytest
from nets import NETWORKS, images, make, moved, names_of, small, values


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
    with pytest.raises(ValueError, match="groups must lie between 1 and 3, one less than the network has, not 4"):
        split(small(), 4)
    with pytest.raises(ValueError, match="groups must lie between 1 and 3, one less than the network has, not 0"):
        split(small(), 0)
    with pytest.raises(ValueError, match="padding depends on the size of its images: pass size="):
        split(make("efficientnet_lite0"), 2)
    net = Between(3)
    net.initialize()
    with pytest.raises(ValueError, match="Between does more than run its `features` and its head"):
        split(net, 1)
    with pytest.raises(ValueError, match="GoogLeNet has no `features`"):
        layer_groups(get_model("googlenet"))
