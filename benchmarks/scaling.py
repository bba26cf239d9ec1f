"""How do speed and memory depend on batch size, image size, number of cores and size of the data set?

Training steps on a fixed batch, in float32: the book's CNN with batches of 8 to 1,024 images of 32 pixels; a ResNet-18
with 32 images of 32 to 224 pixels; both on one core and on all. The input pipeline, with crop and mirroring, over sets
of 5,000 to 200,000 images of 32 pixels with random pixels. Prediction by the CNN with random weights, hybridized, fused
and in int8, as `d2lcls serve` runs it, with batches of 1 to 1,024. Every point is a process of its own that sleeps
between its turns. Memory is the process's maximum. Writes results/scaling.json. About six minutes on two cores, with
16 GB of memory.
"""

import argparse
import sys

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import data, models
from d2lcls.book import results
from d2lcls.machine.cores import usable_cores

import mxnet as mx
import numpy as np
from mxnet import nd
from rivals.side import MEAN, STD, answer, fixed_batch, stretch
from rivals.turns import UNITS, brief, on_cores, ours, speed, take_turns

TRAINING_BATCHES = (8, 16, 32, 64, 128, 256, 512, 1024)
PIXELS = (32, 64, 128, 224)
SETS = (5_000, 50_000, 200_000)
FORMS, BATCHES = ("float32", "fused", "int8"), (1, 8, 64, 256, 1024)
SECONDS, STRETCH = 0.6, 25_600  # of a turn; images of a turn of the pipeline


def main():
    """Measure every group and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found = {
        "batch": grow({str(size): ours("step", "cnn", size, 32, 10, "float32") for size in TRAINING_BATCHES}, rounds),
        "pixels": grow({str(side): ours("step", "resnet18_v1", 32, side, 1000, "float32") for side in PIXELS}, rounds),
        "cores": {
            name: grow(
                {
                    str(cores): on_cores(cores, ours("step", name, *shape, "float32"))
                    for cores in sorted({1, usable_cores()})
                },
                rounds,
            )
            for name, *shape in (("cnn", 128, 32, 10), ("resnet18_v1", 16, 224, 1000))
        },
        "images": grow({str(number): this("pipeline", number) for number in SETS}, rounds, STRETCH),
        "inference": {form: {} for form in FORMS},
    }
    points = grow({f"{form} {size}": this("predict", form, size) for size in BATCHES for form in FORMS}, rounds)
    for name, point in points.items():
        form, size = name.split()
        found["inference"][form][size] = point
    print(
        results.write(
            "scaling",
            "python benchmarks/scaling.py",
            {
                **found,
                "set_mb": {str(number): number * 32 * 32 * 3 / 1e6 for number in SETS},
                "rounds": rounds,
                "units": {
                    "batch": "by images a batch, training the CNN",
                    "pixels": "by pixels a side, training ResNet-18, batch 32",
                    "cores": "by network and cores",
                    "images": "by images in the set, the input pipeline alone",
                    "inference": "by form and images a batch, the CNN",
                    "images_per_second": "images/s, over rounds",
                    "peak_mb": UNITS["peak_mb"],
                    "imported_mb": "MB that the process had before it made anything, for its libraries",
                    "set_mb": "MB of the set's pixels",
                },
            },
        )
    )


def this(*words):
    """Return the command of a process of this file, without MXNet's threads between a call and its computation."""
    return ["env", "MXNET_ENGINE_TYPE=NaiveEngine", sys.executable, __file__, "--point", *words]


def grow(commands, rounds, request=SECONDS):
    """Return a dict from the name of a point to its speed and memory."""
    turns, _ = take_turns(commands, request, rounds)
    return {
        name: {
            "images_per_second": brief([speed(turn) for turn in seen]),
            "peak_mb": seen[-1]["peak"],
            "imported_mb": seen[-1]["imported"],
        }
        for name, seen in turns.items()
    }


def pipeline(number):
    """Return the turn of a process that makes batches of a set of so many images; see `rivals.side.answer`."""
    pixels = np.random.default_rng(0).integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)
    images = data.Images(pixels, np.arange(number) % 10, tuple("0123456789"), "drawn")
    batches = data.Batches(images, 128, MEAN, STD, shuffle=True, augment=data.STANDARD)

    def run(wanted):
        epoch = 0
        while wanted > 0:
            for x, _ in batches.epoch(epoch):
                wanted -= len(nd.array(x))
                if wanted <= 0:
                    break
            epoch += 1

    return stretch(run), 256, lambda: 0


def predict(form, size):
    """Return the turn of a process that predicts batches of so many images; see `rivals.side.answer`."""
    mx.random.seed(0)
    net = models.get_model("cnn")
    net.initialize(mx.init.MSRAPrelu("in", 0))
    x = np.random.default_rng(0).normal(size=(size, 3, 32, 32)).astype(np.float32)
    net(nd.array(x[:1]))
    if form == "float32":
        net.hybridize(static_alloc=True, static_shape=True)
    else:
        net = models.fuse(net) if form == "fused" else models.quantize(net, np.resize(x, (64, 3, 32, 32)))
    return fixed_batch(lambda: net(nd.array(x)).asnumpy(), size), 0, lambda: 0


if __name__ == "__main__":
    if "--point" not in sys.argv:
        main()
    elif sys.argv[2] == "pipeline":
        answer(lambda: pipeline(int(sys.argv[3])))
    else:
        answer(lambda: predict(sys.argv[3], int(sys.argv[4])))
