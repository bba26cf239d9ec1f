"""What a network's logits for a labelled set say about it: score, weak classes, confusions, worst mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from d2lcls.explain.confusion import confusion_matrix
from d2lcls.explain.scores import balanced_accuracy, per_class_accuracy, softmax, wilson_interval

import numpy as np


@dataclass(frozen=True, eq=False)
class Analysis:
    """A network's logits for a labelled set, and what follows from them.

    Args:
        logits: float (N, K), finite, as `predict` returns.
        labels: int (N,), true class of every image.
        classes: the K names.

    Raises:
        ValueError: a logit is not a finite number.
    """

    logits: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if not np.isfinite(self.logits).all():
            raise ValueError("The network's logits are not finite numbers: the training diverged. Train it again.")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @cached_property
    def predicted(self) -> np.ndarray:
        """The predicted class of every image, int (N,)."""
        return self.logits.argmax(axis=1)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """The probabilities of all classes for every image, float64 (N, K)."""
        return softmax(self.logits.astype(np.float64))

    @cached_property
    def losses(self) -> np.ndarray:
        """The cross-entropy of every image in nats, float64 (N,)."""
        logits = self.logits.astype(np.float64)
        highest = logits.max(axis=1)
        own = logits[np.arange(len(self)), self.labels]
        return highest - own + np.log(np.exp(logits - highest[:, None]).sum(axis=1))

    @cached_property
    def matrix(self) -> np.ndarray:
        """The confusion matrix, int64 (K, K); see `confusion_matrix`."""
        return confusion_matrix(self.labels, self.predicted, len(self.classes))

    @property
    def counts(self) -> np.ndarray:
        """The number of images of every class, int64 (K,)."""
        return self.matrix.sum(axis=1)

    @property
    def hits(self) -> int:
        """The number of images whose class was predicted."""
        return int(self.matrix.trace())

    @property
    def accuracy(self) -> float:
        """The share of images whose class was predicted, as a share of 1."""
        return self.hits / len(self)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the accuracy; see `wilson_interval`."""
        return wilson_interval(self.hits, len(self))

    @property
    def balanced(self) -> float:
        """The mean of the classes' accuracies; see `balanced_accuracy`."""
        return balanced_accuracy(self.matrix)

    @property
    def class_accuracies(self) -> np.ndarray:
        """The accuracy of every class, float64 (K,), NaN for a class without images."""
        return per_class_accuracy(self.matrix)

    def weakest(self) -> list[int]:
        """Return the classes that have images, from the lowest accuracy to the highest."""
        order = np.argsort(self.class_accuracies, kind="stable")
        return [int(k) for k in order if self.counts[k]]

    def worst(self, top: int) -> list[int]:
        """Return the positions of the misclassified images with the largest losses, the largest first."""
        wrong = np.flatnonzero(self.predicted != self.labels)
        return [int(i) for i in wrong[np.argsort(-self.losses[wrong], kind="stable")][:top]]
