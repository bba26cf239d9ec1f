"""How much accuracy does training in bfloat16 cost?

The book's CNN, and the network of fast94 with half of its channels, are trained on all of CIFAR-10 for 4 epochs in
float32 and in bfloat16, with three seeds each, and scored on the test set, which was not used to choose anything. With
the same seed, both start with the same parameters and get the same batches. Finished runs are kept in runs/precision.
Writes results/precision.json. About twenty minutes on two cores that have instructions for bfloat16.
"""

import argparse
import json
from pathlib import Path

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import data
from d2lcls.book import results
from d2lcls.models import SmallCNN
from d2lcls.models.fast94 import Fast94, whiten
from d2lcls.training import evaluate, fit
from d2lcls.training.precision import check_precision
from d2lcls.training.recipe import Recipe

import mxnet as mx

RUNS = Path("runs/precision")
NETWORKS = {"cnn": lambda: SmallCNN(10), "fast94_half": lambda: Fast94(10, widths=(32, 128, 128))}
RATES = {"cnn": 0.1, "fast94_half": 0.2}


def main():
    """Train every network both ways and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    check_precision("bfloat16", [mx.cpu()])
    train, test = data.load("cifar10", "train", fallback=False), data.load("cifar10", "test", fallback=False)
    found = {}
    for name in NETWORKS:
        ways = {
            precision: [run(name, precision, seed, options.epochs, train, test) for seed in options.seeds]
            for precision in ("float32", "bfloat16")
        }
        found[name] = {
            precision: {key: results.spread([r[key] for r in runs]) for key in runs[0]}
            for precision, runs in ways.items()
        }
        found[name]["difference"] = results.spread(
            [b["accuracy"] - f["accuracy"] for f, b in zip(ways["float32"], ways["bfloat16"])]
        )
    print(
        results.write(
            "precision",
            "python benchmarks/precision.py",
            {
                "networks": found,
                "epochs": options.epochs,
                "units": {
                    "accuracy": "% of the 10,000 test images",
                    "images_per_second": "training",
                    "difference": "points, bfloat16 less float32, by seed",
                },
            },
            data=["cifar10"],
        )
    )


def run(name, precision, seed, epochs, train, test):
    """Return what one run came to, from runs/precision if it was finished before."""
    kept = RUNS / f"{name}-{precision}-{epochs}-{seed}.json"
    if not kept.exists():
        mx.random.seed(seed)
        net = NETWORKS[name]()
        net.initialize(mx.init.MSRAPrelu(slope=0))
        mean, std = data.channel_statistics(train.images)
        batches = data.Batches(train, 128, mean, std, shuffle=True, augment=data.STANDARD, seed=seed)
        if name == "fast94_half":
            whiten(net, batches.normalise(train.images[:5000]))
        records = fit(
            net,
            batches,
            recipe=Recipe(num_epochs=epochs, lr=RATES[name], precision=precision, seed=seed),
            on_epoch=None,
        )
        score = evaluate(net, data.Batches(test, 256, mean, std))
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(
            json.dumps({"accuracy": 100 * score.accuracy, "images_per_second": records[-1].images_per_second})
        )
    found = json.loads(kept.read_text())
    print(
        f"{name} {precision} seed {seed}: {found['accuracy']:.2f} %, {found['images_per_second']:,.0f} images/s",
        flush=True,
    )
    return found


if __name__ == "__main__":
    main()
