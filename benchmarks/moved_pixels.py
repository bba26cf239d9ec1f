"""How much does each network lose when the pixels of all images are moved to other places, the same for every image?

Trains a small dense network and the book's CNN on 45,000 images of CIFAR-10 for two epochs, once as the images are and
once with their pixels in a random order, and scores them on the other 5,000 training images, which were moved in the
same way. Three seeds; the order differs from seed to seed. Writes results/moved_pixels.json. About ten minutes on two
cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import data
from d2lcls.book import results
from d2lcls.models import SmallCNN
from d2lcls.training import Recipe, evaluate, fit

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

EPOCHS, VALIDATION = 2, 5000
RATES = {"dense": 0.02, "cnn": 0.1}  # as in benchmarks/scoreboard.py


def main() -> None:
    """Train each network for each seed, on images as they are and moved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    train, valid = data.split_validation(data.load("cifar10", fallback=False), VALIDATION)
    accuracy: dict[str, dict[str, list[float]]] = {name: {"plain": [], "moved": []} for name in RATES}
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(32 * 32)
        for name in RATES:
            for kind in ("plain", "moved"):
                images = [moved(each, order) if kind == "moved" else each for each in (train, valid)]
                accuracy[name][kind].append(trained(name, seed, *images))
                print(f"seed {seed}, {name}, {kind}: {accuracy[name][kind][-1]:.2f} %", flush=True)
    values: dict[str, Any] = {
        "recipe": {"epochs": EPOCHS, "images": len(train), "batch_size": 128, "lr": RATES, "seeds": seeds},
        "valid_accuracy": {
            name: {kind: results.spread(runs) for kind, runs in kinds.items()} for name, kinds in accuracy.items()
        },
        "kept": {
            name: results.spread([100 * b / a for a, b in zip(kinds["plain"], kinds["moved"])])
            for name, kinds in accuracy.items()
        },
        "units": {
            "valid_accuracy": "% of 5,000 images, moved like the training images",
            "kept": "accuracy with moved pixels, in % of that without, by seed",
        },
    }
    command = " ".join(["python benchmarks/moved_pixels.py", *sys.argv[1:]])
    print(results.write("moved_pixels", command, values, data=["cifar10"]))


def moved(images: data.Images, order: np.ndarray) -> data.Images:
    """Return the images with their pixels in another order."""
    pixels = images.images
    return dataclasses.replace(
        images, images=pixels.reshape(len(pixels), -1, pixels.shape[3])[:, order].reshape(pixels.shape)
    )


def trained(name: str, seed: int, train: data.Images, valid: data.Images) -> float:
    """Return the accuracy in % of a network on the images `valid`."""
    mean, std = data.channel_statistics(train.images)
    mx.random.seed(seed)
    if name == "cnn":
        net = SmallCNN(classes=len(train.classes))
    else:
        net = nn.HybridSequential()
        net.add(nn.Flatten(), nn.Dense(256, activation="relu"), nn.Dense(len(train.classes)))
    net.initialize(mx.init.MSRAPrelu(slope=0))
    batches = data.Batches(train, 128, mean, std, shuffle=True, seed=seed)
    fit(net, batches, recipe=Recipe(num_epochs=EPOCHS, lr=RATES[name], seed=seed), on_epoch=None)
    return 100 * evaluate(net, data.Batches(valid, 256, mean, std)).accuracy


if __name__ == "__main__":
    main()
