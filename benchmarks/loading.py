"""How fast do batches come, made whole or picture by picture?

Five ways to a batch of 128 cropped, mirrored and normalised CIFAR-10 images as an MXNet array take turns in one
process: `Batches`, and Gluon's DataLoader with Gluon's own transforms and with those of GluonCV's CIFAR-10 recipe,
each in the main process and with two workers. GluonCV pads and crops as `Batches` does; Gluon has no such transform,
and its nearest one crops to a random size instead. Nothing is trained. Writes results/loading.json. About one minute
on two cores.
"""

import argparse
import time

import d2lcls  # noqa: F401  before mxnet, which it makes importable
import numpy as np
from gluoncv.data import transforms as gluoncv_transforms
from mxnet import gluon, nd
from mxnet.gluon.data.vision import transforms

from d2lcls import data, results

BATCH = 128
IMAGES = {"batches": 20_000, "gluon": 2_000, "gluon_workers": 4_000, "gluoncv": 2_000, "gluoncv_workers": 4_000}


def main():
    """Let every contestant run once a round and sum the rounds up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    train = data.load("cifar10", fallback=False)
    mean, std = data.channel_statistics(train.images)
    loaders = {name: make(name, train.subset(slice(number)), mean, std) for name, number in IMAGES.items()}
    for loader in loaders.values():  # warm-up
        images_per_second(loader)
    speeds = {name: [] for name in loaders}
    for _ in range(rounds):
        for name, loader in loaders.items():
            speeds[name].append(images_per_second(loader))
        print("  ".join(f"{name} {values[-1]:,.0f}" for name, values in speeds.items()), flush=True)
    ratio = {name: results.spread([a / b for a, b in zip(speeds["batches"], values)])
             for name, values in speeds.items() if name != "batches"}
    path = results.write(
        "loading", "python benchmarks/loading.py",
        {**{name: results.spread(values) for name, values in speeds.items()}, "ratio": ratio, "rounds": rounds,
         "units": {"batches, gluon*, gluoncv*": "images/s", "ratio": "batches' images/s over theirs, same round",
                   "workers": "2 processes"}}, data=["cifar10"])
    print(path)


def make(name, images, mean, std):
    """Return a loader of (images, labels) batches by its name in IMAGES."""
    if name == "batches":
        return data.Batches(images, BATCH, mean, std, shuffle=True, augment=data.STANDARD)
    crop = (gluoncv_transforms.RandomCrop(32, pad=4) if name.startswith("gluoncv")
            else transforms.RandomResizedCrop(32, scale=(0.64, 1.0), ratio=(1.0, 1.0)))
    steps = transforms.Compose([crop, transforms.RandomFlipLeftRight(),
                                transforms.ToTensor(), transforms.Normalize(tuple(mean), tuple(std))])
    pairs = gluon.data.ArrayDataset(nd.array(images.images, dtype="uint8"), images.labels.astype(np.int32))
    return gluon.data.DataLoader(pairs.transform_first(steps), BATCH, shuffle=True,
                                 num_workers=2 if name.endswith("_workers") else 0)


def images_per_second(loader):
    """Run through a loader once, each batch up to the MXNet array, and return the speed."""
    begun, images = time.perf_counter(), 0
    for x, _ in loader:
        x = x if isinstance(x, nd.NDArray) else nd.array(x)
        x.wait_to_read()
        images += len(x)
    return images / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
