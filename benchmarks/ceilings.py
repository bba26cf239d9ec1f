"""What are this machine's peak rates, as MXNet's libraries reach them, and how much of them does training use?

The peak rates are those of a large matrix product (nd.dot, computed by BLAS, and FullyConnected, by oneDNN) and of 3x3
convolutions from 256 to 256 channels, forward only and with the backward pass, in float32, int8 and, where the
processor has instructions for it, bfloat16; and the bytes per second of copying and adding large arrays. In the same
rounds, the book's networks train on a fixed batch, in both precisions. Each network's rate is compared with the forward
convolution of its precision: its FLOP are those of convolutions and dense layers, twice the multiply-adds, three times
the forward pass without the gradients that are not needed. Everything is measured on one core and on all. The kernels
of one number of cores share a process, each network has its own, and all sleep between their turns. Writes
results/ceilings.json. About five minutes on two cores.
"""

import argparse
import json
import statistics
import sys
import time

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import models
from d2lcls.book import results
from d2lcls.deploy.timing import Sleeper
from d2lcls.machine.cores import usable_cores
from d2lcls.models.costs import training_flop

import mxnet as mx
import numpy as np
from mxnet import autograd, nd
from mxnet.gluon import nn
from rivals.turns import brief, on_cores, ours, precisions, speed

NETWORKS = {
    "cnn": (128, 32, 10),
    "cifar_resnet20_v1": (128, 32, 10),
    "resnet18_v1": (16, 224, 1000),
    "fast94": (512, 32, 10),
}  # batch, pixels, classes
PRECISIONS = precisions()
SECONDS = 0.3  # of a turn of a kernel; a network gets twice as long
BFLOAT16 = np.dtype([("bfloat16", np.uint16)])
SIDE = 2048  # of the matrices
IMAGES, CHANNELS, PIXELS = 4, 256, 56  # of the convolutions
LONG = 64 * 2**20  # numbers in an array, far more than the caches hold


def main():
    """Measure on one core and on all, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    options = parser.parse_args()
    flop = {name: flop_of(name) for name in options.networks}
    found = {str(cores): measure(cores, flop, options.rounds) for cores in sorted({1, usable_cores()})}
    print(
        results.write(
            "ceilings",
            "python benchmarks/ceilings.py",
            {
                "cores": found,
                "rounds": options.rounds,
                "flop_per_image": flop,
                "batch": {name: NETWORKS[name][0] for name in flop},
                "units": {
                    "cores": "by their number",
                    "kernels": "GFLOP/s, int8: GOP/s, copy and add: GB/s read and written",
                    "networks.*.images_per_second": "training images/s",
                    "networks.*.gflops": "GFLOP/s of all that is counted",
                    "networks.*.share": "of the forward convolution's rate in the same precision, by round",
                    "networks.*.share_inside": "the same without multiplications with padding, which oneDNN skips",
                    "flop_per_image": "FLOP of a training step for one image; inside: those with padding left out",
                },
            },
        )
    )


def flop_of(name):
    """Return the FLOP of a training step for one image, all and without those on padding."""
    _, pixels, classes = NETWORKS[name]
    net = models.get_model(name, classes=classes)
    net.initialize()
    return {
        "all": training_flop(net, (3, pixels, pixels)),
        "inside": training_flop(net, (3, pixels, pixels), padding=False),
    }


def measure(cores, flop, rounds):
    """Return ceilings and networks on so many cores."""
    sides = [(name, precision) for name in flop for precision in PRECISIONS]
    kernels = Sleeper(on_cores(cores, [sys.executable, __file__, "--kernels"]), engine=None)
    sleepers, rates, speeds = {}, {name: [] for name in json.loads(kernels.ready)}, {side: [] for side in sides}
    try:
        for name, precision in sides:
            command = ours("step", name, *NETWORKS[name], precision)
            sleepers[name, precision] = Sleeper(on_cores(cores, command), engine=None)
        for _ in range(rounds):
            for name, seen in rates.items():
                seen.append(float(kernels.ask(name)))
            for side, sleeper in sleepers.items():
                speeds[side].append(speed(json.loads(sleeper.ask(2 * SECONDS))))
            print(cores, {name: round(seen[-1]) for name, seen in {**rates, **speeds}.items()}, flush=True)
    finally:
        for sleeper in (kernels, *sleepers.values()):
            sleeper.close()
    networks = {name: {} for name in flop}
    for (name, precision), seen in speeds.items():
        roof = rates[f"convolution_{precision}"]
        networks[name][precision] = {
            "images_per_second": brief(seen),
            "gflops": brief([each * flop[name]["all"] / 1e9 for each in seen]),
            **{
                key: brief([each * flop[name][count] / 1e9 / top for each, top in zip(seen, roof)])
                for key, count in (("share", "all"), ("share_inside", "inside"))
            },
        }
    return {"kernels": {name: brief(seen) for name, seen in rates.items()}, "networks": networks}


def kernels():
    """Be the process that measures kernels: the names first, then the rate of each that is asked for."""
    made = {**products(), **convolutions(), **memory()}
    print(json.dumps(list(made)), flush=True)
    for line in sys.stdin:
        run, work = made[line.strip()]
        run()
        nd.waitall()
        seconds, end = [], time.perf_counter() + SECONDS
        while len(seconds) < 3 or time.perf_counter() < end:
            begun = time.perf_counter()
            run()
            nd.waitall()
            seconds.append(time.perf_counter() - begun)
        print(work / 1e9 / statistics.median(seconds), flush=True)


def products():
    """Return a dict from the name of a matrix product to (function, FLOP)."""
    a, b = (nd.random.normal(shape=(SIDE, SIDE)) for _ in range(2))

    def dense(x, weight):
        return nd.FullyConnected(x, weight, no_bias=True, num_hidden=SIDE)

    work = 2 * SIDE**3
    made = {"dot_float32": (lambda: nd.dot(a, b), work), "dense_float32": (lambda: dense(a, b), work)}
    if "bfloat16" in PRECISIONS:
        low = [nd.amp_cast(matrix, dtype=BFLOAT16) for matrix in (a, b)]
        made["dense_bfloat16"] = lambda: dense(*low), work
    return made


def convolutions():
    """Return a dict from the name of a convolution to (function, FLOP), those with padding not counted."""

    def convolve(x, weight):
        return nd.Convolution(x, weight, kernel=(3, 3), pad=(1, 1), num_filter=CHANNELS, no_bias=True)

    def forward_backward(x, weight):
        with autograd.record():
            y = convolve(x, weight)
        y.backward()

    weight = nd.random.normal(scale=0.02, shape=(CHANNELS, CHANNELS, 3, 3))
    pixels = nd.random.uniform(shape=(IMAGES, CHANNELS, PIXELS, PIXELS))
    x = convolve(pixels, weight)  # now in the memory layout that one convolution hands the next
    work = 2 * IMAGES * CHANNELS**2 * (3 * PIXELS - 2) ** 2
    made = {}
    for precision, dtype in zip(PRECISIONS, (np.float32, BFLOAT16)):
        arrays = [nd.amp_cast(array, dtype=dtype) for array in (x, weight)]
        learned = [nd.amp_cast(array, dtype=dtype) for array in (x, weight)]
        for array in learned:
            array.attach_grad()
        made[f"convolution_{precision}"] = lambda arrays=arrays: convolve(*arrays), work
        made[f"forward_backward_{precision}"] = lambda learned=learned: forward_backward(*learned), 3 * work
    net = nn.HybridSequential()
    for _ in range(4):  # so that turning the first input into int8 and the last output into float32 weighs little
        net.add(nn.Conv2D(CHANNELS, 3, padding=1, use_bias=False, in_channels=CHANNELS), nn.Activation("relu"))
    net.initialize(mx.init.MSRAPrelu("in", 0))
    int8 = models.quantize(net, pixels.asnumpy())
    return {**made, "convolution_int8": (lambda: int8(pixels), 4 * work)}


def memory():
    """Return a dict from the name of an operation on long arrays to (function, bytes read and written)."""
    a, b, c = (nd.ones(LONG) for _ in range(3))
    return {"copy": (lambda: a.copyto(b), 2 * 4 * LONG), "add": (lambda: nd.elemwise_add(a, b, out=c), 3 * 4 * LONG)}


if __name__ == "__main__":
    kernels() if "--kernels" in sys.argv else main()
