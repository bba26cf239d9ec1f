"""The manifest of a model folder, so that no later step has to guess.

A model folder holds one form of one model: the files that a runtime needs, and `manifest.json` with the classes, the
preprocessing, the input, the accuracy and where it was measured, the files' checksums and the model it was made from.
"""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from d2lcls.data.download.transfer import file_checksum
from d2lcls.data.preprocess import Preprocess
from d2lcls.machine.files import new_folder, write_atomically

import numpy as np

FILE = "manifest.json"
# Each form, and the command that makes it; in the order in which forms are shown.
_COMMANDS = {
    "mxnet": "export",
    "mxnet-int8": "quantize",
    "onnx": "onnx",
    "onnx-int8": "quantize",
    "tvm": "compile",
    "torch": "torch",
}
FORMS = tuple(_COMMANDS)
# The files that a form needs: one name of each group.
_REQUIRED = {
    "mxnet": (("model-symbol.json",), ("model-0000.params",)),
    "mxnet-int8": (("model-symbol.json",), ("model-0000.params",)),
    "onnx": (("model.onnx",),),
    "onnx-int8": (("model.onnx",),),
    "tvm": (("model.so", "classify"),),
    "torch": (("model.py",), ("weights.safetensors",), ("check.py",)),
}
NATIVE = ("tvm",)  # forms that are machine code, which runs with all rights of its user


class ModelError(ValueError):
    """A model folder that cannot be used; the message names it, and has the reason and what to do."""


@dataclass(frozen=True)
class Accuracy:
    """A measured accuracy: the share of right answers, on how many images, of which set."""

    top1: float
    images: int
    data: str

    def __post_init__(self) -> None:
        if not 0 <= self.top1 <= 1 or self.images < 1:
            raise ValueError(
                f"top1 must be a share from 0 to 1 on one image or more, not {self.top1} on {self.images}."
            )


@dataclass(frozen=True)
class Manifest:
    """What is in a model folder.

    Args:
        name: of the network, such as "cnn".
        form: one of `FORMS`: which program computes it.
        classes: names in the order of the logits.
        preprocess: from a picture to the input.
        input_name: name of the graph's input, float32 of shape (N, 3, crop, crop) with any N.
        batch: N where it is fixed, None where it is free.
        dataset: name or folder of the images it was trained on, None if unknown.
        accuracy: of this form, None if not measured.
        files: from the names of the folder's other files to their sha256.
        made_from: form, files and accuracy of the model this one was made from, and how; None for the first.
        versions: from packages to versions.
    """

    name: str
    form: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    input_name: str = "data"
    batch: int | None = None
    dataset: str | None = None
    accuracy: Accuracy | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    made_from: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, not {self.form!r}.")
        if not self.classes or not all(isinstance(name, str) for name in self.classes):
            raise ValueError(f"classes must be one text or more, not {self.classes!r}.")

    def needs_vnni(self) -> bool:
        """Whether this is an int8 model that may answer differently on an x86 processor without VNNI.

        Models made before there was a choice use all eight bits, and their manifests do not mention it.
        """
        return self.form.endswith("int8") and (self.made_from or {}).get("vnni", True)

    def input_shape(self, batch_size: int = 1) -> tuple[int, int, int, int]:
        """Return the shape of an input of so many pictures."""
        return batch_size, 3, self.preprocess.crop, self.preprocess.crop


def write_manifest(folder: str | Path, manifest: Manifest, packages: Sequence[str] = ()) -> Manifest:
    """Write a folder's manifest, last of all its files: a folder without one is not a model yet.

    Args:
        folder: where the model's files are already.
        manifest: its `files` and `versions` are filled in here.
        packages: distributions whose versions matter, such as "mxnet".

    Returns:
        The manifest as it was written.
    """
    folder = Path(folder)
    files = {
        path.name: file_checksum(path, "sha256")
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != FILE
    }
    versions = {"python": platform.python_version(), **{name: metadata.version(name) for name in ("d2lcls", *packages)}}
    content = {**asdict(manifest), "files": files, "versions": versions}
    text = json.dumps({"manifest": 1, **content}, indent=1, allow_nan=False)
    write_atomically(folder / FILE, text.encode() + b"\n")
    return read_manifest(folder)


def write_model(
    folder: str | Path,
    manifest: Manifest,
    packages: Sequence[str],
    write: Callable[[Path], object],
    compute: Callable[[Path], np.ndarray] | None = None,
    expected: np.ndarray | None = None,
    tolerance: float = 1e-4,
    advice: str = "Please report the network's name.",
) -> tuple[Manifest, float]:
    """Make a model folder: write its files, compare its logits with those of its source, and write its manifest.

    If one of these fails, nothing is left of the folder.

    Args:
        folder: a new or empty folder.
        manifest, packages: as for `write_manifest`; the difference is added to `made_from`.
        write: called with the folder's path to write the files.
        compute: called with the folder's path to return logits (N, K) from the files; None compares nothing.
        expected: the logits (N, K) of the source for the same inputs.
        tolerance: largest allowed difference of a logit, as a share of the largest expected one.
        advice: end of the message if it is exceeded.

    Returns:
        (the manifest as it was written, largest difference as that share; NaN where nothing was compared).

    Raises:
        ValueError, OSError: as `new_folder`.
        ModelError: the logits differ by more than the tolerance.
    """
    with new_folder(folder) as path:
        write(path)
        difference = float("nan")
        if compute is not None and expected is not None:
            largest = np.abs(expected).max() or 1
            difference = float(np.abs(compute(path) - expected).max() / largest)
            if not difference <= tolerance:
                raise ModelError(
                    f"{path}: in form {manifest.form}, the model's logits differ by up to {difference:.2g} of the "
                    f"largest, more than {tolerance:g}. {advice}"
                )
            if manifest.made_from is not None:
                manifest = replace(manifest, made_from={**manifest.made_from, "largest_difference": difference})
        return write_manifest(path, manifest, packages), difference


def read_manifest(folder: str | Path, verify: bool = True, forms: Sequence[str] = FORMS) -> Manifest:
    """Return the manifest of a model folder.

    Args:
        folder: the folder.
        verify: compare the files' checksums.
        forms: those that the caller can use.

    Raises:
        FileNotFoundError: there is no such folder, or no manifest in it.
        ModelError: the model has another form; the manifest is damaged or of a later version, or does not name the
            files of its form; or a file is missing, elsewhere or not the one that was written.
    """
    folder = Path(folder)
    if not (folder / FILE).is_file():
        raise FileNotFoundError(
            f"{folder}: holds no {FILE}, so it is no model folder. Make one of a trained run with: d2lcls export RUN"
        )
    try:
        content = json.loads((folder / FILE).read_text("utf-8"), parse_constant=_no_constant)
        version = content.pop("manifest")
        if version != 1:
            raise ModelError(f"{folder / FILE}: of version {version}; this d2lcls reads version 1. Update d2lcls.")
        known = {entry.name for entry in fields(Manifest)}
        accuracy = content.get("accuracy")
        manifest = Manifest(
            **{
                **{key: content[key] for key in content if key in known},
                "classes": tuple(content["classes"]),
                "preprocess": Preprocess(**content["preprocess"]),
                "accuracy": accuracy and Accuracy(**accuracy),
            }
        )
        files = {str(name): str(checksum) for name, checksum in manifest.files.items()}
    except ModelError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError(f"{folder / FILE}: damaged ({error!r}). Make the model anew.") from error
    if manifest.form not in forms:
        raise ModelError(
            f"{folder}: a model of form {manifest.form}; this step takes one of form {' or '.join(forms)}. "
            f"Make one with: d2lcls {_COMMANDS[forms[0]]}"
        )
    for names in _REQUIRED[manifest.form]:
        if files.keys().isdisjoint(names):
            raise ModelError(
                f"{folder / FILE}: names no {' or '.join(names)}, which a model of form {manifest.form} needs, so "
                "there is no checksum to compare. Make the model anew."
            )
    for name, checksum in files.items():
        if Path(name).name != name or (folder / name).is_symlink():
            raise ModelError(
                f"{folder / FILE}: names the file {name!r}, which is not in this folder. Make the model anew."
            )
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: {name} is missing. Copy the whole folder, or make the model anew.")
        if verify and file_checksum(folder / name, "sha256") != checksum:
            raise ModelError(
                f"{folder / name}: not the file that was written with the model (its sha256 differs). "
                "Copy the folder again, or make the model anew."
            )
    return manifest


def derive(manifest: Manifest, form: str, batch: int | None = None, **how: object) -> Manifest:
    """Return the manifest of a model in another form made from this one; `how` is added to `made_from`."""
    made_from = {
        "form": manifest.form,
        "files": dict(manifest.files),
        "accuracy": manifest.accuracy and asdict(manifest.accuracy),
        **how,
    }
    return replace(manifest, form=form, batch=batch, accuracy=None, made_from=made_from)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
