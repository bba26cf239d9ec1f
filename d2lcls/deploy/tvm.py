"""A model compiled by Apache TVM to machine code for this machine: one shared library with its weights inside."""

import re
from pathlib import Path

import numpy as np

from d2lcls.cores import usable_cores
from d2lcls.deploy.manifest import ModelError, derive, write_manifest
from d2lcls.deploy.tvm_graph import import_tvm, read_onnx_model, read_relax
from d2lcls.deploy.tvm_schedule import TILE, schedule

FILE = "model.so"
# What LLVM lists beside instructions: how quick some are, and which to prefer.
_HINTS = re.compile("slow|fast|false-deps|prefer|no-bypass|idiv|lea-|macrofusion|branch|pad-|sbb-|use-|vzero|allow-|"
                    "tuning")


def compile_host(folder, target, batch=1, records=None, tolerance=1e-4):
    """Compile a model for the processor it is compiled on, and compare it with ONNX Runtime.

    Args:
        folder: model folder of form "onnx".
        target: a new or empty folder for the model of form "tvm".
        batch: number of pictures that are computed at once; other numbers are filled up or cut into such batches.
        records: `Records` of `tune`, None to schedule all loops by rule.
        tolerance: largest allowed difference of a logit, as a share of the largest one.

    Returns:
        (`Manifest`, largest difference of a logit on random inputs, as that share).

    Raises:
        FileNotFoundError, ModelError: as `read_manifest`; also where the compiled model computes something else, or TVM
            knows no form of an operator.
        ValueError: the target is not empty, or `batch` is below 1.
        ImportError: apache-tvm, onnx or onnxruntime is not installed; names the extra.
        RuntimeError: there is no C++ compiler to link with.
    """
    from d2lcls.deploy.export import new_folder
    from d2lcls.deploy.onnx_runtime import open_session

    if batch < 1:
        raise ValueError(f"batch must be 1 or more, not {batch}.")
    manifest, target = read_onnx_model(folder), new_folder(target)
    module = read_relax(folder, manifest, batch)
    build(records.apply(module) if records else schedule(module, host_tile()), target / FILE)
    x = np.random.default_rng(0).normal(size=manifest.input_shape(batch)).astype(np.float32)
    expected = open_session(Path(folder, "model.onnx"))(x)
    made = derive(manifest, "tvm", batch, processor=this_processor(), tuned=bool(records))
    difference = float(np.abs(open_library(target, made)(x) - expected).max() / np.abs(expected).max())
    if not difference <= tolerance:
        (target / FILE).unlink()
        raise ModelError(f"{folder}: compiled, the model's logits differ by up to {difference:.2g} of the largest, "
                         f"more than {tolerance:g}. Please report the network's name.")
    return write_manifest(target, made, ["apache-tvm", "onnx"]), difference


def build(module, path):
    """Compile a scheduled `tvm.IRModule` for this machine and link it to a shared library at `path`."""
    tvm = import_tvm()
    with host_target():
        try:
            tvm.relax.build(module, relax_pipeline="default", target=host_target()).export_library(str(path))
        except RuntimeError as error:
            if "compiler" not in str(error).lower() and "g++" not in str(error):
                raise
            raise RuntimeError("No C++ compiler was found to link the model with. Install one (Debian: "
                               "apt install g++) or name it in the environment variable CXX.") from error


def host_target():
    """Return the `tvm.target.Target` of this machine."""
    tvm = import_tvm()
    return tvm.target.Target({"kind": "llvm", "mcpu": this_processor(), "num-cores": usable_cores()})


def host_tile():
    """Return how many pixels the rule sums at once: registers of 512 bits hold all channels of a tile in one."""
    from tvm.target.codegen import llvm_get_vector_width

    return 4 * TILE if llvm_get_vector_width(host_target()) >= 512 else TILE


def this_processor():
    """Return LLVM's name for the processor of this machine, such as "znver4"."""
    import_tvm()
    from tvm.target.codegen import llvm_get_system_cpu

    return str(llvm_get_system_cpu())


def instructions(processor, triple=None):
    """Return the sets of instructions that LLVM uses for a processor, such as {"avx2", "fma", ...}.

    Args:
        processor: LLVM's name of it.
        triple: LLVM's name of the kind of machine, such as "x86_64-linux-gnu"; None is this one.

    Raises:
        ValueError: LLVM knows no such processor.
        ImportError: apache-tvm is not installed; names the extra.
    """
    tvm = import_tvm()
    from tvm.target import codegen

    triple = triple or str(codegen.llvm_get_system_triple())
    if not codegen.llvm_is_valid_cpu(str(processor), triple):
        raise ValueError(f"processor must be one that LLVM knows for {triple}, such as {this_processor()}, "
                         f"not {processor!r}.")
    target = tvm.target.Target({"kind": "llvm", "mcpu": processor, "mtriple": triple})
    return {str(name) for name in codegen.llvm_get_cpu_features(target) if not _HINTS.match(str(name))}


def open_library(folder, manifest):
    """Return a function from float32 (N, 3, H, W), any N, to logits (N, K), computed by a compiled model.

    Args:
        folder: model folder of form "tvm".
        manifest: its `Manifest`.

    Raises:
        ModelError: it was compiled for another processor or machine, or cannot be loaded.
        ImportError: apache-tvm is not installed; names the extra.
    """
    path = Path(folder, FILE)
    if not path.is_file():
        raise ModelError(f"{folder}: holds no {FILE}. If it was compiled for another machine, run it there: its "
                         "program is called classify; or else compile it anew with: d2lcls compile")
    tvm = import_tvm()
    _check_processor(folder, manifest)
    try:
        main = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())["main"]
    except Exception as error:  # an OSError of the loader, or one of TVM's own
        raise ModelError(f"{path}: cannot be loaded ({str(error).strip().splitlines()[-1]}). "
                         "Compile it anew with: d2lcls compile") from error
    tvm.get_global_func("runtime.config_threadpool")(1, usable_cores())
    shape, size = manifest.input_shape(manifest.batch)[1:], manifest.batch

    def compute(x):
        x = np.ascontiguousarray(x, dtype=np.float32)
        if x.ndim != 4 or x.shape[1:] != shape:
            raise ValueError(f"Expected images of shape (N, {', '.join(map(str, shape))}), for which the model was "
                             f"compiled, got {x.shape}.")
        logits = np.empty((len(x), len(manifest.classes)), dtype=np.float32)
        for start in range(0, len(x), size):
            part = x[start:start + size]
            missing = size - len(part)
            if missing:
                part = np.concatenate([part, np.zeros((missing, *shape), dtype=np.float32)])
            logits[start:start + size] = main(tvm.runtime.tensor(part)).numpy()[:size - missing]
        return logits

    return compute


def _check_processor(folder, manifest):
    """Raise `ModelError` for machine code that this processor would stop at."""
    made_for, here = (manifest.made_from or {}).get("processor"), this_processor()
    if made_for == here:
        return
    try:
        missing = instructions(made_for) - instructions(here)
    except ValueError as error:
        raise ModelError(f"{folder}: was compiled for the processor {made_for}, which LLVM does not know here. "
                         "Compile it here with: d2lcls compile") from error
    if missing:
        raise ModelError(f"{folder}: was compiled for the processor {made_for}, and this is {here}, which lacks "
                         f"{', '.join(sorted(missing)[:3])}. Compile it here with: d2lcls compile")
