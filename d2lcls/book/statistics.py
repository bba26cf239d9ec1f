"""Is a difference real? Intervals of repeated runs, and the correction for several comparisons.

The chapter on the training loop explains the rule that the whole book follows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean with its confidence interval, and the p-value of a true mean of 0."""

    mean: float
    low: float
    high: float
    p: float

    @property
    def shown(self) -> bool:
        """Whether the interval does not contain 0."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        verdict = "" if self.shown else ", no difference shown"
        return f"{self.mean:+.2f} ({self.low:+.2f} to {self.high:+.2f}){verdict}"


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """Return the mean of repeated measurements and the confidence interval of the true mean.

    The interval is mean +- t * s / sqrt(n), with the sample standard deviation s and the quantile t of Student's
    distribution with n - 1 degrees of freedom. It assumes independent measurements with a roughly normal distribution.
    Source: Student, "The Probable Error of a Mean" (1908).

    Args:
        values: n finite numbers, one per seed; at least two.
        confidence: probability that the interval of a new experiment contains the true mean.

    Raises:
        ValueError: there are fewer than two values, or one is not finite, or confidence is not between 0 and 1.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) < 2 or not np.isfinite(numbers).all():
        raise ValueError(f"values must be at least two finite numbers, one per seed, not {values}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, such as 0.95, not {confidence}.")
    n, mean = len(numbers), float(numbers.mean())
    error = float(numbers.std(ddof=1)) / n**0.5
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * error
    if error:
        p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    else:
        p = float(mean == 0)
    return Interval(mean, mean - half, mean + half, p)


def paired_difference(
    values_a: Sequence[float] | np.ndarray, values_b: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE
) -> Interval:
    """Return the mean of a - b over pairs of runs with the same seed, with its confidence interval.

    Args:
        values_a, values_b: n finite numbers each, in the same order of the seeds; at least two.
        confidence: as for `mean_interval`.

    Returns:
        `Interval`; `shown` is False if it contains 0: the runs then show no difference.

    Raises:
        ValueError: the lengths differ, or as `mean_interval`.
    """
    a, b = np.asarray(values_a, dtype=np.float64), np.asarray(values_b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(
            f"values_a and values_b must hold one number per seed, of the same seeds, not {a.shape} and {b.shape}."
        )
    return mean_interval(a - b, confidence)


def rank_correlation(values_a: Sequence[float] | np.ndarray, values_b: Sequence[float] | np.ndarray) -> Interval:
    """Return Kendall's rank correlation of two measurements of the same things, with its 95 % confidence interval.

    It is 1 if both put the things in the same order, -1 if in opposite ones, and 0 on average if the orders have
    nothing to do with each other; ties are treated as in tau-b. The interval is that of Fisher's z-transform with the
    variance 0.437 / (n - 4), from Fieller, Hartley and Pearson, "Tests for Rank Correlation Coefficients" (1957); it is
    approximate, and wide for a handful of things. A correlation of 1 or -1 counts as half a pair less there.

    Args:
        values_a, values_b: n finite numbers each, in the same order of the things; at least five.

    Raises:
        ValueError: the lengths differ, there are too few, or all numbers of one are equal.
    """
    a, b = np.asarray(values_a, dtype=np.float64), np.asarray(values_b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 5 or not (np.isfinite(a) & np.isfinite(b)).all():
        raise ValueError(f"values_a and values_b must be as many finite numbers, five or more, not {a} and {b}.")
    found = stats.kendalltau(a, b)
    if not np.isfinite(found.statistic):
        raise ValueError("All numbers of values_a or of values_b are equal: they have no order.")
    tau, n = float(found.statistic), len(a)
    most = 1 - 2 / (n * (n - 1))  # half a pair of n * (n - 1) / 2 in the other order
    centre = np.arctanh(np.clip(tau, -most, most))
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * (0.437 / (n - 4)) ** 0.5
    return Interval(tau, float(np.tanh(centre - half)), float(np.tanh(centre + half)), float(found.pvalue))


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Correct the p-values of several comparisons, so that 5 % is the risk of one false finding among all of them.

    The smallest of m p-values is multiplied by m, the next by m - 1, and so on; none may become smaller than the one
    before it, or larger than 1. Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (1979).

    Args:
        p_values: m numbers from 0 to 1.

    Returns:
        float64 (m,), the corrected p-values in the order given.

    Raises:
        ValueError: there is no p-value, or one is not between 0 and 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not len(p) or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p_values must be numbers from 0 to 1, at least one, not {p_values}.")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1)
    return corrected


def compare(
    base: Sequence[float] | np.ndarray,
    others: Mapping[str, Sequence[float] | np.ndarray],
    confidence: float = CONFIDENCE,
) -> dict[str, tuple[Interval, bool]]:
    """Compare several settings with one, seed by seed.

    Args:
        base: n numbers, one per seed.
        others: by name, n numbers of the same seeds.
        confidence: as for `mean_interval`.

    Returns:
        by name, the paired difference to `base` and whether it is shown after Holm's correction.

    Raises:
        ValueError: as `paired_difference`; or there is nothing to compare.
    """
    if not others:
        raise ValueError("others must hold at least one setting.")
    found = {name: paired_difference(values, base, confidence) for name, values in others.items()}
    corrected = holm([difference.p for difference in found.values()])
    return {name: (difference, bool(p <= 1 - confidence)) for (name, difference), p in zip(found.items(), corrected)}
