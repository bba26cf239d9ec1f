"""The manifest of a model folder, so that no later step has to guess.

A model folder holds one form of one model: the files that a runtime needs, and `manifest.json` with the classes, the
preprocessing, the input, the accuracy and where it was measured, the files' checksums and the model it was made from.
"""

import json
import platform
import re
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
MAX_BYTES = 16 << 20
MAX_SIDE = 8192  # of an input, in pixels
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class ModelError(ValueError):
    """A model folder that cannot be used; the message names it, and has the reason and what to do."""


@dataclass(frozen=True)
class Accuracy:
    """A measured accuracy: the share of right answers, on how many images, of which set."""

    top1: float
    images: int
    data: str

    def __post_init__(self) -> None:
        if type(self.images) is not int or not isinstance(self.top1, float | int) or not _is_text(self.data):
            raise ValueError(f"top1, images and data must be two numbers and a line of text, not {_short(self)}.")
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
            raise ValueError(f"form must be one of {', '.join(FORMS)}, not {_short(self.form)}.")
        line = "a line of text of at most 1,000 characters"
        for name, valid, expected in (
            ("name", _is_text(self.name), line),
            ("classes", self.classes and all(map(_is_text, self.classes)), f"one name or more, each {line}"),
            ("input_name", _is_text(self.input_name), line),
            ("batch", self.batch is None or type(self.batch) is int and 1 <= self.batch <= 4096, "1 to 4096 or null"),
            ("dataset", self.dataset is None or _is_text(self.dataset), f"{line} or null"),
            ("files", _is_texts(self.files), "names with checksums"),
            ("versions", _is_texts(self.versions), "names with versions"),
            (
                "made_from",
                isinstance(self.made_from, Mapping | None) and _is_plain(self.made_from, 4),
                "an object or null",
            ),
        ):
            if not valid:
                raise ValueError(f"{name} must be {expected}, not {_short(getattr(self, name))}.")
        if self.preprocess.resize > MAX_SIDE:
            raise ValueError(f"preprocess: resize must be at most {MAX_SIDE}, not {_short(self.preprocess.resize)}.")

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
                    f"{folder}: in form {manifest.form}, the model's logits differ by up to {difference:.2g} of the "
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
        if (folder / FILE).stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES >> 20} MB")
        content = json.loads((folder / FILE).read_text("utf-8"), parse_constant=_no_constant)
        if not isinstance(content, dict) or "manifest" not in content:
            raise ValueError("it is not an object with an entry manifest")
        if content["manifest"] == 1:
            manifest = _manifest(content)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{folder / FILE}: damaged ({error}). Make the model anew.") from error
    if content["manifest"] != 1:
        raise ModelError(
            f"{folder / FILE}: of version {_short(content['manifest'])}; this d2lcls reads version 1. Update d2lcls."
        )
    if manifest.form not in forms:
        raise ModelError(
            f"{folder}: a model of form {manifest.form}; this step takes one of form {' or '.join(forms)}. "
            f"Make one with: d2lcls {_COMMANDS[forms[0]]}"
        )
    for names in _REQUIRED[manifest.form]:
        if manifest.files.keys().isdisjoint(names):
            raise ModelError(
                f"{folder / FILE}: names no {' or '.join(names)}, which a model of form {manifest.form} needs, so "
                "there is no checksum to compare. Make the model anew."
            )
    for name, checksum in manifest.files.items():
        if Path(name).name != name or len(name.encode()) > 255 or (folder / name).is_symlink():
            raise ModelError(
                f"{folder / FILE}: names the file {_short(name)}, which is not in this folder. Make the model anew."
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


def _manifest(content: Mapping[str, Any]) -> Manifest:
    """Return the manifest with these entries; raises a ValueError that names the entry which is not as it should be."""
    known = {entry.name: content[entry.name] for entry in fields(Manifest) if entry.name in content}
    for name, kind in (("name", str), ("form", str), ("classes", list), ("preprocess", dict)):
        if not isinstance(known.get(name), kind):
            raise ValueError(f"{name} must be of type {kind.__name__}, not {_short(known.get(name))}")
    for name in ("mean", "std"):
        value = known["preprocess"].get(name)
        if not isinstance(value, list) or not all(type(n) in (int, float) and abs(n) < 1e9 for n in value):
            raise ValueError(f"preprocess: {name} must be three numbers, not {_short(value)}")
    accuracy = known.get("accuracy")
    return Manifest(
        **{
            **known,
            "classes": tuple(known["classes"]),
            "preprocess": _entry(Preprocess, "preprocess", known["preprocess"]),
            "accuracy": None if accuracy is None else _entry(Accuracy, "accuracy", accuracy),
        }
    )


def _entry(kind: type[Preprocess] | type[Accuracy], name: str, value: Any) -> Any:
    names = [entry.name for entry in fields(kind)]
    if not isinstance(value, dict) or sorted(value) != sorted(names):
        raise ValueError(f"{name} must have the entries {', '.join(names)}, not {_short(value)}")
    try:
        return kind(**value)
    except ValueError as error:
        raise ValueError(f"{name}: {' '.join(str(error).split())[:300]}") from error


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 1000 and not _UNPRINTABLE.search(value)


def _is_texts(value: object) -> bool:
    """Whether a value is a dict of texts."""
    return isinstance(value, Mapping) and all(_is_text(text) for item in value.items() for text in item)


def _is_plain(value: object, depth: int) -> bool:
    """Whether a value is one of JSON's, with at most so many levels of lists and objects."""
    if isinstance(value, Mapping):
        return depth > 0 and all(isinstance(key, str) and _is_plain(item, depth - 1) for key, item in value.items())
    if isinstance(value, list | tuple):
        return depth > 0 and all(_is_plain(item, depth - 1) for item in value)
    return value is None or isinstance(value, str | int | float)


def _short(value: object) -> str:
    """Return a value in one line of bounded length; large ones are cut."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # whole numbers of thousands of digits, or deep nesting
        text = type(value).__name__
    return text if len(text) <= 80 else f"{text[:80]}..."


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
