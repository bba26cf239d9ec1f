"""Where a training step spends its time: by MXNet's operators, and by the kernels of oneDNN."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from d2lcls.training.steps import make_trainer, settle_shapes, train_step

import mxnet as mx
import numpy as np
from mxnet import gluon, nd

WARM_UP = 2  # steps before the one that is measured: the first ones plan memory and choose kernels

_STEP = """
import sys
import d2lcls
from gluoncv.model_zoo import get_model
from mxnet import autograd, gluon, nd
from d2lcls.models import replace_global_pooling

name, batch_size, steps, replace = sys.argv[1], *map(int, sys.argv[2:])
net = get_model(name, classes=10)
net.initialize()
if replace:
    replace_global_pooling(net)
net.hybridize(static_alloc=True, static_shape=True)
x, y = nd.random.normal(shape=(batch_size, 3, 32, 32)), nd.zeros(batch_size)
loss_function = gluon.loss.SoftmaxCrossEntropyLoss()
for step in range(steps):
    nd.waitall()
    print("step", step, flush=True)
    with autograd.record():
        loss = loss_function(net(x), y)
    loss.backward()
nd.waitall()
"""


class KernelTime(NamedTuple):
    """Milliseconds of one call of a oneDNN kernel."""

    kind: str  # such as "convolution"
    direction: str  # such as "forward_training"
    kernel: str  # oneDNN's name of it, such as "jit:avx512_common"
    ms: float

    @property
    def is_reference(self) -> bool:
        """Whether it is one of oneDNN's reference kernels: plain loops, correct and slow."""
        return "ref:" in self.kernel


def operator_times(net: gluon.HybridBlock, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Train one step under MXNet's profiler.

    Args:
        net: initialised network on the CPU. It is trained three steps, and hybridized.
        x: float32 (N, C, H, W).
        y: int (N,).

    Returns:
        milliseconds of all calls of each operator, by its name, the longest first.
    """
    ctx = [mx.cpu()]
    settle_shapes(net, x, ctx, seed=0)
    # One operator at a time: otherwise the engine runs, and the profiler sees, several as one.
    net.hybridize(static_alloc=True, static_shape=True, forward_bulk_size=1, backward_bulk_size=1)
    trainer = make_trainer(net, "sgd", {"learning_rate": 0.01, "momentum": 0.9})
    for _ in range(WARM_UP):
        train_step(net, trainer, x, y, ctx)
    nd.waitall()
    with tempfile.TemporaryDirectory() as folder:
        mx.profiler.set_config(
            profile_symbolic=True,
            profile_imperative=True,
            aggregate_stats=True,
            filename=str(Path(folder, "profile.json")),
        )
        mx.profiler.set_state("run")
        train_step(net, trainer, x, y, ctx)
        nd.waitall()
        mx.profiler.set_state("stop")
        rows = [line.split() for line in mx.profiler.dumps(reset=True).splitlines()]
    times = {
        row[0]: float(row[2])
        for row in rows
        if len(row) == 6 and row[1].isdigit() and not row[0].startswith("MX")  # MX...: calls, not operators
    }
    return dict(sorted(times.items(), key=lambda item: -item[1]))


def kernel_times(network: str, batch_size: int = 128, replace_pooling: bool = False) -> list[KernelTime]:
    """Run three forward and backward passes of a network and read what oneDNN reports of the last one.

    oneDNN reports if the environment variable `DNNL_VERBOSE` is 1. It reads the variable when it is loaded, so this
    happens in another process.

    Args:
        network: name in GluonCV's model zoo, of a network for images of 32 x 32 pixels.
        batch_size: images.
        replace_pooling: whether to call `models.replace_global_pooling` first.

    Returns:
        list of `KernelTime`, in the order of the calls; empty if this MXNet does not use oneDNN.

    Raises:
        RuntimeError: the process failed; holds its last words.
    """
    arguments = [network, str(batch_size), str(WARM_UP + 1), str(int(replace_pooling))]
    child = subprocess.run(
        [sys.executable, "-c", _STEP, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "DNNL_VERBOSE": "1"},
    )
    if child.returncode:
        raise RuntimeError(f"The process that runs {network} failed: {child.stderr[-500:]}")
    return parse_verbose(child.stdout.split(f"step {WARM_UP}\n")[1])


def parse_verbose(text: str) -> list[KernelTime]:
    """Read the lines that oneDNN prints with `DNNL_VERBOSE=1`; other lines are left out."""
    found = []
    for line in text.splitlines():
        # dnnl_verbose,exec,cpu,KIND,KERNEL,DIRECTION,...,MILLISECONDS
        fields = line.split(",")
        if fields[:2] == ["dnnl_verbose", "exec"]:
            found.append(KernelTime(fields[3], fields[5], fields[4], float(fields[-1])))
    return found
