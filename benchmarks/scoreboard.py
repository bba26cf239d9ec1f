"""How accurate is the classifier after each of the book's first chapters, and how long does it take to train?

Trains the classifier of each chapter on CIFAR-10, from the nearest class mean to a ResNet-20, with three seeds, and
scores it on the test images, which choose nothing. The accuracy in the last row is that of results/fast94.json.
Finished networks are kept in runs/scoreboard and not trained again.

The minutes are measured separately, when all networks are trained. In each of three rounds, every network in turn
trains on a tenth of the images: an epoch that does not count, in which MXNet plans memory, and one that is timed and
multiplied by ten and by the number of epochs. So all rows are timed on one machine, in float32, even if the networks
were trained on several. Nothing else may run meanwhile.

Writes results/scoreboard.json. About two hours on two cores with AVX-512, ten minutes of them for the timing. Two
processes with one thread each (OMP_NUM_THREADS=1), which share the networks out with --only and --seeds, are quicker.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import data
from d2lcls.book import results
from d2lcls.machine.files import write_atomically
from d2lcls.models import get_model, summarize
from d2lcls.models.fast94 import Fast94
from d2lcls.training import RECIPES, Recipe, evaluate, fit
from d2lcls.training.pipeline import cut_batches, make_network, resolve

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

RUNS = results.FOLDER.parent / "runs" / "scoreboard"
PIXELS = 3 * 32 * 32


def softmax_regression() -> nn.HybridBlock:
    """Return a network of one dense layer."""
    net = nn.HybridSequential()
    net.add(nn.Flatten(), nn.Dense(10))
    return net


def dense() -> nn.HybridBlock:
    """Return a network with one hidden layer of 256 units."""
    net = nn.HybridSequential()
    net.add(nn.Flatten(), nn.Dense(256, activation="relu"), nn.Dense(10))
    return net


TRAINED: dict[str, tuple[Callable[[], Any], Recipe]] = {
    "softmax_regression": (softmax_regression, Recipe(num_epochs=10, lr=0.01, augment=())),
    "dense": (dense, Recipe(num_epochs=10, lr=0.02, augment=())),
    "cnn_2_epochs": (lambda: get_model("cnn"), Recipe(num_epochs=2, lr=0.1, augment=())),
    "cnn_12_epochs": (lambda: get_model("cnn"), Recipe(num_epochs=12, lr=0.1, augment=())),
    "cnn_augmented": (lambda: get_model("cnn"), Recipe(num_epochs=12, lr=0.1)),
    "cnn_tuned": (lambda: get_model("cnn"), Recipe(num_epochs=12, lr=0.2)),
    "resnet20": (lambda: get_model("cifar_resnet20_v1"), Recipe(num_epochs=12, lr=0.2)),
}


def main() -> None:
    """Train what is not trained yet and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(TRAINED), help="train these and write nothing")
    parser.add_argument("--rounds", type=int, default=3, help="of the timing")
    options = parser.parse_args()
    train, test = (data.load("cifar10", split, fallback=False) for split in ("train", "test"))
    measured = {name: [trained(name, seed, train, test) for seed in options.seeds] for name in options.only}
    if list(measured) != list(TRAINED):
        return
    minutes = timed(train, options.rounds)
    fast_net = Fast94()
    fast_net.initialize()
    rows = {
        "guess": {"accuracy": results.spread([10.0]), "minutes": results.spread([0.0]), "parameters": 0},
        "nearest_mean": nearest_mean(train, test),
        **{
            name: {
                "accuracy": results.spread([run["accuracy"] for run in runs]),
                "minutes": results.spread(minutes[name]),
                "parameters": runs[0]["parameters"],
            }
            for name, runs in measured.items()
        },
        "fast94": {
            "accuracy": results.read("fast94")["accuracy"],
            "minutes": results.spread(minutes["fast94"]),
            "parameters": trained_values(fast_net),
        },
    }
    units = {
        "accuracy": "% of the 10,000 test images; of fast94 with six views of each, of the others with one",
        "minutes": "of training in float32, on all cores and with nothing else running",
        "parameters": "number of trained values",
    }
    print(results.write("scoreboard", "python benchmarks/scoreboard.py", {**rows, "units": units}, data=["cifar10"]))


def trained(name: str, seed: int, train: data.Images, test: data.Images) -> dict[str, Any]:
    """Return test accuracy in % and number of parameters of a network, trained unless that was done before."""
    done = RUNS / f"{name}-{seed}.json"
    if done.is_file():
        return json.loads(done.read_text())
    net, batches = network(name, seed, train)
    fit(net, batches, recipe=replace(TRAINED[name][1], seed=seed), checkpoint_dir=RUNS / f"{name}-{seed}", resume=True)
    score = evaluate(net, data.Batches(test, 256, batches.mean, batches.std))
    found = {"accuracy": 100 * score.accuracy, "parameters": trained_values(net)}
    print(name, seed, found, flush=True)
    write_atomically(done, json.dumps(found).encode())
    return found


def timed(train: data.Images, rounds: int) -> dict[str, list[float]]:
    """Return the minutes of each network's training as estimated from part of an epoch, by round."""
    part = train.subset(slice(len(train) // 10))
    minutes: dict[str, list[float]] = {name: [] for name in (*TRAINED, "fast94")}
    for number in range(rounds):
        for name in minutes:
            seconds = fast94_seconds(part) if name == "fast94" else seconds_of(name, part)
            minutes[name].append(10 * seconds / 60)
            print(f"round {number + 1}: {name} {minutes[name][-1]:.2f} minutes", flush=True)
    return minutes


def seconds_of(name: str, part: data.Images) -> float:
    """Return the seconds of all epochs of a network on part of the images; the first of two epochs is not timed."""
    net, batches = network(name, 0, part)
    recipe = TRAINED[name][1]
    _, record = fit(net, batches, recipe=replace(recipe, num_epochs=2, warmup_epochs=0), on_epoch=None)
    return record.seconds * recipe.num_epochs


def fast94_seconds(part: data.Images) -> float:
    """Return the same for the recipe fast94, whose first epochs take less time because they use small windows."""
    recipe = resolve(RECIPES["fast94"])
    assert recipe.small_first
    side, short = recipe.small_first
    few = replace(recipe, num_epochs=4, small_first=(side, 2), precision="float32")
    batches, _ = cut_batches(few, part, None)
    records = fit(make_network(few, batches), batches, recipe=few, on_epoch=None)
    return short * records[1].seconds + (recipe.num_epochs - short) * records[3].seconds


def network(name: str, seed: int, train: data.Images) -> tuple[Any, data.Batches]:
    """Return an initialised network and its training batches."""
    make, recipe = TRAINED[name]
    mean, std = data.channel_statistics(train.images)
    augment = data.STANDARD if recipe.augment else ()
    batches = data.Batches(train, 128, mean, std, shuffle=True, augment=augment, seed=seed)
    mx.random.seed(seed)
    np.random.seed(seed)
    net = make()
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net(mx.nd.zeros((1, 3, 32, 32)))
    return net, batches


def trained_values(net: Any) -> int:
    """Return the number of values that training changes in an initialised network."""
    return summarize(net, (3, 32, 32)).parameters


def nearest_mean(train: data.Images, test: data.Images) -> dict[str, Any]:
    """Classify each test image by the nearest mean image of a class."""
    begun = time.monotonic()
    means = np.stack([train.images[train.labels == k].reshape(-1, PIXELS).mean(axis=0) for k in range(10)])
    flat = test.images.reshape(-1, PIXELS).astype(np.float32)
    distances = (means**2).sum(axis=1) - 2 * flat @ means.T
    accuracy = 100 * (distances.argmin(axis=1) == test.labels).mean()
    minutes = (time.monotonic() - begun) / 60
    return {"accuracy": results.spread([accuracy]), "minutes": results.spread([minutes]), "parameters": means.size}


if __name__ == "__main__":
    main()
