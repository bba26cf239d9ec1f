"""The fields of `Recipe`: what is known about each of them, and which values are allowed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

CUSTOM = "function "  # begins the description of a function that the caller supplied


def setting(
    default: Any,
    text: str,
    *,
    group: str,
    metavar: str | None = None,
    option: str | None = None,
    choices: Mapping[str, Any] | tuple[str, ...] = (),
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    resume: bool = True,
) -> Any:
    """Return a dataclass field with what is known about it.

    Args:
        default: its default.
        text: what it means, with its unit.
        group: the group of options that it is listed in.
        metavar: what stands for its value in the help of the command line.
        option: the name of its option; None is the field's name with dashes; "" is no option.
        choices: the names that are allowed.
        above, at_least, at_most: limits of a number.
        resume: whether a resumed run must have the same value.
    """
    metadata = {
        "text": text,
        "group": group,
        "metavar": metavar,
        "option": option,
        "choices": tuple(choices),
        "above": above,
        "at_least": at_least,
        "at_most": at_most,
        "resume": resume,
    }
    return dataclasses.field(default=default, metadata=metadata)


def option_name(field: dataclasses.Field[Any]) -> str:
    """Return the name of a field's option, such as "--batch-size"."""
    return field.metadata["option"] or "--" + field.name.replace("_", "-")


def check_value(field: dataclasses.Field[Any], value: Any) -> None:
    """Raise ValueError if a value is not allowed for a field of `Recipe`."""
    limits = field.metadata
    if "int" in str(field.type).split(" | ") and isinstance(value, (float, np.floating)):
        raise ValueError(f"{field.name} must be a whole number, not {value}.")
    if value is None or callable(value) or isinstance(value, Mapping):
        return
    if limits["choices"] and value not in limits["choices"] and not str(value).startswith(CUSTOM):
        raise ValueError(f"{field.name} must be one of {', '.join(limits['choices'])}, not {value!r}.")
    for name, holds in (("above", _above), ("at_least", _at_least), ("at_most", _at_most)):
        if limits[name] is not None and not holds(value, limits[name]):
            raise ValueError(f"{field.name} must be {name.replace('_', ' ')} {limits[name]}, not {value}.")


def read_value(field: dataclasses.Field[Any], text: str) -> Any:
    """Return the value of a field of `Recipe` that a text stands for, such as 0.1 for "0.1".

    Several names are separated by spaces, and two whole numbers by a colon; yes and no are "true" and "false".

    Raises:
        ValueError: the text is no value of this field; the message begins with the field's name.
    """
    kinds = str(field.type).split(" | ")
    value: Any = text
    if "bool" in kinds:
        if text not in ("true", "false"):
            raise ValueError(f"{field.name} must be true or false, not {text!r}.")
        return text == "true"
    if "tuple[str, ...]" in kinds:
        return tuple(name for name in text.split() if name != "none")
    if "tuple[int, int]" in kinds:
        first, _, second = text.partition(":")
        if not ((first + second).isascii() and first.isdigit() and second.isdigit()):
            raise ValueError(f"{field.name} must be pixels, a colon and epochs, as in 28:10, not {text}.")
        return int(first), int(second)
    for kind, noun in ((int, "a whole number"), (float, "a number")):
        if kind.__name__ in kinds:
            try:
                value = kind(text)
            except ValueError:
                raise ValueError(f"{field.name} must be {noun}, not {text!r}.") from None
    check_value(field, value)
    return value


def _above(value: float, limit: float) -> bool:
    return limit < value < math.inf


def _at_least(value: float, limit: float) -> bool:
    return limit <= value < math.inf


def _at_most(value: float, limit: float) -> bool:
    return value <= limit
