"""Searching for a network's shape: the widths, depths and filters of fast94's family with a given number of
multiply-adds.

Candidates that may be larger than others would win by their size alone. So what is drawn is a network's proportions,
and its widths then follow from the budget: all candidates have the same number of multiply-adds, within a tolerance.

Sources: Li and Talwalkar, "Random Search and Reproducibility for Neural Architecture Search" (2019), on random search
as the rival that every such search must beat; Bergstra et al. (2011), see `tune`, on the estimator.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from d2lcls.models.fast94 import Architecture, multiply_adds
from d2lcls.training.recipe import Recipe
from d2lcls.training.search.recipe_search import tune_recipe
from d2lcls.training.search.space import Parameter, Rejected, choice, integer, log_uniform

import numpy as np

if TYPE_CHECKING:
    import optuna

FAST94 = Architecture()
GROUPS = (1, 2, 3)
TOLERANCE = 0.05  # of the multiply-adds
MULTIPLE = 8  # of which all widths are multiples: most fast kernels compute 8 or 16 channels at a time
WIDEST = 2.0  # times the reference's width of a group
MOST, LARGEST = 3, 5  # convolutions in a group, and the side of their filters
SPACE: dict[str, Parameter] = {
    **{f"width_{group}": log_uniform(0.5, 2) for group in GROUPS},  # times the reference's, before the budget
    **{f"convolutions_{group}": integer(1, MOST) for group in GROUPS},
    **{f"kernel_{group}": choice((3, LARGEST)) for group in GROUPS},
}


def fitted(values: Mapping[str, Any], reference: Architecture = FAST94) -> Architecture | None:
    """Return the architecture with the proportions that were drawn and as many multiply-adds as the reference.

    Args:
        values: a value for each parameter of `SPACE`.
        reference: the architecture whose multiply-adds are the budget.

    Returns:
        `Architecture`; None if no widths are within the tolerance, or one is more than twice the reference's.
    """
    convolutions, kernels = (
        tuple(values[f"{name}_{group}"] for group in GROUPS) for name in ("convolutions", "kernel")
    )
    proportions = [values[f"width_{group}"] * width for group, width in zip(GROUPS, reference.widths)]
    budget = reference.multiply_adds()

    def affordable(factor: float) -> bool:
        return multiply_adds(tuple(factor * width for width in proportions), convolutions, kernels) <= budget

    low, high = 0.0, 1.0
    while affordable(high):
        high *= 2
    for _ in range(40):  # bisection: multiply-adds grow with the widths
        middle = (low + high) / 2
        low, high = (middle, high) if affordable(middle) else (low, middle)
    steps = [int(low * width / MULTIPLE) for width in proportions]
    shapes = [
        Architecture(tuple(MULTIPLE * step for step in rounded), convolutions, kernels)  # type: ignore[arg-type]
        for rounded in itertools.product(*((max(1, step), step + 1) for step in steps))
    ]
    nearest = min(shapes, key=lambda shape: abs(shape.multiply_adds() - budget))
    too_wide = any(width > WIDEST * own for width, own in zip(nearest.widths, reference.widths))
    return None if too_wide or abs(nearest.multiply_adds() - budget) > TOLERANCE * budget else nearest


def draw(rng: np.random.Generator, reference: Architecture = FAST94) -> Architecture:
    """Return an architecture with random proportions and as many multiply-adds as the reference."""
    while True:
        architecture = fitted({name: parameter.draw(rng) for name, parameter in SPACE.items()}, reference)
        if architecture:
            return architecture


def candidate(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Return a recipe with a network of the proportions that were drawn, and as many multiply-adds as its own has.

    Raises:
        Rejected: no such network is near enough to them.
        ValueError: the recipe's network is not of fast94's family.
    """
    architecture = fitted(values, Architecture.named(recipe.model or FAST94.name))
    if architecture is None:
        raise Rejected
    return dataclasses.replace(recipe, model=architecture.name)


def tune_architecture(recipe: Recipe, **arguments: Any) -> optuna.Study:
    """Search for the architecture with the best validation accuracy among those with as many multiply-adds.

    Each trial trains a candidate as the recipe says. Candidates that miss the budget by more than 5 % are rejected
    before that and do not count as trials.

    Args:
        recipe: `Recipe` of the trainings, usually short ones. Its network, of fast94's family, sets the budget.
        arguments: as for `tune_recipe` and `tune`, such as `share`, `trials` and `at_random`.

    Returns:
        Optuna's study; `candidate(recipe, best_trial(study).parameters)` is the best recipe.

    Raises:
        ValueError: as `tune_recipe`, or the recipe's network is not of fast94's family.
    """
    reference = Architecture.named(recipe.model or FAST94.name)
    return tune_recipe(dataclasses.replace(recipe, model=reference.name), SPACE, candidate=candidate, **arguments)
