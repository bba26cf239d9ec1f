"""Weights from the Hugging Face hub, which a server on this machine stands for."""

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from d2lcls.cli import main
from d2lcls.machine.files import cache_folder
from d2lcls.models import get_model
from d2lcls.weights import HUB, WeightsError, WeightsUnavailable, find_weights, get_weights, to_torch
from d2lcls.weights.files import convert_weights
from d2lcls.weights.store import weights_folder
from d2lcls.weights.tensors import read_tensors

import numpy as np
import pytest
from hub_files import content_of, images, made
from hub_server import COMMIT

constants = pytest.importorskip("huggingface_hub.constants")
NAME = "resnet18_v1b"
REPOSITORY = HUB[NAME].repository
SITE = str(Path(sys.modules["huggingface_hub"].__file__).parents[1])


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """(network, its file with timm's names as bytes)."""
    net = made(NAME)
    return net, content_of(to_torch(net), tmp_path_factory.mktemp("resnet"))


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
    assert len(line) < 500  # with the path of the cache
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
