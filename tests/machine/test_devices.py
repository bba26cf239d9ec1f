import sys
import warnings

from d2lcls.machine import devices
from d2lcls.machine.devices import Gpu

import mxnet as mx
import pytest


@pytest.fixture(autouse=True)
def fresh():
    """Clear the cached results of testing the GPUs before and after each test."""
    for cached in (devices.working_gpus, devices.gpu_failures):
        cached.cache_clear()
    yield
    for cached in (devices.working_gpus, devices.gpu_failures):
        cached.cache_clear()


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Make an `nvidia-smi` that answers the one question it is asked."""

    def make(answer, exit_code=0):
        script = tmp_path / "nvidia-smi"
        question = "--query-gpu=name,compute_cap --format=csv,noheader"
        script.write_text(
            f'#!/bin/sh\n[ "$*" = "{question}" ] || exit 8\ncat <<\'END\'\n{answer}\nEND\nexit {exit_code}\n'
        )
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return make


@pytest.fixture
def gpus(monkeypatch):
    """Make MXNet count some GPUs; a child's kernel fails on those for which a message is given."""

    def make(*failures):
        monkeypatch.setattr(devices, "count_gpus", lambda: len(failures))
        monkeypatch.setattr(
            devices, "_KERNEL", f"import sys\nfailures = {failures!r}\nsys.exit(failures[int(sys.argv[1])] or 0)"
        )

    return make


@pytest.mark.parametrize(
    "capability, supported",
    [
        ("5.2", True),
        ("6.1", True),
        ("7.5", True),
        ("8.0", True),
        ("8.6", True),
        ("8.9", True),
        ("3.7", False),
        ("9.0", False),
        ("10.0", False),
        ("12.0", False),
    ],
)
def test_supported_capabilities(nvidia_smi, capability, supported):
    nvidia_smi(f"NVIDIA GPU, the one, {capability}")
    (gpu,) = devices.installed_gpus()
    assert gpu == Gpu("NVIDIA GPU, the one", tuple(map(int, capability.split("."))))
    assert gpu.supported is supported


def test_several_gpus(nvidia_smi):
    nvidia_smi("Tesla T4, 7.5\nNVIDIA H100 PCIe, 9.0")
    assert devices.installed_gpus() == [Gpu("Tesla T4", (7, 5)), Gpu("NVIDIA H100 PCIe", (9, 0))]


def test_no_driver(nvidia_smi, monkeypatch, tmp_path):
    nvidia_smi("NVIDIA-SMI has failed because it couldn't communicate with the driver, 0.0", exit_code=9)
    assert devices.installed_gpus() == []
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert devices.installed_gpus() == []


def test_best_is_the_cpu_here():
    if mx.context.num_gpus():
        pytest.skip("this machine has a GPU and a GPU wheel")
    assert devices.best() == [mx.cpu()]


def test_best_gives_the_gpus_that_ran_a_kernel(gpus, nvidia_smi):
    gpus("", "CUDA error: out of memory", "")
    nvidia_smi("Tesla T4, 7.5\nTesla T4, 7.5\nTesla T4, 7.5")
    with pytest.warns(UserWarning, match=r"no kernel on gpu:1 \(CUDA error: out of memory\): the other"):
        assert devices.best() == [mx.gpu(0), mx.gpu(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one warning per process
        assert devices.best(limit=1) == [mx.gpu(0)]


def test_unsupported_gpu_is_named_and_the_cpu_used(gpus, nvidia_smi):
    gpus("no kernel image is available for execution on the device")
    nvidia_smi("NVIDIA H100 PCIe, 9.0")
    with pytest.warns(UserWarning) as caught:
        assert devices.best() == [mx.cpu()]
    (warning,) = caught
    assert str(warning.message) == (
        "NVIDIA H100 PCIe has compute capability 9.0 and is newer than any MXNet wheel supports (they contain machine "
        f"code for 5.0, 6.0, 7.0, 8.0, 8.6): the CPU is used. To compute on it, {devices.OTHER_WAYS}."
    )


def test_the_kernel_is_really_run(monkeypatch):
    """With a CPU wheel the real child gets as far as MXNet's own refusal."""
    if mx.context.num_gpus():
        pytest.skip("this machine has a GPU and a GPU wheel")
    monkeypatch.setattr(devices, "count_gpus", lambda: 1)
    (failure,) = devices.gpu_failures()
    assert "is not implemented for GPU" in failure


def test_child_that_dies_or_hangs():
    assert devices.child_failure(devices.start_child("import os; os.abort()")) == "killed by SIGABRT (Aborted)"
    hanging = devices.start_child("import time; time.sleep(60)")
    assert devices.child_failure(hanging, timeout=0.1) == "no answer in 0.1 seconds"
    assert hanging.returncode is not None  # it was killed


@pytest.mark.parametrize("limit", [0, -1])
def test_best_rejects_a_limit_below_one(limit):
    with pytest.raises(ValueError, match=f"at least 1; got {limit}"):
        devices.best(limit)


def test_parse(gpus):
    gpus("", "")
    assert devices.parse("cpu") == [mx.cpu()]
    assert devices.parse("cpu*3") == [mx.cpu(0), mx.cpu(1), mx.cpu(2)]
    assert devices.parse("gpu") == devices.parse("auto") == [mx.gpu(0), mx.gpu(1)]
    assert devices.parse("gpu:1") == [mx.gpu(1)]
    assert devices.parse("gpu:1,0") == [mx.gpu(1), mx.gpu(0)]


@pytest.mark.parametrize(
    "text", ["", "tpu", "cpu:2", "cpu*0", "cpu*", "cpu*two", "gpu*2", "gpu:", "gpu:a", "gpu:0,0", "gpu:-1", "GPU"]
)
def test_parse_rejects_what_it_does_not_know(text):
    with pytest.raises(ValueError, match=r"unknown device .*: give auto, cpu, cpu\*4 .* or gpu:0,1") as error:
        devices.parse(text)
    assert repr(text) in str(error.value)


def test_parse_rejects_a_gpu_that_does_not_work(gpus):
    gpus("")
    with pytest.raises(ValueError, match="'gpu:0,3' is not available. GPUs .* MXNet: gpu:0. Give"):
        devices.parse("gpu:0,3")


def test_parse_rejects_gpu_without_any(gpus):
    gpus()
    with pytest.raises(ValueError, match="'gpu' is not available. GPUs that can run MXNet: none"):
        devices.parse("gpu")


def test_without_mxnet_the_extras_are_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "mxnet")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(ImportError, match=r'MXNet is not installed: pip install "d2lcls\[cpu\]"'):
        devices.best()
