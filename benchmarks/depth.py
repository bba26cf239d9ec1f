"""Does depth pay off, with shortcuts and without?

Trains networks of 20 and of 56 layers on CIFAR-10, each with shortcuts and without. The residual networks are GluonCV's
CIFAR ResNets of version 1 with half as many channels (8, 16 and 32), and each residual block begins as the identity:
the scale of its last batch normalisation starts at 0. The plain networks are the same without the shortcuts, and their
scales start at 1.

All networks see the same 45,000 training images, shifted and mirrored in the same way, in the same order, for the same
number of epochs, and differ only in their learning rates: a first, shorter training with a seed of its own tries
several for each network and keeps the one with the lowest training loss. The training loss is the mean over the last
epoch, of the augmented images, and the accuracy is that on 5,000 images put aside, after the last epoch.

Every run keeps a checkpoint in runs/depth, so that an interrupted command continues where it stopped, and finished runs
are not repeated. Two processes with one thread each (OMP_NUM_THREADS=1), which share the networks out with --only, are
quicker than one with two. Writes results/depth.json. About three hours on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import data
from d2lcls.book import results
from d2lcls.machine.files import write_atomically
from d2lcls.models import summarize, without_shortcuts
from d2lcls.models.slow_layers import replace_global_pooling
from d2lcls.training import Epoch, TrainingDiverged, evaluate, fit
from d2lcls.training.recipe import Recipe

import mxnet as mx
from gluoncv.model_zoo.cifarresnet import CIFARBasicBlockV1, CIFARResNetV1
from mxnet import gluon, nd

RUNS = results.FOLDER.parent / "runs" / "depth"
DEPTHS, KINDS = (20, 56), ("plain", "residual")
NETWORKS = {f"{kind}_{depth}": (kind, depth) for depth in DEPTHS for kind in KINDS}
CHANNELS = [8, 8, 16, 32]  # of the first convolution and of the three stages
COMMON: dict[str, Any] = {"batch_size": 128, "wd": 1e-4, "warmup_epochs": 1.0}
KEYS = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy")
SEARCH_SEED = 1000  # of the runs that choose the learning rate, and of no other


def main() -> None:
    """Train what is not trained yet and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=45_000, help="training images, at most 45,000")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.03, 0.1, 0.3, 1.0], help="learning rates to try")
    parser.add_argument("--search-epochs", type=int, default=2, help="epochs of each of these")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, help="train these and write nothing")
    options = parser.parse_args()
    rest, held_out = data.split_validation(data.load("cifar10", fallback=False), 5000, seed=0)
    rest = data.take_per_class(rest, options.images // 10, seed=0)

    names = options.only or list(NETWORKS)
    searched: dict[str, dict[float, float | None]] = {name: {} for name in names}
    rates: dict[str, float] = {}
    for name, losses in searched.items():
        for rate in options.rates:
            losses[rate] = run(name, SEARCH_SEED, rate, options.search_epochs, rest, held_out)["train_loss"]
        rates[name] = min((loss, rate) for rate, loss in losses.items() if loss is not None)[1]
    measured = {
        name: [run(name, seed, rates[name], options.epochs, rest, held_out) for seed in options.seeds] for name in names
    }
    if not options.only:
        values = summary(measured, searched, rates, options)
        command = " ".join(["python benchmarks/depth.py", *sys.argv[1:]])
        print(results.write("depth", command, values, data=["cifar10"]))


def run(name: str, seed: int, rate: float, epochs: int, train: data.Images, valid: data.Images) -> dict[str, Any]:
    """Return losses and accuracies of a network, trained unless that was done before; all None if it diverges."""
    folder = RUNS / f"{name}-{len(train)}x{epochs}-rate{rate}-seed{seed}"
    kept = folder / "measured.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    mean, std = data.channel_statistics(train.images)
    batches = data.Batches(train, COMMON["batch_size"], mean, std, shuffle=True, augment=data.STANDARD, seed=seed)
    try:
        net, records = trained(name, batches, seed, rate, epochs, folder)
    except TrainingDiverged:
        found: dict[str, Any] = dict.fromkeys((*KEYS, "by_epoch"))
    else:
        score = evaluate(net, data.Batches(valid, 250, mean, std))
        found = {
            "train_loss": records[-1].train_loss,
            "train_accuracy": 100 * records[-1].train_accuracy,
            "valid_loss": score.loss,
            "valid_accuracy": 100 * score.accuracy,
            "by_epoch": [record.train_loss for record in records],
        }
        print(f"{folder.name}: {found}, {sum(record.seconds for record in records) / 60:.1f} minutes", flush=True)
    write_atomically(kept, json.dumps(found).encode())
    return found


def network(name: str) -> gluon.HybridBlock:
    """Return an initialised network; its random numbers come from MXNet's generator."""
    kind, depth = NETWORKS[name]
    net = CIFARResNetV1(CIFARBasicBlockV1, [(depth - 2) // 6] * 3, CHANNELS)
    if kind == "plain":
        without_shortcuts(net)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net(nd.zeros((1, 3, 32, 32)))  # settles all shapes
    if kind == "residual":
        for path, parameter in net._collect_params_with_prefix().items():
            if path.endswith("body.4.gamma"):  # the scale of the last normalisation of a block
                parameter.set_data(nd.zeros(parameter.shape))
    replace_global_pooling(net)  # as models.get_model does
    return net


def trained(
    name: str, batches: data.Batches, seed: int, rate: float, epochs: int, folder: Path
) -> tuple[gluon.HybridBlock, list[Epoch]]:
    """Train a network, or go on where its training stands; return it with the records of `fit`."""
    mx.random.seed(seed)
    net = network(name)
    recipe = Recipe(num_epochs=epochs, lr=rate, seed=seed, **COMMON)
    return net, fit(net, batches, recipe=recipe, checkpoint_dir=folder, resume=True, on_epoch=None)


def summary(
    measured: dict[str, list[dict[str, Any]]],
    searched: dict[str, dict[float, float | None]],
    rates: dict[str, float],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Return what results/depth.json holds besides command, versions and machine."""
    counted = {name: summarize(network(name), (3, 32, 32)) for name in NETWORKS}
    return {
        **{key: {name: results.spread(run[key] for run in runs) for name, runs in measured.items()} for key in KEYS},
        "by_epoch": {name: [run["by_epoch"] for run in runs] for name, runs in measured.items()},
        "searched": searched,
        "parameters": {name: each.parameters for name, each in counted.items()},
        "multiply_adds": {name: each.multiply_adds for name, each in counted.items()},
        "seeds": options.seeds,
        "recipe": {
            "images": options.images,
            "epochs": options.epochs,
            "search_epochs": options.search_epochs,
            "channels": CHANNELS,
            "augment": ["pad_crop", "flip"],
            "lr": rates,
            **COMMON,
        },
        "units": {
            "train_loss": "nats per augmented training image, mean over the last epoch; by seed",
            "train_accuracy": "% of the augmented training images, over the last epoch; by seed",
            "valid_loss": "nats per image, 5,000 images; by seed",
            "valid_accuracy": "% of 5,000 images; by seed",
            "by_epoch": "train_loss of each epoch, for each seed",
            "searched": "train_loss of a short run with another seed, by learning rate; null if it diverged",
            "multiply_adds": "per image",
        },
    }


if __name__ == "__main__":
    main()
