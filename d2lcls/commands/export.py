"""`d2lcls export`, `quantize`, `onnx`, `torch` and `compare`: from a trained run to every form of the model."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from d2lcls.commands.parsers import Command, positive
from d2lcls.machine.files import check_new_folder, new_folder

if TYPE_CHECKING:
    from d2lcls.data import Images
    from d2lcls.deploy import Manifest

    import numpy as np


def add(command: Command) -> None:
    """Add the commands to the parser."""
    export = command(
        "export",
        _export,
        "Write a trained run, or a pretrained network, as a model folder.",
        "d2lcls export runs/cifar10-cnn --out models/cnn",
    )
    add = export.add_argument
    add("run_folder", metavar="RUN", nargs="?", help="the folder that train wrote")
    add("--pretrained", metavar="NAME", help="a network with ImageNet weights instead of a run")
    _common(add, "the folder to write")

    quantize = command(
        "quantize",
        _quantize,
        "Write a model in int8, calibrated on training images.",
        "d2lcls quantize models/cnn --out models/cnn-int8",
    )
    add = quantize.add_argument
    add("model", metavar="MODEL", help="a model folder, of form mxnet or onnx")
    _common(add, "the folder to write; not needed with --scan")
    add("--mode", choices=("naive", "entropy"), default="naive", help="form mxnet: how ranges are chosen")
    add(
        "--images",
        type=positive(int),
        default=256,
        metavar="N",
        help="training images to calibrate with, spread evenly over the classes; all of them where there are fewer",
    )
    add(
        "--vnni",
        action="store_true",
        help="use all eight bits, for x86 processors with VNNI only (lscpu lists avx512_vnni or avx_vnni): more exact, "
        "but wrong where sums saturate; by default one bit less is used, which is correct on every processor",
    )
    add("--exclude", nargs="+", default=[], metavar="LAYER", help="form mxnet: layers that stay in float")
    add("--scan", action="store_true", help="form mxnet: quantise one layer at a time, and list the error of each")

    onnx = command(
        "onnx",
        _onnx,
        "Write a model as ONNX and compare it with MXNet.",
        "d2lcls onnx models/cnn --out models/cnn-onnx",
    )
    onnx.add_argument("model", metavar="MODEL", help="a model folder of form mxnet")
    _common(onnx.add_argument, "the folder to write", required=True)

    torch = command(
        "torch",
        _torch,
        "Write a model as PyTorch: code to read and train on, weights, and a check.",
        "d2lcls torch models/cnn --out models/cnn-torch",
    )
    add = torch.add_argument
    add("model", metavar="MODEL", help="a model folder, of form mxnet or onnx")
    add("--out", metavar="DIR", required=True, help="the folder to write")
    add("--dataset", help="images for the check (default: training images of what the model was trained on)")
    add("--images", type=positive(int), default=16, metavar="N", help="number of them")

    compare = command(
        "compare",
        _compare,
        "Compare forms of one model: agreement, size, speed.",
        "d2lcls compare models/cnn models/cnn-int8 models/cnn-onnx",
    )
    add = compare.add_argument
    add(
        "models",
        metavar="MODEL",
        nargs="+",
        help="model folders; the others, ONNX before TVM, are compared with the first",
    )
    add("--dataset", help="images to compare on (default: the test images of what the model was trained on)")
    add("--images", type=positive(int), default=1000, metavar="N", help="number of them")
    add("--rounds", type=positive(int), default=10, metavar="N", help="how often each model is timed")
    add("--trust", action="store_true", help="also load machine code (tvm), from a source you trust")


def _common(add: Callable, out: str, required: bool = False) -> None:
    add("--out", metavar="DIR", required=required, help=out)
    add("--dataset", help="images to calibrate with and to score on (default: those the model was trained on)")
    add("--test-images", type=positive(int), metavar="N", help="number of test images to score on (default: all)")


def _export(options: argparse.Namespace) -> None:
    from d2lcls.deploy.exporting import export
    from d2lcls.deploy.manifest import Manifest

    if bool(options.run_folder) == bool(options.pretrained):
        options.wrong("give either RUN or --pretrained NAME")
    if not options.out:
        options.wrong("the following arguments are required: --out")
    if options.run_folder:
        from d2lcls.training.runs import load_run

        run, net = load_run(options.run_folder)
        manifest = Manifest(
            run.recipe.model or "model", "mxnet", run.classes, run.preprocess(), dataset=run.recipe.dataset
        )
    else:
        from d2lcls.data.formats.imagenet import imagenet_classes
        from d2lcls.models import get_model, preprocessing

        net = get_model(options.pretrained, pretrained=True)
        manifest = Manifest(
            options.pretrained.lower(), "mxnet", imagenet_classes()[1], preprocessing(options.pretrained)
        )
    images = _test_images(options, manifest)
    with new_folder(options.out) as folder:
        export(net, folder, manifest.name, manifest.classes, manifest.preprocess, manifest.dataset)
        _score(options, folder, images)
    _describe(options)


def _quantize(options: argparse.Namespace) -> None:
    from d2lcls.deploy import read_manifest

    manifest = read_manifest(options.model)
    if not options.out and not options.scan:
        options.wrong("one of the arguments --out --scan is required")
    if manifest.form == "onnx" and (options.scan or options.exclude or options.mode != "naive"):
        options.wrong("--mode, --exclude and --scan go with a model of form mxnet")
    images = None if options.scan else _test_images(options, manifest)
    x, description = _examples(options, manifest)
    print(f"calibrated on {description}")
    if options.scan:
        from d2lcls.deploy.quantization import sensitivity

        for layer in sensitivity(options.model, x, options.mode, options.vnni):
            print(f"{layer.error:8.2%}  {layer.name}")
        return
    with new_folder(options.out) as folder:
        if manifest.form == "onnx":
            from d2lcls.deploy.onnx.quantize import quantize_onnx

            quantize_onnx(options.model, folder, x, options.vnni)
        else:
            from d2lcls.deploy.quantization import quantize_model

            _, in_float = quantize_model(options.model, folder, x, options.mode, options.exclude, options.vnni)
            print(f"in float: {', '.join(in_float) or 'no layer'}")
        _score(options, folder, images)
    _describe(options)


def _onnx(options: argparse.Namespace) -> None:
    from d2lcls.deploy import read_manifest
    from d2lcls.deploy.onnx.export import export_onnx

    images = _test_images(options, read_manifest(options.model))
    with new_folder(options.out) as folder:
        _, difference = export_onnx(options.model, folder)
        print(f"largest difference from MXNet: {difference:.1e} of the largest logit")
        _score(options, folder, images)
    _describe(options)


def _torch(options: argparse.Namespace) -> None:
    from d2lcls.deploy import read_manifest
    from d2lcls.deploy.torch.export import export_torch

    manifest = read_manifest(options.model)
    check_new_folder(options.out)
    export_torch(
        options.model, options.out, _examples(options, manifest)[0] if options.dataset or manifest.dataset else None
    )
    print(
        f"{options.out}: {manifest.name} as PyTorch. Check it in an environment that has it: "
        f"python {Path(options.out, 'check.py')}"
    )


def _compare(options: argparse.Namespace) -> None:
    from d2lcls.deploy import read_manifest
    from d2lcls.deploy.comparison import compare, table
    from d2lcls.deploy.manifest import FORMS

    import numpy as np

    first, *others = options.models
    manifest = read_manifest(first)
    others.sort(key=lambda folder: FORMS.index(read_manifest(folder, verify=False).form))
    images = _images(options, manifest, "test")
    images = images.subset(np.linspace(0, len(images) - 1, min(options.images, len(images))).astype(int))
    labels = images.labels if tuple(images.classes) == tuple(manifest.classes) else None
    x = manifest.preprocess.batch(images.images)
    print(table(compare([first, *others], x, labels, rounds=options.rounds, trust=options.trust)))


def _images(options: argparse.Namespace, manifest: Manifest, split: str) -> Images:
    from d2lcls import data

    name = options.dataset or manifest.dataset
    if not name:
        raise ValueError(f"The manifest of {manifest.name} names no data set: name images with --dataset.")
    return data.load(name, split, size=manifest.preprocess.resize)


def _examples(options: argparse.Namespace, manifest: Manifest) -> tuple[np.ndarray, str]:
    """Return typical inputs, training images spread evenly over the classes, and a description of them."""
    from d2lcls import data

    images = _images(options, manifest, "train")
    taken = data.take_evenly(images, options.images)
    fewest, most = taken.counts().min(), taken.counts().max()
    description = (
        f"{'all ' if len(taken) == len(images) else ''}{len(taken):,} training images, "
        f"{fewest if fewest == most else f'{fewest} to {most}'} per class"
    )
    return manifest.preprocess.batch(taken.images), description


def _test_images(options: argparse.Namespace, manifest: Manifest) -> Images | None:
    """Return the images to score the new model on, None where there are none.

    They are loaded before anything is written, so that a wrong folder or data set leaves nothing behind.
    """
    check_new_folder(options.out)
    if not options.dataset and not _has_test_images(manifest.dataset):
        return None
    images = _images(options, manifest, "test")
    if tuple(images.classes) != tuple(manifest.classes):
        raise ValueError(
            f"{manifest.name} has the classes {', '.join(manifest.classes)}; {images.name} has "
            f"{', '.join(images.classes)}. Name other images with --dataset."
        )
    return images


def _score(options: argparse.Namespace, folder: Path, images: Images | None) -> None:
    """Score the new model, where there are images for it, before its folder gets its name."""
    from d2lcls.deploy.comparison import measure_accuracy

    if images is not None:
        accuracy = measure_accuracy(folder, images, options.test_images)
        print(f"top-1 {accuracy.top1:.2%} on {accuracy.images:,} images of {accuracy.data}")


def _describe(options: argparse.Namespace) -> None:
    """Print where the new model is."""
    from d2lcls.deploy import read_manifest
    from d2lcls.deploy.comparison import megabytes

    manifest = read_manifest(options.out)
    print(f"{options.out}: {manifest.name} as {manifest.form}, {megabytes(options.out):.2f} MB")


def _has_test_images(name: str | None) -> bool:
    from d2lcls import data

    return name in data.DATASETS or name is not None and Path(name).exists() and data.has_split(name, "test")
