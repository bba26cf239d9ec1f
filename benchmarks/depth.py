"""What does depth cost without shortcuts, and how accurate is a ResNet-20 after a short training?

Two parts. The first trains networks of 20 and of 56 layers, each with shortcuts (GluonCV's CIFAR ResNets) and without
(the same networks with the shortcuts removed), on 5,000 images of CIFAR-10 for 8 epochs, with the same recipe for all
four. The training loss is the mean over the last epoch; there is no augmentation, so that it measures how well a
network fits its training images. The second trains cifar_resnet20_v1 on all 50,000 images for 20 epochs and scores it
once, on the test images.

Every run keeps a checkpoint in runs/depth, so that an interrupted command continues where it stopped and finished runs
are not repeated; delete the folder to start again. Writes results/depth.json. On two cores with bfloat16 the first part
takes about 20 minutes, and so does each seed of the second; in float32 1.5 to 2 times as long.
"""

import argparse

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import data
from d2lcls.book import results
from d2lcls.models import get_model, without_shortcuts
from d2lcls.training import evaluate, fit
from d2lcls.training.precision import candidate
from d2lcls.training.recipe import Recipe

import mxnet as mx
import numpy as np

RUNS = results.FOLDER.parent / "runs" / "depth"
NETWORKS = {f"{kind}_{depth}": (kind, depth) for depth in (20, 56) for kind in ("plain", "residual")}
FEW = {"lr": 0.05, "wd": 5e-4, "warmup_epochs": 1}  # for batches of 64
ALL = {"lr": 0.1, "wd": 5e-4, "warmup_epochs": 1}  # for batches of 128


def main():
    """Train what is not trained yet and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the first part")
    parser.add_argument("--images", type=int, default=5000, help="of the first part")
    parser.add_argument("--epochs", type=int, default=8, help="of the first part")
    parser.add_argument("--long-seeds", type=int, nargs="+", default=[0, 1, 2], help="of the second part")
    parser.add_argument("--long-images", type=int, default=50_000, help="of the second part")
    parser.add_argument("--long-epochs", type=int, default=20, help="of the second part")
    parser.add_argument(
        "--precision",
        default=candidate([mx.cpu()]),
        help="of both parts, as in fit; the default is bfloat16 on a processor that has it",
    )
    options = parser.parse_args()
    found = {**shortcuts(options), **long(options)}
    print(
        results.write(
            "depth",
            "python benchmarks/depth.py",
            {
                **found,
                "precision": options.precision,
                "recipe": {
                    "shortcuts": {"images": options.images, "epochs": options.epochs, "batch_size": 64, **FEW},
                    "resnet20": {
                        "images": options.long_images,
                        "epochs": options.long_epochs,
                        "batch_size": 128,
                        **ALL,
                    },
                },
                "units": {
                    "train_loss": "nats an image, mean of the last epoch",
                    "valid_accuracy": "% of 5,000 images",
                    "added_by_depth": "train_loss of 56 layers less that of 20, same seed",
                    "by_epoch": "train_loss",
                    "resnet20": "% of the 10,000 test images; minutes of training",
                },
            },
            data=["cifar10"],
        )
    )


def shortcuts(options):
    """Train plain and residual networks of both depths; return training losses and accuracies."""
    rest, held_out = data.split_validation(data.load("cifar10", fallback=False), 5000, seed=0)
    mean, std = data.channel_statistics(rest.images)
    losses, accuracies, curves = ({name: [] for name in NETWORKS} for _ in range(3))
    for seed in options.seeds:
        few = data.take_per_class(rest, options.images // 10, seed)
        batches = data.Batches(few, 64, mean, std, shuffle=True, seed=seed)
        for name, (kind, depth) in NETWORKS.items():
            net = get_model(f"cifar_resnet{depth}_v1")
            if kind == "plain":
                without_shortcuts(net)
            records = train(
                net,
                batches,
                f"{name}-{options.images}x{options.epochs}",
                options.epochs,
                seed,
                precision=options.precision,
                **FEW,
            )
            score = evaluate(net, data.Batches(held_out, 250, mean, std))
            losses[name].append(records[-1].train_loss)
            accuracies[name].append(100 * score.accuracy)
            curves[name].append([record.train_loss for record in records])
            print(f"{name} seed {seed}: training {losses[name][-1]:.3f}, validation {score.accuracy:.2%}", flush=True)
    return {
        "train_loss": {name: results.spread(values) for name, values in losses.items()},
        "valid_accuracy": {name: results.spread(values) for name, values in accuracies.items()},
        "added_by_depth": {
            kind: results.spread(np.subtract(losses[f"{kind}_56"], losses[f"{kind}_20"]))
            for kind in ("plain", "residual")
        },
        "by_epoch": curves,
    }


def long(options):
    """Train cifar_resnet20_v1 on all images; return its accuracy on the test images."""
    images, test = data.load("cifar10", fallback=False), data.load("cifar10", "test", fallback=False)
    mean, std = data.channel_statistics(images.images)
    accuracies, minutes = [], []
    for seed in options.long_seeds:
        batches = data.Batches(
            images.subset(slice(options.long_images)), 128, mean, std, shuffle=True, augment=data.STANDARD, seed=seed
        )
        net = get_model("cifar_resnet20_v1")
        name = f"resnet20-{options.long_images}x{options.long_epochs}"
        records = train(net, batches, name, options.long_epochs, seed, precision=options.precision, **ALL)
        score = evaluate(net, data.Batches(test, 250, mean, std))
        accuracies.append(100 * score.accuracy)
        minutes.append(sum(record.seconds for record in records) / 60)
        print(f"cifar_resnet20_v1 seed {seed}: test {score.accuracy:.2%}, {minutes[-1]:.1f} minutes", flush=True)
    return {"resnet20": {"test_accuracy": results.spread(accuracies), "minutes": results.spread(minutes)}}


def train(net, batches, name, epochs, seed, **recipe):
    """Train a network, or go on where its training stands; return the records of `fit`."""
    mx.random.seed(seed)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    return fit(
        net,
        batches,
        recipe=Recipe(num_epochs=epochs, seed=seed, **recipe),
        checkpoint_dir=RUNS / f"{name}-seed{seed}",
        resume=True,
        on_epoch=None,
    )


if __name__ == "__main__":
    main()
