"""How many images per second does training process from disk: a tutorial's loop, GluonCV's script, PyTorch, d2lcls?

A turn reads some CIFAR-10 images from a file of arrays, crops, mirrors and normalises them and trains on each once, in
batches of 128. There are two networks: the small one of tutorials, trained by their unchanged loop (imperative, with a
DataLoader with `transform_first` and four worker processes, or none: "alone"), by the same loop hybridized, by `fit`
and by PyTorch; and GluonCV's cifar_resnet20_v1, trained by GluonCV's script, by `fit` and by PyTorch. PyTorch gets its
images one by one from its DataLoader, or in whole batches; Gluon runs with MXNet's default number of threads.
Every side is a process of its own that sleeps between its turns. Writes results/end_to_end.json if PyTorch is
installed. About eight minutes on two cores.
"""

import argparse
import os
import tempfile
from pathlib import Path

from d2lcls import data
from d2lcls.book import results

import numpy as np
from rivals.turns import UNITS, brief, gluon, ours, precisions, summary, take_turns, torch

IMAGES = {"tutorial": 6_144, "cifar_resnet20_v1": 3_072}  # of a turn: whole batches
TORCH = ("loader_eager", "loader_channels_last", "vectorised_channels_last", "vectorised_autocast_channels_last")


def main():
    """Measure both networks and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--share", type=float, default=1, help="of the images of a turn; less is for a quick look")
    parser.add_argument("--networks", nargs="+", default=list(IMAGES), choices=IMAGES)
    parser.add_argument(
        "--torch-python",
        default=os.environ.get("D2LCLS_TORCH_PYTHON"),
        help="a Python with torch; the default is the value of D2LCLS_TORCH_PYTHON",
    )
    options = parser.parse_args()
    train = data.load("cifar10", fallback=False)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "images.npy"), train.images[: max(IMAGES.values())])
        np.save(Path(folder, "labels.npy"), train.labels[: max(IMAGES.values())])
        for name in options.networks:
            images = round(options.share * IMAGES[name])
            turns, _ = take_turns(commands(name, folder, options.torch_python), images, options.rounds)
            own = [side for side in turns if side.startswith("ours")]
            found[name] = {
                "images": images,
                **summary(turns, own),
                "waiting": {side: brief([turn["waiting"] / turn["seconds"] for turn in turns[side]]) for side in own},
            }
            print(name, found[name], flush=True)
    if not options.torch_python:
        print("end_to_end: nothing is written, as no Python with PyTorch was named.")
        return
    print(
        results.write(
            "end_to_end",
            "python benchmarks/end_to_end.py",
            {
                "networks": found,
                "rounds": options.rounds,
                "units": {
                    **UNITS,
                    "images": "of a turn",
                    "waiting": "share of a turn in which `fit` had no batch ready, over rounds",
                },
            },
            data=["cifar10"],
        )
    )


def commands(name, folder, torch_python):
    """Return the sides of one network."""
    loop = "tutorial" if name == "tutorial" else "script"
    found = {f"{loop}_{mode}": gluon(loop, folder, mode, "4") for mode in ("imperative", "hybrid")}
    if name == "tutorial":
        found["tutorial_imperative_alone"] = gluon(loop, folder, "imperative", "0")
    for precision in precisions():
        found[f"ours_{precision}"] = ours("fit", name, folder, precision)
    for side in TORCH if torch_python else ():
        feeding, _, how = side.partition("_")
        found[f"torch_{side}"] = torch(torch_python, feeding, name, folder, how)
    return found


if __name__ == "__main__":
    main()
