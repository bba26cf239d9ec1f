import runpy
import zlib
from importlib.util import find_spec
from pathlib import Path

from d2lcls.machine.gluon import blocks_of
from d2lcls.models.efficientnet import Conv, EfficientNet, ReLU6, Scale, round_channels
from d2lcls.models.efficientnet_lite import NAMES, SCALES, make_efficientnet
from d2lcls.weights.files import load_weights
from d2lcls.weights.store import find_weights

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd

FOLDER = Path(__file__).parent / "reference"
MAKER = runpy.run_path(str(FOLDER / "make_lite_reference.py"))
REFERENCE = dict(np.load(FOLDER / "efficientnet_lite.npz"))


def small(same=True, lite=True, classes=3):
    net = EfficientNet(Scale(0.25, 0.5, 64, 0.2), classes, lite=lite, same=same)
    net.initialize(mx.init.MSRAPrelu("in", 0))  # logits near 1, or there would be nothing to compare
    return net


def images(height, width, n=1, seed=0):
    return nd.array(np.random.default_rng(seed).standard_normal((n, 3, height, width), dtype=np.float32))


@pytest.mark.parametrize(
    "name, count",
    [
        ("efficientnet_b0", 5_288_548),
        ("efficientnet_b1", 7_794_184),
        ("efficientnet_b2", 9_109_994),
        ("efficientnet_b3", 12_233_232),
        ("tf_efficientnet_b0", 5_288_548),
        ("efficientnet_lite0", 4_652_008),
        ("efficientnet_lite1", 5_416_680),
        ("efficientnet_lite2", 6_092_072),
    ],
)
def test_as_many_parameters_as_published(name, count):
    parameters = make_efficientnet(name).collect_params().values()
    assert sum(np.prod(p.shape) for p in parameters if p._differentiable) == count


def test_every_name_makes_its_network():
    for name in NAMES:
        net = make_efficientnet(name, classes=7)
        first = blocks_of(net, Conv)[0]
        tensorflow = "lite" in name or name.startswith("tf_")
        assert first.depends_on_size == tensorflow and net.output._units == 7
        assert net.features[0][1]._kwargs["eps"] == (1e-3 if tensorflow else 1e-5)
        assert bool(blocks_of(net, ReLU6)) == ("lite" in name)


def loaded(name):
    path = find_weights(f"efficientnet_{name}")
    if path is None:
        pytest.skip(f"the weights are not on this machine: d2lcls weights get efficientnet_{name}")
    net = make_efficientnet(f"efficientnet_{name}")
    net.initialize()
    load_weights(net, path)
    return net


def stages(net, x):
    """Return what each child of features makes of x, and the logits, but for the mean and dropout."""
    found = []
    net.set_image_size(*x.shape[2:])
    for child in net.features:
        x = child(x)
        found.append(x.asnumpy())
    return [*found[:-2], net.output(x).asnumpy()]


def assert_stages(net, x, reference):
    found = stages(net, nd.array(x))
    assert len(found) == len(MAKER["STAGES"]) == len(reference)
    for stage, values, row in zip(MAKER["STAGES"], found, reference):
        mean, std, *numbers = MAKER["sample"](stage, values)
        np.testing.assert_allclose(numbers, row[2:], rtol=1e-4, atol=1e-4 * max(1, row[1]), err_msg=stage)
        assert mean == pytest.approx(row[0], abs=1e-4) and std == pytest.approx(row[1], rel=1e-4), stage


@pytest.mark.parametrize("name", MAKER["SIZES"])
def test_every_stage_sees_in_photographs_what_pytorch_sees(name):
    folder = find_spec("skimage") and Path(find_spec("skimage").origin).parent / "data"
    if not folder or not all((folder / file).is_file() for file in MAKER["PHOTOGRAPHS"]):
        pytest.skip("scikit-image's photographs are not installed: pip install scikit-image")
    net, x = loaded(name), MAKER["photographs"](folder, SCALES[name].size)
    assert zlib.crc32(x.tobytes()) == REFERENCE[f"{name}pixels"], "Pillow makes other pixels than the reference had"
    assert_stages(net, x, REFERENCE[name])
    np.testing.assert_array_equal(net(nd.array(x)).asnumpy().argmax(axis=1), REFERENCE[f"{name}classes"])


@pytest.mark.parametrize("name", MAKER["SIZES"])
def test_odd_sides_are_padded_as_in_pytorch(name):
    assert_stages(loaded(name), MAKER["odd_images"](), REFERENCE[f"{name}odd"])


def same_convolution(x, weight, stride):
    """TensorFlow's "SAME" depthwise convolution of x (C, H, W), by loops; weight (C, 1, K, K)."""
    kernel, (height, width) = weight.shape[2], x.shape[1:]
    rows, columns = -(-height // stride), -(-width // stride)
    y = np.zeros((len(x), rows, columns))
    top = max((rows - 1) * stride + kernel - height, 0) // 2
    left = max((columns - 1) * stride + kernel - width, 0) // 2
    for row in range(rows):
        for column in range(columns):
            for i in range(kernel):
                for j in range(kernel):
                    r, c = row * stride + i - top, column * stride + j - left
                    if 0 <= r < height and 0 <= c < width:
                        y[:, row, column] += x[:, r, c] * weight[:, 0, i, j]
    return y


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("height, width", [(6, 7), (7, 6), (8, 8), (9, 9), (1, 2), (2, 1), (3, 4)])
def test_same_convolution_is_tensorflows(kernel, stride, height, width):
    conv = Conv(4, kernel, stride, 4, groups=4, same=True)
    conv.initialize(mx.init.Normal(1))
    assert conv.set_input_size(height, width)[:2] == (-(-height // stride), -(-width // stride))
    x = np.random.default_rng(0).standard_normal((4, height, width))
    y = conv(nd.array(x[None])).asnumpy()[0]
    np.testing.assert_allclose(y, same_convolution(x, conv.weight.data().asnumpy(), stride), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_pytorchs_convolution_pads_all_sides_alike(stride):
    conv = Conv(3, 5, stride, 3, groups=3)
    conv.initialize(mx.init.Normal(1))
    conv.set_input_size(8, 8)
    x = np.random.default_rng(0).standard_normal((3, 8, 8))
    wide = np.pad(x, ((0, 0), (2, 2), (2, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(wide, (5, 5), axis=(1, 2))[:, ::stride, ::stride]
    expected = (windows * conv.weight.data().asnumpy()[:, :, None]).sum(axis=(3, 4))
    np.testing.assert_allclose(conv(nd.array(x[None])).asnumpy()[0], expected, rtol=1e-4, atol=1e-5)


def test_gradients_pass_the_padded_kernel():
    conv = Conv(2, 3, 2, 2, groups=2, same=True)
    conv.initialize(mx.init.Normal(1))
    conv.set_input_size(6, 6)
    x = np.random.default_rng(0).standard_normal((2, 6, 6)).astype(np.float32)
    with autograd.record():
        total = conv(nd.array(x[None])).sum()
    total.backward()
    gradient = conv.weight.grad().asnumpy()
    for place in np.ndindex(gradient.shape):  # linear in the weights: the change by a unit is the gradient
        unit = np.zeros_like(gradient)
        unit[place] = 1
        assert gradient[place] == pytest.approx(same_convolution(x, unit, 2).sum(), abs=1e-4)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("flags", [{}, {"static_alloc": True, "static_shape": True}])
def test_switching_sizes_makes_no_difference(tmp_path, same, flags):
    net = small(same)
    net.save_parameters(str(tmp_path / "net.params"))
    net.hybridize(**flags)
    for height, width in ((64, 64), (97, 130), (64, 64), (65, 65), (33, 64), (97, 130), (1, 1), (64, 64)):
        x = images(height, width, 2)
        fresh = EfficientNet(Scale(0.25, 0.5, 64, 0.2), 3, lite=True, same=same)
        fresh.load_parameters(str(tmp_path / "net.params"))
        np.testing.assert_allclose(
            net(x).asnumpy(), fresh(x).asnumpy(), rtol=1e-4, atol=1e-5, err_msg=f"{height} {width}"
        )


def test_switching_sizes_in_training_makes_no_difference(tmp_path):
    net, plain = small(), small()
    net.save_parameters(str(tmp_path / "net.params"))
    plain.load_parameters(str(tmp_path / "net.params"))
    net.hybridize(static_alloc=True, static_shape=True)
    for size in (64, 33, 64):
        gradients = []
        for each in (net, plain):
            mx.random.seed(0)
            with autograd.record(train_mode=False):  # without dropout, whose draws differ
                loss = (each(images(size, size, 2)) ** 2).sum()
            loss.backward()
            gradients.append(
                {
                    name: p.grad().asnumpy()
                    for name, p in each._collect_params_with_prefix().items()
                    if p.grad_req != "null"
                }
            )
        for name, gradient in gradients[0].items():
            np.testing.assert_allclose(
                gradient, gradients[1][name], rtol=1e-3, err_msg=name, atol=1e-4 * np.abs(gradient).max() + 1e-7
            )


def test_padding_matters():
    x = images(64, 64)
    net, other = small(True), small(False)
    for mine, its in zip(net.collect_params().values(), other.collect_params().values()):
        its.set_data(mine.data())
    assert np.abs(net(x).asnumpy() - other(x).asnumpy()).max() > 1e-3
    net.set_image_size(63, 63)  # where all sides are odd in TensorFlow's way too, both are the same
    assert [conv.shift for conv in blocks_of(net, Conv) if conv.stride == 2][0] == (0, 0)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 64, 64, 3), (1, 4, 64, 64), (2, 3, 64)])
@pytest.mark.parametrize("hybrid", [True, False])
def test_what_is_no_batch_of_images_is_named(shape, hybrid):
    net = small()
    if hybrid:
        net.hybridize()
    with pytest.raises(ValueError, match=r"Expected colour images of shape \(N, 3, H, W\), got \("):
        net(nd.zeros(shape))


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match="classes of 1 or more, not 0"):
        make_efficientnet("efficientnet_lite0", classes=0)


@pytest.mark.parametrize("size", [64, 97])
def test_a_hybridized_network_is_exported(tmp_path, size):
    net, x = small(), images(size, size)
    net.hybridize()
    expected = net(x).asnumpy()
    net.export(str(tmp_path / "net"))
    again = gluon.SymbolBlock.imports(str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params"))
    np.testing.assert_allclose(again(x).asnumpy(), expected, rtol=1e-5, atol=1e-6)


def test_relu6_has_one_value_in_two_forms():
    x = nd.array([-1, -0.0, 0.5, 6, 6.5, 1e9])
    for form in (True, False):
        np.testing.assert_array_equal(ReLU6(by_clip=form)(x).asnumpy(), np.float32([0, 0, 0.5, 6, 6, 6]))
        x.attach_grad()
        with autograd.record():
            y = ReLU6(by_clip=form)(x)
        y.backward()
        np.testing.assert_array_equal(x.grad.asnumpy()[[0, 2, 4, 5]], [0, 1, 0, 0])


def test_channels_are_rounded_as_in_tensorflow():
    assert [round_channels(c, 1.1) for c in (32, 16, 24, 40, 80, 112, 192, 320, 1280)] == [
        32,
        16,
        24,
        48,
        88,
        120,
        208,
        352,
        1408,
    ]
    assert round_channels(8, 0.1) == 8 and round_channels(24, 0.75) == 24  # 18: 16 would be over a tenth less
