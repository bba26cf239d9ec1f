"""How fast are batches prepared, as whole batches or image by image?

Several ways to prepare batches of 128 cropped, mirrored and normalised CIFAR-10 images take turns, each in its own
process, which sleeps in between: `Batches`; Gluon's DataLoader with Gluon's transforms and with those of GluonCV's
CIFAR-10 recipe; and, with --torch-python, PyTorch's DataLoader and PyTorch on whole batches. The DataLoaders run in the
main process and with two workers. All but one pad and crop like `Batches`; Gluon has no such transform, and its nearest
one crops to a random size instead. Nothing is trained. Writes results/loading.json. About two minutes on two cores.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import data
from d2lcls.book import results
from d2lcls.deploy.timing import Sleeper

import numpy as np
from gluoncv.data import transforms as gluoncv_transforms
from mxnet import gluon, nd
from mxnet.gluon.data.vision import transforms
from rivals.side import answer_passes
from rivals.turns import passes

BATCH = 128
IMAGES = {
    "batches": 50_000,
    "gluon": 2_000,
    "gluon_workers": 4_000,
    "gluoncv": 2_000,
    "gluoncv_workers": 4_000,
    "torch": 4_000,
    "torch_workers": 8_000,
    "torch_batches": 50_000,
}
TORCH = Path(__file__).parent / "rivals" / "torch_loading.py"


def main():
    """Run every side once per round and summarise the rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument(
        "--torch-python",
        default=os.environ.get("D2LCLS_TORCH_PYTHON"),
        help="a Python with torch; the default is the value of D2LCLS_TORCH_PYTHON",
    )
    parser.add_argument("--side", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)  # a process that is timed
    options = parser.parse_args()
    if options.side:
        return answer(*options.side)
    with tempfile.TemporaryDirectory() as work:
        sleepers = start(Path(work), options.torch_python)
        speeds = passes(sleepers, options.rounds)
    ratio = {
        name: results.spread([a / b for a, b in zip(speeds["batches"], values)])
        for name, values in speeds.items()
        if name != "batches"
    }
    others = {"torch_version": sleepers["torch"].ready.strip()} if "torch" in sleepers else {}
    print(
        results.write(
            "loading",
            "python benchmarks/loading.py --torch-python PYTHON",
            {
                **{name: results.spread(values) for name, values in speeds.items()},
                "ratio": ratio,
                "rounds": options.rounds,
                **others,
                "units": {
                    "batches, gluon*, gluoncv*, torch*": "images/s",
                    "workers": "2 processes",
                    "ratio": "batches' images/s over theirs, same round",
                },
            },
            data=["cifar10"],
        )
    )


def start(work, torch_python):
    """Return the processes that are timed, a `Sleeper` by name; a pass of each takes a few tenths of a second."""
    train = data.load("cifar10", fallback=False)
    mean, std = data.channel_statistics(train.images)
    sleepers = {}
    for name, number in IMAGES.items():
        file = work / f"{number}.npz"
        if not file.exists():
            np.savez(file, images=train.images[:number], labels=train.labels[:number], mean=mean, std=std)
        if not name.startswith("torch"):
            sleepers[name] = Sleeper([sys.executable, __file__, "--side", name, file], engine=None)
        elif torch_python:
            sleepers[name] = Sleeper([torch_python, TORCH, name, file], engine=None)
    return sleepers


def answer(name, path):
    """Be a process that is timed: answer each line with the images/s of a pass."""
    with np.load(path) as file:
        images = data.Images(file["images"], file["labels"], data.DATASETS["cifar10"].classes, "cifar10")
        loader = make(name, images, file["mean"], file["std"])
    answer_passes(lambda: arrays(loader))


def make(name, images, mean, std):
    """Return a loader of (images, labels) batches by its name in IMAGES."""
    if name == "batches":
        return data.Batches(images, BATCH, mean, std, shuffle=True, augment=data.STANDARD)
    crop = (
        gluoncv_transforms.RandomCrop(32, pad=4)
        if name.startswith("gluoncv")
        else transforms.RandomResizedCrop(32, scale=(0.64, 1.0), ratio=(1.0, 1.0))
    )
    steps = transforms.Compose(
        [crop, transforms.RandomFlipLeftRight(), transforms.ToTensor(), transforms.Normalize(tuple(mean), tuple(std))]
    )
    pairs = gluon.data.ArrayDataset(nd.array(images.images, dtype="uint8"), images.labels.astype(np.int32))
    return gluon.data.DataLoader(
        pairs.transform_first(steps), BATCH, shuffle=True, num_workers=2 if name.endswith("_workers") else 0
    )


def arrays(loader):
    """Run through a loader once and yield each batch as an MXNet array that is there."""
    for x, _ in loader:
        x = x if isinstance(x, nd.NDArray) else nd.array(x)
        x.wait_to_read()
        yield x


if __name__ == "__main__":
    main()
