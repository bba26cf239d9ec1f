"""Does an int8 model give the same predictions on every processor, and what does that cost in accuracy?

The book's CNN and a ResNet-20, trained on CIFAR-10 as in the chapter on the training loop for 12 and 4 epochs (ten
minutes, the first time), and EfficientNet-Lite0 with its ImageNet weights are quantised in both forms, by default and
for processors with VNNI only. All the test images, for Lite0 300 random crops of scikit-image's photographs, are then
classified with the instructions of several processors, in separate processes: with tools/masked_cpu.py where this
processor can be masked, otherwise with DNNL_MAX_CPU_ISA for MXNet; and with qemu, on fewer images, for ONNX Runtime.
Writes results/int8_parity.json. About five minutes on two cores.
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
from d2lcls import data
from d2lcls.book import results
from d2lcls.book.notebook import example_model
from d2lcls.deploy import load_model, read_manifest
from d2lcls.deploy.comparison import agreement
from d2lcls.deploy.exporting import export
from d2lcls.deploy.onnx.export import export_onnx
from d2lcls.deploy.onnx.quantize import quantize_onnx
from d2lcls.deploy.quantization import quantize_model
from d2lcls.machine.cores import cpu_flags
from d2lcls.models import get_model, preprocessing

import numpy as np
import skimage
from PIL import Image

masked_cpu = runpy.run_path(str(Path(__file__).parent.parent / "tools/masked_cpu.py"))
NETWORKS = ("cnn", "cifar_resnet20_v1", "efficientnet_lite0")
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
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
    parts = [compute(x[begin:begin + 100]) for begin in range(0, len(x), 100)]
    numpy.save(folder + sys.argv[1], numpy.concatenate(parts))
"""
BARE = """
import sys, numpy, onnxruntime
x, *folders = sys.argv[2:]
x = numpy.load(x)
for folder in folders:
    session = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"data": x[begin:begin + 100]})[0] for begin in range(0, len(x), 100)]
    numpy.save(folder + sys.argv[1], numpy.concatenate(parts))
"""


def main():
    """Measure every network and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument(
        "--emulated",
        type=int,
        default=500,
        metavar="N",
        help="images of CIFAR-10 where qemu computes; it does not compute Lite0",
    )
    options = parser.parse_args()
    if platform.machine() != "x86_64":
        raise SystemExit("Only x86 processors differ in how they add up products of bytes. Run this on one.")
    with tempfile.TemporaryDirectory() as work:
        found = {name: measure(Path(work, name), name, options.emulated) for name in options.networks}
    print(
        results.write(
            "int8_parity",
            "python benchmarks/int8_parity.py",
            {
                "networks": found,
                "flags": sorted(cpu_flags() & {"avx2", "avx_vnni", "avx512bw", "avx512_vnni"}),
                "units": {
                    "top1": "% of the images",
                    "float_top1": "the same, of MXNet in float32 on this processor",
                    "same_top1": "% of the images, ties aside",
                    "same_top1_of_500": "% of 500 of them, evenly spread",
                    "difference": "root mean square of a logit's difference, as a share of the logits' deviation",
                    "by": "what computed: this processor, this processor masked, DNNL_MAX_CPU_ISA (oneDNN's choice of "
                    "instructions only), or qemu (an emulation)",
                },
            },
            data=["cifar10"],
        )
    )


def measure(work, name, emulated):
    """Return one network's scores in each form with each set of instructions, and in float."""
    first, x, labels, examples = source(work, name)
    export_onnx(first, work / "onnx")
    for vnni, more in ((False, ""), (True, "_vnni")):
        quantize_model(first, work / f"int8{more}", examples, vnni=vnni)
        quantize_onnx(work / "onnx", work / f"onnx_int8{more}", examples, vnni=vnni)
    few = np.linspace(0, len(x) - 1, emulated).astype(int)
    np.save(work / "all.npy", x)
    np.save(work / "few.npy", x[few])
    net = load_model(first).compute
    expected = np.concatenate([net(x[begin : begin + 100]) for begin in range(0, len(x), 100)])
    answer = {"images": len(x), "with": {}}
    if labels is not None:
        answer["float_top1"] = 100 * float((expected.argmax(axis=1) == labels).mean())
    for instructions, forms, by, command, environment in cells(work):
        if by == "qemu" and labels is None:
            continue
        images = "few" if by == "qemu" else "all"
        subprocess.run(
            [*command, f"/{instructions}.npy", work / f"{images}.npy", *(work / form for form in forms)],
            env={**os.environ, "PYTHONWARNINGS": "ignore", **environment},
            check=True,
        )
        rows = few if by == "qemu" else np.arange(len(x))
        for form in forms:
            found = np.load(work / form / f"{instructions}.npy")
            cell = score(found, expected[rows], None if labels is None else labels[rows])
            answer["with"].setdefault(instructions, {})[form] = {"by": by, "images": len(rows), **cell}
            print(name, instructions, form, cell, flush=True)
    return answer


def source(work, name):
    """Return (model folder, inputs to classify, their labels or None, inputs to calibrate with) of one network."""
    if name == "efficientnet_lite0":
        look = preprocessing(name)
        export(get_model(name, pretrained=True), work / "float", name, [str(number) for number in range(1000)], look)
        return work / "float", look.batch(crops(300, 0)), None, look.batch(crops(256, 1))
    os.environ["D2LCLS_SCALE"] = "full" if name == "cnn" else "lesson"
    folder = example_model(name)
    test, look = data.load("cifar10", "test", fallback=False), read_manifest(folder).preprocess
    return folder, look.batch(test.images), test.labels, look.batch(data.take_evenly(data.load("cifar10"), 256).images)


def crops(count, seed):
    """Return random crops of the photographs, uint8 arrays (H, W, 3) with sides of 100 pixels and more."""
    photographs = [Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB") for name in PHOTOGRAPHS]
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        picture = photographs[number % len(photographs)]
        width, height = (int(rng.integers(100, side)) for side in picture.size)
        left, top = int(rng.integers(picture.width - width)), int(rng.integers(picture.height - height))
        found.append(np.asarray(picture.crop((left, top, left + width, top + height))))
    return found


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
    spread = np.linspace(0, len(found) - 1, min(500, len(found))).astype(int)
    answer = {
        "same_top1": 100 * agreement(expected, found),
        "same_top1_of_500": 100 * agreement(expected[spread], found[spread]),
        "difference": float(np.sqrt(((found - expected) ** 2).mean()) / expected.std()),
    }
    return answer if labels is None else {"top1": 100 * float((found.argmax(axis=1) == labels).mean()), **answer}


if __name__ == "__main__":
    main()
