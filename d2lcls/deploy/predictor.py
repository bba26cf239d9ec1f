"""One interface to a model, whatever form it has: a picture in, its likeliest classes out."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from d2lcls.deploy.manifest import NATIVE, Manifest, ModelError, read_manifest
from d2lcls.explain.scores import softmax
from d2lcls.machine.cores import int8_saturates

import numpy as np

Compute = Callable[[np.ndarray], np.ndarray]
Source = str | Path | bytes | np.ndarray


@dataclass(frozen=True)
class Predictor:
    """A loaded model.

    Args:
        manifest: of its folder.
        compute: function from float32 (N, 3, H, W) to logits, float32 (N, K).
    """

    manifest: Manifest
    compute: Compute

    def logits(self, sources: Sequence[Source]) -> np.ndarray:
        """Return the logits float32 (N, K) of pictures: paths, encoded bytes, or uint8 arrays (H, W, 3)."""
        return self.compute(self.manifest.preprocess.batch(sources))

    def predict(self, source: Source, top: int = 5) -> list[tuple[str, float]]:
        """Return the likeliest classes of one picture with their probabilities, the likeliest first.

        Args:
            source: a path, the encoded bytes of an image file, or a uint8 array (H, W, 3), RGB.
            top: number of classes.

        Raises:
            BrokenImage, FileNotFoundError: as `open_image`.
        """
        return self.predict_many([source], top)[0]

    def predict_many(self, sources: Sequence[Source], top: int = 5) -> list[list[tuple[str, float]]]:
        """Return what `predict` does, for each of several pictures."""
        return [likeliest(row, self.manifest.classes, top) for row in self.logits(sources)]


def likeliest(logits: np.ndarray, classes: Sequence[str], top: int = 5) -> list[tuple[str, float]]:
    """Return the `top` likeliest classes of logits (K,) as (class, probability); equal ones in the classes' order."""
    order = np.argsort(-logits, kind="stable")[:top]
    probabilities = softmax(logits.astype(np.float64))
    return [(classes[index], float(probabilities[index])) for index in order]


def open_model(folder: str | Path, trust: bool = False) -> Predictor:
    """Load a model folder, whatever its form; `d2lcls.deploy.load_model` also takes a folder with several forms.

    Warns of an int8 model made for processors with VNNI where there is none: its sums may saturate.

    Args:
        folder: a model folder, as `export` and its later steps write it.
        trust: load a model of form "tvm" too, which is machine code that can do whatever this user can.

    Raises:
        FileNotFoundError: it holds no model.
        ModelError: it is damaged, it is machine code and not trusted, or its graph does not fit its manifest.
        ImportError: the package that computes this form is not installed; names the extra.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest.form in NATIVE and not trust:
        raise ModelError(
            f"{folder}: a model of form {manifest.form} is machine code, which can do whatever you can. If you trust "
            "whoever made it, load it with --trust (in Python: trust=True)."
        )
    if manifest.needs_vnni() and int8_saturates():
        warnings.warn(
            f"{folder}: an int8 model for processors with VNNI, which this one lacks, so its answers may be "
            "wrong. Make it again with d2lcls quantize, without --vnni.",
            stacklevel=2,
        )
    compute = _RUNTIMES[manifest.form](folder, manifest)
    probe = compute(np.zeros(manifest.input_shape(manifest.batch or 1), dtype=np.float32))
    if probe.shape != (manifest.batch or 1, len(manifest.classes)):
        raise ModelError(
            f"{folder}: the graph returns an array of shape {probe.shape}, which are not the logits of "
            f"{len(manifest.classes)} classes. Make the model anew."
        )
    return Predictor(manifest, compute)


def _mxnet(folder: Path, manifest: Manifest) -> Compute:
    from d2lcls.deploy.exporting import read_graph

    return read_graph(folder, manifest)


def _onnx(folder: Path, manifest: Manifest) -> Compute:
    from d2lcls.deploy.onnx_runtime import open_session

    return open_session(folder / "model.onnx")


def _tvm(folder: Path, manifest: Manifest) -> Compute:
    from d2lcls.deploy.edge.host import open_library

    return open_library(folder, manifest)


def _torch(folder: Path, manifest: Manifest) -> Compute:
    raise ModelError(
        f"{folder}: a model of form torch is run by PyTorch, in an environment of its own: python {folder / 'check.py'}"
    )


_RUNTIMES = {"mxnet": _mxnet, "mxnet-int8": _mxnet, "onnx": _onnx, "onnx-int8": _onnx, "tvm": _tvm, "torch": _torch}
