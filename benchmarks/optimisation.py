"""What does each choice of optimisation change, when every choice gets a learning rate that suits it?

Trains a SmallCNN of half width on 6,000 images of CIFAR-10 for 12 epochs, without augmentation, so that a network can
overfit in so short a time and weight decay and label smoothing have something to do. Each setting differs from the
baseline in one thing. First its learning rate is tuned with seed 0: three rates, each twice the one before, and more
at the end of the range as long as the best is the last. Then it is trained at its best rate with five other seeds,
which chose nothing. Runs with the same seed start with the same weights and, with the same batch size, get the same
batches, so that settings are compared in pairs. The score is the accuracy of the network after the last step on 5,000
other images of the training split. No test image is used.

Every finished run is kept in runs/optimisation: after an interruption, the same command continues. Two processes with
one thread each, which share the settings out with --only, are quicker than one with two. Writes
results/optimisation.json. About an hour on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import data
from d2lcls.book import results
from d2lcls.machine.files import write_atomically
from d2lcls.models import SmallCNN
from d2lcls.training import Recipe, TrainingDiverged, evaluate, fit

import mxnet as mx
import numpy as np

RUNS = results.FOLDER.parent / "runs" / "optimisation"
WIDTHS = (16, 32, 64, 128)  # half of SmallCNN's own
VALIDATION = 5000
FACTOR = 2  # between neighbouring rates
BASELINE: dict[str, Any] = {
    "batch_size": 128,
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "optimizer": "sgd",
    "momentum": 0.9,
    "wd": 5e-4,
    "clip_norm": None,
    "label_smoothing": 0.0,
}
SETTINGS: dict[str, tuple[float, dict[str, Any]]] = {  # the middle of the first three rates; what differs
    "baseline": (0.1, {}),
    "momentum_0": (0.4, {"momentum": 0.0}),
    "nesterov": (0.1, {"optimizer": "nag"}),
    "adam": (0.002, {"optimizer": "adam", "momentum": None}),
    "adam_no_decay": (0.002, {"optimizer": "adam", "momentum": None, "wd": 0.0}),
    "constant": (0.05, {"schedule": "constant"}),
    "step": (0.1, {"schedule": "step"}),
    "no_warmup": (0.1, {"warmup_epochs": 0.0}),
    "no_decay": (0.1, {"wd": 0.0}),
    "label_smoothing": (0.1, {"label_smoothing": 0.1}),
    "clip": (0.1, {"clip_norm": 1.0}),
    "clip_tight": (0.8, {"clip_norm": 0.1}),
    "batch_32": (0.025, {"batch_size": 32}),
    "batch_512": (0.4, {"batch_size": 512}),
}
MOST_RATES = 9


class Bench:
    """Trains what was not trained before.

    Args:
        images, epochs: length of the training.
    """

    def __init__(self, images: int, epochs: int) -> None:
        rest, self.valid = data.split_validation(data.load("cifar10", fallback=False), VALIDATION)
        self.train = data.split_validation(rest, images)[1]
        self.mean, self.std = data.channel_statistics(self.train.images)
        self.epochs, self.done, self.begun = epochs, 0, time.monotonic()

    def run(self, name: str, lr: float, seed: int) -> dict[str, Any]:
        """Return the record of a run, trained unless that was done before."""
        changes = SETTINGS[name][1] if name in SETTINGS else SETTINGS[BORROWED[name]][1]
        recipe = {**BASELINE, **changes, "lr": lr, "num_epochs": self.epochs, "seed": seed}
        key = json.dumps({**recipe, "images": len(self.train), "widths": WIDTHS}, sort_keys=True)
        file = RUNS / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        if file.is_file():
            record = json.loads(file.read_text())
        else:
            record = {"recipe": json.loads(key), **self.trained(recipe)}
            write_atomically(file, json.dumps(record).encode())
            self.done += 1
            print(
                f"{name}, rate {lr:g}, seed {seed}: validation {record['valid_accuracy']:.2f} %, training "
                f"{record['train_accuracy']:.2f} %, {record['seconds']:.0f} s; {self.done} runs in "
                f"{(time.monotonic() - self.begun) / 60:.0f} minutes",
                flush=True,
            )
        return record

    def trained(self, recipe: dict[str, Any]) -> dict[str, Any]:
        """Train a network and score it. A run that diverges counts as guessing, 10 %."""
        arguments = {key: value for key, value in recipe.items() if key != "batch_size"}
        batches = data.Batches(self.train, recipe["batch_size"], self.mean, self.std, shuffle=True, seed=recipe["seed"])
        mx.random.seed(recipe["seed"])
        net = SmallCNN(len(self.train.classes), WIDTHS)
        net.initialize(mx.init.MSRAPrelu(slope=0))
        net(mx.nd.zeros((1, 3, 32, 32)))
        begun = time.perf_counter()
        with factors() as kept:
            try:
                fit(net, batches, recipe=Recipe(**arguments), on_epoch=None)
                diverged = False
            except TrainingDiverged:
                diverged = True
        seconds = time.perf_counter() - begun
        clipped = {"clipped_steps": None, "mean_factor": None}
        if kept and not diverged:
            numbers = np.array([value.asscalar() for value in kept])
            clipped = {"clipped_steps": float(100 * (numbers < 1).mean()), "mean_factor": float(numbers.mean())}
        record = {"diverged": diverged, "seconds": seconds, **clipped}
        for split, images in (("valid", self.valid), ("train", self.train)):
            score = None if diverged else evaluate(net, data.Batches(images, 256, self.mean, self.std))
            record[f"{split}_accuracy"] = 100 * score.accuracy if score else 10.0
            record[f"{split}_loss"] = score.loss if score else float(np.log(10))
        return record

    def tune(self, name: str, seed: int) -> dict[float, float]:
        """Return the validation accuracy at each rate tried; the best is not at an end, if `MOST_RATES` allow it."""
        middle = SETTINGS[name][0]
        grid = {lr: self.run(name, lr, seed)["valid_accuracy"] for lr in (middle / FACTOR, middle, middle * FACTOR)}
        while len(grid) < MOST_RATES:
            best = max(grid, key=grid.__getitem__)
            if best == min(grid):
                more = best / FACTOR
            elif best == max(grid):
                more = best * FACTOR
            else:
                break
            grid[more] = self.run(name, more, seed)["valid_accuracy"]
        return dict(sorted(grid.items()))


@contextlib.contextmanager
def factors() -> Iterator[list[Any]]:
    """Collect the factor, at most 1, by which each step's gradient is multiplied where it is clipped."""
    original, kept = mx.gluon.utils.clip_global_norm, []

    def clip(arrays: list[Any], max_norm: float, check_isfinite: bool = True) -> Any:
        norm = original(arrays, max_norm, check_isfinite)
        kept.append(max_norm / mx.nd.maximum(norm, max_norm))
        return norm

    mx.gluon.utils.clip_global_norm = clip
    try:
        yield kept
    finally:
        mx.gluon.utils.clip_global_norm = original


BORROWED = {  # whose changes a setting has whose rate is computed, not tuned
    "batch_32_scaled": "batch_32",
    "batch_512_scaled": "batch_512",
    "clip_tight_as_rate": "baseline",
}


def main() -> None:
    """Tune every setting, train it at its best rate, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="of the runs at the best rate")
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--only", nargs="+", choices=SETTINGS, help="train these and write nothing")
    parser.add_argument("--out", default="optimisation", help="name of the file in results/")
    options = parser.parse_args()
    if 0 in options.seeds:
        parser.error("seed 0 chooses the rates, so --seeds must not contain it")
    bench = Bench(options.images, options.epochs)
    grids = {name: bench.tune(name, 0) for name in options.only or SETTINGS}
    rates = {name: max(grid, key=grid.__getitem__) for name, grid in grids.items()}
    if options.only:
        for seed in options.seeds:
            for name, lr in rates.items():
                bench.run(name, lr, seed)
        return
    for name in ("batch_32", "batch_512"):
        rates[f"{name}_scaled"] = rates["baseline"] * SETTINGS[name][1]["batch_size"] / BASELINE["batch_size"]
    factor = bench.run("clip_tight", rates["clip_tight"], 0)["mean_factor"] or 1.0
    rates["clip_tight_as_rate"] = float(f"{rates['clip_tight'] * factor:.3g}")
    runs = {(name, seed): bench.run(name, lr, seed) for seed in options.seeds for name, lr in rates.items()}
    write(runs, grids, rates, options)


def write(
    runs: dict[tuple[str, int], dict[str, Any]],
    grids: dict[str, dict[float, float]],
    rates: dict[str, float],
    options: argparse.Namespace,
) -> Path:
    """Sum the runs up, setting by setting, and against the baseline, seed by seed."""

    def column(name: str, key: str) -> list[Any]:
        return [runs[name, seed][key] for seed in options.seeds]

    def spreads(key: str) -> dict[str, Any]:
        return {name: results.spread(column(name, key)) for name in rates}

    accuracy = spreads("valid_accuracy")
    base = accuracy["baseline"]["values"]
    path = results.write(
        options.out,
        " ".join(["python benchmarks/optimisation.py", *sys.argv[1:]]),
        {
            "recipe": {
                "model": "SmallCNN",
                "widths": WIDTHS,
                "augment": "none",
                "train_images": options.images,
                "valid_images": VALIDATION,
                "num_epochs": options.epochs,
                "tuning_seed": 0,
                "seeds": options.seeds,
                **BASELINE,
            },
            "changes": {name: SETTINGS[BORROWED.get(name, name)][1] for name in rates},
            "rates": rates,
            "tuning": {
                name: {"rates": list(grid), "valid_accuracy": list(grid.values())} for name, grid in grids.items()
            },
            "valid_accuracy": accuracy,
            "difference": {
                name: results.spread([a - b for a, b in zip(accuracy[name]["values"], base)])
                for name in rates
                if name != "baseline"
            },
            "valid_loss": spreads("valid_loss"),
            "train_accuracy": spreads("train_accuracy"),
            "train_loss": spreads("train_loss"),
            "clipping": {
                name: {key: results.spread(column(name, key)) for key in ("clipped_steps", "mean_factor")}
                for name in ("clip", "clip_tight")
                if None not in column(name, "mean_factor")
            },
            "diverged": {name: sum(column(name, "diverged")) for name in rates},
            "seconds": spreads("seconds"),
            "units": {
                "rates": "learning rate with the best valid_accuracy of tuning; of the scaled settings, the baseline's "
                "in proportion to the batch; of clip_tight_as_rate, clip_tight's times its mean factor",
                "valid_accuracy": "% of the validation images, network of the last step; 10 if training diverged",
                "difference": "percentage points of valid_accuracy over the baseline with the same seed",
                "valid_loss": "mean cross-entropy per image, in nats, without smoothing",
                "train_accuracy": "% of the training images, network of the last step",
                "train_loss": "mean cross-entropy per training image, in nats, without smoothing",
                "clipped_steps": "% of the steps whose gradient was longer than the limit",
                "mean_factor": "by which gradients were multiplied, 1 where not clipped",
                "diverged": "number of runs",
                "seconds": "training alone",
            },
        },
        data=["cifar10"],
    )
    print(path)
    return path


if __name__ == "__main__":
    main()
