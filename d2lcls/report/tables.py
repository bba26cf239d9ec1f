"""What was found in a run as tables: CSV files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from d2lcls.machine.files import csv_text

import numpy as np

if TYPE_CHECKING:
    from d2lcls.report.examples import Example


def classes_csv(classes: Sequence[str], counts: np.ndarray, accuracies: np.ndarray) -> str:
    """Return each class that has images, its number of images and its accuracy, a share of 1, as CSV.

    Args:
        classes: K names.
        counts: int (K,).
        accuracies: float (K,).
    """
    rows = [(k, classes[k], counts[k], f"{accuracies[k]:.6f}") for k in counts.nonzero()[0]]
    return csv_text([("label", "class", "images", "accuracy"), *rows])


def confusion_csv(matrix: np.ndarray, classes: Sequence[str]) -> str:
    """Return a confusion matrix, int (K, K), as CSV: a row for each true class, a column for each predicted one."""
    rows = [(name, *counts.tolist()) for name, counts in zip(classes, matrix)]
    return csv_text([("true class", *classes), *rows])


def mistakes_csv(mistakes: Sequence[Example]) -> str:
    """Return mistakes as CSV: rank, image, classes, their probabilities as shares of 1, and loss in nats."""
    head = ("rank", "image", "true", "predicted", "probability of true", "probability of predicted", "loss")
    rows = [
        (rank, each.name, each.true, each.predicted, f"{each.true_probability:.6f}", f"{each.probability:.6f}",
         f"{each.loss:.4f}")
        for rank, each in enumerate(mistakes, 1)
    ]  # fmt: skip
    return csv_text([head, *rows])
