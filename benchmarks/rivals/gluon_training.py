"""For training_step.py and end_to_end.py: Gluon as in MXNet and GluonCV, without d2lcls.

    python gluon_training.py step NETWORK BATCH PIXELS CLASSES imperative|hybrid
    python gluon_training.py tutorial|script FOLDER imperative|hybrid WORKERS

The second command trains like a tutorial, or like GluonCV's train_cifar10, on FOLDER/images.npy and labels.npy,
with WORKERS worker processes of its DataLoader.
"""

import builtins
import sys
from pathlib import Path

import numpy as np

for name in ("bool", "int", "float", "complex", "object", "str"):  # left numpy in 1.24; MXNet 1.9.1 uses them
    if name not in vars(np):
        setattr(np, name, getattr(builtins, name))

import mxnet as mx  # noqa: E402
from gluoncv.data import transforms as gluoncv_transforms  # noqa: E402
from gluoncv.model_zoo import get_model  # noqa: E402
from mxnet import autograd, gluon, nd  # noqa: E402
from mxnet.gluon import nn  # noqa: E402
from mxnet.gluon.data.vision import transforms  # noqa: E402
from side import LR, MEAN, STD, answer, fixed_batch, stretch  # noqa: E402

LOSS = gluon.loss.SoftmaxCrossEntropyLoss()


def tutorial_network(classes):
    """Return such a network as tutorials train on CIFAR-10: convolutions with ReLU, pooling, two dense layers."""
    net = nn.HybridSequential()
    for width in (32, 64, 128):
        net.add(nn.Conv2D(channels=width, kernel_size=3, padding=1, activation="relu"), nn.MaxPool2D(2, 2))
    net.add(nn.Flatten(), nn.Dense(128, activation="relu"), nn.Dense(classes))
    return net


def fast94(classes, widths=(64, 256, 256)):
    """Return the network of the recipe fast94 in Gluon's own layers; see d2lcls/models/fast94.py."""
    net = nn.HybridSequential()
    net.add(nn.Conv2D(32, 3, use_bias=False, in_channels=3), nn.GELU())
    net[0].weight.grad_req = "null"
    for width in widths:
        for pooling in ([nn.MaxPool2D(2)], []):
            net.add(
                nn.Conv2D(width, 3, padding=1, use_bias=False),
                *pooling,
                nn.BatchNorm(scale=False, momentum=0.6),
                nn.GELU(),
            )
    net.add(nn.MaxPool2D(3), nn.Dense(classes, use_bias=False), nn.HybridLambda(lambda F, x: x / 9))
    return net


def make_network(name, classes, mode):
    """Return an initialised network by its name, hybridized as usual if `mode` is "hybrid"."""
    own = {"tutorial": tutorial_network, "fast94": fast94}
    net = own[name](classes) if name in own else get_model(name, classes=classes)
    net.initialize(mx.init.Xavier())
    if mode == "hybrid":
        net.hybridize()
    return net


def step_on(net, x, y):
    """Return a function that makes one training step on a batch of NDArrays."""
    trainer = gluon.Trainer(net.collect_params(), "nag", {"learning_rate": LR, "wd": 1e-4, "momentum": 0.9})

    def step():
        with autograd.record():
            loss = LOSS(net(x), y)
        loss.backward()
        trainer.step(len(x))
        nd.waitall()

    return step


def read(folder, images, steps):
    """Return a data set of the first images of a folder's arrays, held as `gluon.data.vision.CIFAR10` holds its own."""
    pixels, labels = (np.load(Path(folder, f"{name}.npy"), mmap_mode="r")[:images] for name in ("images", "labels"))
    pairs = gluon.data.ArrayDataset(nd.array(pixels, dtype="uint8"), np.array(labels))
    return pairs.transform_first(transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)]))


def tutorial(net, folder, workers, batch=128):
    """Return a function that trains on some images as tutorials do.

    Gluon has no padded crop; tutorials take a crop of random size instead.
    """
    crop = transforms.RandomResizedCrop(32, scale=(0.64, 1.0), ratio=(1.0, 1.0))
    ctx = mx.cpu()

    def train(images):
        loader = gluon.data.DataLoader(
            read(folder, images, [crop, transforms.RandomFlipLeftRight()]),
            batch_size=batch,
            shuffle=True,
            num_workers=workers,
        )
        trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": LR})
        metric, total = mx.metric.Accuracy(), 0.0
        for data, label in loader:
            data, label = data.as_in_context(ctx), label.as_in_context(ctx)
            with autograd.record():
                output = net(data)
                loss = LOSS(output, label)
            loss.backward()
            trainer.step(data.shape[0])
            total += loss.mean().asscalar()
            metric.update([label], [output])
        nd.waitall()

    return train


def script(net, folder, workers, batch=128):
    """Return a function that trains on some images as GluonCV's train_cifar10 does."""
    ctx = [mx.cpu()]
    augment = [gluoncv_transforms.RandomCrop(32, pad=4), transforms.RandomFlipLeftRight()]

    def train(images):
        loader = gluon.data.DataLoader(
            read(folder, images, augment), batch_size=batch, shuffle=True, last_batch="discard", num_workers=workers
        )
        trainer = gluon.Trainer(net.collect_params(), "nag", {"learning_rate": LR, "wd": 1e-4, "momentum": 0.9})
        metric, total = mx.metric.Accuracy(), 0.0
        for data, label in loader:
            data = gluon.utils.split_and_load(data, ctx_list=ctx, batch_axis=0)
            label = gluon.utils.split_and_load(label, ctx_list=ctx, batch_axis=0)
            with autograd.record():
                output = [net(x) for x in data]
                loss = [LOSS(logits, y) for logits, y in zip(output, label)]
            for one in loss:
                one.backward()
            trainer.step(batch)
            total += sum(one.sum().asscalar() for one in loss)
            metric.update(label, output)
            metric.get()
        nd.waitall()

    return train


def main(kind, *words):
    """Return what `answer` needs of the side that the command line asks for."""
    if kind == "step":
        name, batch, pixels, classes, mode = words[0], *map(int, words[1:4]), words[4]
        net = make_network(name, classes, mode)
        x = nd.random.normal(shape=(batch, 3, pixels, pixels))
        turn, first = fixed_batch(step_on(net, x, nd.array(np.arange(batch) % classes)), batch), 0
    else:
        folder, mode, workers = words
        net = make_network("tutorial" if kind == "tutorial" else "cifar_resnet20_v1", 10, mode)
        turn, first = stretch({"tutorial": tutorial, "script": script}[kind](net, folder, int(workers))), 256
    return turn, first, lambda: sum(p.data().size for p in net.collect_params().values() if p.grad_req != "null")


if __name__ == "__main__":
    answer(lambda: main(*sys.argv[1:]))
