"""Which accuracy does the recipe fast94 reach on CIFAR-10, and in what time?

Runs the command that a reader would run, once per seed, on all of CIFAR-10, and scores each network on the test set,
with one view and with six views of each image. The same recipe with 4 epochs shows how soon 90 % can be reached.
Finished runs are kept in runs/fast94 and not repeated. Writes results/fast94.json. About two hours on two cores.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from d2lcls import data
from d2lcls.book import results
from d2lcls.training import RECIPES

import numpy as np

RUNS = Path("runs/fast94")
WHOLE = RECIPES["fast94"].num_epochs
SHORT = 4  # epochs, of which the same share is warm-up and is trained on windows


def main():
    """Run the recipe for every seed and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--short-seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    data.fetch("cifar10")  # the figure is for training, not for the download
    runs = [run(seed) for seed in options.seeds]
    short = [run(seed, SHORT) for seed in options.short_seeds]
    print(
        results.write(
            "fast94",
            "python benchmarks/fast94.py",
            {
                "accuracy": results.spread([100 * r["six_views"]["accuracy"] for r in runs]),
                "plain_accuracy": results.spread([100 * r["plain"]["accuracy"] for r in runs]),
                "minutes": results.spread([r["seconds"] / 60 for r in runs]),
                "scoring_seconds": results.spread([r["scoring_seconds"] for r in runs]),
                "images_per_second": results.spread([e["images_per_second"] for r in runs for e in r["epochs"]]),
                "waiting": results.spread([100 * e["waiting"] for r in runs for e in r["epochs"]]),
                "short": {
                    "epochs": SHORT,
                    "accuracy": results.spread([100 * r["six_views"]["accuracy"] for r in short]),
                    "minutes": results.spread([r["seconds"] / 60 for r in short]),
                },
                "recipe": runs[0]["recipe"],
                "precision": runs[0]["precision"],
                "units": {
                    "accuracy": "% of the 10,000 test images, with six views of each",
                    "plain_accuracy": "the same with one view",
                    "minutes": "whole command of training, start to end",
                    "scoring_seconds": "whole command of scoring with six views",
                    "waiting": "% of an epoch's time without a batch ready",
                },
                "runs": runs,
            },
            data=["cifar10"],
        )
    )


def run(seed, epochs=WHOLE):
    """Return what one seed came to, from the folder of its run if it was finished before."""
    folder = RUNS / f"{epochs}-epochs-seed-{seed}"
    kept = folder / "measured.json"
    if not kept.exists():
        arguments = ["--recipe", "fast94", "--epochs", str(epochs), "--seed", str(seed), "--out", str(folder)]
        seconds = _timed("train", *arguments, *(["--resume"] if folder.exists() else []))[0]
        plain = json.loads(_timed("evaluate", str(folder), "--json")[1])
        scoring, answer = _timed("evaluate", str(folder), "--json", "--tta")
        at = json.loads(str(np.load(folder / "last.npz")["progress"]))
        kept.write_text(
            json.dumps(
                {
                    "seed": seed,
                    "seconds": max(seconds, sum(epoch["seconds"] for epoch in at["records"])),
                    "plain": plain,
                    "six_views": json.loads(answer),
                    "scoring_seconds": scoring,
                    "epochs": at["records"],
                    "recipe": at["recipe"],
                    "precision": at["precision"],
                }
            )
        )
    found = json.loads(kept.read_text())
    print(
        f"{epochs} epochs, seed {seed}: {found['six_views']['accuracy']:.2%} with six views, "
        f"{found['plain']['accuracy']:.2%} with one, {found['seconds'] / 60:.1f} minutes",
        flush=True,
    )
    return found


def _timed(*arguments):
    begun = time.perf_counter()
    command = [sys.executable, "-m", "d2lcls", *arguments]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return time.perf_counter() - begun, text


if __name__ == "__main__":
    main()
