"""`d2lcls lr-find`: find a learning rate with a short training during which it rises."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from d2lcls.commands.parsers import Command, add_recipe_options, positive, recipe_of
from d2lcls.commands.tune import save_figure, train_command
from d2lcls.machine.files import check_writable

if TYPE_CHECKING:
    from d2lcls.data.images import Images
    from d2lcls.data.lazy import LazyImages

# Fields of a recipe that the test decides itself, or that concern whole epochs or the folder of a run.
WITHOUT = (
    *("lr", "num_epochs", "schedule", "warmup_epochs", "patience"),
    *("lookahead", "precision", "cache", "checkpoint_steps"),
)


def add(command: Command) -> None:
    """Add the command to the parser."""
    find = command(
        "lr-find",
        _find,
        "Find a learning rate: train for a few steps while it rises, and look at the loss. Writes no run.",
        "d2lcls lr-find --dataset cifar10 --model cnn --out rates.png",
    )
    add = find.add_argument
    add("--out", metavar="FILE", help="draw the loss at every rate, as a PNG file")
    add("--lowest", type=positive(float), default=1e-5, metavar="RATE", help="the first rate")
    add("--highest", type=positive(float), default=10.0, metavar="RATE", help="the last rate, unless training diverges")
    add("--steps", type=positive(int), default=100, metavar="N", help="number of rates, one batch each")
    add("--ctx", default="auto", help="device: as for train")
    add_recipe_options(find, without=WITHOUT)


def _find(options: argparse.Namespace) -> None:
    from d2lcls.training.recipe import Recipe

    if options.lowest >= options.highest:
        options.wrong(f"--lowest must be below --highest, not {options.lowest:g} and {options.highest:g}")
    if options.steps < 2:
        options.wrong("argument --steps: must be 2 or more")
    recipe = recipe_of(options, Recipe())
    if options.out:
        check_writable(options.out)
    from d2lcls.machine import devices  # MXNet is imported here, after the options have been checked
    from d2lcls.training.search import find_lr

    def begin(train: Images | LazyImages) -> None:
        print(f"{len(train):,} training images, {len(train.classes)} classes", flush=True)

    result = find_lr(
        recipe,
        lowest=options.lowest,
        highest=options.highest,
        steps=options.steps,
        ctx=devices.parse(options.ctx),
        on_begin=begin,
    )
    if options.out:
        from d2lcls.book import plots

        save_figure(plots.show_range_test(result), options.out)
    print(result)
    if result.suggestion is None:
        raise ValueError(
            f"No rate can be suggested: the loss did not fall for long enough, starting from {options.lowest:g}. Try a "
            "smaller --lowest or more --steps, and check the images and their labels."
        )
    if result.smoothed.argmin() == len(result.smoothed) - 1 and len(result.rates) == options.steps:
        print("The loss was still falling at the last rate: a higher --highest may lead to a higher suggestion.")
    print(f"Train with the suggested rate: {train_command(options, {'lr': f'{result.suggestion:.3g}'})}")
