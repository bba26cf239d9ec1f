"""How many epochs does each idea of the recipe fast94 save?

Trains the recipe at its full length of 13 epochs, on all of CIFAR-10 and with half of the channels, complete and with
one idea left out at a time, with three seeds each; scored on the test images with six views. With the same seed, all
settings get the images in the same order. The complete recipe is also trained for 5 and 9 epochs. These runs show how
its error falls with the number of epochs, and turn a loss of accuracy into epochs: if the recipe without an idea ends
with the accuracy that the complete recipe has after 10 epochs, the idea saves 3 of the 13.

Between the lengths that were run, the logarithm of the error is taken as a straight line over the logarithm of the
number of epochs; beyond them, the nearest line is extended. Each seed has its own curve. Every run keeps its
checkpoints in runs/fast94_ablation and goes on from them if it is interrupted. Two processes with one thread each
(OMP_NUM_THREADS=1), which share the ideas out with --only, are quicker than one with two. A run that was finished in
another precision, on another machine, is compared with runs in that precision. Writes results/fast94_ablation.json.
With --precision bfloat16 on two cores that have instructions for it, about an hour and a half; in float32, three and a
half hours with AVX-512 and six with AVX2.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import data
from d2lcls.book import results
from d2lcls.machine.files import write_atomically
from d2lcls.models.fast94 import Drawn, Fast94, whiten
from d2lcls.training import RECIPES, evaluate, fit, six_views
from d2lcls.training.recipe import PRECISIONS

import mxnet as mx

RUNS = results.FOLDER.parent / "runs" / "fast94_ablation"
WHOLE = RECIPES["fast94"].num_epochs
SHARES = 5 / 13, 9 / 13  # of the epochs, for the complete recipe's curve
WIDTHS = 32, 128, 128  # half of the recipe's
NOTHING = "nothing"
Pair = tuple[dict[str, Any], dict[int, dict[str, Any]]]  # a run, and the runs it is compared with by epochs
IDEAS = "whitening", "dirac", "alternating_flip", "bias_lr", "lookahead", "label_smoothing", "small_first"


def main() -> None:
    """Train what is not trained yet and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=WHOLE)
    parser.add_argument("--precision", default="float32", choices=PRECISIONS, help="of runs that are still missing")
    parser.add_argument(
        "--images", type=int, help="so many images and narrow layers, to try the script; writes no result"
    )
    parser.add_argument("--only", nargs="+", choices=(NOTHING, *IDEAS), help="leave out these and write nothing")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the runs")
    options = parser.parse_args()
    train, test = (data.load("cifar10", split, fallback=False) for split in ("train", "test"))
    if options.images:
        train, test = train.subset(slice(options.images)), test.subset(slice(options.images))
    lengths = [*(round(share * options.epochs) for share in SHARES), options.epochs]
    widths = (16, 16, 16) if options.images else WIDTHS

    def run(idea: str, epochs: int, seed: int, precision: str) -> dict[str, Any]:
        return trained(idea, epochs, seed, widths, precision, train, test, options.runs)

    if options.only:
        for seed in options.seeds:
            for idea in options.only:
                for epochs in reversed(lengths) if idea == NOTHING else (options.epochs,):
                    run(idea, epochs, seed, options.precision)
        return
    complete = {epochs: [run(NOTHING, epochs, seed, options.precision) for seed in options.seeds] for epochs in lengths}
    without: dict[str, list[Pair]] = {idea: [] for idea in IDEAS}
    for idea in IDEAS:
        for seed in options.seeds:
            # Machines differ: a run that was finished in another precision is compared with runs in that precision.
            precision = precision_of(idea, options.epochs, seed, len(train), options.runs, options.precision)
            curve = {epochs: run(NOTHING, epochs, seed, precision) for epochs in lengths}
            without[idea].append((run(idea, options.epochs, seed, precision), curve))
    if options.images:
        return
    values = {
        "seeds": options.seeds,
        "epochs": options.epochs,
        "images": len(train),
        "widths": widths,
        **summary(complete, without),
        "units": {
            "accuracy": "% of the 10,000 test images with six views, by the idea that was left out",
            "one_view": "the same with one view",
            "curve": "% with six views, complete recipe, by number of epochs",
            "lost": "points of accuracy lost without the idea, by seed",
            "saved": "epochs: the length of the recipe less the length at which the complete recipe has the accuracy "
            "that the recipe without the idea ends with, by seed",
            "precision": "of the runs without an idea and of those they are compared with, by seed",
            "slower": "seconds of training without the idea divided by those with it, by seed",
        },
    }
    command = " ".join(["python benchmarks/fast94_ablation.py", *sys.argv[1:]])
    print(results.write("fast94_ablation", command, values, data=["cifar10"]))


def summary(complete: dict[int, list[dict[str, Any]]], without: dict[str, list[Pair]]) -> dict[str, Any]:
    """Return what the runs say: accuracies, and what is lost and how many epochs are saved, seed by seed.

    Args:
        complete: runs of the complete recipe by number of epochs, each a list over the seeds.
        without: for each idea a list over the seeds: the run without it, and the complete recipe's runs of the same
            seed and precision by number of epochs.
    """
    whole = max(complete)
    every: dict[str, list[Pair]] = {
        **without,
        # The complete recipe, scored with one view.
        "six_views": [
            (
                {**complete[whole][index], "six_views": complete[whole][index]["one_view"]},
                {epochs: runs[index] for epochs, runs in complete.items()},
            )
            for index in range(len(complete[whole]))
        ],
    }

    def by_idea(value: Callable[[dict[str, Any], dict[int, dict[str, Any]]], float]) -> dict[str, Any]:
        return {idea: results.spread([value(run, curve) for run, curve in pairs]) for idea, pairs in every.items()}

    def saved(run: dict[str, Any], curve: dict[int, dict[str, Any]]) -> float:
        errors = [(epochs, 100 - point["six_views"]) for epochs, point in curve.items()]
        return whole - length(errors, 100 - run["six_views"])

    return {
        "accuracy": {
            NOTHING: results.spread([run["six_views"] for run in complete[whole]]),
            **by_idea(lambda run, curve: run["six_views"]),
        },
        "one_view": {
            NOTHING: results.spread([run["one_view"] for run in complete[whole]]),
            **by_idea(lambda run, curve: run["one_view"]),
        },
        "curve": {
            str(epochs): results.spread([run["six_views"] for run in complete[epochs]]) for epochs in sorted(complete)
        },
        "lost": by_idea(lambda run, curve: curve[whole]["six_views"] - run["six_views"]),
        "saved": by_idea(saved),
        "precision": {idea: [run["precision"] for run, _ in pairs] for idea, pairs in every.items()},
        "slower": by_idea(lambda run, curve: run["seconds"] / curve[whole]["seconds"]),
    }


def length(curve: Sequence[tuple[int, float]], error: float) -> float:
    """Return the number of epochs after which a curve has an error.

    The curve consists of straight lines through the given points, on logarithmic axes; the first and the last line go
    on beyond the points.

    Args:
        curve: (epochs, error) at two or more lengths; the error must fall from each to the next.
        error: above 0.

    Raises:
        ValueError: the error does not fall.
    """
    points = [(math.log(epochs), math.log(value)) for epochs, value in sorted(curve)]
    lines = list(zip(points, points[1:]))
    if any(b[1] >= a[1] for a, b in lines):
        raise ValueError(f"The error must fall with the number of epochs, which it does not here: {sorted(curve)}.")
    aim = math.log(error)
    (x0, y0), (x1, y1) = next((line for line in lines if aim >= line[1][1]), lines[-1])
    return math.exp(x0 + (aim - y0) / (y1 - y0) * (x1 - x0))


def trained(
    without: str,
    epochs: int,
    seed: int,
    widths: tuple[int, int, int],
    precision: str,
    train: data.Images,
    test: data.Images,
    runs: Path,
) -> dict[str, Any]:
    """Return accuracies and seconds of one run, from its folder if it was finished before."""
    kept = measured_file(without, epochs, seed, precision, len(train), runs)
    folder = kept.parent
    if not kept.exists():
        mean, std = data.channel_statistics(train.images)
        flips = without != "alternating_flip"
        recipe = RECIPES["fast94"].scaled(epochs)
        batches = data.Batches(
            train,
            min(recipe.batch_size, len(train) // 4),
            mean,
            std,
            shuffle=True,
            seed=seed,
            alternating_flip=flips,
            small_first=None if without == "small_first" else recipe.small_first,
            augment=[data.reflect_crop(2)] if flips else [data.reflect_crop(2), data.flip()],
        )
        net = network(without, seed, widths, batches)
        records = fit(
            net,
            batches,
            recipe=replace(
                recipe,
                seed=seed,
                precision=precision,
                label_smoothing=0.0 if without == "label_smoothing" else recipe.label_smoothing,
                lookahead=0 if without == "lookahead" else recipe.lookahead,
                bias_lr=1.0 if without == "bias_lr" else recipe.bias_lr,
            ),
            checkpoint_dir=folder,
            resume=True,
            on_epoch=None,
        )
        scored = data.Batches(test, 500, mean, std)
        measured = {
            "seconds": sum(record.seconds for record in records),
            "one_view": 100 * evaluate(net, scored).accuracy,
            "six_views": 100 * evaluate(net, scored, views=six_views).accuracy,
        }
        write_atomically(kept, json.dumps(measured).encode())
    found: dict[str, Any] = {**json.loads(kept.read_text()), "precision": precision}
    print(
        f"without {without}, {epochs} epochs, seed {seed}: {found['six_views']:.2f} % with six views, "
        f"{found['one_view']:.2f} % with one, {found['seconds']:.0f} s",
        flush=True,
    )
    return found


def measured_file(without: str, epochs: int, seed: int, precision: str, images: int, runs: Path) -> Path:
    """Return the file that a finished run leaves behind."""
    return runs / f"{without}-{epochs}-epochs-seed-{seed}-{precision}-{images}-images" / "measured.json"


def precision_of(without: str, epochs: int, seed: int, images: int, runs: Path, preferred: str) -> str:
    """Return the precision in which a run was finished; the preferred one if it was not, or in that one too."""
    done = [name for name in PRECISIONS if measured_file(without, epochs, seed, name, images, runs).exists()]
    return preferred if preferred in done or not done else done[0]


def network(without: str, seed: int, widths: tuple[int, int, int], batches: data.Batches) -> Fast94:
    """Make the network, without one idea."""
    mx.random.seed(seed)
    net = Fast94(widths=widths)
    net.initialize()
    net(mx.nd.array(batches.example()))
    if without == "dirac":
        for parameter in net.features.collect_params(".*weight").values():
            parameter.initialize(Drawn(), force_reinit=True)
    if without == "whitening":
        net.whitening.weight.grad_req, net.whitening.weight.lr_mult = "write", 1.0
    else:
        whiten(net, batches.normalise(batches.data.images[:5000]))
    return net


if __name__ == "__main__":
    main()
