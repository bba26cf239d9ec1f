"""`d2lcls evaluate --dataset imagenet`, on a miniature tree."""

import csv
import json

from d2lcls.data.download.sample import read_sample
from d2lcls.models import get_model, preprocessing
from d2lcls.weights.files import convert_weights

import mxnet as mx
import numpy as np
import pytest
from PIL import Image
from test_cli import call, fails, nothing_outside  # noqa: F401  the fixture holds for this file too

NAME = "mobilenet0.25"
WNIDS = {"n01440764": 0, "n01443537": 1, "n15075141": 999}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three classes with two pictures each, in the validation folder of an ImageNet tree."""
    root, (images, _) = tmp_path_factory.mktemp("imagenet"), read_sample("test", (28, 28, 3))
    for k, wnid in enumerate(WNIDS):
        (root / "val" / wnid).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(images[2 * k + i]).resize((60, 50 + 9 * i)).save(root / "val" / wnid / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def net(root):
    """A network whose logits differ from picture to picture, with a liking for tench."""
    mx.random.seed(0)
    net = get_model(NAME, classes=1000)
    net.initialize(mx.init.MSRAPrelu("in", slope=0))
    logits = net(mx.nd.array(preprocessing(NAME)(sorted(root.glob("val/*/*")))))
    net.output.bias.data()[0] = float((logits.max(axis=1) - logits[:, 0]).max().asscalar())
    return net


@pytest.fixture(scope="module", params=[".params", ".safetensors"])
def weights(request, net, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.params"
    net.save_parameters(str(path))
    if request.param == ".safetensors":
        convert_weights(path, net, path := path.with_suffix(".safetensors"))
    return path


def test_a_network_is_scored_as_its_preprocessing_wants_it(capsys, root, net, weights, tmp_path):
    arguments = ["evaluate", "--dataset", "imagenet", "--root", root, "--model", NAME, "--weights", weights]
    code, out, err = call(capsys, *arguments, "--json", "--per-class", tmp_path / "classes.csv")
    assert code == 0 and err == ""
    logits = net(mx.nd.array(preprocessing(NAME)(sorted(root.glob("val/*/*"))))).log_softmax().asnumpy()
    labels = np.repeat(list(WNIDS.values()), 2)
    score = json.loads(out)
    assert score["split"] == "val" and score["images"] == 6
    assert score["loss"] == pytest.approx(-logits[np.arange(6), labels].mean(), rel=1e-4)
    assert logits.std(axis=0).max() > 0.05 and 0 < score["accuracy"] < 1
    assert score["accuracy"] == pytest.approx((logits.argmax(axis=1) == labels).mean())
    with open(tmp_path / "classes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["class"], row["images"]) for row in rows] == [
        ("0", "tench", "2"),
        ("1", "goldfish", "2"),
        ("999", "toilet tissue", "2"),
    ]
    out = call(capsys, *arguments)[1]
    assert out.startswith("val: loss ") and "on 6 images" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--dataset", "imagenet"],
        ["--dataset", "imagenet", "--root", "x"],
        ["--root", "x", "--model", NAME],
        ["some/run", "--dataset", "imagenet", "--root", "x", "--model", NAME],
        ["some/run", "--weights", "x"],
    ],
)
def test_half_a_command_shows_the_whole_one(capsys, arguments):
    code, _, err = call(capsys, "evaluate", *arguments)
    assert code == 2 and "--dataset imagenet --root DIR --model NAME" in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--root", "nowhere", "--model", NAME], "nowhere: no such file or folder. Expected nowhere/val/n01440764"),
        (["--root", "ROOT", "--model", "efficientnet_lite9"], "No image classifier is called 'efficientnet_lite9'"),
        (["--root", "ROOT", "--model", NAME, "--weights", "nowhere.params"], "nowhere.params: no such file of weights"),
        (["--root", "ROOT", "--model", "resnet18_v1b", "--weights", "WEIGHTS"], "does not fit"),
        (["--root", "ROOT", "--model", "cnn"], "pretrained weights of cnn could not be fetched"),
    ],
)
def test_what_cannot_be_scored_is_one_readable_line(capsys, root, weights, arguments, message):
    places = {"ROOT": root, "WEIGHTS": weights}
    line = fails(capsys, "evaluate", "--dataset", "imagenet", *[places.get(text, text) for text in arguments])
    assert message in line
