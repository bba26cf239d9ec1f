"""The facts of a run: what was trained, on what, and the command that trains it again."""

from __future__ import annotations

import shlex
from typing import Any

import d2lcls
from d2lcls.book.results import machine, versions
from d2lcls.data.loading import has_split
from d2lcls.report.findings import Findings
from d2lcls.training.fields import CUSTOM, option_name
from d2lcls.training.recipe import Recipe, options
from d2lcls.training.recipes import RECIPES


def facts(findings: Findings) -> dict[str, str]:
    """Return what was trained, on what, and for how long, by name."""
    run, recipe, counts = findings.run, findings.run.recipe, findings.training_counts
    height, width, channels = run.image_shape
    network_height, network_width = run.size or (height, width)
    images = "not known: the training images could not be opened here"
    if counts is not None:
        least, most = counts.min(), counts.max()
        images = f"{counts.sum():,}, {f'{least:,} to {most:,}' if least < most else f'{most:,}'} of each class"
    return {
        "Data set": recipe.dataset or "",
        "Classes": f"{len(run.classes)}",
        "Training images": images,
        "Validation images": _validation(findings),
        "Size": f"{height} × {width} pixels, {channels} channel{'s' if channels > 1 else ''}"
        + (f", scaled to {network_height} × {network_width} for the network" if run.size else ""),
        "Network": f"{recipe.model}{_start(recipe)}",
        "Parameters": f"{findings.parameters:,}",
        "Epochs": _epochs(findings),
        "Time": f"{_duration(sum(record.seconds for record in findings.epochs))} of training, validation not included",
        "Seed": f"{recipe.seed}",
    }


def percent(share: float, digits: int = 1) -> str:
    """Return a share of 1 as a percentage, which is not broken into two lines."""
    return f"{100 * share:.{digits}f}\u00a0%"


def surroundings() -> dict[str, str]:
    """Return the versions and the machine of this process; a run does not record those that it was trained with."""
    here, packages = machine(), {"d2lcls": d2lcls.__version__, **versions()}
    return {
        "Versions": ", ".join(f"{name} {version}" for name, version in packages.items()),
        "Machine": f"{here['processor']}, {here['cores']} cores, {here['memory_gib']} GiB, {here['system']}",
    }


def train_command(recipe: Recipe) -> str | None:
    """Return the command line that carries out a recipe again; None if no options can say it.

    Args:
        recipe: of a run, with all defaults filled in.
    """
    words = _options(recipe, Recipe())
    if words is not None:
        return shlex.join(["d2lcls", "train", *words])
    for name, named in RECIPES.items():
        words = _options(recipe, named.scaled(recipe.num_epochs))
        if words is not None:
            epochs = [] if recipe.num_epochs == named.num_epochs else ["--epochs", str(recipe.num_epochs)]
            return shlex.join(["d2lcls", "train", "--recipe", name, *epochs, *words])
    return None


def _options(recipe: Recipe, base: Recipe) -> list[str] | None:
    """Return the options that make a recipe of another one; None if a field that differs has no option for it."""
    names = {field.name: option_name(field) for field in options()}
    words: list[str] = []
    for name, value in vars(recipe).items():
        if value == getattr(base, name):
            continue
        if name not in names or value is None or value is False or str(value).startswith(CUSTOM):
            return None
        words += [names[name], *_words(name, value)]
    return words


def _words(name: str, value: Any) -> list[str]:
    """Return the words that follow the option of a field."""
    if value is True:
        return []
    if name == "small_first":
        return [":".join(map(str, value))]
    if isinstance(value, tuple):
        return list(value) or ["none"]
    return [str(value)]


def _validation(findings: Findings) -> str:
    count, recipe = findings.run.validation_images, findings.run.recipe
    if not count:
        return "none"
    if recipe.validation_folder:
        return f"{count:,}, from {recipe.validation_folder}"
    if held_out(findings):
        return f"{count:,}, held out from the training images"
    return f"{count:,}" if findings.not_opened else f"{count:,}, the validation split of the data"


def held_out(findings: Findings) -> bool:
    """Whether the validation images are known to be a share of the training images, drawn at random."""
    recipe = findings.run.recipe
    if recipe.validation_folder or not findings.run.validation_images:
        return False
    return recipe.validation is not None or not (findings.not_opened or has_split(recipe.dataset or "", "val"))


def _start(recipe: Recipe) -> str:
    """Return what the training started from, if not from random parameters."""
    if recipe.weights or recipe.from_run:
        return f", from {recipe.weights or recipe.from_run}"
    return ", from ImageNet weights" if recipe.pretrained else ""


def _epochs(findings: Findings) -> str:
    done, planned = len(findings.epochs), findings.run.recipe.num_epochs
    text = f"{done}" if done == planned else f"{done} of {planned}"
    if not findings.run.validation_images:
        return f"{text}; the parameters are those of the last"
    return f"{text}; the parameters are those of epoch {findings.best_epoch.epoch}, the best on the validation images"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
