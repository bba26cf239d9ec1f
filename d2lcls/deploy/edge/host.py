"""A model compiled by Apache TVM to machine code for this machine: one shared library with its weights inside."""

import shutil
from pathlib import Path

from d2lcls.deploy.edge.graph import import_tvm, read_onnx_model, read_relax
from d2lcls.deploy.edge.schedule import schedule
from d2lcls.deploy.edge.target import check_needs, host_target, host_tile, needs
from d2lcls.deploy.manifest import ModelError, derive, write_manifest
from d2lcls.machine.child import ChildFailed, in_child
from d2lcls.machine.cores import usable_cores
from d2lcls.machine.files import new_folder

import numpy as np

FILE = "model.so"


def compile_host(folder, target, batch=1, records=None, tolerance=1e-4):
    """Compile a model for the processor it is compiled on, and compare it with ONNX Runtime.

    Its first run takes place in a process of its own: wrong machine code would end this one.

    Args:
        folder: model folder of form "onnx".
        target: a new or empty folder for the model of form "tvm".
        batch: number of pictures that are computed at once; other numbers are filled up or cut into such batches.
        records: `Records` of `tune`, None to schedule all loops by rule.
        tolerance: largest allowed difference of a logit, as a share of the largest one.

    Returns:
        (`Manifest`, largest difference of a logit on random inputs, as that share).

    Raises:
        FileNotFoundError, ModelError: as `read_manifest`; also where the compiled model crashes or computes something
            else, or TVM knows no form of an operator.
        ValueError: the target is not empty, or `batch` is below 1.
        ImportError: apache-tvm, onnx or onnxruntime is not installed; names the extra.
        RuntimeError: there is no C++ compiler to link with.
    """
    from d2lcls.deploy.onnx_runtime import open_session

    if batch < 1:
        raise ValueError(f"batch must be 1 or more, not {batch}.")
    manifest = read_onnx_model(folder)
    with new_folder(target) as target:
        module = read_relax(folder, manifest, batch)
        build(records.apply(module) if records else schedule(module, host_tile()), target / FILE)
        x = np.random.default_rng(0).normal(size=manifest.input_shape(batch)).astype(np.float32)
        expected = open_session(Path(folder, "model.onnx"))(x)
        try:
            logits = in_child(run_library, target / FILE, x, what="the first run of the compiled model")
        except ChildFailed as failure:
            raise ModelError(
                f"{folder}: {failure}. It was removed. Use the ONNX model itself, and please report the "
                "processor and its flags in /proc/cpuinfo."
            ) from failure
        difference = float(np.abs(logits - expected).max() / np.abs(expected).max())
        if not difference <= tolerance:
            raise ModelError(
                f"{folder}: compiled, the model's logits differ by up to {difference:.2g} of the largest, "
                f"more than {tolerance:g}. Please report the network's name."
            )
        made = derive(manifest, "tvm", batch, **needs(), tuned=bool(records))
        return write_manifest(target, made, ["apache-tvm", "onnx"]), difference


def run_library(path, x):
    """Return what a compiled model of any shape computes of one batch, as a numpy array."""
    tvm = import_tvm()
    return _main(path)(tvm.runtime.tensor(x)).numpy()


def check_compiler():
    """Raise RuntimeError where there is no C++ compiler to link a model with."""
    if not shutil.which(import_tvm().support.cc.get_cc() or ""):
        raise RuntimeError(
            "No C++ compiler was found to link the model with. Install one (Debian and Ubuntu: "
            "sudo apt install g++), or name it in the environment variable CXX."
        )


def build(module, path):
    """Compile a scheduled `tvm.IRModule` for this machine and link it to a shared library at `path`.

    Raises:
        RuntimeError: there is no C++ compiler to link with.
    """
    check_compiler()
    tvm = import_tvm()
    with host_target():
        tvm.relax.build(module, relax_pipeline="default", target=host_target()).export_library(str(path))


def open_library(folder, manifest):
    """Return a function from float32 (N, 3, H, W), any N, to logits (N, K), computed by a compiled model.

    Args:
        folder: model folder of form "tvm".
        manifest: its `Manifest`.

    Raises:
        ModelError: it needs instructions that this processor lacks, is for another machine, or cannot be loaded.
        ImportError: apache-tvm is not installed; names the extra.
    """
    path = Path(folder, FILE)
    if not path.is_file():
        raise ModelError(
            f"{folder}: holds no {FILE}. If it was compiled for another machine, run it there: its "
            "program is called classify; or else compile it anew with: d2lcls compile"
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
    shape, size = manifest.input_shape(manifest.batch)[1:], manifest.batch

    def compute(x):
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


def _main(path):
    tvm = import_tvm()
    return tvm.relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())["main"]
