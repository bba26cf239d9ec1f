import json

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

from d2lcls.models.fusion import assemble, quantize_graph, trace
from d2lcls.models.fusible import mend_int8
from d2lcls.models.int8 import in_seven_bits, saturating


def calibrated(net, x):
    """Return a network's quantised graph with all eight bits, and its outputs in float."""
    net.initialize(mx.init.MSRAPrelu(slope=0))
    expected = net(mx.nd.array(x)).asnumpy()
    return quantize_graph(*trace(net), x, vnni=True), expected


def ranges(symbol):
    """Return a dict from layers to the upper ends of their ranges."""
    return {node["name"].removeprefix("quantized_"): float(node["attrs"]["max_calib_range"])
            for node in json.loads(symbol.tojson())["nodes"] if "max_calib_range" in node.get("attrs", {})}


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(16, 4, 12, 12)).astype(np.float32)


def test_only_what_saturating_sums_read_gets_seven_bits(x):
    """Readers of the convolutions: one, past pooling; a depthwise one; a dense layer, past a depthwise one; none."""
    mx.random.seed(0)
    net = nn.HybridSequential()
    net.add(nn.Conv2D(8, 3, in_channels=4, activation="relu"), nn.MaxPool2D(),
            nn.Conv2D(8, 1, in_channels=8, activation="relu"),
            nn.Conv2D(8, 3, in_channels=8, groups=8, activation="relu"),
            nn.Flatten(), nn.Dense(5, in_units=72), nn.Activation("relu"))
    (symbol, arguments, _), _ = calibrated(net, x)
    before, after = ranges(symbol), ranges(in_seven_bits(symbol, arguments))
    doubled = {name: round(after[name] / before[name], 3) for name in before}
    assert doubled == {"data_quantize": 1, "sg_mkldnn_conv_act_0": 2, "sg_mkldnn_conv_act_1": 1,
                       "sg_mkldnn_conv_act_2": 2}


def test_a_group_of_one_input_and_many_outputs_is_no_depthwise_convolution(x):
    for groups, outputs, factor in ((4, 4, 1), (4, 8, 2), (2, 4, 2), (1, 4, 2)):
        net = nn.HybridSequential()
        net.add(nn.Conv2D(4, 1, in_channels=4, activation="relu"), nn.Conv2D(outputs, 3, in_channels=4, groups=groups))
        (symbol, arguments, _), _ = calibrated(net, x)
        name = "sg_mkldnn_conv_act_0"
        assert ranges(in_seven_bits(symbol, arguments))[name] == pytest.approx(factor * ranges(symbol)[name])


class CutSum(nn.HybridBlock):
    """A sum with negative results of which one side, after ReLU, has none."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.first = nn.Conv2D(8, 3, padding=1, in_channels=4, activation="relu")
            self.second = nn.Conv2D(8, 3, padding=1, in_channels=8, activation="relu")
            self.third = nn.Conv2D(8, 3, padding=1, in_channels=8)
            self.last = nn.Conv2D(8, 1, in_channels=8)

    def hybrid_forward(self, F, x):
        x = F.Pooling(self.first(x), kernel=(2, 2), stride=(2, 2))
        return self.last(self.third(self.second(x)) + x)


def error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("vnni", [False, True])
def test_a_sum_that_mxnet_would_cut_off_at_0_is_computed_in_float(x, vnni, monkeypatch):
    mx.random.seed(0)
    net = CutSum()
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net.third.bias.set_data(mx.nd.ones(8) * -2)
    expected = net(mx.nd.array(x)).asnumpy()
    found = assemble(*quantize_graph(*trace(net), x, vnni=vnni))(mx.nd.array(x)).asnumpy()
    assert error(found, expected) < 0.05
    monkeypatch.setattr("d2lcls.models.fusion.mend_int8", lambda symbol: (symbol, [], []))  # once this is right, it can go
    cut = quantize_graph(*trace(net), x, vnni=vnni)
    assert len(mend_int8(cut[0])[2]) == 1
    assert error(assemble(*cut)(mx.nd.array(x)).asnumpy(), expected) > 0.1


def test_a_dense_layer_with_negative_inputs_is_computed_in_float_unless_vnni(x):
    net = nn.HybridSequential()
    net.add(nn.Flatten(), nn.Dense(3, in_units=4 * 12 * 12))
    (symbol, *_), _ = calibrated(net, x)
    assert saturating(symbol) == ["sg_mkldnn_fully_connected_0"]
