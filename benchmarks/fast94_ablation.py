"""How much does each idea of the recipe fast94 contribute?

Trains the recipe with half of the channels for 3 epochs on all of CIFAR-10, complete and with one idea left out at a
time, with three seeds each; scored on the test set with six views. With the same seed, all settings get the images in
the same order. Finished runs are kept in runs/fast94-ablation. Writes results/fast94_ablation.json. About forty
minutes on two cores.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import data
from d2lcls.book import results
from d2lcls.models.fast94 import Drawn, Fast94, whiten
from d2lcls.training import RECIPES, evaluate, fit, six_views

import mxnet as mx

RUNS = Path("runs/fast94-ablation")
LEFT_OUT = (
    "nothing",
    "whitening",
    "dirac",
    "alternating_flip",
    "bias_lr",
    "lookahead",
    "label_smoothing",
    "small_first",
)


def main():
    """Train every setting and write what each idea buys."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    sets = data.load("cifar10", "train", fallback=False), data.load("cifar10", "test", fallback=False)
    runs = {idea: [run(idea, seed, options.epochs, *sets) for seed in options.seeds] for idea in LEFT_OUT}
    whole = runs["nothing"]
    print(
        results.write(
            "fast94_ablation",
            "python benchmarks/fast94_ablation.py",
            {
                "epochs": options.epochs,
                "widths": [width // 2 for width in (64, 256, 256)],
                "accuracy": {idea: results.spread([r["six_views"] for r in found]) for idea, found in runs.items()},
                "seconds": {idea: results.spread([r["seconds"] for r in found]) for idea, found in runs.items()},
                "buys": {
                    **{
                        idea: results.spread([a["six_views"] - b["six_views"] for a, b in zip(whole, found)])
                        for idea, found in runs.items()
                        if idea != "nothing"
                    },
                    "six_views": results.spread([r["six_views"] - r["one_view"] for r in whole]),
                },
                "units": {
                    "accuracy": "% of the 10,000 test images, by the idea that was left out",
                    "seconds": "of training, by the idea that was left out",
                    "buys": "points lost without the idea, by seed",
                },
            },
            data=["cifar10"],
        )
    )


def run(without, seed, epochs, train, test):
    """Return the accuracies of one run, from runs/fast94-ablation if it was finished before."""
    kept = RUNS / f"{without}-{epochs}-{seed}.json"
    if not kept.exists():
        mean, std = data.channel_statistics(train.images)
        flips = without != "alternating_flip"
        recipe = RECIPES["fast94"].scaled(epochs)
        batches = data.Batches(
            train,
            recipe.batch_size,
            mean,
            std,
            shuffle=True,
            seed=seed,
            alternating_flip=flips,
            small_first=None if without == "small_first" else recipe.small_first,
            augment=[data.reflect_crop(2)] if flips else [data.reflect_crop(2), data.flip()],
        )
        net = network(without, seed, batches)
        records = fit(
            net,
            batches,
            recipe=replace(
                recipe,
                seed=seed,
                label_smoothing=0.0 if without == "label_smoothing" else recipe.label_smoothing,
                lookahead=0 if without == "lookahead" else recipe.lookahead,
                bias_lr=1.0 if without == "bias_lr" else recipe.bias_lr,
            ),
            on_epoch=None,
        )
        scored = data.Batches(test, 500, mean, std)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(
            json.dumps(
                {
                    "seconds": sum(record.seconds for record in records),
                    "one_view": 100 * evaluate(net, scored).accuracy,
                    "six_views": 100 * evaluate(net, scored, views=six_views).accuracy,
                }
            )
        )
    found = json.loads(kept.read_text())
    print(
        f"without {without}, seed {seed}: {found['six_views']:.2f} %, with one view {found['one_view']:.2f} %",
        flush=True,
    )
    return found


def network(without, seed, batches):
    """Make the network, without one idea."""
    mx.random.seed(seed)
    net = Fast94(widths=(32, 128, 128))
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
