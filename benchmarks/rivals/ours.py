"""For training_step.py, fine_tuning_step.py and end_to_end.py: the side of d2lcls.

    python ours.py step|tune NETWORK BATCH PIXELS CLASSES float32|bfloat16|plain
    python ours.py fit NETWORK FOLDER float32|bfloat16

`tune` holds the statistics of BatchNorms, as fine-tuning does; "plain" is the network itself in float32, without
faster operators. The second command calls `fit` on FOLDER/images.npy and labels.npy.
"""

import sys
from pathlib import Path

import d2lcls  # noqa: F401  before mxnet, which it makes importable
from d2lcls import data
from d2lcls.models import get_model
from d2lcls.models.surgery import hold_statistics
from d2lcls.training import fit
from d2lcls.training.precision import lower
from d2lcls.training.recipe import Recipe
from d2lcls.training.steps import make_trainer, settle_shapes, train_step

import mxnet as mx
import numpy as np
from mxnet import nd
from side import LR, MEAN, STD, answer, fixed_batch, stretch

CLASSES = data.catalog.DATASETS["cifar10"].classes
SGD = {"learning_rate": LR, "wd": 1e-4, "momentum": 0.9}


def make_network(name, classes):
    """Return an initialised network; "tutorial" is that of gluon_training.py."""
    if name == "tutorial":
        from gluon_training import tutorial_network

        net = tutorial_network(classes)
    else:
        net = get_model(name, classes=classes)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    return net


def step_on(net, x, y, precision):
    """Return a function that makes one training step as `fit` does, on a batch of numpy arrays."""
    ctx = [mx.cpu()]
    settle_shapes(net, x, ctx, seed=0)
    trainer = make_trainer(net, "nag", SGD)
    model = net if precision == "plain" else lower(net, precision)

    def step():
        train_step(model, trainer, x, y, ctx)
        nd.waitall()

    return step


def fit_on(net, folder, precision, batch=128):
    """Return a function that trains on some images by `fit`."""

    def train(images):
        pixels, labels = (np.load(Path(folder, f"{name}.npy"), mmap_mode="r")[:images] for name in ("images", "labels"))
        batches = data.Batches(
            data.Images(pixels, labels, CLASSES, "cifar10"), batch, MEAN, STD, shuffle=True, augment=data.STANDARD
        )
        epoch = fit(
            net,
            batches,
            recipe=Recipe(
                num_epochs=1,
                lr=LR,
                schedule="constant",
                warmup_epochs=0,
                optimizer="nag",
                wd=0.0001,
                precision=precision,
            ),
            on_epoch=None,
        )[0]
        return {"waiting": epoch.waiting * epoch.seconds}

    return train


def main(kind, name, *words):
    """Return what `answer` needs of the side that the command line asks for."""
    if kind in ("step", "tune"):
        batch, pixels, classes = map(int, words[:3])
        net = make_network(name, classes)
        if kind == "tune":
            hold_statistics(net)
        x = np.random.default_rng(0).normal(size=(batch, 3, pixels, pixels)).astype(np.float32)
        y = np.arange(batch, dtype=np.int32) % classes
        turn, first = fixed_batch(step_on(net, x, y, words[3]), batch), 0
    else:
        net = make_network(name, 10)
        turn, first = stretch(fit_on(net, *words)), 256
    return turn, first, lambda: sum(p.data().size for p in net.collect_params().values() if p.grad_req != "null")


if __name__ == "__main__":
    answer(lambda: main(*sys.argv[1:]))
