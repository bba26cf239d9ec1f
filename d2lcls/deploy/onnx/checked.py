"""An old MXNet model written as ONNX, with a report on how closely the outputs of both agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from d2lcls.deploy.graph.input_shapes import infer_outputs
from d2lcls.deploy.onnx.convert import to_onnx
from d2lcls.deploy.onnx.registry import OPSET
from d2lcls.deploy.onnx_runtime import import_runtime
from d2lcls.deploy.rescue.load import OldModel, RescueError
from d2lcls.machine.files import write_atomically

import mxnet as mx
import numpy as np

if TYPE_CHECKING:
    import onnx
    import onnxruntime


@dataclass(frozen=True)
class Parity:
    """How closely the outputs of ONNX Runtime and MXNet agree.

    Args:
        differences: for each output, the largest difference of a value as a share of the largest value.
        same_top1: for each output of shape (N, K), the share of images with the same top-1.
        images: number of images that were compared.
        free_batch: whether the ONNX model takes any number of images at once.
        opset: of the ONNX model.
    """

    differences: Mapping[str, float]
    same_top1: Mapping[str, float]
    images: int
    free_batch: bool
    opset: int = OPSET

    @property
    def largest(self) -> float:
        """The largest difference in any output."""
        return max(self.differences.values())


def write_onnx(model: OldModel, path: str | Path, inputs: Mapping[str, np.ndarray], tolerance: float = 1e-4) -> Parity:
    """Write a model as an ONNX file if its outputs agree with MXNet's; arguments and errors as for `checked_onnx`."""
    converted, parity = checked_onnx(model, inputs, tolerance)
    write_atomically(path, converted.SerializeToString())
    return parity


def checked_onnx(
    model: OldModel, inputs: Mapping[str, np.ndarray], tolerance: float = 1e-4
) -> tuple[onnx.ModelProto, Parity]:
    """Convert a model and compare its outputs with MXNet's on real inputs.

    Args:
        model: to convert.
        inputs: arrays (N, ...) by input.
        tolerance: largest allowed difference, as a share of an output's largest value.

    Raises:
        RescueError: an operator, named in the message, cannot be converted; or the outputs differ.
        ImportError: onnx or onnxruntime is not installed; names the extra.
    """
    runtime = import_runtime()
    count, reasons = len(next(iter(inputs.values()))), []
    images = [
        {name: np.ascontiguousarray(array[index : index + 1]) for name, array in inputs.items()}
        for index in range(count)
    ]
    expected = [list(model.run(image).values()) for image in images]
    for free in (True, False) if _batch_is_free(model) else (False,):
        converted = to_onnx(model, free)
        try:
            options = runtime.SessionOptions()
            options.log_severity_level = 4  # no warnings, which do not help the user; errors are raised
            session = runtime.InferenceSession(
                converted.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            # All at once, and MXNet one at a time: so outputs that depend on the other images of a batch are noticed.
            parity = compare(session, [inputs] if free else images, expected, free)
        except (RuntimeError, ValueError, *_runtime_errors(runtime)) as error:
            reasons.append(" ".join(str(error).split())[:300])
            continue
        if parity.largest <= tolerance:
            return converted, parity
        reasons.append(
            f"its outputs differ by up to {parity.largest:.2g} of the largest value, more than {tolerance:g}"
        )
    raise RescueError(
        f"The ONNX model does not compute the same ({reasons[-1]}). It was not written. "
        f"Operators in it: {', '.join(sorted({node.op for node in model.graph.nodes} - {'null'}))}."
    )


def compare(
    session: onnxruntime.InferenceSession,
    batches: Sequence[Mapping[str, np.ndarray]],
    expected: Sequence[Sequence[np.ndarray]],
    free_batch: bool,
) -> Parity:
    """Compare the outputs of an ONNX Runtime session with MXNet's.

    Args:
        session: to run.
        batches: arrays by input.
        expected: MXNet's outputs for each batch; batches of another size are allowed, with the same images in all.
        free_batch: for `Parity`.

    Raises:
        ValueError: an output has another shape.
    """
    names = [value.name for value in session.get_inputs()]
    outputs = [session.run(None, {name: batch[name] for name in names}) for batch in batches]
    differences, top1 = {}, {}
    for index, name in enumerate(value.name for value in session.get_outputs()):
        a, b = (np.concatenate([np.atleast_1d(batch[index]) for batch in all_]) for all_ in (expected, outputs))
        if a.shape != b.shape:
            raise ValueError(f"output {name!r} has the shape {b.shape} instead of {a.shape}")
        scale = np.abs(a).max(initial=0) or 1
        difference = float(np.abs(a.astype(np.float64) - b).max(initial=0) / scale)
        differences[name] = difference if np.isfinite(difference) else float("inf")
        if a.ndim == 2 and a.shape[1] > 1:
            top1[name] = float((a.argmax(axis=1) == b.argmax(axis=1)).mean())
    return Parity(differences, top1, sum(len(next(iter(batch.values()))) for batch in batches), free_batch)


def _batch_is_free(model: OldModel) -> bool:
    try:
        one, two = (infer_outputs(model.symbol, model.variable_shapes(n)) for n in (1, 2))
    except (mx.MXNetError, RescueError):
        return False
    return all(a and b and b[0] == 2 * a[0] and a[1:] == b[1:] for a, b in zip(one, two))


def _runtime_errors(runtime):
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(
        getattr(state, name)
        for name in ("Fail", "InvalidGraph", "InvalidArgument", "NotImplemented", "RuntimeException", "EPFail")
        if hasattr(state, name)
    )
