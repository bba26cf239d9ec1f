"""Search spaces over the fields of `Recipe`, written as texts such as "lr=1e-4..1e-1"."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from d2lcls.training.fields import read_value
from d2lcls.training.recipe import Recipe, options
from d2lcls.training.search.space import Parameter, choice, integer, log_uniform, uniform

# A longer training or other images make trials that cannot be compared, and the luckiest seed helps nobody.
NOT_SEARCHED = {
    *("dataset", "root", "validation", "validation_folder", "skip_broken", "cache"),
    *("num_epochs", "patience", "checkpoint_steps", "seed"),
}
LOG_FROM = 10  # how many times its lowest number the highest of a range is, if the range is drawn on a log scale


def default_space(pretrained: bool = False) -> dict[str, Parameter]:
    """Return the space of a first search: learning rate, weight decay and augmentation.

    Args:
        pretrained: start from pretrained weights, for which learning rates are ten times lower.
    """
    return {
        "lr": log_uniform(0.0003, 0.1) if pretrained else log_uniform(0.003, 1),
        "wd": log_uniform(1e-5, 1e-2),
        "augment": choice(("none", "flip", "standard", "standard cutout")),
    }


def searchable() -> dict[str, dataclasses.Field[Any]]:
    """Return the fields of `Recipe` that can be searched, by name."""
    return {field.name: field for field in options() if field.name not in NOT_SEARCHED}


def read_space(entries: Mapping[str, Any]) -> dict[str, Parameter]:
    """Return the search space that texts describe.

    - `LOW..HIGH`, for a field of whole numbers: all from LOW to HIGH, equally likely; for other numbers: on a
      logarithmic scale if LOW is above 0 and HIGH is 10 times LOW or more, otherwise all numbers equally likely
    - `log:LOW..HIGH` and `uniform:LOW..HIGH`: numbers on a logarithmic scale, or all equally likely
    - `A,B,C`: one of these values; `none` is no value, and transforms are separated by spaces: `flip,pad_crop flip`

    Args:
        entries: dict from names of fields of `Recipe`, with _ or -, to texts, or to lists of values to choose from.

    Returns:
        dict from fields to `Parameter`, for `tune_recipe`.

    Raises:
        ValueError: a field cannot be searched, or a value is not allowed for it; the message names both.
    """
    space = {}
    for name, entry in entries.items():
        field = _field(name.replace("-", "_"))
        if field.name in space:
            raise ValueError(f"{field.name} is in the search space twice.")
        try:
            space[field.name] = _parameter(field, entry)
        except ValueError as error:
            message = str(error)
            raise ValueError(message if message.startswith(field.name) else f"{field.name}: {message}") from None
    if not space:
        raise ValueError("The search space is empty: write such as lr=1e-4..1e-1.")
    return space


def load_space(path: str | Path) -> dict[str, Parameter]:
    """Return the search space in a .json or .toml file, whose entries are those of `read_space`.

    Raises:
        ValueError: the file is neither, or as `read_space`; the message names the file.
        OSError: it cannot be read.
    """
    path = Path(path)
    read = {".json": json.loads, ".toml": tomllib.loads}.get(path.suffix.lower())
    if not read:
        raise ValueError(f"{path}: a search space is a .json or a .toml file.")
    try:
        entries = read(path.read_text(encoding="utf-8"))
        if not isinstance(entries, dict):
            raise ValueError('must hold an object, such as {"lr": "1e-4..1e-1"}.')
        return read_space(entries)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from None


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return a recipe with the values that a trial drew from a search space.

    Raises:
        ValueError: a value does not fit the others.
    """
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    read = {
        name: read_value(fields[name], value) if isinstance(value, str) else value for name, value in values.items()
    }
    return dataclasses.replace(recipe, **read)


def check_space(recipe: Recipe, space: Mapping[str, Parameter]) -> None:
    """Try every value that can be chosen, and both ends of every range, with each value of every other field.

    Raises:
        ValueError: two values do not go together, or one does not fit the recipe.
    """
    for _ in variations(recipe, space, together=2):
        pass


def variations(recipe: Recipe, space: Mapping[str, Parameter], together: int = 1) -> Iterable[Recipe]:
    """Yield the recipe with the first value of each field of the space, then with so many of them replaced at a time.

    Raises:
        ValueError: as `with_values`.
    """
    first = {name: parameter.values[0] for name, parameter in space.items()}
    for names in itertools.combinations(space, min(together, len(space))):
        for values in itertools.product(*(space[name].values for name in names)):
            yield with_values(recipe, {**first, **dict(zip(names, values))})


def _field(name: str) -> dataclasses.Field[Any]:
    fields = searchable()
    if name in fields:
        return fields[name]
    nearest = difflib.get_close_matches(name, fields, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"choose from {', '.join(fields)}."
    raise ValueError(f"{name!r} cannot be searched: {hint}")


def _parameter(field: dataclasses.Field[Any], entry: Any) -> Parameter:
    if isinstance(entry, str) and ".." in entry:
        return _range(field, entry)
    texts = entry.split(",") if isinstance(entry, str) else entry if isinstance(entry, list) else [entry]
    values = [_value(field, _text(part)) for part in texts]
    if len(values) < 2:
        raise ValueError(f"has a single value, {_text(texts[0]) if texts else 'none'}: give a range or several values.")
    return choice(values)


def _range(field: dataclasses.Field[Any], text: str) -> Parameter:
    scale, _, limits = text.rpartition(":")
    low, high = (_value(field, part.strip()) for part in limits.split("..", 1))
    if any(isinstance(limit, bool) or not isinstance(limit, (int, float)) for limit in (low, high)):
        raise ValueError(f"takes values separated by commas, not a range such as {text}.")
    if scale not in ("", "log", "uniform"):
        raise ValueError(f"a range is written LOW..HIGH, log:LOW..HIGH or uniform:LOW..HIGH, not {text}.")
    if isinstance(low, int):
        if scale:
            raise ValueError(f"takes whole numbers, whose range is written LOW..HIGH, without {scale}: before it.")
        return integer(low, high)
    logarithmic = scale == "log" or not scale and 0 < LOG_FROM * low <= high
    return log_uniform(low, high) if logarithmic else uniform(low, high)


def _value(field: dataclasses.Field[Any], text: str) -> Any:
    """Return a value as Optuna's databases keep it: what is several values in a recipe stays a text."""
    if text == "none" and "None" in str(field.type).split(" | "):
        return None
    value = read_value(field, text)
    Recipe(**{field.name: value})  # refuses what is out of range
    return text if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    """Return a value from a file as it is written on the command line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        return str(value).strip()
    raise ValueError(f"{value!r} is neither a number, a text, true nor false.")
