"""Which classes a network confuses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count how often each class was predicted for images of each class.

    Args:
        labels, predicted: int (N,), true and predicted class of every image.
        num_classes: K.

    Returns:
        int64 (K, K); row i, column j: number of images of class i predicted as class j.

    Raises:
        ValueError: the lengths differ, or a class is not a whole number or is out of range.
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.shape != predicted.shape or labels.ndim != 1:
        raise ValueError(f"labels and predicted must have one shape (N,), not {labels.shape} and {predicted.shape}.")
    for name, values in (("labels", labels), ("predicted", predicted)):
        if len(values) and not (values.min() >= 0 and values.max() < num_classes):
            raise ValueError(
                f"{name} must lie between 0 and {num_classes - 1}; they lie between {values.min()} and {values.max()}."
            )
        if (values != np.floor(values)).any():  # MXNet's argmax returns whole numbers as floats
            raise ValueError(f"{name} must be whole numbers; one is {values[values != np.floor(values)][0]}.")
    # int64, because small types such as uint8 would overflow here without a warning
    counts = np.bincount(labels.astype(np.int64) * num_classes + predicted.astype(np.int64), minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def most_confused(matrix: np.ndarray, classes: Sequence[str], top: int = 5) -> list[tuple[str, str, int]]:
    """List the pairs of classes that are confused most often, in either direction.

    Args:
        matrix: as `confusion_matrix` returns.
        classes: the K names.
        top: number of pairs.

    Returns:
        list of (name, name, count), most often first.
    """
    both = matrix + matrix.T
    pairs = [
        (classes[i], classes[j], int(both[i, j]))
        for i in range(len(classes))
        for j in range(i + 1, len(classes))
        if both[i, j]
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:top]


def most_mistaken(matrix: np.ndarray, classes: Sequence[str], top: int = 5) -> list[tuple[str, str, int]]:
    """List the pairs of classes that are confused most often.

    Args:
        matrix, classes: as for `most_confused`.
        top: number of pairs.

    Returns:
        list of (true class, predicted class, count), most often first.
    """
    wrong = matrix * (1 - np.eye(len(classes), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:top]
    pairs = [(int(index) // len(classes), int(index) % len(classes)) for index in order]
    return [(classes[i], classes[j], int(wrong[i, j])) for i, j in pairs if wrong[i, j]]
