"""Weights from the Hugging Face hub: which repository serves which network, and fetching one file with its checksum.

A network is in `HUB` only if PyTorch's network of that repository computes the same. The repositories are timm's;
`*.gluon_in1k` hold GluonCV's own weights of resnet*_v1b to _v1s, which timm converted. Licences and preprocessing are
those of timm 1.0.31 (`timm.models.get_pretrained_cfg`), accuracies those of its table `results/results-imagenet.csv` at
commit aa4b585, in the row with the image size and crop that are given here.

Not in `HUB`, because no network there computes the same:

- resnet50_v1, resnet101_v1, resnet152_v1: the stride of a bottleneck is that of its first convolution, and two of the
  convolutions have a bias. resnet*_v1b are the nearest.
- resnet152_v2: timm has weights only of another kind of that size (BiT, with group normalisation).
- mobilenet*: ReLU instead of timm's ReLU6. mobilenetv2_0.75 and narrower: other numbers of channels than PyTorch's.

Published checksums do not exist. The sha256 of a file is recorded at its first download, and compared from then on.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from d2lcls.data.download.transfer import SourceFailed, file_checksum
from d2lcls.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from d2lcls.machine.files import write_atomically
from d2lcls.machine.progress import display_mode
from d2lcls.weights.tensors import WeightsError, read_metadata

FILE = "model.safetensors"  # never a pickle
REVISION = "main"
NEAREST = {f"resnet{depth}_v1": f"resnet{depth}_v1b" for depth in (50, 101, 152)}


@dataclass(frozen=True)
class HubWeights:
    """A repository whose weights fit a network of this package.

    `published` is the top-1 accuracy, from 0 to 1, on ImageNet's 50,000 validation images with this `preprocess`.
    """

    repository: str
    published: float
    preprocess: Preprocess
    licence: str = "Apache-2.0"

    @property
    def file(self) -> str:
        """Name of the file in the cache."""
        return self.repository.replace("/", "--") + ".safetensors"

    @property
    def record(self) -> str:
        """Name of the file with its checksum, in the form of `sha256sum`."""
        return self.repository.replace("/", "--") + ".sha256"


def _timm(name: str, published: float, resize: int = 256, crop: int = 224, imagenet: bool = True) -> HubWeights:
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if imagenet else ((0.5,) * 3, (0.5,) * 3)
    return HubWeights(f"timm/{name}", published, Preprocess(resize, crop, mean, std, "bicubic"))


HUB = {
    "resnet18_v1": _timm("resnet18.gluon_in1k", 0.70844),
    "resnet34_v1": _timm("resnet34.gluon_in1k", 0.74574),
    "resnet18_v1b": _timm("resnet18.gluon_in1k", 0.70844),
    "resnet34_v1b": _timm("resnet34.gluon_in1k", 0.74574),
    "resnet50_v1b": _timm("resnet50.gluon_in1k", 0.77580),
    "resnet101_v1b": _timm("resnet101.gluon_in1k", 0.79306),
    "resnet152_v1b": _timm("resnet152.gluon_in1k", 0.79712),
    "resnet50_v1c": _timm("resnet50c.gluon_in1k", 0.78016),
    "resnet101_v1c": _timm("resnet101c.gluon_in1k", 0.79542),
    "resnet152_v1c": _timm("resnet152c.gluon_in1k", 0.79904),
    "resnet50_v1d": _timm("resnet50d.gluon_in1k", 0.79080),
    "resnet101_v1d": _timm("resnet101d.gluon_in1k", 0.80466),
    "resnet152_v1d": _timm("resnet152d.gluon_in1k", 0.80476),
    "resnet50_v1s": _timm("resnet50s.gluon_in1k", 0.78710),
    "resnet101_v1s": _timm("resnet101s.gluon_in1k", 0.80278),
    "resnet152_v1s": _timm("resnet152s.gluon_in1k", 0.81048),
    "resnet18_v2": _timm("resnetv2_18.ra4_e3600_r224_in1k", 0.73572, 248, imagenet=False),
    "resnet34_v2": _timm("resnetv2_34.ra4_e3600_r224_in1k", 0.77626, 248, imagenet=False),
    "resnet50_v2": _timm("resnetv2_50.a1h_in1k", 0.80410, 235, imagenet=False),
    "resnet101_v2": _timm("resnetv2_101.a1h_in1k", 0.82042, 235, imagenet=False),
    "mobilenetv2_1.0": _timm("mobilenetv2_100.ra_in1k", 0.72910),
    "efficientnet_b0": _timm("efficientnet_b0.ra4_e3600_r224_in1k", 0.78568, 248, imagenet=False),
    "efficientnet_b1": _timm("efficientnet_b1.ra4_e3600_r240_in1k", 0.80404, 266, 240, imagenet=False),
    "efficientnet_b2": _timm("efficientnet_b2.ra_in1k", 0.79324, 292, 256),
    "efficientnet_b3": _timm("efficientnet_b3.ra2_in1k", 0.81472, 329, 288),
    "tf_efficientnet_b0": _timm("tf_efficientnet_b0.aa_in1k", 0.76882),
    "tf_efficientnet_b1": _timm("tf_efficientnet_b1.aa_in1k", 0.78840, 272, 240),
    "tf_efficientnet_b2": _timm("tf_efficientnet_b2.aa_in1k", 0.80074, 292, 260),
    "tf_efficientnet_b3": _timm("tf_efficientnet_b3.aa_in1k", 0.81648, 331, 300),
    "efficientnet_lite0": _timm("tf_efficientnet_lite0.in1k", 0.74846, imagenet=False),
    "efficientnet_lite1": _timm("tf_efficientnet_lite1.in1k", 0.76674, 272, 240, imagenet=False),
    "efficientnet_lite2": _timm("tf_efficientnet_lite2.in1k", 0.77470, 292, 260, imagenet=False),
}


def fetch_from_hub(name: str, folder: Path, parts: Path) -> Path:
    """Fetch a network's weights through `huggingface_hub`, check them, and copy them into the cache.

    `huggingface_hub` has its own cache, resumption, login and variables (`HF_HOME`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`,
    `HF_TOKEN`); what its cache holds is not downloaded again.

    Args:
        name: a network.
        folder: the folder of the weights, in which the file and its checksum appear.
        parts: a folder on the same disk for the incomplete copy.

    Raises:
        SourceFailed: the hub has no such weights or did not give them, or they are damaged or not those of the first
            download.
        OSError: a cache cannot be written.
    """
    weights = HUB.get(name)
    if weights is None:
        raise SourceFailed(
            f"no network there computes the same as this one; {NEAREST[name]} is the nearest that has weights there"
            if name in NEAREST
            else "no repository is known to fit this network"
        )
    source = _download(weights)
    try:
        read_metadata(source)
        checksum, stored = file_checksum(source, "sha256"), source.resolve()
        # The hub names a large file by its sha256, as `huggingface_hub` does in its cache; it checks the size only.
        if re.fullmatch("[0-9a-f]{64}", stored.name) and stored.name != checksum:
            raise WeightsError(f"{source}: its checksum is not the one that the hub announced.")
    except WeightsError as error:
        for path in (source.resolve(), source):
            path.unlink(missing_ok=True)
        raise SourceFailed(f"{weights.repository} sent a damaged file, which was deleted") from error
    record = folder / weights.record
    if record.exists() and (known := recorded_checksum(folder, weights)) != checksum:
        raise SourceFailed(
            f"{weights.repository} has another file (sha256 {checksum[:12]}...) than at the first download "
            f"({known[:12]}..., in {record}). If its authors say that they replaced it, delete {record}"
        )
    write_atomically(record, f"{checksum}  {weights.file}\n".encode())
    shutil.copyfile(source, parts / weights.file)
    return (parts / weights.file).replace(folder / weights.file)


def recorded_checksum(folder: Path, weights: HubWeights) -> str:
    """Return the sha256 that was recorded at the first download.

    Raises:
        WeightsError: its file is missing or damaged.
    """
    record = folder / weights.record
    content = record.read_text(errors="replace") if record.is_file() else ""
    if not re.fullmatch(f"[0-9a-f]{{64}}  {re.escape(weights.file)}\n", content):
        raise WeightsError(
            f"{record}: {'damaged' if content else 'missing'}, so that {weights.file} cannot be checked. Delete "
            "both, and fetch the weights again."
        )
    return content[:64]


def _download(weights: HubWeights) -> Path:
    """Return the path of the file in the cache of `huggingface_hub`."""
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
        from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    except ModuleNotFoundError as error:
        raise SourceFailed(f'needs {error.name}: pip install "d2lcls[hub]"') from error
    quiet = display_mode() == "off" and not are_progress_bars_disabled()
    repository, host = weights.repository, constants.ENDPOINT
    try:
        if quiet:
            disable_progress_bars()
        return Path(huggingface_hub.hf_hub_download(repository, FILE, revision=REVISION))
    except errors.GatedRepoError as error:
        raise SourceFailed(
            f"{repository} is gated: accept its conditions on {host}/{repository}, then log in with: hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:  # for one that does not exist, the hub answers 401 to strangers
        raise SourceFailed(
            f"{host} has no repository {repository}, or only for some users (HTTP {error.response.status_code}). If "
            "you may see it, log in with: hf auth login"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            raise SourceFailed(
                f"not asked, as HF_HUB_OFFLINE=1, and {repository} is not in {constants.HF_HUB_CACHE}"
            ) from error
        raise SourceFailed(_failure(host, error.__cause__ or error)) from error
    except errors.EntryNotFoundError as error:
        raise SourceFailed(f"{repository} has no {FILE}, and other formats are not read from the hub") from error
    except errors.HTTPError as error:  # also the base of the exceptions of httpx
        raise SourceFailed(_failure(host, error)) from error
    except OSError as error:
        if error.errno is not None:  # of the system, such as a full disk
            raise
        raise SourceFailed(_failure(host, error)) from error
    finally:
        if quiet:
            enable_progress_bars()


def _failure(host: str, error: BaseException) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"{host} answered HTTP {response.status_code}"
    reason = " ".join(str(error).split()).split(". ")[0][:200] or type(error).__name__
    return f"{host} failed ({reason})"
