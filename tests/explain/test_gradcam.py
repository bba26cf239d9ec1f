from d2lcls.explain import grad_cam, overlay
from d2lcls.models import SmallCNN, get_model

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

X = np.random.default_rng(0).normal(size=(3, 3, 16, 16)).astype(np.float32)


def make(net, x=X):
    """Initialise a network and give its normalisation statistics that differ from the batch's."""
    mx.random.seed(0)
    net.initialize(mx.init.Xavier())
    net(nd.array(x))
    rng = np.random.default_rng(1)
    for name, parameter in net.collect_params().items():
        if name.endswith(("running_mean", "beta")):
            parameter.set_data(nd.array(rng.normal(0, 0.3, parameter.shape)))
        if name.endswith(("running_var", "gamma")) and not name.startswith("cifarresnetv2"):
            parameter.set_data(nd.array(rng.uniform(0.5, 1.5, parameter.shape)))
    return net


def small():
    return make(SmallCNN(classes=4, widths=(5, 6)))


def by_finite_differences(net, at, classes, x=X, step=1e-3):
    """Grad-CAM at the resolution of the maps; raising a whole map by a step gives its gradient's sum.

    A larger step meets more of the kinks of ReLU and pooling, a smaller one drowns in float32's rounding.
    """
    blocks = list(net.features)

    def rest(maps):
        maps = nd.array(maps)
        for block in blocks[at + 1 :]:
            maps = block(maps)
        return net.output(maps).asnumpy().astype(np.float64)

    maps = nd.array(x)
    for block in blocks[: at + 1]:
        maps = block(maps)
    maps, images = maps.asnumpy(), np.arange(len(x))
    cam = np.zeros((len(x), *maps.shape[2:]))
    for channel in range(maps.shape[1]):
        change = np.zeros_like(maps)
        change[:, channel] = step
        slope = (rest(maps + change) - rest(maps - change))[images, classes] / (2 * step)
        cam += (slope / maps[0, 0].size)[:, None, None] * maps[:, channel]
    return np.maximum(cam, 0)


def enlarge(cam):
    """Twice the size, bilinear: 3/4 of the nearer pixel, 1/4 of the one beyond."""
    for _ in range(2):
        padded = np.pad(cam, ((1, 1), (0, 0)), mode="edge")
        rows = np.stack([0.25 * padded[:-2] + 0.75 * padded[1:-1], 0.75 * padded[1:-1] + 0.25 * padded[2:]], axis=1)
        cam = rows.reshape(2 * len(cam), -1).T
    return cam


@pytest.mark.parametrize("at", [0, 1, 3, 6])  # before and after pooling, after ReLU, the last
def test_weights_are_the_mean_gradients(at):
    net, classes = small(), np.array([0, 3, 2])
    maps = grad_cam(net, X, net.features[at], classes)
    coarse = by_finite_differences(net, at, classes)
    for found, cam in zip(maps, coarse):
        expected = cam if cam.shape == (16, 16) else enlarge(cam)
        np.testing.assert_allclose(found, expected / (expected.max() or 1), atol=3e-3)
    assert (coarse.max(axis=(1, 2)) > 0).any()


def test_closed_form_of_a_linear_head():
    net = small()
    maps = net.features[:-1](nd.array(X)).asnumpy()
    cam = np.maximum(np.einsum("c,nchw->nhw", net.output.weight.data().asnumpy()[1], maps), 0)
    found = grad_cam(net, X, classes=[1, 1, 1])
    assert found.shape == (3, 16, 16) and found.dtype == np.float32
    for image in range(3):
        expected = enlarge(cam[image])
        np.testing.assert_allclose(found[image], expected / expected.max(), atol=1e-4)


def test_each_image_is_explained_by_itself_and_for_its_predicted_class():
    net = small()
    maps = grad_cam(net, nd.array(X))
    predicted = net(nd.array(X)).asnumpy().argmax(axis=1)
    np.testing.assert_array_equal(grad_cam(net, X, classes=predicted), maps)
    for image in range(3):
        np.testing.assert_allclose(grad_cam(net, X[image : image + 1])[0], maps[image], atol=1e-4)


def test_the_bright_half_speaks_for_the_class_that_looks_for_brightness():
    net = make(SmallCNN(classes=2, widths=(1,)), X)
    net.features[0].weight.set_data(nd.ones((1, 3, 3, 3)) / 27)
    net.output.weight.set_data(nd.array([[1], [-1]]))
    x = np.zeros((1, 3, 12, 20), np.float32)
    x[:, :, :, 10:] = 5
    bright, dark = grad_cam(net, np.repeat(x, 2, axis=0), classes=[0, 1])
    assert bright.shape == (12, 20) and bright[:, 11:].min() > 2 * bright[:, :9].max()
    assert (dark == 0).all()  # nothing speaks for the other


def state(net):
    parameters = net.collect_params()
    values = {name: p.data().asnumpy() for name, p in parameters.items()}
    gradients = {name: p.grad().asnumpy() for name, p in parameters.items() if p.grad_req != "null"}
    fresh = {name: p.data()._fresh_grad for name, p in parameters.items()}
    return values, gradients, fresh, {name: p.grad_req for name, p in parameters.items()}


def flags(net):
    found = []
    net.apply(
        lambda b: found.append(
            (b.name, getattr(b, "_active", None), getattr(b, "_rate", None), str(getattr(b, "_kwargs", None)))
        )
    )
    return found


class WithDropout(gluon.HybridBlock):
    """Dropout in the features, and one normalisation that stands there twice."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.features = nn.HybridSequential()
            norm = nn.BatchNorm(in_channels=4)
            self.features.add(nn.Conv2D(4, 3), norm, nn.Activation("relu"), norm, nn.Dropout(0.5), nn.Flatten())
            self.output = nn.Dense(4)

    def hybrid_forward(self, F, x):
        return self.output(self.features(x))


@pytest.mark.parametrize("name", ["cnn", "cifar_resnet20_v2", "dropout"])
@pytest.mark.parametrize("hybrid", [False, True])
def test_the_network_is_left_as_it_was(name, hybrid):
    net = make(WithDropout() if name == "dropout" else get_model(name, classes=4))
    if hybrid:
        net.hybridize(static_alloc=True, static_shape=True)
    with autograd.record():
        loss = net(nd.array(X)).sum()
    loss.backward()
    answer, before, set_before = net(nd.array(X)).asnumpy(), state(net), flags(net)
    maps = grad_cam(net, X, net.features[0])
    np.testing.assert_array_equal(grad_cam(net, X, net.features[0]), maps)  # no dropout at work
    after = state(net)
    for old, new in zip(before[:2], after[:2]):
        assert old.keys() == new.keys()
        for key in old:
            np.testing.assert_array_equal(new[key], old[key], err_msg=key)
    assert after[2:] == before[2:] and flags(net) == set_before
    np.testing.assert_array_equal(net(nd.array(X)).asnumpy(), answer)


def test_hybridized_or_frozen_makes_no_difference():
    net = small()
    maps = grad_cam(net, X, net.features[0])
    net.collect_params().setattr("grad_req", "null")
    np.testing.assert_array_equal(grad_cam(net, X, net.features[0]), maps)
    net.hybridize()
    np.testing.assert_array_equal(grad_cam(net, X, net.features[0]), maps)


def test_compiled_blocks_are_neither_used_nor_made():
    net, other = make(WithDropout()), make(WithDropout())
    maps = grad_cam(net, X, net.features[0])
    other.hybridize()
    grad_cam(other, X, other.features[0])
    statistics = other.features[1].running_mean.data().asnumpy()
    hidden = other.features[0](nd.array(X))
    with autograd.record():  # now as in training: batch statistics, and dropout
        for block in list(other.features)[1:]:
            hidden = block(hidden)
    hidden.backward()  # MXNet's CPU kernels update the running statistics here
    assert (hidden.asnumpy() == 0).mean() > 0.4  # half by dropout
    assert (other.features[1].running_mean.data().asnumpy() != statistics).all()
    for p, q in zip(net.collect_params().values(), other.collect_params().values()):
        q.set_data(p.data())
    np.testing.assert_array_equal(grad_cam(other, X, other.features[0]), maps)


def test_settings_come_back_after_an_error():
    net = small()
    net.hybridize()
    before = flags(net)
    with pytest.raises(ValueError, match=r"layer must return maps \(N, C, h, w\); .* returns \(3, 6\)"):
        grad_cam(net, X, net.features[-1])
    assert flags(net) == before


@pytest.mark.parametrize("name, size", [("cifar_resnet20_v1", 32), ("mobilenetv2_1.0", 64), ("vgg11_bn", 32)])
def test_networks_of_gluoncv(name, size):
    x = np.random.default_rng(2).normal(size=(2, 3, size, size)).astype(np.float32)
    net = make(get_model(name, classes=3), x)
    maps = np.concatenate([grad_cam(net, x, classes=[c, c]) for c in range(3)])
    assert maps.shape == (6, size, size) and maps.min() >= 0 and maps.max() == 1
    assert (maps.std(axis=(1, 2)) > 0.001).any()  # not the 1 x 1 maps of a global pooling


def test_a_stage_and_its_last_block_are_one_place():
    x = np.random.default_rng(2).normal(size=(2, 3, 32, 32)).astype(np.float32)
    net = make(get_model("cifar_resnet20_v1", classes=3), x)
    stage = net.features[3]
    np.testing.assert_array_equal(grad_cam(net, x, stage), grad_cam(net, x, stage[len(stage) - 1]))
    assert not np.allclose(grad_cam(net, x, stage), grad_cam(net, x, stage[0]), atol=0.05)


class Detour(WithDropout):
    """Does more than output(features(x))."""

    def hybrid_forward(self, F, x):
        return self.output(self.features(x)) * 2


class Noise(gluon.HybridBlock):
    """Draws random numbers in training, in a way nobody can switch off from outside."""

    def hybrid_forward(self, F, x):
        return F.Dropout(x, p=0.5)


def noisy():
    net = WithDropout()
    net.features.add(Noise())
    return net


@pytest.mark.parametrize("build", [Detour, noisy])
def test_what_cannot_be_followed_is_refused(build):
    with pytest.raises(ValueError, match="as Grad-CAM needs"):
        grad_cam(make(build()), X)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": X[0]}, r"x must be .* \(N, C, H, W\), not float32 of shape \(3, 16, 16\)"),
        ({"x": X[:0]}, "one image or more"),
        ({"x": np.zeros((1, 16, 16, 3), np.uint8)}, r"not uint8 .*`Batches.normalise`"),
        ({"x": X.transpose(0, 2, 3, 1)}, r"images of shape \(N, 3, H, W\)"),
        ({"x": np.where(X > 2, np.nan, X)}, "finite numbers only"),
        ({"classes": [0, 1]}, r"classes must have shape \(3,\), one per image, not \(2,\)"),
        ({"classes": 1}, r"classes must have shape \(3,\)"),
        ({"classes": [0, 1, 4]}, r"from 0 to 3, not \[0, 1, 4\]"),
        ({"classes": [0, 1, 0.5]}, "whole numbers"),
        ({"layer": nn.Dense(2)}, "layer must be a block that net.features runs, or None, not 'dense"),
        ({"layer": 3}, "layer must be a block that net.features runs, or None, not 3"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        grad_cam(small(), **{"x": X, **change})


def test_a_diverged_network_is_named():
    net = small()
    net.output.bias.set_data(nd.array([0, np.nan, 0, 0]))
    with pytest.raises(ValueError, match="logits are not finite numbers. Check its parameters"):
        grad_cam(net, X)


def test_images_too_small_for_maps_are_named():
    net = get_model("mobilenetv2_1.0", classes=2)
    x = np.ones((1, 3, 2, 2), np.float32)
    with pytest.raises(ValueError, match="No layer of net.features returns maps larger than 1 x 1"):
        grad_cam(make(net, x), x)


def test_other_networks_are_refused():
    dense = nn.HybridSequential()
    dense.add(nn.Dense(2))
    for net in (dense, get_model("resnet18_v1b")):
        with pytest.raises(ValueError, match="needs a network with net.features, a HybridSequential, and net.output"):
            grad_cam(net, X)


def grey(image):
    return image @ np.array([0.299, 0.587, 0.114])


def test_overlay_grows_lighter_with_the_map_in_grey_too():
    cam = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (4, 1))
    laid = overlay(np.full((4, 64, 3), 90, np.uint8), cam)
    assert laid.shape == (4, 64, 3) and laid.dtype == np.uint8
    light = grey(laid)[0]
    assert np.diff(light).min() > -1.5 and light[-1] - light[0] > 100  # 1.5 of 255: rounding


def test_overlay_keeps_the_picture_visible_and_colours_in_rgb():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4] = 200
    laid = overlay(image, np.full((8, 8), 0.6, np.float32))
    assert grey(laid)[:4].min() - grey(laid)[4:].max() > 60
    assert (laid[..., 0] > laid[..., 2]).all()  # the middle of the scale is red, not blue
    np.testing.assert_array_equal(overlay(image[:, :, :1], np.full((8, 8), 0.6)), laid)


@pytest.mark.parametrize(
    "image, cam, message",
    [
        (np.zeros((4, 4, 3)), np.zeros((4, 4)), r"uint8 of shape \(H, W, 3\) or \(H, W, 1\), not float64"),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4)), r"not uint8 \(4, 4\)"),
        (np.zeros((4, 6, 3), np.uint8), np.zeros((6, 4)), r"height and width, \(4, 6\), not \(6, 4\)"),
        (np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 2), "between 0 and 1; it lies between 2 and 2"),
        (np.zeros((4, 4, 3), np.uint8), np.full((4, 4), np.nan), "between 0 and 1"),
    ],
)
def test_overlay_names_what_does_not_fit(image, cam, message):
    with pytest.raises(ValueError, match=message):
        overlay(image, cam)
