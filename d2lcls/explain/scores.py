"""Probabilities from logits, and accuracies that do not depend on the classes' numbers of images."""

from __future__ import annotations

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn logits into probabilities that sum to 1 along the last axis.

    Args:
        logits: float array (N, K), or (..., K); exp does not overflow, however large they are.

    Returns:
        array of the same shape and type.
    """
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def per_class_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Return the share of each class's images that were recognised.

    Args:
        matrix: int (K, K), as `confusion_matrix` returns.

    Returns:
        float64 (K,), shares of 1; NaN for a class without images.

    Raises:
        ValueError: the matrix is not square, or counts less than 0.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or 0 in matrix.shape or not (matrix >= 0).all():
        raise ValueError(
            "matrix must hold counts of 0 or more in shape (K, K), as confusion_matrix returns them, "
            f"not {matrix.shape}{f' down to {matrix.min()}' if matrix.size else ''}."
        )
    images = matrix.sum(axis=1)
    return matrix.diagonal() / np.where(images, images, np.nan)


def balanced_accuracy(matrix: np.ndarray) -> float:
    """Return the mean of the classes' accuracies, in which a rare class counts as much as a common one.

    Source: Brodersen et al., "The Balanced Accuracy and Its Posterior Distribution" (2010).

    Args:
        matrix: int (K, K), as `confusion_matrix` returns; classes without images are left out.

    Returns:
        share of 1.

    Raises:
        ValueError: as `per_class_accuracy`, or there is no image at all.
    """
    accuracies = per_class_accuracy(matrix)
    if np.isnan(accuracies).all():
        raise ValueError("matrix holds no image; balanced accuracy needs at least one.")
    return float(np.nanmean(accuracies))
