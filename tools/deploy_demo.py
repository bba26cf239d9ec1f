"""Convert the network of the chapter on the training loop to every form, and compare accuracy, size and speed.

`make deploy-demo` runs it. The network is trained first if it is not in the cache, which takes a few minutes. The forms
stay in runs/deploy-demo. Exits with 1 if a form predicts something else than the first one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from io import BytesIO
from pathlib import Path

from d2lcls import cli, data
from d2lcls.book.notebook import example_model
from d2lcls.deploy import load_model, read_manifest
from d2lcls.deploy.comparison import compare, table

import numpy as np
from PIL import Image

OUT = Path("runs/deploy-demo")
PICTURES = 20  # classified by the service and by the program for Arm


def main() -> int:
    """Write all forms, compare them, and return the exit code."""
    os.environ["D2LCLS_SCALE"] = "full"
    shutil.rmtree(OUT, ignore_errors=True)
    shutil.copytree(example_model(), OUT / "mxnet")
    for line in (
        "quantize mxnet --out int8",
        "onnx mxnet --out onnx",
        "quantize onnx --out onnx-int8",
        "compile onnx --out tvm",
        "torch mxnet --out torch",
        "archive int8 --out int8.mar",
    ):
        run(line)
    test = data.load("cifar10", "test")
    few = test.images[np.linspace(0, len(test) - 1, PICTURES).astype(int)]
    problems = [*check_arm(few), *check_service(few)]
    manifest, some = read_manifest(OUT / "mxnet"), test.subset(np.linspace(0, len(test) - 1, 1000).astype(int))
    forms = [OUT / name for name in ("mxnet", "int8", "onnx", "onnx-int8", "tvm")]
    rows = compare(forms, manifest.preprocess.batch(some.images), some.labels, trust=True)
    print(f"\n{len(some):,} test images; times on {len(os.sched_getaffinity(0))} cores\n{table(rows)}\n")
    for row, form in zip(rows, forms):
        accuracy = read_manifest(form).accuracy
        if accuracy:
            print(f"{row.name:<10} top-1 {accuracy.top1:.2%} on {accuracy.images:,} images of {accuracy.data}")
        if "int8" not in row.form and row.agreement < 1:
            problems.append(f"{row.name} predicts another class than mxnet for {1 - row.agreement:.1%} of the images")
        if "int8" in row.form and accuracy.top1 < read_manifest(OUT / "mxnet").accuracy.top1 - 0.005:
            problems.append(f"{row.name} is more than half a point less accurate than mxnet")
    print("\n" + ("; ".join(problems) or "All forms agree."))
    return int(bool(problems))


def run(line: str) -> None:
    """Print a command and run it on folders of the demonstration."""
    print(f"\n$ d2lcls {line}", flush=True)
    arguments = [
        str(OUT / word) if (OUT / word).exists() or before == "--out" else word
        for before, word in zip(["", *line.split()], line.split())
    ]
    if cli.main(arguments):
        sys.exit(f"d2lcls {line} failed")


def check_arm(pictures: np.ndarray) -> list[str]:
    """Compile the program for 64-bit Arm, run it under qemu, and return the problems with its predictions."""
    missing = [name for name in ("aarch64-linux-gnu-g++", "qemu-aarch64") if not shutil.which(name)]
    if missing:
        print(f"\nNo program for Arm: {' and '.join(missing)} not found (Debian: g++-aarch64-linux-gnu, qemu-user).")
        return []
    run("compile onnx --target arm64 --out arm64")
    model, different = load_model(OUT / "mxnet"), 0
    for picture in pictures:
        Image.fromarray(picture).save(OUT / "picture.ppm")
        answer = subprocess.run(
            ["qemu-aarch64", str(OUT / "arm64/classify"), str(OUT / "picture.ppm")],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        best = re.findall(r"^ +[\d.]+%  (.*)$", answer, re.M)[0]
        different += best != model.predict(picture, top=1)[0][0]
    print(f"the program for Arm, under qemu, agrees on {len(pictures) - different} of {len(pictures)} pictures")
    return ["the program for Arm predicts other classes"] if different else []


def check_service(pictures: np.ndarray) -> list[str]:
    """Serve the int8 form, send it pictures, stop it, and return the problems with its predictions."""
    print("\n$ d2lcls serve int8 --port 0", flush=True)
    service = subprocess.Popen(
        [sys.executable, "-m", "d2lcls", "serve", str(OUT / "int8"), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert service.stdout
        port = next(int(match[1]) for match in (re.search(r'"port": ?(\d+)', line) for line in service.stdout) if match)
        model, different = load_model(OUT / "int8"), 0
        for picture in pictures:
            body = BytesIO()
            Image.fromarray(picture).save(body, "PNG")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/predict", body.getvalue(), timeout=30) as response:
                answer = json.load(response)
            different += answer["predictions"][0][0]["class"] != model.predict(picture, top=1)[0][0]
    finally:
        service.terminate()
        code = service.wait(30)
    print(f"the service agrees on {len(pictures) - different} of {len(pictures)} pictures; it stopped with code {code}")
    return ["the service predicts other classes or fails when stopped"] if different or code else []


if __name__ == "__main__":
    sys.exit(main())
