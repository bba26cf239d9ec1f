"""How does each choice of optimisation change the validation accuracy?

Trains the book's CNN from scratch on the same 8,000 images of CIFAR-10 by the book's recipe, shortened to 5 epochs, and
again with one setting changed at a time, once per seed, and scores the network after the last step on 5,000 other
images of the training split. With the same seed, runs start with the same weights and get the images in the same
order, so that settings are compared in pairs. No test image is used. Finished runs are kept in runs/ until all are
complete: after an interruption, the same command continues. Writes results/optimisation.json. About twenty minutes on
two cores.
"""

import argparse
import json
import sys
import time

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import data
from d2lcls.book import results
from d2lcls.models import SmallCNN
from d2lcls.training import cross_entropy, evaluate, fit
from d2lcls.training.recipe import Recipe

import mxnet as mx

BASELINE = {
    "batch_size": 128,
    "lr": 0.1,
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "optimizer": "sgd",
    "optimizer_params": {"momentum": 0.9},
    "wd": 5e-4,
    "l1": 0.0,
    "clip_norm": None,
    "label_smoothing": 0.0,
}
SETTINGS = {  # name: what differs from the baseline
    "baseline": {},
    "no_warmup": {"warmup_epochs": 0.0},
    "constant": {"schedule": "constant"},
    "step": {"schedule": "step"},
    "exponential": {"schedule": "exponential"},
    "momentum_0": {"optimizer_params": {"momentum": 0.0}},
    "momentum_95": {"optimizer_params": {"momentum": 0.95}},
    "nesterov": {"optimizer": "nag"},
    "adam": {"optimizer": "adam", "optimizer_params": {}, "lr": 1e-3},
    "no_decay": {"wd": 0.0},
    "decay_times_10": {"wd": 5e-3},
    "l1": {"l1": 1e-4},
    "clip_norm": {"clip_norm": 1.0},
    "batch_32": {"batch_size": 32},
    "batch_32_scaled": {"batch_size": 32, "lr": 0.025},
    "batch_512": {"batch_size": 512},
    "batch_512_scaled": {"batch_size": 512, "lr": 0.4},
    "label_smoothing": {"label_smoothing": 0.1},
    "bare": {"schedule": "constant", "warmup_epochs": 0.0, "optimizer_params": {"momentum": 0.0}, "wd": 0.0},
}
VALIDATION = 5000


def main():
    """Train every setting for every seed, one seed after the other, and write what they came to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    rest, valid = data.split_validation(data.load("cifar10", fallback=False), VALIDATION)
    train = data.split_validation(rest, options.images)[1]
    kept = results.FOLDER.parent / "runs" / f"optimisation-{options.images}-{options.epochs}.jsonl"
    kept.parent.mkdir(exist_ok=True)
    runs = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    there = {(r["setting"], r["seed"]) for r in runs}
    for seed in options.seeds:
        for name in SETTINGS:
            if (name, seed) not in there:
                runs.append(run(train, valid, name, seed, options.epochs))
                with kept.open("a") as file:
                    file.write(json.dumps(runs[-1]) + "\n")
    write(runs, options)
    kept.unlink()


def run(train, valid, name, seed, num_epochs):
    """Train one network and score it on whole, unchanged pictures."""
    recipe = {**BASELINE, **SETTINGS[name]}
    mean, std = data.channel_statistics(train.images)
    batches = data.Batches(train, recipe.pop("batch_size"), mean, std, shuffle=True, augment=data.STANDARD, seed=seed)
    mx.random.seed(seed)
    net = SmallCNN(classes=len(train.classes))
    net.initialize(mx.init.MSRAPrelu(slope=0))
    begun = time.perf_counter()
    epochs = fit(
        net,
        batches,
        recipe=Recipe(num_epochs=num_epochs, seed=seed, loss=cross_entropy(recipe.pop("label_smoothing")), **recipe),
        on_epoch=None,
    )
    seconds = time.perf_counter() - begun
    score = evaluate(net, data.Batches(valid, 256, mean, std))
    print(f"seed {seed}, {name}: validation {score.accuracy:.2%}, {seconds:.0f} s", flush=True)
    return {
        "setting": name,
        "seed": seed,
        "seconds": seconds,
        "valid_accuracy": 100 * score.accuracy,
        "valid_loss": score.loss,
        "loss_by_epoch": [epoch.train_loss for epoch in epochs],
    }


def write(runs, options):
    """Sum the runs up, setting by setting, and against the baseline, seed by seed."""

    def column(name, key):
        return [next(r[key] for r in runs if (r["setting"], r["seed"]) == (name, seed)) for seed in options.seeds]

    accuracy = {name: results.spread(column(name, "valid_accuracy")) for name in SETTINGS}
    base = accuracy["baseline"]["values"]
    path = results.write(
        "optimisation",
        " ".join(["python benchmarks/optimisation.py", *sys.argv[1:]]),
        {
            "recipe": {
                "model": "cnn",
                "train_images": options.images,
                "valid_images": VALIDATION,
                "num_epochs": options.epochs,
                "seeds": options.seeds,
                **BASELINE,
            },
            "changes": {name: changes for name, changes in SETTINGS.items() if changes},
            "valid_accuracy": accuracy,
            "difference": {
                name: results.spread([a - b for a, b in zip(accuracy[name]["values"], base)])
                for name in SETTINGS
                if name != "baseline"
            },
            "valid_loss": {name: results.spread(column(name, "valid_loss")) for name in SETTINGS},
            "seconds": {name: results.spread(column(name, "seconds")) for name in SETTINGS},
            "units": {
                "valid_accuracy": "% of the validation images, network of the last step",
                "difference": "percentage points of valid_accuracy over the baseline with the same seed",
                "valid_loss": "mean cross-entropy per image, in nats, without smoothing",
                "seconds": "training alone",
            },
            "runs": runs,
        },
        data=["cifar10"],
    )
    print(path)


if __name__ == "__main__":
    main()
