"""How many photographs per second does a fine-tuning step process: PyTorch, d2lcls?

Forward pass, backward pass and update on a fixed batch of 224 x 224 pixels, of EfficientNet-Lite0, MobileNetV2 and
ResNet-18, all of whose layers are trained while the statistics of their BatchNorms are held. The sides take turns as
in training_step.py. d2lcls trains the graph of `faster_training`; "ours_plain" is the network as it is. Writes
results/fine_tuning_step.json if PyTorch is installed. About fifteen minutes on two cores.
"""

import argparse
import os

from d2lcls.book import results

from rivals.turns import UNITS, ours, precisions, summary, take_turns, torch

NETWORKS = ("efficientnet_lite0", "mobilenetv2_1.0", "resnet18_v1")
TORCH = {
    "float32": ("eager", "channels_last", "compile_channels_last"),
    "bfloat16": ("autocast_channels_last", "bf16_channels_last"),
}
BATCH, PIXELS, CLASSES = 32, 224, 81
SECONDS = 2  # of a turn, at least a step


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
        words = ("tune", name, BATCH, PIXELS, CLASSES)
        sides = {f"ours_{precision}": ours(*words, precision) for precision in precisions()}
        sides["ours_plain"] = ours(*words, "plain")
        if options.torch_python:
            hows = [how for precision in precisions() for how in TORCH[precision]]
            sides |= {f"torch_{how}": torch(options.torch_python, *words, how) for how in hows}
        turns, missing = take_turns(sides, SECONDS, options.rounds, may_fail=["torch_compile_channels_last"])
        found[name] = {**summary(turns, [n for n in turns if n.startswith("ours")]), "does_not_run": missing}
        print(name, found[name], flush=True)
    if not options.torch_python:
        print("fine_tuning_step: nothing is written, as no Python with PyTorch was named.")
        return
    print(
        results.write(
            "fine_tuning_step",
            "python benchmarks/fine_tuning_step.py",
            {
                "networks": found,
                "batch": BATCH,
                "pixels": PIXELS,
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


if __name__ == "__main__":
    main()
