"""`d2lcls tune`: search for a learning rate, a weight decay and an augmentation."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2lcls.commands.parsers import Command, add_recipe_options, positive, recipe_of, share
from d2lcls.machine.files import check_writable, write_atomically

if TYPE_CHECKING:
    from d2lcls.data.images import Images
    from d2lcls.data.lazy import LazyImages
    from d2lcls.training.recipe import Recipe

    import optuna
    from matplotlib.figure import Figure

AUGMENTATIONS = ("none", "flip", "pad_crop flip", "pad_crop flip cutout")  # as `train --augment` takes them
SEARCHED = ("lr", "wd", "augment")


def add(command: Command) -> None:
    """Add the command to the parser."""
    tune = command(
        "tune",
        _tune,
        "Search for a learning rate, weight decay and augmentation; the same command again continues the search.",
        "d2lcls tune --dataset cifar10 --share 0.1 --trials 20 --epochs 3",
    )
    add = tune.add_argument
    add("--trials", type=positive(int), default=20, metavar="N", help="finished trials, including earlier ones")
    add("--share", type=share, default=1.0, help="share of the training images to search with")
    add("--storage", default="sqlite:///tune.db", metavar="URL", help="the database; for several machines, a server's")
    add("--study", metavar="NAME", help="its name there (default: made of the share and the recipe)")
    add("--timeout", type=positive(float), metavar="SECONDS", help="start no trial after this time")
    add("--pictures", metavar="FOLDER", help="write history.png and importance.png there")
    add("--ctx", default="auto", help="device: as for train")
    add_recipe_options(tune, _base(), without=(*SEARCHED, "checkpoint_steps"))


def _base() -> Recipe:
    from d2lcls.training.recipe import Recipe

    return Recipe(num_epochs=3, validation=0.2)


def _tune(options: argparse.Namespace) -> None:
    if not options.share:
        options.wrong("argument --share: must be above 0, or nothing is left to search with")
    recipe = recipe_of(options, _base())
    if "warmup_epochs" not in options:
        recipe = dataclasses.replace(recipe, warmup_epochs=min(1.0, recipe.num_epochs / 2))
    from d2lcls.machine import devices  # MXNet is imported here, after the options have been checked
    from d2lcls.training import search

    if options.pictures:
        check_writable(Path(options.pictures, "history.png"))
    name = options.study or _study_name(recipe, options.share)

    def begin(train: Images | LazyImages, validation: Images | LazyImages) -> None:
        print(f"{len(train):,} training images, {len(validation):,} for validation; study {name}", flush=True)

    space = {
        "lr": search.log_uniform(0.003, 1),
        "wd": search.log_uniform(1e-5, 1e-2),
        "augment": search.choice(AUGMENTATIONS),
    }
    study = search.tune_recipe(
        recipe,
        space,
        share=options.share,
        ctx=devices.parse(options.ctx),
        on_begin=begin,
        trials=options.trials,
        storage=options.storage,
        study=name,
        timeout=options.timeout,
    )
    best = search.best_trial(study)
    print(f"best: {best}\nTrain it in full with: {_best_command(options, best.parameters)}")
    if options.pictures:
        _draw(study, Path(options.pictures))


def _study_name(recipe: Recipe, share: float) -> str:
    """Accuracies of other recipes cannot be compared, so that each recipe and share has a study of its own."""
    from d2lcls.training.pipeline import resolve

    recipe = resolve(recipe)
    assert recipe.dataset
    text = json.dumps({name: value for name, value in recipe.to_json().items() if name not in SEARCHED})
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{Path(recipe.dataset).stem}-{recipe.model}-share{share:g}-epochs{recipe.num_epochs}-{digest}"


def _best_command(options: argparse.Namespace, best: dict[str, Any]) -> str:
    """Return the command line that trains the best trial."""
    found = {"lr": f"{best['lr']:.4g}", "wd": f"{best['wd']:.4g}", "augment": best["augment"]}
    return train_command(options, found, without=("num_epochs", "validation"))


def train_command(options: argparse.Namespace, found: Mapping[str, str], without: Collection[str] = ()) -> str:
    """Return a command line that trains: with the options that were given, and with values that were found.

    Args:
        options: of a parser with `add_recipe_options` and --ctx.
        found: names of fields of the recipe and their values, as the command line takes them.
        without: fields that are left out.
    """
    from d2lcls.training.fields import option_name
    from d2lcls.training.recipe import options as fields

    words = ["d2lcls", "train", *([] if options.ctx == "auto" else ["--ctx", options.ctx])]
    names = {field.name: option_name(field) for field in fields()}
    for name, option in names.items():
        value = getattr(options, name, None)
        if value is not None and name not in without:
            values = (
                value
                if isinstance(value, list)
                else [":".join(map(str, value))]
                if isinstance(value, tuple)
                else [value]
            )
            words += [option] + ([] if value is True else [shlex.quote(str(part)) for part in values])
    return " ".join([*words, *(f"{names[name]} {value}" for name, value in found.items())])


def _draw(study: optuna.Study, folder: Path) -> None:
    from d2lcls.book import plots
    from d2lcls.training import search

    records = search.trials_table(study)
    save_figure(plots.show_search(records), folder / "history.png")
    try:
        shares = search.importance(study)
    except ValueError as error:  # too few trials, or all alike: no reason to fail after the search
        print(f"importance.png is not drawn: {error}")
        return
    complete = sum(record.state == "complete" for record in records)
    figure = plots.show_bars(
        list(shares),
        [100 * share for share in shares.values()],
        "share of the variance explained (%)",
        title=f"What made {complete} trials differ",
    )
    save_figure(figure, folder / "importance.png")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG file."""
    write_atomically(path, lambda file: figure.savefig(file, dpi=150, format="png"))
