"""An int8 form of an ONNX model, for ONNX Runtime on a computer, a phone or in a browser."""

from __future__ import annotations

from pathlib import Path

from d2lcls.deploy.manifest import Manifest, ModelError, derive, read_manifest, write_manifest
from d2lcls.deploy.onnx.export import FILE
from d2lcls.deploy.onnx_file import call_apart, import_onnx
from d2lcls.deploy.onnx_runtime import import_runtime, try_onnx
from d2lcls.machine.files import check_new_folder, new_folder
from d2lcls.machine.temporary import temporary_folder

import numpy as np


def quantize_onnx(folder: str | Path, target: str | Path, x: np.ndarray, vnni: bool = False) -> Manifest:
    """Write an ONNX model in int8: a scale per output channel for weights, ranges from the least to the largest number.

    The graph carries pairs of QuantizeLinear and DequantizeLinear, from which a runtime makes 8-bit layers.

    Args:
        folder: model folder of form "onnx".
        target: a new or empty folder for the model of form "onnx-int8".
        x: float32 (N, 3, H, W), a few hundred typical inputs, none of the test set.
        vnni: use all eight bits of a weight instead of seven: more exact, but only on a processor with the VNNI
            instructions. Without them, ONNX Runtime adds products of an activation and a weight in pairs, in 16 bits
            that saturate. The manifest records it in `made_from`.

    Raises:
        FileNotFoundError, ModelError: as `read_manifest` and `try_onnx`; also if the model cannot be quantised.
        ValueError: the target is not empty.
        ImportError: onnx or onnxruntime is not installed; names the extra.
    """
    manifest = read_manifest(folder)
    if manifest.form != "onnx":
        raise ModelError(f"{folder}: a model of form {manifest.form}; this step takes one of form onnx.")
    import_runtime()
    check_new_folder(target)
    path = Path(folder, FILE)
    try_onnx(path)
    content = call_apart(_quantize, path, x, manifest.input_name, vnni, what="quantising it", memory=None, seconds=3600)
    with new_folder(target) as out:
        (out / FILE).write_bytes(content)
        return write_manifest(out, derive(manifest, "onnx-int8", images=len(x), vnni=vnni), ["onnx", "onnxruntime"])


def _quantize(path: Path, x: np.ndarray, input_name: str, vnni: bool) -> bytes:
    """Return the content of the file in int8."""
    onnx = import_onnx()
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with temporary_folder(needed=5 * path.stat().st_size) as work:
        prepared, quantized = work / "prepared.onnx", work / FILE
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)  # folds batch norms
        quantize_static(
            str(prepared),
            str(quantized),
            _Examples(x, input_name),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=not vnni,
        )
        model = onnx.load(str(quantized))
    onnx.checker.check_model(model)
    return model.SerializeToString()


class _Examples:
    """Batches of examples, with the method of ONNX Runtime's CalibrationDataReader."""

    def __init__(self, x: np.ndarray, name: str) -> None:
        self.batches = ({name: np.ascontiguousarray(x[begin : begin + 32])} for begin in range(0, len(x), 32))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, None after the last."""
        return next(self.batches, None)
