"""`d2lcls tune`: search for the options of a training, such as its learning rate, or for a network's shape."""

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
    from d2lcls.training.search.space import Parameter
    from d2lcls.training.search.tuning import TrialRecord

    import optuna
    from matplotlib.figure import Figure

# What can be optimised, with its unit.
OBJECTIVES = {"accuracy": "", "latency": "ms", "parameters": "", "multiply_adds": ""}
VALUES = (
    "LOW..HIGH (on a logarithmic scale if HIGH is 10 times LOW or more; log:LOW..HIGH and uniform:LOW..HIGH decide it; "
    "whole numbers where the option takes these) or A,B,C"
)


def add(command: Command) -> None:
    """Add the command to the parser."""
    from d2lcls.training.recipes import RECIPES

    tune = command(
        "tune",
        _tune,
        "Search for the best options of a training; the same command again continues the search.",
        "d2lcls tune --dataset photos --model efficientnet_lite0 --pretrained --search lr=1e-4..1e-1 train_last=1..6",
    )
    add = tune.add_argument
    add(
        "--recipe",
        choices=RECIPES,
        help="start from a named recipe, which the other options change (default: fast94 with --architecture)",
    )
    add("--trials", type=positive(int), default=20, metavar="N", help="finished trials, including earlier ones")
    add("--share", type=share, default=1.0, help="share of the training images to search with")
    what = tune.add_mutually_exclusive_group()
    what.add_argument(
        "--search",
        nargs="+",
        action="extend",
        type=_entry,
        metavar="OPTION=VALUES",
        help=f"what to search for, such as lr=1e-4..1e-1; VALUES are {VALUES} (default: lr, wd and augment)",
    )
    what.add_argument("--space", metavar="FILE", help="the same in a .json or .toml file: an entry per option")
    what.add_argument(
        "--architecture",
        action="store_true",
        help="search for the widths, depths and filter sizes of a network of fast94's family, with as many "
        "multiply-adds as --model has (default: fast94)",
    )
    add(
        "--objective",
        nargs="+",
        choices=OBJECTIVES,
        help="accuracy, and what to weigh it against: the result is then the Pareto front (default: accuracy)",
    )
    add("--storage", default="sqlite:///tune.db", metavar="URL", help="the database; for several machines, a server's")
    add("--study", metavar="NAME", help="its name there (default: made of the share, the recipe and the space)")
    add("--timeout", type=positive(float), metavar="SECONDS", help="start no trial after this time")
    add("--pictures", metavar="FOLDER", help="write history.png, importance.png and, if there is one, front.png there")
    add("--ctx", default="auto", help="device: as for train")
    add_recipe_options(tune, _base(), without=("cache", "checkpoint_steps"))


def _entry(text: str) -> tuple[str, str]:
    name, equals, values = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"must be OPTION=VALUES, such as lr=1e-4..1e-1, not {text!r}")
    return name, values


def _base(name: str | None = None) -> Recipe:
    from d2lcls.training.recipe import Recipe
    from d2lcls.training.recipes import RECIPES

    recipe = RECIPES[name].scaled(3) if name else Recipe(num_epochs=3)
    return dataclasses.replace(recipe, validation=0.2, cache=True)  # pictures are decoded once for all trials


def _tune(options: argparse.Namespace) -> None:
    from d2lcls.data import has_split

    options.objective = options.objective or ["accuracy"]
    if not options.share:
        options.wrong("argument --share: must be above 0")
    if "accuracy" not in options.objective or len(set(options.objective)) < len(options.objective):
        options.wrong("argument --objective: must include accuracy, and each objective only once")
    if options.architecture:
        options.recipe = options.recipe or "fast94"
    base = _base(options.recipe)
    if "validation_folder" in options or ("dataset" in options and has_split(options.dataset, "val")):
        base = dataclasses.replace(base, validation=None)  # these have validation images of their own
    recipe = recipe_of(options, base, scale=bool(options.recipe))
    space = _space(options, recipe)
    if not options.recipe and "warmup_epochs" not in {*vars(options), *space}:
        recipe = dataclasses.replace(recipe, warmup_epochs=min(1.0, recipe.num_epochs / 2))
    from d2lcls.machine import devices  # MXNet is imported here, after the options have been checked
    from d2lcls.training import search

    for picture in ("history.png", "importance.png") if options.pictures else ():
        check_writable(Path(options.pictures, picture))
    name = options.study or _study_name(recipe, space, options)

    def begin(train: Images | LazyImages, validation: Images | LazyImages) -> None:
        print(f"{len(train):,} training images, {len(validation):,} for validation; study {name}")
        print("searching " + ", ".join(f"{field} {parameter}" for field, parameter in space.items()))
        if len(options.objective) > 1:
            print(f"each trial: {', '.join(_titles(options.objective))}, and the values tried", flush=True)

    study = search.tune_recipe(
        recipe,
        space,
        share=options.share,
        objectives=options.objective,
        ctx=devices.parse(options.ctx),
        on_begin=begin,
        candidate=search.candidate if options.architecture else search.with_values,
        trials=options.trials,
        storage=options.storage,
        study=name,
        timeout=options.timeout,
    )

    def found(record: TrialRecord) -> dict[str, Any]:
        """Return the values of the recipe that a trial stands for."""
        return (
            {"model": search.candidate(recipe, record.parameters).model} if options.architecture else record.parameters
        )

    best = search.best_trial(study)
    if len(options.objective) == 1:
        print(f"best: {best}\nTrain it in full with: {_train_command(options, found(best))}")
    else:
        _print_front(options, [(record, found(record)) for record in search.pareto_front(study)])
    if options.pictures:
        _draw(study, Path(options.pictures), options.objective)


def _space(options: argparse.Namespace, recipe: Recipe) -> dict[str, Parameter]:
    """Return the search space of the options; what is given as an option is not searched."""
    from d2lcls.training.fields import option_name
    from d2lcls.training.recipe import options as fields
    from d2lcls.training.search.recipe_space import check_space, default_space, load_space, read_space

    given = {field.name: option_name(field) for field in fields() if field.name in options}
    if options.architecture:
        from d2lcls.models.fast94 import Architecture
        from d2lcls.training.search.architecture import SPACE

        Architecture.named(recipe.model or "")  # refuses other networks
        return SPACE
    if options.space:
        space = load_space(options.space)
    elif options.search:
        names = [name for name, _ in options.search]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            options.wrong(f"argument --search: {twice[0]} is given twice")
        try:
            space = read_space(dict(options.search))
            check_space(recipe, space)
        except ValueError as error:
            options.wrong(f"argument --search: {str(error).rstrip('.')}")
    else:
        space = {name: values for name, values in default_space(recipe.starts_trained).items() if name not in given}
        if not space:
            options.wrong(f"nothing is left to search: leave out {' or '.join(default_space())}, or give --search")
    both = [given[name] for name in space if name in given]
    if both:
        options.wrong(f"argument {both[0]}: is also in the search space; give only one of them")
    return space


def _study_name(recipe: Recipe, space: Mapping[str, Parameter], options: argparse.Namespace) -> str:
    """Accuracies of other recipes cannot be compared, so that each recipe, share and space has a study of its own."""
    from d2lcls.training.pipeline import resolve

    recipe = resolve(recipe)
    assert recipe.dataset
    fixed = {name: value for name, value in recipe.to_json().items() if name not in space}
    searched = {name: str(parameter) for name, parameter in sorted(space.items())}
    digest = hashlib.sha256(json.dumps([fixed, searched, options.objective]).encode()).hexdigest()[:8]
    model = "models" if "model" in space else recipe.model
    return f"{Path(recipe.dataset).stem}-{model}-share{options.share:g}-epochs{recipe.num_epochs}-{digest}"


def _print_front(options: argparse.Namespace, front: list[tuple[TrialRecord, dict[str, Any]]]) -> None:
    """Print the trials of a Pareto front as a table, and the commands that train them."""
    if "latency" in options.objective:
        print("latency: median of single images, on this machine, with whatever else it was doing")
    titles = ["trial", *_titles(options.objective)]
    print("  ".join(titles) + "  values")
    for record, found in front:
        numbers = [str(record.number), f"{record.value:.4f}", *map(_number, record.others)]
        cells = (number.rjust(len(title)) for number, title in zip(numbers, titles))
        values = "  ".join(f"{name} {_word(value)}" for name, value in found.items())
        print(f"{'  '.join(cells)}  {values}")
    print("Train them in full with:")
    for record, found in front:
        print(f"trial {record.number}: {_train_command(options, found)}")


def _titles(objectives: list[str]) -> list[str]:
    units = {name: f" ({unit})" if unit else "" for name, unit in OBJECTIVES.items()}
    return [f"{name}{units[name]}" for name in ("accuracy", *(each for each in objectives if each != "accuracy"))]


def _train_command(options: argparse.Namespace, found: Mapping[str, Any]) -> str:
    """Return the command line that trains a trial in full."""
    words = {
        name: "" if value is True else " ".join(map(shlex.quote, _word(value).split()))
        for name, value in found.items()
        if value is not None and value is not False
    }
    return train_command(options, words, without=("num_epochs", "validation"))


def train_command(options: argparse.Namespace, found: Mapping[str, str], without: Collection[str] = ()) -> str:
    """Return a command line that trains: with the options that were given, and with values that were found.

    Args:
        options: of a parser with `add_recipe_options` and --ctx.
        found: names of fields of the recipe and their values, as the command line takes them.
        without: fields that are left out.
    """
    from d2lcls.training.fields import option_name
    from d2lcls.training.recipe import options as fields

    words = ["d2lcls", "train", *([] if options.ctx == "auto" else ["--ctx", shlex.quote(options.ctx)])]
    if getattr(options, "recipe", None):
        words += ["--recipe", options.recipe]
    names = {field.name: option_name(field) for field in fields()}
    for name, option in names.items():
        value = getattr(options, name, None)
        if value is not None and name not in without and name not in found:
            values = (
                value
                if isinstance(value, list)
                else [":".join(map(str, value))]
                if isinstance(value, tuple)
                else [value]
            )
            words += [option] + ([] if value is True else [shlex.quote(str(part)) for part in values])
    return " ".join([*words, *(f"{names[name]} {value}".rstrip() for name, value in found.items())])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)


def _draw(study: optuna.Study, folder: Path, objectives: list[str]) -> None:
    from d2lcls.book import plots
    from d2lcls.training import search

    records = search.trials_table(study)
    save_figure(plots.show_search(records), folder / "history.png")
    if len(objectives) > 1:
        save_figure(plots.show_front(records, search.pareto_front(study), _titles(objectives)), folder / "front.png")
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
