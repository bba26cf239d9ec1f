"""`d2lcls evaluate`: score a trained run, or a pretrained network on ImageNet."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from typing import TYPE_CHECKING

from d2lcls.commands.parsers import Command
from d2lcls.machine.files import check_writable, write_atomically

if TYPE_CHECKING:
    from d2lcls.data import Batches

    import mxnet as mx

    Opened = tuple[str, mx.gluon.Block, Batches, list[mx.Context]]  # split, network, images and devices


def add(command: Command) -> None:
    """Add the command to the parser."""
    evaluate = command(
        "evaluate",
        _evaluate,
        "Score a trained run, or a pretrained network on ImageNet.",
        "d2lcls evaluate runs/cifar10-cnn --split test",
    )
    add = evaluate.add_argument
    add("run_folder", metavar="RUN", nargs="?", help="the folder that train wrote")
    add("--split", choices=("test", "validation", "train"), default="test", help="what to score")
    add("--dataset", help="another data set or folder with the same classes; or imagenet")
    add("--root", metavar="DIR", help="imagenet: the folder that holds val/, or a .rec file (default: the run's)")
    add("--model", metavar="NAME", help="imagenet: the pretrained network to score")
    add(
        "--weights",
        metavar="FILE",
        help="imagenet: a .safetensors, .params or .pth file of your own instead of the pretrained weights",
    )
    add("--skip-broken", action="store_true", help="leave out pictures that cannot be read (default: as in training)")
    add("--tta", action="store_true", help="average the predictions for six views of each image: shifted and mirrored")
    add("--per-class", metavar="FILE", help="write each class's accuracy as CSV")
    add("--ctx", default="auto", help="as for train")
    add("--json", action="store_true", help="print the score as JSON")


def _evaluate(options: argparse.Namespace) -> None:
    if options.per_class:
        check_writable(options.per_class)
    # What is announced while the images are opened is no part of the JSON.
    with contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext():
        on_imagenet = options.root or options.dataset == "imagenet"
        if options.model or options.weights or (on_imagenet and not options.run_folder):
            opened = _open_imagenet(options)
        elif options.run_folder:
            opened = _open_run(options)
        else:
            options.wrong("the following arguments are required: RUN, or --dataset imagenet --root DIR --model NAME")
    _score(options, *opened)


def _open_run(options: argparse.Namespace) -> Opened:
    """Open the network of a run, and the images to score it on."""
    from d2lcls.machine import devices
    from d2lcls.training.run_images import open_run_split
    from d2lcls.training.runs import load_run

    ctx = devices.parse(options.ctx)
    run, net = load_run(options.run_folder, ctx)
    images = open_run_split(run, options.split, options.dataset, options.root, options.skip_broken)
    return options.split, net, run.batches(images), ctx


def _open_imagenet(options: argparse.Namespace) -> Opened:
    """Open a network of 1000 classes and ImageNet, which has no public test set: its `val` takes that place."""
    from d2lcls import data
    from d2lcls.data.formats.imagenet import open_imagenet
    from d2lcls.machine import devices
    from d2lcls.models import get_model, preprocessing

    if options.run_folder or options.dataset != "imagenet" or not (options.root and options.model):
        options.wrong(
            "a pretrained network is scored with --dataset imagenet --root DIR --model NAME, all three, and without RUN"
        )
    if options.skip_broken:
        options.wrong("--skip-broken goes with RUN: ImageNet scores without some pictures cannot be compared")
    ctx = devices.parse(options.ctx)
    split = "train" if options.split == "train" else "val"
    open_imagenet(options.root, preprocessing(options.model), split)  # before the weights: a wrong folder shows at once
    net = get_model(options.model, classes=1000, pretrained=options.weights or True, ctx=ctx)
    preprocess = preprocessing(options.model, options.weights)
    images = open_imagenet(options.root, preprocess, split)
    net.hybridize(static_alloc=True, static_shape=True)
    return split, net, data.Batches(images, 64, preprocess.mean, preprocess.std), ctx


def _score(
    options: argparse.Namespace, split: str, net: mx.gluon.Block, batches: Batches, ctx: list[mx.Context]
) -> None:
    from d2lcls.report.tables import classes_csv
    from d2lcls.training.evaluation import evaluate_classes, six_views

    views = six_views if options.tta else None
    score, accuracies = evaluate_classes(net, batches, ctx, verbose=not options.json, views=views)
    print(json.dumps({"split": split, **dataclasses.asdict(score)}) if options.json else f"{split}: {score}")
    if not options.per_class:
        return
    classes, counts = batches.data.classes, batches.data.counts()
    write_atomically(options.per_class, classes_csv(classes, counts, accuracies).encode("utf-8", "surrogateescape"))
    if not options.json:
        worst = [k for k in accuracies.argsort(kind="stable") if counts[k]][:5]  # NaN sorts last
        print("Weakest classes:", ", ".join(f"{classes[k]} {accuracies[k]:.1%}" for k in worst))
        print(f"All {len(counts.nonzero()[0])} classes: {options.per_class}")
