"""A model compiled by Apache TVM to machine code for this machine: one shared library with its weights inside."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2lcls.deploy.edge.graph import import_tvm, read_relax
from d2lcls.deploy.edge.schedule import schedule
from d2lcls.deploy.edge.target import Records, check_needs, host_target, host_tile, needs
from d2lcls.deploy.manifest import Manifest, ModelError, derive, read_manifest, write_model
from d2lcls.deploy.onnx_runtime import open_session
from d2lcls.machine.child import ChildFailed, in_child
from d2lcls.machine.cores import usable_cores

import numpy as np

if TYPE_CHECKING:
    import tvm

FILE = "model.so"


def compile_host(
    folder: str | Path, target: str | Path, batch: int = 1, records: Records | None = None, tolerance: float = 1e-4
) -> tuple[Manifest, float]:
    """Compile a model for the processor it is compiled on, and compare it with ONNX Runtime.

    It is run for the first time in a separate process: wrong machine code would end this one.

    Args:
        folder: model folder of form "onnx".
        target: a new or empty folder for the model of form "tvm".
        batch: number of pictures that are computed at once; other numbers are padded or split into such batches.
        records: of `tune`, None to schedule all loops by rule.
        tolerance: largest allowed difference of a logit, as a share of the largest one.

    Returns:
        (manifest, largest difference of a logit on random inputs, as that share).

    Raises:
        FileNotFoundError, ModelError: as `read_manifest`; also where the compiled model crashes or computes something
            else, or TVM does not support an operator.
        ValueError: the target is not empty, or `batch` is below 1.
        ImportError: apache-tvm, onnx or onnxruntime is not installed; names the extra.
        RuntimeError: there is no C++ compiler to link with.
    """
    if batch < 1:
        raise ValueError(f"batch must be 1 or more, not {batch}.")
    manifest = read_manifest(folder, forms=("onnx",))
    x = np.random.default_rng(0).normal(size=manifest.input_shape(batch)).astype(np.float32)

    def write(path: Path) -> None:
        module = read_relax(folder, manifest, batch)
        build(records.apply(module) if records else schedule(module, host_tile()), path / FILE)

    def compute(path: Path) -> np.ndarray:
        try:
            return in_child(run_library, path / FILE, x, what="the first run of the compiled model")
        except ChildFailed as failure:
            raise ModelError(
                f"{folder}: {failure}. It was removed. Use the ONNX model itself, and please report the "
                "processor and its flags in /proc/cpuinfo."
            ) from failure

    return write_model(
        target,
        derive(manifest, "tvm", batch, **needs(), tuned=bool(records)),
        ["apache-tvm", "onnx"],
        write,
        compute,
        open_session(Path(folder, "model.onnx"))(x),
        tolerance,
    )


def run_library(path: str | Path, x: np.ndarray) -> np.ndarray:
    """Return what a compiled model of any shape computes from one batch."""
    tvm = import_tvm()
    return _main(path)(tvm.runtime.tensor(x)).numpy()


def check_compiler() -> None:
    """Raise RuntimeError where there is no C++ compiler to link a model with."""
    if not shutil.which(import_tvm().support.cc.get_cc() or ""):
        raise RuntimeError(
            "No C++ compiler was found to link the model with. Install one (Debian and Ubuntu: "
            "sudo apt install g++), or name it in the environment variable CXX."
        )


def build(module: tvm.IRModule, path: str | Path) -> None:
    """Compile a scheduled module for this machine and link it to a shared library at `path`.

    Raises:
        RuntimeError: there is no C++ compiler to link with.
    """
    check_compiler()
    tvm = import_tvm()
    with host_target():
        tvm.relax.build(module, relax_pipeline="default", target=host_target()).export_library(str(path))


def open_library(folder: str | Path, manifest: Manifest) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from float32 (N, 3, H, W), any N, to logits (N, K), computed by a compiled model.

    Args:
        folder: model folder of form "tvm".
        manifest: of that folder.

    Raises:
        ModelError: it needs instructions that this processor lacks, is for another machine, or cannot be loaded.
        ImportError: apache-tvm is not installed; names the extra.
    """
    path = Path(folder, FILE)
    if FILE not in manifest.files or not path.is_file():
        raise ModelError(
            f"{folder}: holds no {FILE}. If it was compiled for another machine, run it there: its "
            "program is called classify. Otherwise compile it anew with: d2lcls compile"
        )
    check_needs(folder, manifest.made_from)
    tvm = import_tvm()
    try:
        main = _main(path)
    except Exception as error:  # an OSError of the loader, or one of TVM's own
        raise ModelError(
            f"{path}: cannot be loaded ({str(error).strip().splitlines()[-1]}). Compile it anew with: d2lcls compile"
        ) from error
    tvm.get_global_func("runtime.config_threadpool")(1, usable_cores())
    size = manifest.batch or 1
    shape = manifest.input_shape()[1:]

    def compute(x: np.ndarray) -> np.ndarray:
        x = np.ascontiguousarray(x, dtype=np.float32)
        if x.ndim != 4 or x.shape[1:] != shape:
            raise ValueError(
                f"Expected images of shape (N, {', '.join(map(str, shape))}), for which the model was "
                f"compiled, got {x.shape}."
            )
        logits = np.empty((len(x), len(manifest.classes)), dtype=np.float32)
        for start in range(0, len(x), size):
            part = x[start : start + size]
            missing = size - len(part)
            if missing:
                part = np.concatenate([part, np.zeros((missing, *shape), dtype=np.float32)])
            logits[start : start + size] = main(tvm.runtime.tensor(part)).numpy()[: size - missing]
        return logits

    return compute


def _main(path: str | Path) -> Any:
    tvm = import_tvm()
    return tvm.relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())["main"]
