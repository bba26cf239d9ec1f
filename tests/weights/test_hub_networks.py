"""The networks that weights from the Hugging Face hub are for."""

import json
import os
import subprocess
from pathlib import Path

from d2lcls.cli import main
from d2lcls.data.formats.imagenet import imagenet_classes
from d2lcls.models import get_model, list_models, preprocessing
from d2lcls.weights import HUB, WeightsUnavailable, get_weights, to_torch
from d2lcls.weights.convert import get_values
from d2lcls.weights.files import convert_weights, load_weights
from d2lcls.weights.names import dialects_of
from d2lcls.weights.store import weights_folder

import mxnet as mx
import numpy as np
import pytest
from hub_files import content_of, images, made, made_like_timms
from mxnet import autograd, gluon
from PIL import Image

TORCH = os.environ.get("D2LCLS_TORCH_PYTHON")
TIMM = (
    bool(TORCH)
    and subprocess.run([TORCH, "-c", "import timm, safetensors.torch"], stderr=subprocess.DEVNULL).returncode == 0
)


def test_every_network_of_the_table_exists_and_has_a_known_family():
    assert set(HUB) <= set(list_models())
    for name in HUB:
        assert "timm" in dialects_of(get_model(name))


def test_the_preprocessing_is_that_of_the_weights_that_are_here(hub, tmp_path):
    name, before = "resnet18_v2", preprocessing("resnet18_v2")
    assert (before.resize, before.mean[0], before.interpolation) == (256, 0.485, "bilinear")  # GluonCV's comes first
    net, hub.files[HUB[name].repository] = made_like_timms(name, tmp_path)
    get_model(name, pretrained=True)
    after = preprocessing(name)
    assert (after.resize, after.crop, after.mean[0], after.interpolation) == (248, 224, 0.5, "bicubic")
    assert preprocessing(name, tmp_path / "mine.params") == before
    weights_folder().joinpath(f"{name}.safetensors").write_bytes(b"imported by the user, and preferred")
    assert preprocessing(name) == before
    assert preprocessing("efficientnet_b1").crop == 240  # no other source has it
    assert preprocessing("efficientnet_b2").crop == 256


@pytest.mark.parametrize("name", ["resnet18_v2", pytest.param("resnet50_v2", marks=pytest.mark.slow)])
def test_timms_preactivation_networks_have_the_same_logits_in_gluons(hub, name, tmp_path):
    logits, hub.files[HUB[name].repository] = made_like_timms(name, tmp_path)
    net = get_model(name, pretrained=True)
    extreme = mx.nd.array(np.random.default_rng(3).choice([-2.64, 2.64], (2, 3, 96, 96)))
    for batch in (images(96), extreme):
        expected = logits(batch)
        assert np.abs(expected[0] - expected[1]).max() > 1e-2 * np.abs(expected).max()
        np.testing.assert_allclose(net(batch).asnumpy(), expected, atol=1e-4 * np.abs(expected).max())


def test_the_first_line_of_the_tutorials_gives_a_network_that_learns_ten_classes(hub, tmp_path):
    _, hub.files[HUB["resnet18_v2"].repository] = made_like_timms("resnet18_v2", tmp_path)
    net = get_model("resnet18_v2", pretrained=True, classes=10)
    batch, labels = images(count=8), mx.nd.arange(8)
    loss, losses = gluon.loss.SoftmaxCrossEntropyLoss(), []
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.01, "momentum": 0.9})
    for _ in range(8):
        with autograd.record():
            value = loss(net(batch), labels)
        value.backward()
        trainer.step(8)
        losses.append(value.mean().asscalar())
    assert net(batch).shape == (8, 10) and losses[-1] < 0.5 * losses[0]


def test_resnet50_v1_is_not_replaced_by_another_network_which_is_named(hub):
    line = "hub: no network there computes the same as this one; resnet50_v1b is the nearest that has weights there\n"
    with pytest.raises(WeightsUnavailable, match=line):
        get_model("ResNet50_v1", pretrained=True)
    assert hub.log == []


def test_the_five_best_names_of_a_photograph(hub, tmp_path):
    skimage = pytest.importorskip("skimage")
    cats = ["tabby", "tiger cat", "Egyptian cat", "Persian cat", "lynx"]
    names = list(imagenet_classes()[1])
    net = made("resnet50_v1b")
    state = to_torch(net)
    state["fc.weight"] *= 1e-6
    for place, cat in enumerate(cats):  # a network that knows cats only
        state["fc.bias"][names.index(cat)] = 30 - place
    hub.files[HUB["resnet50_v1b"].repository] = content_of(state, tmp_path)
    net = get_model("ResNet50_v1b", pretrained=True)
    batch = preprocessing("ResNet50_v1b")([Path(skimage.__file__).parent / "data" / "chelsea.png"])
    best = net(mx.nd.array(batch)).asnumpy()[0].argsort()[::-1][:5]
    assert batch.shape == (1, 3, 224, 224) and [names[k] for k in best] == cats


def test_mobilenet_v2_gets_the_bias_of_pytorchs_last_layer_and_keeps_it(hub, tmp_path):
    name = "mobilenetv2_1.0"
    net = made(name)
    state = to_torch(net)
    state["classifier.bias"] = np.arange(1000, dtype=np.float32) / 1000
    hub.files[HUB[name].repository] = content_of(state, tmp_path)
    fetched = get_model(name, pretrained=True)
    expected = net(images()).asnumpy() + state["classifier.bias"]
    np.testing.assert_allclose(fetched(images()).asnumpy(), expected, atol=1e-4 * np.abs(expected).max())
    fetched.save_parameters(str(tmp_path / "net.params"))
    convert_weights(get_weights(name), get_initialised(name), tmp_path / "net.safetensors")
    for file in ("net.params", "net.safetensors"):
        again = get_initialised(name)
        again.hybridize()
        again(images())
        load_weights(again, tmp_path / file)
        np.testing.assert_array_equal(again(images()).asnumpy(), fetched(images()).asnumpy())
    ten = get_model(name, classes=10, pretrained=True)
    assert get_values(ten).keys() == get_values(net).keys()  # as a network made without weights, for a checkpoint


@pytest.mark.parametrize("name, mean", [("resnet18_v2", 0.5), ("mobilenetv2_1.0", 0.485)])
def test_training_normalises_as_the_weights_expect_and_can_be_resumed(hub, name, mean, tmp_path, capsys):
    if name == "resnet18_v2":
        content = made_like_timms(name, tmp_path)[1]
    else:
        content = content_of({**to_torch(made(name)), "classifier.bias": np.ones(1000, np.float32)}, tmp_path)
    hub.files[HUB[name].repository] = content
    rng = np.random.default_rng(0)
    for place in ("train/a", "train/b", "test/a", "test/b"):
        folder = tmp_path / "photos" / place
        folder.mkdir(parents=True)
        for number in range(8):
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{number}.png")
    options = ["--dataset", tmp_path / "photos", "--model", name, "--pretrained", "--size", 32, "--batch-size", 4]
    options += ["--train-last", 1, "--augment", "none", "--validation", 0, "--out", tmp_path / "run"]
    command = ["train", *map(str, options)]
    assert main([*command, "--epochs", "1"]) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["mean"][0] == mean
    assert main([*command, "--epochs", "1", "--resume"]) == 0


def get_initialised(name):
    net = get_model(name, classes=1000)
    net.initialize()
    return net


@pytest.mark.skipif(not TIMM, reason="D2LCLS_TORCH_PYTHON names no Python with torch, timm and safetensors")
@pytest.mark.parametrize("name", HUB)
def test_logits_are_those_of_the_repositorys_network_in_pytorch(hub, name, tmp_path):
    repository = HUB[name].repository
    architecture = repository.removeprefix("timm/").partition(".")[0]
    program = Path(__file__).with_name("hub_torch.py")
    subprocess.run([TORCH, program, architecture, "95", tmp_path], check=True, capture_output=True)
    hub.files[repository] = (tmp_path / "model.safetensors").read_bytes()
    net = get_model(name, pretrained=True)
    with np.load(tmp_path / "batch.npz") as batch:
        expected = batch["logits"]
        assert np.abs(expected[0] - expected[1]).max() > 0.1 * np.abs(expected).max()
        logits = net(mx.nd.array(batch["images"])).asnumpy()
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
