"""Which accuracy does the book's CNN reach on CIFAR-10 with the default recipe, and in what time?

Runs the command that a reader would run, once per seed, on all of CIFAR-10, and scores each run once on the test set.
Writes results/cnn_cifar10.json. About five minutes per seed on two cores.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from d2lcls import data
from d2lcls.book import results

import numpy as np


def main():
    """Run the recipe for every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    data.fetch("cifar10")  # the figure is for training, not for the download
    runs = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            _run("train", "--dataset", "cifar10", "--model", "cnn", "--seed", str(seed), "--out", folder)
            seconds = time.perf_counter() - begun
            score = json.loads(_run("evaluate", folder, "--json"))
            progress = json.loads(str(np.load(Path(folder, "last.npz"))["progress"]))
        runs.append(
            {
                "seed": seed,
                "seconds": seconds,
                "test": score,
                "epochs": progress["records"],
                "best_epoch": progress["best_epoch"],
                "best_valid_accuracy": progress["best_accuracy"],
            }
        )
        print(f"seed {seed}: test top-1 {score['accuracy']:.2%} after {seconds:.0f} s", flush=True)
    path = results.write(
        "cnn_cifar10",
        "python benchmarks/cnn_cifar10.py",
        {
            "recipe": progress["recipe"],
            "test_accuracy": results.spread([100 * r["test"]["accuracy"] for r in runs]),
            "minutes": results.spread([r["seconds"] / 60 for r in runs]),
            "images_per_second": results.spread([e["images_per_second"] for r in runs for e in r["epochs"]]),
            "units": {
                "test_accuracy": "% of the 10,000 test images, network chosen on 5,000 validation images",
                "minutes": "whole command, start to end",
            },
            "runs": runs,
        },
        data=["cifar10"],
    )
    print(path)


def _run(*arguments):
    command = [sys.executable, "-m", "d2lcls", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
