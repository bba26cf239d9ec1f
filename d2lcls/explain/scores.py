"""Probabilities from logits, and accuracies that do not depend on the classes' numbers of images."""

from __future__ import annotations

from statistics import NormalDist

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
    """Return the accuracy on the images of each class.

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


def wilson_interval(hits: int, images: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of an accuracy, as shares of 1.

    Unlike the mean plus or minus twice its standard error, it is right for few images and for accuracies near 0 or 1.
    It assumes that the images are independent of each other. Source: Wilson, "Probable Inference, the Law of
    Succession, and Statistical Inference" (1927).

    Args:
        hits: number of correct predictions.
        images: number of all images, at least one.
        confidence: probability that the interval of a new set of images contains the true accuracy.

    Raises:
        ValueError: a number is out of range.
    """
    if not 0 <= hits <= images or images < 1:
        raise ValueError(f"hits must lie between 0 and images, which is 1 or more, not {hits} of {images}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, such as 0.95, not {confidence}.")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = hits / images, z**2 / images
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * (share * (1 - share) / images + weight / (4 * images)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)
