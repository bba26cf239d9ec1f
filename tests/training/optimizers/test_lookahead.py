from d2lcls.training.optimizers.lookahead import Lookahead

import mxnet as mx
import numpy as np
import pytest
from mxnet import nd
from mxnet.gluon import nn


def test_slow_weights_follow_and_replace_the_quick_ones():
    net = nn.Dense(1, use_bias=False, in_units=1)
    net.initialize(mx.init.Zero(), ctx=[mx.cpu(0), mx.cpu(1)])

    def weight():
        first, second = (copy.asnumpy().item() for copy in net.weight.list_data())
        assert first == second
        return first

    lookahead, slow = Lookahead(net, total_steps=10, every=5), 0.0
    for step in range(1, 11):
        quick = weight() + 1  # what an optimizer might do
        net.weight.set_data(nd.array([[quick]]))
        lookahead.after(step)
        if step == 5:
            decay = 0.95**5 * 0.5**3
            slow = decay * slow + (1 - decay) * quick
            np.testing.assert_allclose(weight(), slow, rtol=1e-6)
    np.testing.assert_allclose(weight(), slow, rtol=1e-6)  # at the end the slow ones are kept


def test_less_than_a_step_is_refused():
    net = nn.Dense(1, in_units=1)
    net.initialize()
    with pytest.raises(ValueError, match="lookahead must be a number of steps, 1 or more"):
        Lookahead(net, 10, every=-1)
