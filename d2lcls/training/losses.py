"""Loss functions: they take logits (N, K) and labels and return one loss per image, shape (N,).

Labels are classes, int (N,), or the share of each class, float (N, K), as mixup produces them. A class's weight
multiplies the loss of its images; for mixed images the loss is the average over their classes, weighted by the
shares. The sum is not divided by the weights, so weights whose mean over the training images is 1 leave the effective
learning rate as it is.

To add a loss, write a function that makes it and decorate it with `@loss_named("its_name")`: `Recipe(loss="its_name")`
and `d2lcls train --loss its_name` then use it, with the defaults of its other arguments; for other values pass
the function itself, as in `Recipe(loss=focal(gamma=1.0))`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mxnet import nd

Loss = Callable[["nd.NDArray", "nd.NDArray"], "nd.NDArray"]
LOSSES: dict[str, Callable[..., Loss]] = {}


def loss_named(name: str) -> Callable[[Callable[..., Loss]], Callable[..., Loss]]:
    """Register a function that makes a loss under the name that `Recipe.loss` and `--loss` give it.

    Its arguments `class_weights` and `label_smoothing`, if it has them, come from the recipe's fields of these names.

    Raises:
        ValueError: the name is taken.
    """

    def register(make: Callable[..., Loss]) -> Callable[..., Loss]:
        if name in LOSSES:
            raise ValueError(f"A loss is already called {name!r}: {LOSSES[name].__name__}.")
        LOSSES[name] = make
        return make

    return register


def takes(loss: str | Loss, argument: str) -> bool:
    """Whether the function that makes a loss has an argument of this name."""
    return isinstance(loss, str) and loss in LOSSES and argument in inspect.signature(LOSSES[loss]).parameters


@loss_named("cross_entropy")
def cross_entropy(label_smoothing: float = 0.0, class_weights: np.ndarray | None = None) -> Loss:
    """Make the cross-entropy between a softmax and the labels.

    With label smoothing the target is 1 - e + e / K for the true class and e / K for every other, which keeps the
    logits from growing without bound. The smoothed part of the target keeps the weight of the image's own
    class, so that a class with a large weight does not attract the images of all the others.

    Source of label smoothing: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2016).

    Args:
        label_smoothing: e, from 0 (off) to below 1; 0.1 is usual.
        class_weights: numpy (K,), 0 or above; None weights all classes 1.

    Returns:
        function of (logits, labels): float NDArray (N, K); NDArray of int (N,) with values 0 to K - 1, or float
        (N, K). It returns an NDArray (N,), in nats, and raises ValueError if the shapes do not fit.

    Raises:
        ValueError: an argument is out of range; says which.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be 0 (off) or above and below 1, not {label_smoothing}.")
    class_weights = _checked(class_weights)

    def loss(logits: nd.NDArray, labels: nd.NDArray) -> nd.NDArray:
        shares = _weighted_shares(logits, labels, class_weights)  # (N, K)
        log_p = logits.log_softmax(axis=1)
        own = -(shares * log_p).sum(axis=1)
        if not label_smoothing:
            return own
        every = -log_p.mean(axis=1) * shares.sum(axis=1)
        return (1 - label_smoothing) * own + label_smoothing * every

    return loss


@loss_named("focal")
def focal(gamma: float = 2.0, class_weights: np.ndarray | None = None) -> Loss:
    """Make the focal loss, -(1 - p) ** gamma * log(p), where p is the softmax of the true class.

    It reduces the weight of images that the network classifies with confidence, so that many easy images do not
    outweigh a few hard ones. The paper uses one sigmoid per class; this is its form for a softmax over K classes.

    Source: Lin et al., "Focal Loss for Dense Object Detection" (2017); its alpha is `class_weights` here.

    Args:
        gamma: 0 or above; 0 is cross-entropy, 2 is the paper's choice.
        class_weights: numpy (K,), 0 or above; None weights all classes 1.

    Returns:
        function of (logits, labels), as `cross_entropy` returns.

    Raises:
        ValueError: an argument is out of range; says which.
    """
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must be 0 (cross-entropy) or above and finite, not {gamma}.")
    class_weights = _checked(class_weights)

    def loss(logits: nd.NDArray, labels: nd.NDArray) -> nd.NDArray:
        shares = _weighted_shares(logits, labels, class_weights)  # (N, K)
        from mxnet import nd

        # Not log_softmax: oneDNN's is off by 1e-6, so that log p would be above 0 where p is nearly 1.
        shifted = logits - nd.stop_gradient(logits.max(axis=1, keepdims=True))  # exp cannot overflow
        log_p = shifted - shifted.exp().sum(axis=1, keepdims=True).log()
        # Below gamma = 1 the power has no finite derivative where p is 1. The floor, far below any 1 - p that
        # float32 can tell from 0, gives it one.
        miss = nd.maximum(1 - log_p.exp(), 1e-30)
        return -(shares * miss**gamma * log_p).sum(axis=1)

    return loss


def _checked(class_weights: np.ndarray | None) -> np.ndarray | None:
    if class_weights is None:
        return None
    weights = np.array(class_weights, dtype=np.float64)  # a copy: the loss must not change with the caller's array
    if weights.ndim != 1 or not len(weights):
        raise ValueError(f"class_weights must have the shape (K,), one weight per class, not {weights.shape}.")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError(f"class_weights must be finite, 0 or above, and not all 0; they are {weights}.")
    return weights


def _weighted_shares(logits: nd.NDArray, labels: nd.NDArray, class_weights: np.ndarray | None) -> nd.NDArray:
    """The share of each class in each image times the class's weight, NDArray (N, K) like the logits."""
    if logits.ndim != 2 or labels.shape not in (logits.shape[:1], logits.shape):
        raise ValueError(
            "Expected logits of shape (N, K) with labels of shape (N,) or (N, K), "
            f"got {logits.shape} and {labels.shape}."
        )
    classes = logits.shape[1]
    if class_weights is not None and len(class_weights) != classes:
        raise ValueError(
            f"There are {len(class_weights)} class_weights, but the network has {classes} outputs. "
            "Give one weight for each output."
        )
    if labels.ndim == 1:
        labels = labels.one_hot(classes)
    shares = labels.astype(logits.dtype)
    if class_weights is None:
        return shares
    from mxnet import nd

    return shares * nd.array(class_weights, ctx=logits.context, dtype=logits.dtype).expand_dims(0)
