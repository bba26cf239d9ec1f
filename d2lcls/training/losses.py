"""Losses for `fit(loss=...)`: functions of logits (N, K) and labels that return one loss an image, shape (N,).

Labels are classes, int (N,), or the share of each class, float (N, K), as mixup makes them; shares that are all
on one class count as that class does. A class's weight multiplies the loss of its images; over mixed images the
loss is the mean over their classes, share by share. The losses are not divided by the weights, so weights
whose mean over the training images is 1 leave the learning rate its meaning.
"""

import math

import numpy as np
from mxnet import nd


def cross_entropy(label_smoothing=0.0, class_weights=None):
    """Make the cross-entropy between a softmax and the labels.

    Label smoothing asks the network for 1 - e + e / K of the true class and e / K of every other, so that it need
    not push its logits apart for ever. What smoothing moves to other classes keeps the weight of the image's own
    class: a heavy class does not attract the images of all the others.

    Source of label smoothing: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision" (2016).

    Args:
        label_smoothing: e, from 0 (off) to below 1; 0.1 is usual.
        class_weights: numpy (K,), 0 or above; None weighs all classes 1.

    Returns:
        function of (logits, labels): float NDArray (N, K); NDArray of int (N,) with values 0 to K - 1, or float
        (N, K). It returns an NDArray (N,), in nats, and raises ValueError if the shapes do not fit.

    Raises:
        ValueError: an argument is out of range; says which.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be 0 (off) or above and below 1, not {label_smoothing}.")
    class_weights = _checked(class_weights)

    def loss(logits, labels):
        shares = _weighted_shares(logits, labels, class_weights)  # (N, K)
        log_p = logits.log_softmax(axis=1)
        own = -(shares * log_p).sum(axis=1)
        if not label_smoothing:
            return own
        every = -log_p.mean(axis=1) * shares.sum(axis=1)
        return (1 - label_smoothing) * own + label_smoothing * every

    return loss


def focal(gamma=2.0, class_weights=None):
    """Make the focal loss, -(1 - p) ** gamma * log(p), where p is the softmax of the true class.

    It takes weight from images that the network is already sure of, so that many easy ones do not drown a few
    hard ones. The paper has one sigmoid a class; this is its form for a softmax over K classes.

    Source: Lin et al., "Focal Loss for Dense Object Detection" (2017); its alpha is `class_weights` here.

    Args:
        gamma: 0 or above; 0 is cross-entropy, 2 is the paper's choice.
        class_weights: numpy (K,), 0 or above; None weighs all classes 1.

    Returns:
        function of (logits, labels), as `cross_entropy` returns.

    Raises:
        ValueError: an argument is out of range; says which.
    """
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must be 0 (cross-entropy) or above and finite, not {gamma}.")
    class_weights = _checked(class_weights)

    def loss(logits, labels):
        shares = _weighted_shares(logits, labels, class_weights)  # (N, K)
        # Not log_softmax: oneDNN's is off by 1e-6, so that log p would be above 0 where p is nearly 1.
        shifted = logits - nd.stop_gradient(logits.max(axis=1, keepdims=True))  # exp cannot overflow
        log_p = shifted - shifted.exp().sum(axis=1, keepdims=True).log()
        # Below gamma = 1 the power has no finite derivative where p is 1. The floor, far below any 1 - p that
        # float32 can tell from 0, gives it one.
        miss = nd.maximum(1 - log_p.exp(), 1e-30)
        return -(shares * miss**gamma * log_p).sum(axis=1)

    return loss


def _checked(class_weights):
    if class_weights is None:
        return None
    weights = np.array(class_weights, dtype=np.float64)  # a copy: the loss must not change with the caller's array
    if weights.ndim != 1 or not len(weights):
        raise ValueError(f"class_weights must have the shape (K,), one weight a class, not {weights.shape}.")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.any()):
        raise ValueError(f"class_weights must be finite, 0 or above, and not all 0; they are {weights}.")
    return weights


def _weighted_shares(logits, labels, class_weights):
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
    return shares * nd.array(class_weights, ctx=logits.context, dtype=logits.dtype).expand_dims(0)
