"""Search spaces: a dict from the names of hyper-parameters to what the functions here return."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import optuna


class Rejected(Exception):
    """Raised by an objective for values that are not worth a trial; nothing is counted, and the next ones are drawn."""


@dataclass(frozen=True)
class Parameter:
    """The values that a hyper-parameter may take; made by `uniform`, `log_uniform`, `integer` and `choice`."""

    kind: str
    values: tuple[Any, ...]  # the smallest and largest, or the choices

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(repr, self.values))})"

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Let an Optuna trial draw a value."""
        if self.kind == "choice":
            return trial.suggest_categorical(name, self.values)
        if self.kind == "integer":
            return trial.suggest_int(name, *self.values)
        return trial.suggest_float(name, *self.values, log=self.kind == "log_uniform")

    def draw(self, rng: np.random.Generator) -> Any:
        """Draw a value without a trial."""
        if self.kind == "choice":
            return self.values[rng.integers(len(self.values))]
        low, high = self.values
        if self.kind == "integer":
            return int(rng.integers(low, high, endpoint=True))
        return float(
            np.exp(rng.uniform(math.log(low), math.log(high))) if self.kind == "log_uniform" else rng.uniform(low, high)
        )


def uniform(low: float, high: float) -> Parameter:
    """A number from `low` to `high`, all equally likely."""
    return _between("uniform", float(low), float(high))


def log_uniform(low: float, high: float) -> Parameter:
    """A number from `low` to `high`, both above 0, all orders of magnitude equally likely."""
    if low <= 0:
        raise ValueError(f"log_uniform must begin above 0, not at {low}: 0 lies infinitely many powers of ten away.")
    return _between("log_uniform", float(low), float(high))


def integer(low: int, high: int) -> Parameter:
    """A whole number from `low` to `high`, both included."""
    if low % 1 or high % 1:
        raise ValueError(f"integer must go from one whole number to another, not from {low} to {high}.")
    return _between("integer", low, high)


def choice(values: Iterable[Any]) -> Parameter:
    """One of several names or numbers.

    Args:
        values: two or more different values, each a str, int, float, bool or None, as a database keeps them. For
            anything else choose among names and look the thing up in the objective.
    """
    values = tuple(values)
    if not all(isinstance(value, (str, int, float, type(None))) for value in values):
        raise ValueError(
            f"choice must be among str, int, float, bool or None, not {values}. "
            "Choose among names and look the thing up in the objective."
        )
    if len(set(values)) < max(2, len(values)):
        raise ValueError(f"choice must be among two or more different values, not {values}.")
    return Parameter("choice", values)


def _between(kind: str, low: float, high: float) -> Parameter:
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"{kind} must go from a smaller number to a greater one, not from {low} to {high}.")
    return Parameter(kind, (int(low), int(high)) if kind == "integer" else (low, high))
