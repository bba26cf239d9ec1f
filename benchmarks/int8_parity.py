"""Does a model in int8 give the same answers on every processor, and what does that cost in accuracy?

The book's CNN and a ResNet-20, trained on CIFAR-10 as in the chapter on the training loop for 12 and 4 epochs (the first
time, ten minutes), are quantised in both forms, by default and for processors with VNNI only. All the test images are
then classified with the instructions of several processors, each in a process of its own: with tools/masked_cpu.py where
this processor can be masked, else by DNNL_MAX_CPU_ISA for MXNet and by qemu, with fewer images, for ONNX Runtime. Writes
results/int8_parity.json. About three minutes on two cores.
"""

import argparse
import os
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import d2lcls  # noqa: F401  before mxnet, which it makes importable
import numpy as np

from d2lcls import data, results
from d2lcls.cores import cpu_flags
from d2lcls.deploy import load_model, read_manifest
from d2lcls.deploy.compare import agreement
from d2lcls.deploy.quantize import quantize_model
from d2lcls.deploy.quantize_onnx import quantize_onnx
from d2lcls.deploy.to_onnx import export_onnx
from d2lcls.notebook import example_model

masked_cpu = runpy.run_path(str(Path(__file__).parent.parent / "tools/masked_cpu.py"))
SCALES = {"cnn": "full", "cifar_resnet20_v1": "lesson"}
FORMS = ("int8", "int8_vnni", "onnx_int8", "onnx_int8_vnni")
LIMITS = {"avx512": "AVX512_CORE", "avx2": "AVX2", "sse41": "SSE41"}  # of DNNL_MAX_CPU_ISA
QEMU = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
LOADED = """
import sys, numpy
from d2lcls.deploy import load_model
x, *folders = sys.argv[2:]
x = numpy.load(x)
for folder in folders:
    compute = load_model(folder).compute
    numpy.save(folder + sys.argv[1], numpy.concatenate([compute(x[begin:begin + 100]) for begin in range(0, len(x), 100)]))
"""
BARE = """
import sys, numpy, onnxruntime
x, *folders = sys.argv[2:]
x = numpy.load(x)
for folder in folders:
    session = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
    numpy.save(folder + sys.argv[1], numpy.concatenate([session.run(None, {"data": x[begin:begin + 100]})[0]
                                                        for begin in range(0, len(x), 100)]))
"""


def main():
    """Measure every network and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(SCALES), choices=list(SCALES))
    parser.add_argument("--emulated", type=int, default=500, metavar="N", help="test images where qemu computes")
    options = parser.parse_args()
    if platform.machine() != "x86_64":
        raise SystemExit("Only x86 processors differ in how they add up products of bytes. Run this on one.")
    with tempfile.TemporaryDirectory() as work:
        found = {name: measure(Path(work, name), name, options.emulated) for name in options.networks}
    print(results.write("int8_parity", "python benchmarks/int8_parity.py", {
        "networks": found, "flags": sorted(flag for flag in cpu_flags() if "vnni" in flag or flag in ("avx2", "avx512bw")),
        "units": {"top1": "% of the images", "float_top1": "the same, of MXNet in float32 on this processor",
                  "same_top1": "% of the images, ties aside", "same_top1_of_500": "% of 500 images evenly spread",
                  "difference": "root mean square of a logit's difference, as a share of the logits' deviation",
                  "by": "what computed: this processor, this processor masked, DNNL_MAX_CPU_ISA (oneDNN's choice of "
                        "instructions only), or qemu (an emulation)"}}, data=["cifar10"]))


def measure(work, name, emulated):
    """Return what one network says in each form with each set of instructions, and what it says in float."""
    os.environ["D2LCLS_SCALE"] = SCALES[name]
    first = example_model(name)
    test, preprocess = data.load("cifar10", "test", fallback=False), read_manifest(first).preprocess
    examples = preprocess.batch(data.take_evenly(data.load("cifar10"), 256).images)
    export_onnx(first, work / "onnx")
    for vnni, more in ((False, ""), (True, "_vnni")):
        quantize_model(first, work / f"int8{more}", examples, vnni=vnni)
        quantize_onnx(work / "onnx", work / f"onnx_int8{more}", examples, vnni=vnni)
    x, few = preprocess.batch(test.images), np.linspace(0, len(test) - 1, emulated).astype(int)
    np.save(work / "all.npy", x)
    np.save(work / "few.npy", x[few])
    net = load_model(first).compute
    expected = np.concatenate([net(x[begin:begin + 100]) for begin in range(0, len(x), 100)])
    answer = {"float_top1": 100 * float((expected.argmax(axis=1) == test.labels).mean()), "images": len(test), "with": {}}
    for instructions, forms, by, command, environment in cells(work):
        images = "few" if by == "qemu" else "all"
        subprocess.run([*command, f"/{instructions}.npy", work / f"{images}.npy", *(work / form for form in forms)],
                       env={**os.environ, "PYTHONWARNINGS": "ignore", **environment}, check=True)
        rows = few if by == "qemu" else np.arange(len(test))
        for form in forms:
            cell = score(np.load(work / form / f"{instructions}.npy"), expected[rows], test.labels[rows])
            answer["with"].setdefault(instructions, {})[form] = {"by": by, "images": len(rows), **cell}
            print(name, instructions, form, cell, flush=True)
    return answer


def cells(work):
    """Yield (instructions, forms, what computes, the start of a command, environment variables)."""
    loaded = [sys.executable, "-c", LOADED]
    yield "here", FORMS, "this processor", loaded, {}
    for level in ("avx512", "avx2"):
        if level == "avx512" and "avx512bw" not in cpu_flags():
            continue
        if masked_cpu["possible"]() and shutil.which("cc"):
            yield level, FORMS, "masked", loaded, masked_cpu["environment"](level, work)
        else:
            yield level, FORMS[:2], "DNNL_MAX_CPU_ISA", loaded, {"DNNL_MAX_CPU_ISA": LIMITS[level]}
    yield "sse41", FORMS[:2], "DNNL_MAX_CPU_ISA", loaded, {"DNNL_MAX_CPU_ISA": LIMITS["sse41"]}
    if QEMU:
        yield "haswell", FORMS[2:], "qemu", [QEMU, "-cpu", "Haswell", sys.executable, "-c", BARE], {}


def score(found, expected, labels):
    """Return how one form's logits compare with those of the network in float."""
    spread = np.linspace(0, len(found) - 1, 500).astype(int)
    return {"top1": 100 * float((found.argmax(axis=1) == labels).mean()), "same_top1": 100 * agreement(expected, found),
            "same_top1_of_500": 100 * agreement(expected[spread], found[spread]),
            "difference": float(np.sqrt(((found - expected) ** 2).mean()) / expected.std())}


if __name__ == "__main__":
    main()
