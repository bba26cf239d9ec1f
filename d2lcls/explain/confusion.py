"""Which classes a network takes for which."""

import numpy as np


def confusion_matrix(labels, predicted, num_classes):
    """Count how often each class was taken for each.

    Args:
        labels, predicted: int (N,), true and predicted class of every image.
        num_classes: K.

    Returns:
        int64 (K, K); row i, column j: images of class i taken for class j.

    Raises:
        ValueError: the lengths differ, or a class is no whole number or out of range.
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
            raise ValueError(f"{name} must be whole numbers, not such as {values[values != np.floor(values)][0]}.")
    # int64, or small types such as uint8 would overflow here without a word
    counts = np.bincount(labels.astype(np.int64) * num_classes + predicted.astype(np.int64), minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def most_confused(matrix, classes, top=5):
    """List the pairs of classes that are mistaken for each other most often, in either direction.

    Args:
        matrix: as `confusion_matrix` returns.
        classes: the K names.
        top: how many pairs.

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
