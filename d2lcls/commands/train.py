"""`d2lcls train`: train a network, from scratch, from ImageNet weights or others, or from an earlier run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from d2lcls.commands.parsers import Command, add_recipe_options, recipe_of

if TYPE_CHECKING:
    from d2lcls.data.images import Images
    from d2lcls.data.lazy import LazyImages
    from d2lcls.training.loop import Epoch
    from d2lcls.training.recipe import Recipe


def add(command: Command) -> None:
    """Add the command to the parser. Its options are the fields of `Recipe`, and where and how to run it."""
    from d2lcls.training.recipes import RECIPES

    train = command(
        "train",
        _train,
        "Train a network, from scratch, from ImageNet weights or others, or from an earlier run.",
        "d2lcls train --dataset cifar10 --model cnn",
    )
    train.add_argument(
        "--recipe",
        choices=RECIPES,
        help="start from a named recipe, which the other options change; with --epochs, its phases keep their shares",
    )
    train.add_argument("--out", metavar="FOLDER", help="the run's folder (default: runs/DATASET-MODEL)")
    train.add_argument("--resume", action="store_true", help="continue the run in that folder")
    add_recipe_options(train)
    train.add_argument("--ctx", default="auto", help="device: auto, cpu, cpu*2, gpu or gpu:0,1")
    train.add_argument("--tensorboard", metavar="FOLDER", help="write curves for TensorBoard to this folder")


def _train(options: argparse.Namespace) -> None:
    from d2lcls.training.recipe import Recipe
    from d2lcls.training.recipes import RECIPES

    base = RECIPES[options.recipe] if options.recipe else Recipe()
    if options.resume and options.out and not options.recipe and Path(options.out, "run.json").exists():
        from d2lcls.training.runs import read_run

        base = read_run(options.out).recipe  # of which only what is given again can differ, and is then refused
    recipe = recipe_of(options, base, scale=bool(options.recipe))
    if (recipe.train_last or recipe.unfreeze) and not recipe.starts_trained:
        options.wrong(
            "--train-last and --unfreeze freeze layers, so the network must start from trained weights: give "
            "--pretrained, --weights or --from"
        )
    if ":" in (recipe.model or "") and "model" not in options:  # no file decides which code is run
        options.wrong(f"the run was trained with a network of your own: give --model {recipe.model} again")
    from d2lcls.training.loop import print_epoch  # MXNet is imported here, after the options have been checked
    from d2lcls.training.pipeline import resolve, train
    from d2lcls.training.tensorboard import Curves

    curves = Curves(options.tensorboard) if options.tensorboard else None

    def report(record: Epoch) -> None:
        print_epoch(record)
        if curves:
            curves.write(record)

    def begin(images: Images | LazyImages, validation: Images | LazyImages | None, folder: Path) -> None:
        print(
            f"{len(images):,} training images, {len(validation) if validation else 0:,} for validation, "
            f"{len(images.classes)} classes; writing to {folder}"
        )
        if options.resume and not (folder / "last.npz").exists():
            print(f"{folder} holds no checkpoint: starting from the beginning")

    trained = train(recipe, options.out, ctx=options.ctx, resume=options.resume, on_epoch=report, on_begin=begin)
    print(f"Done. {_next_step(resolve(recipe), trained.folder)}")


def _next_step(recipe: Recipe, folder: Path) -> str:
    """Return the sentence that names the command to score the run with."""
    from d2lcls.data import has_split

    assert recipe.dataset
    tested = has_split(recipe.dataset, "test", recipe.root)
    return (
        f"Score it {'once on the test set' if tested else 'on its validation set'} with: d2lcls evaluate {folder}"
        f"{'' if tested else ' --split validation'}{' --tta' if recipe.tta else ''}"
    )
