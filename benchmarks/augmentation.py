"""How much does each augmentation improve the validation accuracy on a small training set?

Trains the book's CNN from scratch on the same 4,000 images of CIFAR-10, without augmentation and with several kinds,
once per seed, and scores the network after the last step on 5,000 other images of the training split. No test image is
used. Finished runs are kept in runs/augmentation and not repeated, so that two processes can share the seeds. Writes
results/augmentation.json. About forty minutes on two cores.
"""

import argparse
import json
import sys
import time
from typing import Any

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import data
from d2lcls.book import results
from d2lcls.machine.files import write_atomically
from d2lcls.models import SmallCNN
from d2lcls.training import evaluate, fit
from d2lcls.training.recipe import Recipe

import mxnet as mx

RUNS = results.FOLDER.parent / "runs" / "augmentation"
CROP, FLIP = data.pad_crop(4), data.flip(0.5)
VARIANTS = {  # name: (transforms, alpha of mixup)
    "none": ((), 0.0),
    "flip": ((FLIP,), 0.0),
    "pad_crop": ((CROP,), 0.0),
    "flip_pad_crop": ((CROP, FLIP), 0.0),
    "flip_pad_crop_cutout": ((CROP, FLIP, data.cutout(8)), 0.0),
    "flip_pad_crop_mixup": ((CROP, FLIP), 0.2),
}
TRAIN, VALIDATION, EPOCHS = 4000, 5000, 20


def main() -> None:
    """Train every variant for every seed, one seed after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    seeds = parser.parse_args().seeds
    rest, valid = data.split_validation(data.load("cifar10", fallback=False), VALIDATION)
    train = data.split_validation(rest, TRAIN)[1]
    runs = [run(train, valid, name, seed) for seed in seeds for name in VARIANTS]

    def column(name: str, key: str) -> list[float]:
        return [r[key] for r in runs if r["variant"] == name]

    accuracy = {name: results.spread(column(name, "valid_accuracy")) for name in VARIANTS}
    gain = {
        name: results.spread([a - b for a, b in zip(column(name, "valid_accuracy"), column("none", "valid_accuracy"))])
        for name in VARIANTS
        if name != "none"
    }
    path = results.write(
        "augmentation",
        " ".join(["python benchmarks/augmentation.py", *sys.argv[1:]]),
        {
            "recipe": {
                "model": "cnn",
                "train_images": TRAIN,
                "valid_images": VALIDATION,
                "num_epochs": EPOCHS,
                "batch_size": 128,
                "lr": 0.1,
                "schedule": "cosine",
                "warmup_epochs": 1.0,
                "wd": 5e-4,
                "pad_crop": 4,
                "flip": 0.5,
                "cutout": 8,
                "mixup": 0.2,
            },
            "valid_accuracy": accuracy,
            "gain": gain,
            "train_accuracy": {name: results.spread(column(name, "train_accuracy")) for name in VARIANTS},
            "units": {
                "valid_accuracy": "% of the validation images, network of the last step",
                "train_accuracy": "% of the training images, not augmented, same network",
                "gain": "percentage points of valid_accuracy over `none` with the same seed",
            },
            "runs": runs,
        },
        data=["cifar10"],
    )
    print(path)


def run(train: data.Images, valid: data.Images, name: str, seed: int) -> dict[str, Any]:
    """Train one network, unless that was done before, and score it on whole, unchanged images."""
    file = RUNS / f"{name}-{seed}.json"
    if file.is_file():
        return json.loads(file.read_text())
    transforms, alpha = VARIANTS[name]
    mean, std = data.channel_statistics(train.images)
    batches = data.Batches(train, 128, mean, std, shuffle=True, augment=transforms, mixup=alpha, seed=seed)
    mx.random.seed(seed)
    net = SmallCNN(classes=len(train.classes))
    net.initialize(mx.init.MSRAPrelu(slope=0))
    begun = time.perf_counter()
    epochs = fit(net, batches, recipe=Recipe(num_epochs=EPOCHS, seed=seed), on_epoch=None)
    seconds = time.perf_counter() - begun
    on_train, on_valid = (evaluate(net, data.Batches(images, 256, mean, std)) for images in (train, valid))
    print(
        f"seed {seed}, {name}: training {on_train.accuracy:.2%}, validation {on_valid.accuracy:.2%}, {seconds:.0f} s",
        flush=True,
    )
    record = {
        "variant": name,
        "seed": seed,
        "seconds": seconds,
        "train_accuracy": 100 * on_train.accuracy,
        "valid_accuracy": 100 * on_valid.accuracy,
        "train_loss": on_train.loss,
        "valid_loss": on_valid.loss,
        "loss_by_epoch": [e.train_loss for e in epochs],
    }
    write_atomically(file, json.dumps(record).encode())
    return record


if __name__ == "__main__":
    main()
