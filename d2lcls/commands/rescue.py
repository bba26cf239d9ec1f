"""`d2lcls rescue`: tell what an old MXNet model is, run it, bring it up to date, write it as ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2lcls.commands.parsers import Command
from d2lcls.machine.files import check_new_folder, check_writable

if TYPE_CHECKING:
    from d2lcls.deploy.rescue import OldModel

    import numpy as np


def add(command: Command) -> None:
    """Add the command to the parser."""
    rescue = command(
        "rescue",
        _rescue,
        "Tell what an old MXNet model is, run it, and write it in today's form or as ONNX.",
        "d2lcls rescue model-symbol.json model-0000.params --shape 3,224,224 --onnx model.onnx",
    )
    add = rescue.add_argument
    add(
        "files",
        metavar="FILE",
        nargs="+",
        help="SYMBOL.json and FILE.params, of a checkpoint or an export; or only FILE.params, with --model",
    )
    add(
        "--model",
        metavar="NAME|MODULE:CLASS",
        help="the network whose parameters these are; a module is imported, which runs it",
    )
    add("--classes", type=int, metavar="K", help="number of logits of --model NAME (default: from the file)")
    add(
        "--shape",
        type=_shape,
        action="append",
        metavar="[INPUT=]C,H,W",
        help="of one image, without the batch axis; once for each input",
    )
    add("--image", metavar="FILE", nargs="+", help="pictures to run it on (default: made-up ones)")
    add("--mean", type=_numbers, default="127.5", metavar="R,G,B", help="subtracted from pixels of 0..255")
    add("--std", type=_numbers, default="128", metavar="R,G,B", help="what the difference is divided by")
    add("--save", metavar="PREFIX", help="write PREFIX-symbol.json and PREFIX-0000.params, as MXNet 1.9 does")
    add("--onnx", metavar="FILE", help="write it as ONNX, if it computes the same")
    add("--torch", metavar="DIR", help="write it as PyTorch: code to read and train on, weights, and a check")
    add("--no-run", action="store_true", help="only tell what it is")


def _rescue(options: argparse.Namespace) -> None:
    from d2lcls.deploy.rescue.gluon import load_gluon_parameters
    from d2lcls.deploy.rescue.load import load_old_model
    from d2lcls.deploy.rescue.report import describe

    symbols = [name for name in options.files if name.endswith(".json")]
    others = [name for name in options.files if not name.endswith(".json")]
    if len(others) != 1 or len(symbols) != (0 if options.model else 1):
        options.wrong("name a -symbol.json and a .params file, or a .params file and --model")
    shapes = _shapes(options)
    for path in filter(None, (options.onnx, options.save and f"{options.save}-symbol.json")):
        check_writable(path)
    if options.torch:
        check_new_folder(options.torch)
    if options.model:
        model = load_gluon_parameters(others[0], options.model, shapes, options.classes)
    else:
        model = load_old_model(symbols[0], others[0], shapes)
    print(describe(model))
    asked = options.onnx or options.torch or options.image
    if asked or not options.no_run and None not in model.shapes.values():
        inputs = _inputs(model, options)
        _run(model, inputs, options.image)
    if options.save:
        print("written:", *model.save(options.save))
    if options.onnx:
        _write_onnx(model, options.onnx, inputs)
    if options.torch:
        _write_torch(model, options.torch, inputs)


def _run(model: OldModel, inputs: dict[str, np.ndarray], pictures: list[str] | None) -> None:
    outputs = model.run(inputs)
    for name, array in outputs.items():
        print(f"{name}: {array.shape}, from {array.min():.4g} to {array.max():.4g}")
        if pictures and array.ndim == 2 and array.shape[1] > 1:
            for path, row in zip(pictures, array):
                best = ", ".join(f"{index} ({row[index]:.4g})" for index in (-row).argsort(kind="stable")[:5])
                print(f"  {path}: {best}")


def _write_onnx(model: OldModel, path: str, inputs: dict[str, np.ndarray]) -> None:
    from d2lcls.deploy.onnx.checked import write_onnx

    parity = write_onnx(model, path, inputs)
    print(
        f"written: {path}, opset {parity.opset}, "
        f"{'any number of images' if parity.free_batch else 'one image'} at a time"
    )
    for name, difference in parity.differences.items():
        top1 = f", the same top-1 for {parity.same_top1[name]:.0%}" if name in parity.same_top1 else ""
        print(
            f"parity of {name}: the largest difference is {difference:.2g} of the largest value{top1}, "
            f"on {parity.images} images"
        )


def _write_torch(model: OldModel, folder: str, inputs: dict[str, np.ndarray]) -> None:
    from d2lcls.deploy.onnx.checked import checked_onnx
    from d2lcls.deploy.torch.export import write_torch

    converted, parity = checked_onnx(model, inputs)
    if not parity.free_batch:
        inputs = {name: array[:1] for name, array in inputs.items()}
    write_torch(
        converted,
        folder,
        f"{Path(folder).name}: {', '.join(f'{name} {shape}' for name, shape in model.shapes.items())}",
        inputs,
        list(model.run(inputs).values()),
    )
    print(f"written: {folder}. Check it in an environment with PyTorch: python {Path(folder, 'check.py')}")


def _inputs(model: OldModel, options: argparse.Namespace) -> dict[str, np.ndarray]:
    from d2lcls.deploy.rescue.inputs import example_inputs

    return example_inputs(model, options.image, options.mean, options.std)


def _shapes(options: argparse.Namespace) -> Any:
    if not options.shape:
        return None
    named = dict(options.shape)
    if len(named) < len(options.shape) or (None in named and len(named) > 1):
        options.wrong("with several --shape, name each input once: --shape data=3,224,224")
    return named.get(None, named)


def _shape(text: str) -> tuple[str | None, tuple[int, ...]]:
    name, _, sizes = text.rpartition("=")
    try:
        return name or None, tuple(int(size) for size in sizes.replace("x", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be like 3,224,224 or data=3,224,224, not {text}") from None


def _numbers(text: str) -> list[float]:
    numbers = [float(number) for number in text.split(",")]
    if len(numbers) not in (1, 3):
        raise argparse.ArgumentTypeError(f"must be one number or three, not {text}")
    return numbers
