"""`d2lcls predict`: the likeliest classes of pictures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from d2lcls.commands.parsers import Command, positive
from d2lcls.machine.files import csv_text

if TYPE_CHECKING:
    from d2lcls.data.decode import PictureSource
    from d2lcls.machine.progress import Progress

    import numpy as np

Answers = list[tuple[str, float]]  # (class, probability), the likeliest first


def add(command: Command) -> None:
    """Add the command to the parser."""
    predict = command(
        "predict",
        _predict,
        "Print the most likely classes of pictures.",
        "d2lcls predict --run runs/cifar10-cnn cat.jpg photos",
    )
    add = predict.add_argument
    add(
        "images",
        metavar="IMAGE",
        nargs="+",
        help='a picture file; a folder, which is searched with all below it; a quoted pattern, such as "*.jpg"; or '
        "- for standard input: paths, one per line, or the bytes of one picture",
    )
    source = predict.add_mutually_exclusive_group()
    source.add_argument("--run", dest="run_folder", metavar="RUN", help="a run's folder (default: the newest in runs/)")
    source.add_argument(
        "--model",
        metavar="MODEL",
        help="a model folder, as export and its later steps write it, or a folder with such forms of one model",
    )
    source.add_argument(
        "--pretrained", metavar="NAME", help="a network with ImageNet weights, such as efficientnet_lite0"
    )
    add(
        "--form",
        default="auto",
        help="which form in MODEL to use: auto (times them, and takes the fastest on this machine), mxnet, mxnet-int8, "
        "onnx, onnx-int8 or tvm",
    )
    add("--trust", action="store_true", help="also load machine code (tvm), from a source you trust")
    add("--top", type=positive(int), default=5, metavar="N", help="number of classes")
    add(
        "--batch-size",
        type=positive(int),
        default=32,
        metavar="N",
        help="number of pictures to decode and classify at a time",
    )
    layout = predict.add_mutually_exclusive_group()
    layout.add_argument(
        "--json",
        action="store_true",
        help='print one JSON object per picture, one per line: {"path", "predictions": [{"class", "probability"}]}',
    )
    layout.add_argument(
        "--csv", action="store_true", help="print a CSV row for each picture and class: path,rank,class,probability"
    )


def _predict(options: argparse.Namespace) -> int:
    if options.form != "auto" and not options.model:
        options.wrong("--form goes with --model")
    if options.trust and not options.model:
        options.wrong("--trust goes with --model")
    from d2lcls.data.pictures import find_pictures, read_batches

    failed = False
    with _progress(options) as progress:

        def report(problem: str) -> None:
            nonlocal failed
            failed = True
            progress.clear()
            print(f"d2lcls: {problem}", file=sys.stderr)

        found = find_pictures(options.images, report)
        first = next(found, None)  # before the model is loaded, which can take seconds
        if first is None:
            return 1
        classifier = _classifier(options)
        write, done = _writer(options), 0
        for batch in read_batches(chain([first], found), classifier.read, options.batch_size):
            readable = [(picture.name, picture.image) for picture in batch if picture.image is not None]
            answers = classifier.likeliest([image for _, image in readable], options.top) if readable else []
            progress.clear()
            for (name, _), likeliest in zip(readable, answers):
                write(name, likeliest)
            print(end="", flush=True)
            for picture in batch:
                if picture.problem:
                    report(picture.problem)
            done += len(batch)
            if done >= options.batch_size:
                progress.update(done, "")
    return 1 if failed else 0


def _progress(options: argparse.Namespace) -> Progress:
    """Return a progress line, which shows nothing if there are few pictures or there is no terminal."""
    from d2lcls.data.pictures import STANDARD_INPUT, find_pictures
    from d2lcls.machine.progress import Progress, display_mode

    if display_mode() == "off":
        return Progress(None, verbose=False)
    if STANDARD_INPUT in options.images:
        return Progress(None, unit="picture")
    count = sum(1 for _ in find_pictures(options.images, lambda problem: None))
    return Progress(count, verbose=count > options.batch_size, unit="picture")


@dataclass(frozen=True)
class _Classifier:
    """What all sources of a model have in common.

    Args:
        classes: K names.
        read: function from a path or bytes to the uint8 (H, W, C) that the model takes.
        probabilities: function from uint8 (N, H, W, C) to float (N, K).
    """

    classes: tuple[str, ...]
    read: Callable[[PictureSource], np.ndarray]
    probabilities: Callable[[np.ndarray], np.ndarray]

    def likeliest(self, images: list[np.ndarray], top: int) -> list[Answers]:
        """Return the `top` likeliest classes of each image; equal ones in the order of the classes."""
        import numpy as np

        return [
            [(self.classes[index], float(row[index])) for index in np.argsort(-row, kind="stable")[:top]]
            for row in self.probabilities(np.stack(images))
        ]


def _classifier(options: argparse.Namespace) -> _Classifier:
    if options.model:
        return _of_model(options)
    return _of_network(options.pretrained) if options.pretrained else _of_run(options.run_folder or _newest_run())


def _of_run(folder: str | Path) -> _Classifier:
    from d2lcls.training.runs import classify_images, load_run

    run, net = load_run(folder)
    return _Classifier(run.classes, run.picture, lambda images: classify_images(run, net, images))


def _of_model(options: argparse.Namespace) -> _Classifier:
    from d2lcls.deploy import fastest_form, load_model
    from d2lcls.explain.scores import softmax

    choice = fastest_form(options.model, options.form, trust=options.trust)
    if choice.ms or choice.left_out:
        print(choice, file=sys.stderr)
    model = load_model(choice.folder, trust=options.trust)
    preprocess = model.manifest.preprocess
    return _Classifier(
        tuple(model.manifest.classes),
        preprocess.image,
        lambda images: softmax(model.compute(preprocess.normalise(images)).astype(float)),
    )


def _of_network(name: str) -> _Classifier:
    from d2lcls.data.formats.imagenet import imagenet_classes
    from d2lcls.explain.scores import softmax
    from d2lcls.models import get_model, preprocessing

    import mxnet as mx

    net = get_model(name, pretrained=True)
    net.hybridize(static_alloc=True, static_shape=True)
    preprocess = preprocessing(name)  # after the weights, whose source decides it
    return _Classifier(
        imagenet_classes()[1],
        preprocess.image,
        lambda images: softmax(net(mx.nd.array(preprocess.normalise(images))).asnumpy().astype(float)),
    )


def _newest_run() -> Path:
    runs = sorted(Path("runs").glob("*/last.npz"), key=lambda file: file.stat().st_mtime)
    if not runs:
        raise FileNotFoundError(
            "There is no trained run in ./runs. Train one with: d2lcls train --dataset cifar10, "
            "or name its folder with --run."
        )
    return runs[-1].parent


def _writer(options: argparse.Namespace) -> Callable[[str, Answers], None]:
    """Return the function that prints the answers for a picture."""
    if options.json:
        return _write_json
    if options.csv:
        print(csv_text([("path", "rank", "class", "probability")]), end="")
        return _write_csv
    return _write_text


def _write_json(path: str, answers: Answers) -> None:
    predictions = [{"class": name, "probability": probability} for name, probability in answers]
    print(json.dumps({"path": path, "predictions": predictions}))


def _write_csv(path: str, answers: Answers) -> None:
    rows = [(path, rank, name, f"{probability:.6f}") for rank, (name, probability) in enumerate(answers, 1)]
    print(csv_text(rows), end="")


def _write_text(path: str, answers: Answers) -> None:
    print(path)
    for name, probability in answers:
        print(f"  {probability:7.2%}  {name}")
