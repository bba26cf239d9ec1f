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
are not repeated; delete the folder to start again. Writes results/depth.json. About 2.5 hours on two cores.
"""

from __future__ import annotations

import argparse
from typing import Any

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import data
from d2lcls.book import results
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
COMMON = {"batch_size": 128, "wd": 1e-4, "warmup_epochs": 1.0}
SEARCH_SEED = 1000  # of the runs that choose the learning rate, and of no other


def main() -> None:
    """Train what is not trained yet and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=45_000, help="training images, at most 45,000")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.03, 0.1, 0.3], help="learning rates to try")
    parser.add_argument("--search-epochs", type=int, default=2, help="epochs of each of these")
    parser.add_argument("--precision", default="float32", help="as in fit; with 8 channels, bfloat16 is slower")
    options = parser.parse_args()
    rest, held_out = data.split_validation(data.load("cifar10", fallback=False), 5000, seed=0)
    rest = data.take_per_class(rest, options.images // 10, seed=0)
    mean, std = data.channel_statistics(rest.images)

    def batches(seed: int) -> data.Batches:
        return data.Batches(rest, COMMON["batch_size"], mean, std, shuffle=True, augment=data.STANDARD, seed=seed)

    searched: dict[str, dict[str, float | None]] = {name: {} for name in NETWORKS}
    for name, losses in searched.items():
        for rate in options.rates:
            try:
                _, records = trained(name, batches(SEARCH_SEED), SEARCH_SEED, rate, options.search_epochs, options)
                losses[str(rate)] = records[-1].train_loss
            except TrainingDiverged:
                losses[str(rate)] = None
            print(f"{name} at rate {rate}: training loss {losses[str(rate)]}", flush=True)
    rates = {
        name: float(min((loss, rate) for rate, loss in losses.items() if loss is not None)[1])
        for name, losses in searched.items()
    }

    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in NETWORKS}
    for seed in options.seeds:
        for name in NETWORKS:
            net, records = trained(name, batches(seed), seed, rates[name], options.epochs, options)
            score = evaluate(net, data.Batches(held_out, 250, mean, std))
            measured[name].append(
                {
                    "train_loss": records[-1].train_loss,
                    "train_accuracy": 100 * records[-1].train_accuracy,
                    "valid_loss": score.loss,
                    "valid_accuracy": 100 * score.accuracy,
                    "minutes": sum(record.seconds for record in records) / 60,
                    "by_epoch": [record.train_loss for record in records],
                }
            )
            print(f"{name} seed {seed}: {measured[name][-1]}", flush=True)
    print(
        results.write("depth", "python benchmarks/depth.py", summary(measured, searched, rates, options), ["cifar10"])
    )


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
    name: str, batches: data.Batches, seed: int, rate: float, epochs: int, options: argparse.Namespace
) -> tuple[gluon.HybridBlock, list[Epoch]]:
    """Train a network, or go on where its training stands; return it with the records of `fit`."""
    mx.random.seed(seed)
    net = network(name)
    records = fit(
        net,
        batches,
        recipe=Recipe(num_epochs=epochs, lr=rate, seed=seed, precision=options.precision, **COMMON),
        checkpoint_dir=RUNS / f"{name}-{options.images}x{epochs}-rate{rate}-seed{seed}",
        resume=True,
        on_epoch=None,
    )
    return net, records


def summary(
    measured: dict[str, list[dict[str, Any]]],
    searched: dict[str, dict[str, float | None]],
    rates: dict[str, float],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Return what results/depth.json holds besides command, versions and machine."""
    keys = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "minutes")
    counted = {name: summarize(network(name), (3, 32, 32)) for name in NETWORKS}
    return {
        **{key: {name: results.spread(run[key] for run in runs) for name, runs in measured.items()} for key in keys},
        "by_epoch": {name: [run["by_epoch"] for run in runs] for name, runs in measured.items()},
        "searched": searched,
        "parameters": {name: each.parameters for name, each in counted.items()},
        "multiply_adds": {name: each.multiply_adds for name, each in counted.items()},
        "seeds": options.seeds,
        "precision": options.precision,
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
            "minutes": "training; by seed",
            "by_epoch": "train_loss of each epoch, for each seed",
            "searched": "train_loss of a short run with another seed, by learning rate; null if it diverged",
            "multiply_adds": "per image",
        },
    }


if __name__ == "__main__":
    main()
