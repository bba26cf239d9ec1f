import json
import runpy
from pathlib import Path

from d2lcls.machine.gluon import parameters_by_path
from d2lcls.models import SmallCNN
from d2lcls.models.efficientnet_lite import make_efficientnet
from d2lcls.weights.convert import from_torch, get_values, to_torch
from d2lcls.weights.names import dialects_of, torch_layers

import mxnet as mx
import numpy as np
import pytest
from gluoncv.model_zoo import get_model
from mxnet import nd
from mxnet.gluon import nn
from mxnet.gluon.model_zoo import vision

FOLDER = Path(__file__).parent / "reference"
MAKER = runpy.run_path(str(FOLDER / "make_reference.py"))
REFERENCES = sorted(path.stem for path in FOLDER.glob("*.json"))


def read(reference):
    """Return the record of a PyTorch network and the state dict it was run with."""
    record = json.loads((FOLDER / f"{reference}.json").read_text())
    return record, {name: MAKER["draw"](name, shape) for name, shape in record["shapes"].items()}


def make(name, biased=True):
    """Make and initialise a network for ten classes; MobileNetV2 with PyTorch's bias in the last layer."""
    net = make_efficientnet(name, 10) if "efficientnet" in name else get_model(name, classes=10)
    if name.startswith("mobilenetv2") and biased:
        net.output = nn.HybridSequential()
        net.output.add(nn.Conv2D(10, 1), nn.Flatten())
    net.initialize()
    return net


def run(net, size):
    return net(nd.array(MAKER["images"](size))).asnumpy()


def assert_close(logits, expected):
    expected = np.array(expected)
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()


def assert_same(state, expected):
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert state[name].dtype == value.dtype and state[name].shape == value.shape, name
        np.testing.assert_array_equal(state[name], value, err_msg=name)


def test_every_network_of_the_maker_has_its_file():
    assert sorted(f"{name}.{dialect}" for name, dialect, _ in MAKER["NETWORKS"]) == REFERENCES


@pytest.mark.parametrize("reference", REFERENCES)
def test_logits_are_those_of_pytorch_and_the_state_comes_back(reference):
    record, state = read(reference)
    net = make(record["network"])
    from_torch(net, state)
    back = to_torch(net, record["dialect"])  # before any batch
    assert_same(back, state)
    assert_close(run(net, record["size"]), record["logits"])


@pytest.mark.parametrize("reference", ["resnet18_v1b.timm", "mobilenetv2_1.0.torchvision", "resnet18_v2.timm"])
def test_a_network_that_ran_and_was_hybridized_takes_new_values(reference):
    record, state = read(reference)
    net = make(record["network"])
    net.hybridize(static_alloc=True, static_shape=True)
    before = run(net, record["size"])
    from_torch(net, state)
    after = run(net, record["size"])
    assert np.abs(after - before).max() > 1e-2
    assert_close(after, record["logits"])
    assert_same(to_torch(net, record["dialect"]), state)


def test_a_network_hybridized_before_its_first_batch():
    record, state = read("resnet18_v2.timm")
    net = make("resnet18_v2")
    net.hybridize()
    from_torch(net, state)
    assert_close(run(net, record["size"]), record["logits"])


def test_dialects_of_one_network_hold_the_same_numbers():
    net = make("efficientnet_b0")
    expected = get_values(net)
    for dialect in ("timm", "torchvision", "lukemelas"):
        other = make("efficientnet_b0")
        from_torch(other, to_torch(net, dialect))
        for name, value in get_values(other).items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_values_are_copies_and_follow_training():
    record, state = read("mobilenet1.0.timm")
    net = make("mobilenet1.0")
    from_torch(net, state)
    saved = to_torch(net)
    with mx.autograd.record():
        loss = net(nd.array(MAKER["images"](64))).sum()
    loss.backward()
    new = to_torch(net)
    assert (new["bn1.running_mean"] != saved["bn1.running_mean"]).all()
    np.testing.assert_array_equal(saved["bn1.running_mean"], state["bn1.running_mean"])
    np.testing.assert_array_equal(new["conv_stem.weight"], saved["conv_stem.weight"])


def test_half_precision_and_double_are_taken_and_counters_are_not_needed():
    record, state = read("resnet18_v1.torchvision")
    rounded = {name: value.astype(np.float16) for name, value in state.items() if "num_batches" not in name}
    net = make("resnet18_v1")
    from_torch(net, rounded)
    np.testing.assert_array_equal(net.output.weight.data().asnumpy(), rounded["fc.weight"].astype(np.float32))
    from_torch(net, {name: value.astype(np.float64) for name, value in state.items()})
    assert_close(run(net, 64), record["logits"])


def test_mobilenet_v2_without_a_bias_takes_and_gives_one_of_zeros():
    record, state = read("mobilenetv2_1.0.timm")
    net = make("mobilenetv2_1.0", biased=False)
    with pytest.raises(
        ValueError,
        match=r"has 'classifier.bias', for which the MobileNetV2 has no parameter.*"
        r"no bias in its last layer.*nn.Conv2D\(classes, 1\)",
    ):
        from_torch(net, state)
    zeros = {**state, "classifier.bias": np.zeros(10, np.float32)}
    from_torch(net, zeros)
    assert_close(run(net, 64), np.array(record["logits"]) - state["classifier.bias"])
    assert_same(to_torch(net), zeros)
    without = {name: value for name, value in zeros.items() if name != "classifier.bias"}
    from_torch(make("mobilenetv2_1.0", biased=False), without)
    assert to_torch(net, "torchvision")["classifier.1.bias"].shape == (10,)


def test_mobilenet_v2_with_a_dense_head():
    record, state = read("mobilenetv2_1.0.timm")
    net = make("mobilenetv2_1.0")
    net.output = nn.HybridSequential()
    net.output.add(nn.Dense(10))
    net.initialize()
    from_torch(net, state)
    assert_close(run(net, 64), record["logits"])
    assert_same(to_torch(net), state)


@pytest.mark.parametrize("name", ["resnet18_v1", "resnet50_v1", "resnet50_v2", "mobilenet1_0"])
def test_mxnets_own_zoo_has_the_same_names(name):
    theirs = getattr(vision, name)(classes=10)
    ours = get_model(name.replace("1_0", "1.0"))
    for dialect in dialects_of(ours):
        assert torch_layers(theirs, dialect) == torch_layers(ours, dialect)


def test_mxnets_own_mobilenet_v2_has_a_layer_more():
    with pytest.raises(ValueError, match="This MobileNetV2 has a layer 'features.3.out.0', which PyTorch's networks"):
        to_torch(vision.mobilenet_v2_0_5())


@pytest.mark.parametrize(
    "name",
    [
        "resnet34_v1",
        "resnet152_v1",
        "resnet101_v2",
        "resnet101_v1s",
        "mobilenet0.25",
        "mobilenetv2_0.75",
        "efficientnet_lite2",
        "tf_efficientnet_b3",
    ],
)
def test_no_two_layers_share_a_name(name):
    net = make(name)
    for dialect in dialects_of(net):
        names = list(torch_layers(net, dialect).values())
        assert len(set(names)) == len(names) and not any("None" in found or ".." in found for found in names)


def test_torchvisions_bottlenecks_are_not_taken_for_those_of_v1():
    _, state = read("resnet50_v1b.torchvision")
    with pytest.raises(
        ValueError,
        match=r"lacks 'layer1.0.conv1.bias', the network's 'features.4.0.body.0.bias' and "
        r"31 more\. .*another stride: use GluonCV's resnet\*_v1b",
    ):
        from_torch(make("resnet50_v1"), state)
    _, state = read("resnet50_v1.torchvision")
    with pytest.raises(ValueError, match="has 'layer1.0.conv1.bias' and 31 more, for which the ResNetV1b has no"):
        from_torch(make("resnet50_v1b"), state)


def damaged(state, what):
    changed = dict(state)
    if what == "missing":
        del changed["layer2.0.bn1.running_var"]
    elif what == "extra":
        changed["layer5.weight"] = np.zeros(3, np.float32)
    elif what == "missing and extra":
        changed["layer3.conv1.weight"] = changed.pop("layer3.0.conv1.weight")
    elif what == "norm":  # agrees with nothing, though a network without a batch does not know its norms' widths
        changed["layer1.0.bn2.weight"] = np.zeros(65, np.float32)
    elif what == "classes":
        changed["fc.weight"] = np.zeros((11, 512), np.float32)
    elif what == "transposed":
        changed["fc.weight"] = changed["fc.weight"].T
    elif what == "stem":
        changed["conv1.weight"] = np.zeros(64, np.float32)
    elif what == "scalar":
        changed["conv1.weight"] = np.float32(1)
    elif what == "integers":
        changed["bn1.bias"] = np.zeros(64, np.int64)
    elif what == "text":
        changed["bn1.bias"] = "0"
    return changed


DAMAGE = [
    ("missing", r"lacks 'layer2.0.bn1.running_var', the network's 'features.5.0.body.1.running_var'\. Make"),
    ("extra", r"has 'layer5.weight', for which the ResNetV1 has no parameter\."),
    (
        "missing and extra",
        r"lacks 'layer3.0.conv1.weight', the network's 'features.6.0.body.0.weight'\. "
        r"The state has 'layer3.conv1.weight', for",
    ),
    ("norm", r"'layer1.0.bn2.weight' in the state has shape \(65,\); .*'features.4.0.body.4.gamma' needs \(64"),
    ("classes", r"'fc.weight' in the state has shape \(11, 512\); the .* 'output.weight' needs \(10, 512\)"),
    ("transposed", r"'fc.weight' in the state has shape \(512, 10\)"),
    ("stem", r"'conv1.weight' in the state has shape \(64,\); .*needs \(64, 3, 7, 7\)"),
    ("scalar", r"'conv1.weight' in the state has shape \(\);"),
    ("integers", "'bn1.bias' must be an array of floats, not of int64"),
    ("text", "'bn1.bias' must be an array of floats"),
]


@pytest.mark.parametrize("what, message", DAMAGE)
def test_a_state_that_does_not_fit_changes_nothing(what, message):
    _, state = read("resnet18_v1.torchvision")
    net = make("resnet18_v1")
    shapes = {name: p.shape for name, p in parameters_by_path(net).items()}
    with pytest.raises(ValueError, match=message):
        from_torch(net, damaged(state, what))  # a network that never saw a batch
    assert {name: p.shape for name, p in parameters_by_path(net).items()} == shapes
    run(net, 32)
    before = get_values(net)
    with pytest.raises(ValueError, match=message):
        from_torch(net, damaged(state, what))
    for name, value in get_values(net).items():
        np.testing.assert_array_equal(value, before[name])


def test_a_state_of_other_channels():
    _, state = read("resnet18_v1b.timm")
    state["conv1.weight"] = state["conv1.weight"][:, :1]
    net = make("resnet18_v1b")
    from_torch(net, state)  # of grey images, before any batch
    assert net(nd.zeros((1, 1, 32, 32))).shape == (1, 10)
    net = make("resnet18_v1b")
    net(nd.zeros((1, 3, 32, 32)))
    with pytest.raises(ValueError, match=r"has shape \(64, 1, 7, 7\); .*needs \(64, 3, 7, 7\)"):
        from_torch(net, state)


def test_a_state_of_another_family():
    _, state = read("mobilenetv2_1.0.torchvision")
    with pytest.raises(
        ValueError, match="none of the names of a ResNetV1b, such as 'conv1.weight'; its first is 'features.0.0.weight'"
    ):
        from_torch(make("resnet18_v1b"), state)
    _, state = read("mobilenet1.0.timm")
    with pytest.raises(
        ValueError,
        match="lacks 'blocks.1.0.conv_pwl.weight', the network's 'features.4.out.6.weight'"
        " and .* has 'blocks.3.4.conv_dw.weight' and",
    ):
        from_torch(make("mobilenetv2_1.0"), state)
    _, state = read("resnet18_v1b.timm")
    with pytest.raises(ValueError, match="lacks 'layer1.0.conv3.weight', the network's 'layer1.0.conv3.weight' and"):
        from_torch(make("resnet50_v1b"), state)


def test_no_state_at_all():
    with pytest.raises(ValueError, match="none of the names of a ResNetV1b, .*; it is empty"):
        from_torch(make("resnet18_v1b"), {})
    with pytest.raises(ValueError, match="'state_dict' is a dict, not an array.* pass it alone"):
        from_torch(make("resnet18_v1b"), {"epoch": 1.0, "state_dict": {}})
    with pytest.raises(ValueError, match="must be a dict of arrays, as in a file of weights, not <class 's"):
        from_torch(make("resnet18_v1b"), "resnet18.pth")


def test_networks_without_known_names():
    for net in (SmallCNN(), get_model("cifar_resnet20_v1"), nn.Dense(3)):
        net.initialize()
        with pytest.raises(
            ValueError,
            match=f"class {type(net).__name__} have no known names in PyTorch; "
            "ResNetV1, ResNetV1b, .*EfficientNet have",
        ):
            from_torch(net, {})
        with pytest.raises(ValueError, match="no known names"):
            to_torch(net)
    net = vision.ResNetV1(vision.BasicBlockV1, [1, 1], [8, 8, 16], thumbnail=True)
    with pytest.raises(ValueError, match="This ResNetV1 has a layer 'features.0', which PyTorch's networks do"):
        to_torch(net)
    squeezed = get_model("se_resnet18_v1")
    with pytest.raises(ValueError, match="has a layer 'features.4.0.se.0', which"):
        to_torch(squeezed)


def test_networks_that_are_not_ready():
    net = get_model("resnet18_v1", classes=10)
    with pytest.raises(ValueError, match=r"'features.0.weight' is not initialised: call net.initialize\(\) first"):
        from_torch(net, read("resnet18_v1.torchvision")[1])
    net.initialize()
    with pytest.raises(ValueError, match="'features.0.weight' has no values yet: initialise it and pass it one b"):
        to_torch(net)
    with pytest.raises(ValueError, match="This MobileNet has names in timm, not in 'keras'"):
        to_torch(make("mobilenet1.0"), "keras")
    with pytest.raises(ValueError, match="This EfficientNet has names in timm and lukemelas, not in 'torchvision'"):
        to_torch(make("efficientnet_lite0"), "torchvision")
