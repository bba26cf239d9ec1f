"""How many images per second does a training step process: stock Gluon, PyTorch, d2lcls?

Forward pass, backward pass and update on a fixed batch, of a CIFAR-ResNet-20 (128 images), of a ResNet-18 at 224 pixels
(32) and of the network of the recipe fast94 (512). Every side is a process of its own that sleeps between its turns:
stock Gluon with its default settings, imperative and hybridized, and the same with the number of threads that d2lcls
sets, which shows the effect of threads alone; PyTorch in its formats; and d2lcls. Memory is the process's maximum.
Writes results/training_step.json if PyTorch is installed. About ten minutes on two cores, with 16 GB of memory.
"""

import argparse
import os

from d2lcls.book import results

from rivals.turns import UNITS, gluon, ours, precisions, summary, take_turns, torch

# Images per batch, pixels per side, classes.
NETWORKS = {"cifar_resnet20_v1": (128, 32, 10), "resnet18_v1": (32, 224, 1000), "fast94": (512, 32, 10)}
TORCH = ("eager", "channels_last", "compile_channels_last", "autocast_channels_last", "bf16_channels_last")
SECONDS = 0.7  # of a turn, at least a step


def main():
    """Measure every network and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument(
        "--torch-python",
        default=os.environ.get("D2LCLS_TORCH_PYTHON"),
        help="a Python with torch; the default is the value of D2LCLS_TORCH_PYTHON",
    )
    options = parser.parse_args()
    found = {}
    for name in options.networks:
        batch, pixels, classes = NETWORKS[name]
        sides = commands((name, batch, pixels, classes), options.torch_python)
        turns, missing = take_turns(sides, SECONDS, options.rounds, may_fail=["torch_compile_channels_last"])
        found[name] = {
            "batch": batch,
            "pixels": pixels,
            **summary(turns, [n for n in turns if n.startswith("ours")]),
            "does_not_run": missing,
        }
        print(name, found[name], flush=True)
    if not options.torch_python:
        print("training_step: nothing is written, as no Python with PyTorch was named.")
        return
    print(
        results.write(
            "training_step",
            "python benchmarks/training_step.py",
            {
                "networks": found,
                "rounds": options.rounds,
                "units": {
                    **UNITS,
                    "batch": "images",
                    "pixels": "a side",
                    "does_not_run": "the error that a side printed",
                },
            },
        )
    )


def commands(network, torch_python):
    """Return the sides of one network."""
    return {
        **{
            f"gluon_{mode}{'_threads' if threads else ''}": gluon("step", *network, mode, threads=threads)
            for threads in (False, True)
            for mode in ("imperative", "hybrid")
        },
        **{f"ours_{precision}": ours("step", *network, precision) for precision in precisions()},
        **{f"torch_{how}": torch(torch_python, "step", *network, how) for how in (TORCH if torch_python else ())},
    }


if __name__ == "__main__":
    main()
