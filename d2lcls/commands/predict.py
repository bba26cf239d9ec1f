"""`d2lcls predict`: the likeliest classes of pictures."""

import argparse
import sys
from pathlib import Path

from d2lcls.commands.parsers import Command, positive


def add(command: Command) -> None:
    """Add the command to the parser."""
    predict = command(
        "predict",
        _predict,
        "Print the most likely classes of pictures.",
        "d2lcls predict --run runs/cifar10-cnn cat.jpg dog.jpg",
    )
    predict.add_argument("images", metavar="IMAGE", nargs="+", help="picture files")
    source = predict.add_mutually_exclusive_group()
    source.add_argument("--run", dest="run_folder", metavar="RUN", help="a run's folder (default: the newest in runs/)")
    source.add_argument(
        "--model",
        metavar="MODEL",
        help="a model folder, as export and its later steps write it, or a folder with such forms of one model",
    )
    predict.add_argument(
        "--form",
        default="auto",
        help="which form in MODEL to use: auto (times them, and takes the fastest on this machine), mxnet, mxnet-int8, "
        "onnx, onnx-int8 or tvm",
    )
    predict.add_argument("--trust", action="store_true", help="also load machine code (tvm), from a source you trust")
    predict.add_argument("--top", type=positive(int), default=5, metavar="N", help="number of classes")


def _predict(options: argparse.Namespace) -> None:
    if options.form != "auto" and not options.model:
        options.wrong("--form goes with --model")
    for path, answers in zip(options.images, _of_model(options) if options.model else _of_run(options)):
        print(path)
        for name, probability in answers:
            print(f"  {probability:7.2%}  {name}")


def _of_run(options: argparse.Namespace) -> list[list[tuple[str, float]]]:
    from d2lcls.training.runs import classify, load_run

    run, net = load_run(options.run_folder or _newest_run())
    return [
        [(run.classes[index], row[index]) for index in row.argsort()[::-1][: options.top]]
        for row in classify(run, net, options.images)
    ]


def _of_model(options: argparse.Namespace) -> list[list[tuple[str, float]]]:
    from d2lcls.deploy import fastest_form, load_model

    choice = fastest_form(options.model, options.form, trust=options.trust)
    if choice.ms or choice.left_out:
        print(choice, file=sys.stderr)
    return load_model(choice.folder, trust=options.trust).predict_many(options.images, options.top)


def _newest_run() -> Path:
    runs = sorted(Path("runs").glob("*/last.npz"), key=lambda file: file.stat().st_mtime)
    if not runs:
        raise FileNotFoundError(
            "There is no trained run in ./runs. Train one with: d2lcls train --dataset cifar10, "
            "or name its folder with --run."
        )
    return runs[-1].parent
