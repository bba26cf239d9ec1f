from d2lcls.models import get_model, without_shortcuts

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd


def test_what_remains_are_the_bodies_of_the_blocks_with_their_parameters():
    net = get_model("cifar_resnet20_v1")
    net.initialize(mx.init.MSRAPrelu(slope=0))
    x = nd.random.normal(shape=(2, 3, 32, 32))
    net(x)
    net.hybridize()  # and a graph with shortcuts is not kept
    net(x)
    expected = x
    for stage in net.features[:2]:
        expected = stage(expected)
    for stage in net.features[2:5]:
        for block in stage:
            expected = block.body(expected).relu()
    expected = net.output(net.features[5](expected)).asnumpy()
    with_projections = len(net.collect_params().keys())
    assert without_shortcuts(net) is net
    np.testing.assert_allclose(net(x).asnumpy(), expected, rtol=1e-4, atol=1e-5)
    assert with_projections - len(net.collect_params().keys()) == 2 * 5  # a convolution and a normalisation each


@pytest.mark.parametrize("name", ["cnn", "cifar_resnet20_v2"])
def test_a_network_without_such_blocks_is_refused(name):
    with pytest.raises(ValueError, match="Expected a CIFAR ResNet of version 1, not"):
        without_shortcuts(get_model(name))
