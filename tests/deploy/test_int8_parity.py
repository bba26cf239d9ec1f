"""A model in int8 gives the same answers whatever instructions the processor has.

oneDNN takes the kernels of a smaller processor where DNNL_MAX_CPU_ISA says so. ONNX Runtime asks the processor, which
`tools/masked_cpu.py` makes smaller where it can, and qemu anywhere. The networks are such that sums saturate.
"""

import os
import platform
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

from d2lcls.data import Preprocess
from d2lcls.deploy.exporting import export
from d2lcls.deploy.onnx.export import export_onnx
from d2lcls.deploy.onnx.quantize import quantize_onnx
from d2lcls.deploy.quantization import quantize_model

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn

ROOT = Path(__file__).parents[2]
masked_cpu = runpy.run_path(str(ROOT / "tools/masked_cpu.py"))
QEMU = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
SATURATE = ("bright", "signed")  # networks of this file; the others are those of the zoo
BY_MXNET = """
import sys, numpy
from pathlib import Path
from d2lcls.deploy import load_model
results = {}
for path in Path(sys.argv[1]).glob("*/int8*"):
    results[f"{path.parent.name} {path.name}"] = load_model(path).compute(numpy.load(path.parent / "x.npy"))
numpy.savez(sys.argv[2], **results)
"""
BY_ONNX_RUNTIME = """
import sys, numpy, onnxruntime
from pathlib import Path
results = {}
for path in Path(sys.argv[1]).glob("*/onnx-int8*"):
    session = onnxruntime.InferenceSession(str(path / "model.onnx"), providers=["CPUExecutionProvider"])
    results[f"{path.parent.name} {path.name}"] = session.run(None, {"data": numpy.load(path.parent / "x.npy")})[0]
numpy.savez(sys.argv[2], **results)
"""


def bright():
    """Weights and inputs of one sign, all of them nearly the largest: convolutions of each kind and dense layers."""
    net = nn.HybridSequential()
    net.add(
        nn.Conv2D(32, 3, padding=1, in_channels=3, activation="relu"),
        nn.MaxPool2D(),
        nn.Conv2D(32, 3, padding=1, in_channels=32, groups=2, activation="relu"),
        nn.Conv2D(32, 3, padding=1, in_channels=32, groups=32, activation="relu"),
        nn.Conv2D(24, 1, in_channels=32),
        nn.Conv2D(16, 3, in_channels=24, activation="relu"),
        nn.Flatten(),
        nn.Dense(16, in_units=16 * 6 * 6, activation="relu"),
        nn.Dense(3, in_units=16),
    )
    return net


def signed():
    """A dense layer whose input has negative numbers too."""
    net = nn.HybridSequential()
    net.add(nn.Conv2D(8, 3, strides=2, in_channels=3), nn.Flatten(), nn.Dense(3, in_units=8 * 7 * 7))
    return net


@pytest.fixture(scope="module")
def models(network, examples, tmp_path_factory):
    """A folder for each network: x.npy, expected.npy, and its forms in int8 of both kinds."""
    root, rng = tmp_path_factory.mktemp("models"), np.random.default_rng(0)
    for name in (*SATURATE, "cifar_resnet20_v1", "mobilenetv2_0.25"):
        x = examples[:32]
        if name in SATURATE:
            x = rng.uniform(0.9, 1, (32, 3, 16, 16)).astype(np.float32)
            net = {"bright": bright, "signed": signed}[name]()
            net.initialize()
            for parameter in net.collect_params().values():
                parameter.set_data(mx.nd.array(rng.uniform(0.9, 1, parameter.shape) * (parameter.name[-4:] != "bias")))
        else:
            net = network(name)
        if name == "signed":
            x[0] = -x[0]
        folder = root / name
        export(net, folder / "mxnet", name, ("a", "b", "c"), Preprocess(16, 16, (0, 0, 0), (1, 1, 1), "bilinear"))
        export_onnx(folder / "mxnet", folder / "onnx")
        for vnni in (False, True):
            quantize_model(folder / "mxnet", folder / f"int8{'-vnni' * vnni}", x, vnni=vnni)
            quantize_onnx(folder / "onnx", folder / f"onnx-int8{'-vnni' * vnni}", x, vnni=vnni)
        np.save(folder / "x.npy", x)
        np.save(folder / "expected.npy", net(mx.nd.array(x)).asnumpy())
    return root


def errors(models, code, tmp_path, before=(), **environment):
    """Return how far each model is from its network in float, as a share of the largest logit, computed by a child."""
    command = [*before, sys.executable, "-W", "ignore", "-c", code, models, tmp_path / "results.npz"]
    done = subprocess.run(
        [str(word) for word in command],
        timeout=110,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = np.load(tmp_path / "results.npz")
    expected = {path.name: np.load(path / "expected.npy") for path in models.iterdir()}
    return {
        key: np.abs(value - expected[key.split()[0]]).max() / np.abs(expected[key.split()[0]]).max()
        for key, value in results.items()
    }


def near(results, form):
    return {
        name: results[f"{name} {form}"] < (0.03 if name in SATURATE else 0.15)
        for name in (*SATURATE, "cifar_resnet20_v1", "mobilenetv2_0.25")
    }


@pytest.mark.parametrize("limit", ["SSE41", "AVX2", "AVX512_CORE", "DEFAULT"])
def test_mxnet_computes_the_same_with_any_instructions(models, tmp_path, limit):
    results = errors(models, BY_MXNET, tmp_path, DNNL_MAX_CPU_ISA=limit)
    assert all(near(results, "int8").values()), results
    if limit != "DEFAULT" and platform.machine() == "x86_64":  # what --vnni is for
        assert results["bright int8-vnni"] > 0.4 and results["signed int8-vnni"] > 0.4, results


def check_onnx(results):
    assert all(near(results, "onnx-int8").values()), results
    assert results["bright onnx-int8-vnni"] > 0.4, results


@pytest.mark.skipif(
    not masked_cpu["possible"]() or not shutil.which("cc"),
    reason="this processor cannot be masked: see tools/masked_cpu.py",
)
@pytest.mark.parametrize("level", ["avx2", "avx512"])
def test_onnx_runtime_computes_the_same_on_a_processor_without_vnni(models, tmp_path, level):
    check_onnx(errors(models, BY_ONNX_RUNTIME, tmp_path, **masked_cpu["environment"](level, tmp_path)))


@pytest.mark.slow  # half a minute: qemu executes each instruction of Python's and ONNX Runtime's start
@pytest.mark.skipif(not QEMU, reason="qemu-x86_64 is not installed: apt-get install qemu-user")
def test_onnx_runtime_computes_the_same_on_a_haswell(models, tmp_path):
    check_onnx(errors(models, BY_ONNX_RUNTIME, tmp_path, (QEMU, "-cpu", "Haswell")))


def test_onnx_runtime_computes_the_same_here(models, tmp_path):
    results = errors(models, BY_ONNX_RUNTIME, tmp_path)
    assert all(near(results, "onnx-int8").values()), results


@pytest.mark.skipif(
    not masked_cpu["possible"]() or not shutil.which("cc"),
    reason="this processor cannot be masked: see tools/masked_cpu.py",
)
def test_a_model_for_vnni_warns_without_it(models, tmp_path):
    code = "import sys\nfrom d2lcls.deploy import load_model\nfor folder in sys.argv[1:]: load_model(folder)"
    folders = [models / "bright" / form for form in ("int8", "onnx-int8", "int8-vnni", "onnx-int8-vnni", "mxnet")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **masked_cpu["environment"]("avx2", tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *folders], capture_output=True, text=True, check=True, timeout=110, env=environment
    )
    warned = [line for line in done.stderr.splitlines() if "UserWarning" in line]
    assert [line.split("UserWarning: ")[1].split(": an int8 model")[0] for line in warned] == [*map(str, folders[2:4])]
    assert all("Make it again with d2lcls quantize, without --vnni." in line for line in warned)
