"""The devices that can run MXNet on this machine, found by running a kernel on each.

The GPU wheels of MXNet 1.9.1 contain machine code for a few compute capabilities, and no PTX, which a driver could
compile for others. With any other GPU, importing works, the GPU is counted, and the first kernel fails.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from d2lcls.machine import compat

if TYPE_CHECKING:
    import mxnet as mx

# The machine code in the wheels. Code for X.y runs on a GPU of X.z where z >= y, and on no other X.
WHEEL_CAPABILITIES = ((5, 0), (6, 0), (7, 0), (8, 0), (8, 6))

# From their documentation; not tried.
OTHER_WAYS = (
    "export the network to ONNX (d2lcls onnx) and run it with ONNX Runtime for CUDA; or, on a Hopper (9.0), "
    "use NVIDIA's last MXNet containers, 24.05 and 24.06; or port the code to the unofficial fork of MXNet 2.0, "
    "smolix/mxnet on GitHub, which has wheels for 8.0 to 12.0 and a different Gluon: d2lcls does not run on it"
)

_KERNEL = """
import sys
import d2lcls
import mxnet as mx
assert mx.nd.ones((2, 2), ctx=mx.gpu(int(sys.argv[1]))).sum().asscalar() == 4
"""


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver reports it: its name, and its compute capability as (major, minor)."""

    name: str
    capability: tuple[int, int]

    @property
    def supported(self) -> bool:
        """Whether the MXNet wheels contain machine code that runs on it."""
        major, minor = self.capability
        return any(major == x and minor >= y for x, y in WHEEL_CAPABILITIES)

    def why_unsupported(self) -> str:
        """Return the reason why MXNet does not run on this GPU, as a sentence."""
        supported = ", ".join(f"{x}.{y}" for x, y in WHEEL_CAPABILITIES)
        age = "newer" if self.capability > WHEEL_CAPABILITIES[-1] else "older"
        return (
            f"{self.name} has compute capability {self.capability[0]}.{self.capability[1]} and is {age} than any "
            f"MXNet wheel supports (they contain machine code for {supported})"
        )


def installed_gpus() -> list[Gpu]:
    """Return the GPUs that ``nvidia-smi`` reports; empty without a driver."""
    command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    gpus = []
    for line in result.stdout.splitlines() if result.returncode == 0 else ():
        name, _, capability = line.rpartition(",")
        major, dot, minor = capability.strip().partition(".")
        if dot and major.isdigit() and minor.isdigit():
            gpus.append(Gpu(name.strip(), (int(major), int(minor))))
    return gpus


def best(limit: int | None = None) -> list[mx.Context]:
    """Return the MXNet contexts to compute on: every GPU that ran a kernel, or else ``[mx.cpu()]``.

    Each process tests the GPUs once, and a warning names those that failed.

    Args:
        limit: largest number of contexts to return; None is no limit.

    Raises:
        ImportError: MXNet cannot be imported.
        ValueError: the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is the largest number of devices to use, at least 1; got {limit}")
    mx = compat.import_mxnet()
    return [mx.gpu(index) for index in working_gpus()][:limit] or [mx.cpu()]


def parse(text: str) -> list[mx.Context]:
    """Return the MXNet contexts that a command-line option names.

    Args:
        text: "auto" for `best()`, "cpu" for one CPU context, "cpu*4" for four, "gpu" for every GPU that works, or
            "gpu:0,1" for these two.

    Raises:
        ValueError: it is none of these, or a GPU does not work.
    """
    mx = compat.import_mxnet()
    kind, mark, rest = text.partition("*" if "*" in text else ":")
    if text == "auto":
        return best()
    if text == "cpu":
        return [mx.cpu()]
    if (kind, mark) == ("cpu", "*") and rest.isdigit() and int(rest) > 0:
        return [mx.cpu(index) for index in range(int(rest))]
    indices = rest.split(",")
    if text != "gpu" and not (
        (kind, mark) == ("gpu", ":")
        and all(index.isdigit() for index in indices)
        and len(set(map(int, indices))) == len(indices)
    ):
        raise ValueError(
            f"unknown device {text!r}: give auto, cpu, cpu*4 (four CPU contexts), gpu (all that work) or "
            "gpu:0,1 (these two)"
        )
    working = working_gpus()
    wanted = working if text == "gpu" else tuple(map(int, indices))
    if not wanted or not set(wanted) <= set(working):
        available = ", ".join(f"gpu:{index}" for index in working) or "none"
        raise ValueError(
            f"device {text!r} is not available. GPUs that can run MXNet: {available}. "
            "Give auto or cpu instead; `d2lcls doctor` shows what is wrong"
        )
    return [mx.gpu(index) for index in wanted]


@functools.cache
def working_gpus() -> tuple[int, ...]:
    """Return the indices of the GPUs that ran an MXNet kernel, and warn about those that did not."""
    failures = gpu_failures()
    working = tuple(index for index, failure in enumerate(failures) if not failure)
    if len(working) < len(failures):
        warnings.warn(_explanation(failures, bool(working)), stacklevel=3)
    return working


@functools.cache
def gpu_failures() -> tuple[str, ...]:
    """Run an MXNet kernel on every GPU and return the error of each, "" for those that work."""
    # A kernel that fails can crash its process, so each GPU is tested in a child process.
    children = [start_child(_KERNEL, str(index)) for index in range(count_gpus())]
    return tuple(map(child_failure, children))


def count_gpus() -> int:
    """Return the number of GPUs that MXNet finds: 0 with the CPU wheel or without a driver."""
    mx = compat.import_mxnet()
    try:
        return mx.context.num_gpus()
    except mx.base.MXNetError:
        return 0


def start_child(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start Python on `code` with this process's import path."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        env=environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def child_failure(child: subprocess.Popen[str], timeout: float = 120) -> str:
    """Wait for a child process and return the signal that killed it, the last line of its error, or "" on success.

    Args:
        timeout: seconds, after which the child is killed.
    """
    try:
        _, errors = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        return f"no answer in {timeout} seconds"
    finally:  # also after Ctrl-C
        if child.returncode is None:
            child.kill()
            child.communicate()
    if child.returncode == 0:
        return ""
    if child.returncode < 0:
        killer = signal.Signals(-child.returncode)
        return f"killed by {killer.name} ({signal.strsignal(killer)})"
    lines = errors.strip().splitlines()
    return lines[-1].strip() if lines else f"ended with exit code {child.returncode}"


def _explanation(failures: Sequence[str], some_work: bool) -> str:
    instead = "the other GPUs are used" if some_work else "the CPU is used"
    # CUDA may number the GPUs differently from nvidia-smi, so the two lists are not matched up.
    unsupported = sorted({gpu.why_unsupported() for gpu in installed_gpus() if not gpu.supported})
    if unsupported:
        return f"{'; '.join(unsupported)}: {instead}. To compute on it, {OTHER_WAYS}."
    failed = "; ".join(f"gpu:{index} ({failure})" for index, failure in enumerate(failures) if failure)
    return f"MXNet ran no kernel on {failed}: {instead}. `d2lcls doctor` shows what to check."
