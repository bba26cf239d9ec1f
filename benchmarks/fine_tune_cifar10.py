"""Which accuracy does EfficientNet-Lite0 reach on all of CIFAR-10 in twenty minutes on two cores?

The first part of the network runs once over every image and its mirror image, in int8; the last groups are trained
on its outputs. Scored once on the 10,000 test images. Writes results/fine_tune_cifar10.json.
"""

import argparse
import time

from d2lcls.book import results
from d2lcls.data import Batches, flip, load, take_per_class
from d2lcls.models import (
    FeatureBatches,
    drop_bounds,
    extract_features,
    freeze_depthwise,
    get_model,
    hold_statistics,
    preprocessing,
    quantize,
    split,
)
from d2lcls.training import evaluate, fit
from d2lcls.training.losses import cross_entropy
from d2lcls.training.recipe import Recipe

NAME = "efficientnet_lite0"


def main():
    """Train, score and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=144, help="side of the images in pixels")
    parser.add_argument("--groups", type=int, default=5, help="how many of Lite0's ten groups to train")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--copies", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.012)
    parser.add_argument("--images", type=int, default=5000, help="labelled images per class")
    options = parser.parse_args()
    train, test = load("cifar10", fallback=False), load("cifar10", "test", fallback=False)
    train = take_per_class(train, options.images)
    begun = time.perf_counter()
    look = preprocessing(NAME)

    def batches(data, augment=(), batch_size=64):
        return Batches(data, batch_size, look.mean, look.std, augment=augment, size=options.size)

    net = get_model(NAME, classes=10, pretrained=True)
    front, tail = split(net, options.groups, options.size)
    front = quantize(front, next(iter(batches(take_per_class(train, 26), batch_size=256)))[0])
    features = extract_features(front, batches(train, (flip(),)), options.copies)
    looked = time.perf_counter() - begun
    print(f"features of {options.copies} x {len(train):,} images after {looked:.0f} s", flush=True)
    hold_statistics(tail)
    freeze_depthwise(tail)
    drop_bounds(tail)
    records = fit(
        tail,
        FeatureBatches(features, 64, shuffle=True),
        recipe=Recipe(num_epochs=options.epochs, lr=options.lr, warmup_epochs=0.2, wd=0.0005, loss=cross_entropy(0.1)),
    )
    trained = time.perf_counter() - begun
    score = evaluate(tail, FeatureBatches(extract_features(front, batches(test)), 256))
    print(f"{score} after {trained / 60:.1f} minutes of training", flush=True)
    print(
        results.write(
            "fine_tune_cifar10",
            "python benchmarks/fine_tune_cifar10.py",
            {
                "accuracy": 100 * score.accuracy,
                "top5": 100 * score.top5,
                "minutes": trained / 60,
                "minutes_with_test": (time.perf_counter() - begun) / 60,
                "feature_minutes": looked / 60,
                "tail_images_per_second": [record.images_per_second for record in records],
                "recipe": vars(options),
                "units": {"accuracy, top5": "% of the 10,000 test images", "minutes": "features and training"},
            },
            data=["cifar10"],
        )
    )


if __name__ == "__main__":
    main()
