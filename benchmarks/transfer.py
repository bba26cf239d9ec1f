"""How many labelled images does CIFAR-10 need, from scratch and with ImageNet-pretrained weights?

With 10, 50, 250 and 1,000 labelled images per class and three seeds, trains

- scratch: the book's CNN on the 32-pixel images;
- frozen: a new dense layer on the features of EfficientNet-Lite0 at 128 pixels;
- fine_tuned: the last four of Lite0's ten groups, the earlier ones computed once, in int8;
- gradual: the same, its groups unfrozen one after another;

and, with 50 images per class, fine_tuned_224 at 224 pixels. Every run is scored once, on all 10,000 test images. The
recipes were chosen by hand on seed 0. Writes results/transfer.json. About half an hour on two cores.
"""

import argparse
import time

from d2lcls.book import results
from d2lcls.data import STANDARD, Batches, channel_statistics, flip, load, pad_crop, take_per_class
from d2lcls.machine.gluon import is_learnable, parameters_by_path
from d2lcls.models import (
    FeatureBatches,
    extract_features,
    freeze_depthwise,
    get_model,
    gradual,
    hold_statistics,
    layer_groups,
    preprocessing,
    quantize,
    split,
    train_last,
)
from d2lcls.training import evaluate, fit
from d2lcls.training.recipe import Recipe

import numpy as np
from mxnet import init, nd, random

NAME = "efficientnet_lite0"
COUNTS = (10, 50, 250, 1000)
EPOCHS = {
    "scratch": (150, 60, 25, 10),
    "frozen": (60, 60, 30, 15),
    "fine_tuned": (20, 12, 5, 2),
    "gradual": (20, 12, 5, 2),
    "fine_tuned_224": (None, 16, None, None),
}
RECIPES = {
    "frozen": {"lr": 0.1, "wd": 1e-2},
    "scratch": {"lr": 0.05},
    "fine_tuned": {"lr": 0.005, "wd": 1e-3, "label_smoothing": 0.1},
}
COPIES = 8  # of up to 50 images per class, differently shifted and mirrored; of more, 2


def main():
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    train, test = load("cifar10", fallback=False), load("cifar10", "test", fallback=False)
    found, seconds = {}, {}
    for size, groups, methods in (
        (224, 4, ("fine_tuned_224",)),
        (128, 4, ("fine_tuned", "gradual")),
        (128, 1, ("frozen",)),
        (None, None, ("scratch",)),
    ):
        look = Lens(size, groups, train) if size else None
        seen = look(test, 1) if look else None
        for seed in seeds:
            for place, count in enumerate(COUNTS):
                wanted = [method for method in methods if EPOCHS[method][place]]
                if not wanted:
                    continue
                few = take_per_class(train, count, seed)
                begun = time.perf_counter()
                features = look(few, COPIES if count <= 50 else 2, seed) if look else None
                looking = time.perf_counter() - begun
                for method in wanted:
                    begun = time.perf_counter()
                    if look:
                        score = tune(look, features, seen, method, EPOCHS[method][place], seed)
                    else:
                        score = scratch(few, test, EPOCHS[method][place], seed)
                    took = looking + time.perf_counter() - begun
                    found.setdefault(method, {}).setdefault(str(count), []).append(100 * score.accuracy)
                    seconds.setdefault(method, {}).setdefault(str(count), []).append(took)
                    print(f"{method} {count} a class, seed {seed}: {score.accuracy:.2%} in {took:.0f} s", flush=True)
    print(
        results.write(
            "transfer",
            "python benchmarks/transfer.py",
            {
                "methods": {
                    method: {count: results.spread(values) for count, values in rows.items()}
                    for method, rows in found.items()
                },
                "seconds": {
                    method: {count: results.spread(values) for count, values in rows.items()}
                    for method, rows in seconds.items()
                },
                "gain_at_50": results.spread(np.subtract(found["fine_tuned_224"]["50"], found["scratch"]["50"])),
                "trained_share": trained_share(),
                "units": {
                    "methods": "% of the 10,000 test images",
                    "gain_at_50": "points, fine_tuned_224 over scratch",
                    "seconds": "features and training and the test, one run",
                    "trained_share": "% of all parameters",
                },
            },
            data=["cifar10"],
        )
    )


class Lens:
    """The front of Lite0 in int8, and the tail that goes with it as it came from ImageNet."""

    def __init__(self, size, groups, train):
        self.size, self.preprocess = size, preprocessing(NAME)
        net = get_model(NAME, classes=10, pretrained=True)
        front, self.tail = split(net, groups, size)
        hold_statistics(self.tail)
        freeze_depthwise(self.tail)
        self.start = {name: p.data().asnumpy() for name, p in parameters_by_path(self.tail).items()}
        self.front = quantize(front, next(iter(self.batches(take_per_class(train, 26, 99), batch_size=256)))[0])

    def batches(self, data, augment=(), seed=0, batch_size=64):
        return Batches(
            data, batch_size, self.preprocess.mean, self.preprocess.std, augment=augment, seed=seed, size=self.size
        )

    def __call__(self, data, copies, seed=0):
        augment = (flip(), pad_crop(4)) if copies > 1 else ()
        return extract_features(self.front, self.batches(data, augment, seed), copies)

    def fresh_tail(self):
        for name, parameter in parameters_by_path(self.tail).items():
            parameter.set_data(nd.array(self.start[name]))
        train_last(self.tail, len(layer_groups(self.tail)))
        return self.tail


def tune(look, features, seen, method, epochs, seed):
    """Train a fresh tail on features and score it."""
    tail = look.fresh_tail()
    random.seed(seed)
    tail.output.weight.set_data(nd.random.normal(scale=0.01, shape=tail.output.weight.shape))
    plan = gradual(tail, epochs) if method == "gradual" else None
    recipe = RECIPES["frozen" if method == "frozen" else "fine_tuned"]
    fit(
        tail,
        FeatureBatches(features, 50, shuffle=True, seed=seed),
        recipe=Recipe(num_epochs=epochs, unfreeze=plan, seed=seed, **recipe),
        on_epoch=None,
    )
    return evaluate(tail, FeatureBatches(seen, 256))


def scratch(few, test, epochs, seed):
    """Train the book's CNN on few images and score it."""
    mean, std = channel_statistics(few.images)
    random.seed(seed)
    net = get_model("cnn")
    net.initialize(init.MSRAPrelu(slope=0))
    fit(
        net,
        Batches(few, 50, mean, std, shuffle=True, augment=STANDARD, seed=seed),
        recipe=Recipe(num_epochs=epochs, seed=seed, **RECIPES["scratch"]),
        on_epoch=None,
    )
    return evaluate(net, Batches(test, 256, mean, std))


def trained_share():
    """Return the share of Lite0's parameters in the last four groups, in %."""
    net = get_model(NAME, classes=10, pretrained=True)
    return 100 * sum(map(size, sum(layer_groups(net)[-4:], []))) / size(net)


def size(block):
    """Return the number of learnable parameters of a block."""
    return sum(p.data().size for p in block.collect_params().values() if is_learnable(p))


if __name__ == "__main__":
    main()
