"""Whether a network is right as often as it is sure."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)  # == of arrays is an array
class CalibrationCurve:
    """How sure a network was and how often it was right, in bins of confidence; shares of 1, NaN in empty bins.

    `edges` is (B + 1,); `confidence`, the mean in a bin, `accuracy` and `count`, its images, are (B,);
    `error` is the expected calibration error.
    """

    edges: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray
    error: float


def calibration_curve(logits, labels, bins=15):
    """Compare confidence, the highest probability of each image, with accuracy.

    The expected calibration error is the mean distance of the two over the bins, each bin weighted with its
    images. Sources: Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (2015);
    Guo et al., "On Calibration of Modern Neural Networks" (2017).

    Args:
        logits: (N, K), as `predict` returns; divided by a temperature, if you like.
        labels: int (N,), true class of every image.
        bins: number of bins, all equally wide; each holds its upper edge.

    Returns:
        `CalibrationCurve`.

    Raises:
        ValueError: shapes or values do not fit; says which.
    """
    if bins != int(bins) or bins < 1:
        raise ValueError(f"bins must be a whole number of 1 or more, not {bins}.")
    logits, labels = _check(logits, labels)
    confidence = 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)  # softmax at its highest
    correct = logits.argmax(axis=1) == labels
    edges = np.linspace(0, 1, int(bins) + 1)
    own = np.searchsorted(edges, confidence, side="left") - 1
    count = np.bincount(own, minlength=len(edges) - 1)
    sure = np.bincount(own, weights=confidence, minlength=len(count))
    right = np.bincount(own, weights=correct, minlength=len(count))
    filled = np.where(count, count, np.nan)
    error = float(np.abs(sure - right).sum() / len(labels))
    return CalibrationCurve(edges, sure / filled, right / filled, count, error)


def fit_temperature(logits, labels):
    """Find the temperature by which to divide logits so that confidence matches accuracy.

    It minimises the mean cross-entropy of softmax(logits / T) and changes no prediction. Fit it on validation
    images, never on those the network was trained on. Source: Guo et al., "On Calibration of Modern Neural
    Networks" (2017).

    Args:
        logits: (N, K) of images the network has not learned from.
        labels: int (N,), their true classes.

    Returns:
        float above 0; above 1, the network was too sure.

    Raises:
        ValueError: shapes or values do not fit, or no temperature is best: all images are right, or the logits
            say nothing about the labels.
    """
    logits, labels = _check(logits, labels)
    gaps = logits - logits[np.arange(len(labels)), labels][:, None]  # (N, K), 0 for the true class
    if gaps.mean() >= 0:
        raise ValueError(
            "The logits of the true classes are no higher than the others on average, so that no "
            "temperature is best. Check that logits and labels belong together."
        )
    if (gaps <= 0).all():
        raise ValueError(
            f"None of the {len(labels)} images has a logit above that of its true class, so that the "
            "loss falls with the temperature without end. Use more images, and ones the network has "
            "not learned from."
        )
    scale = np.abs(gaps).max()
    gaps /= scale
    # In b = scale / T the loss, mean of log(sum(exp(b * gaps))), is convex: its slope has one root.
    low, high = 0.0, 1.0
    while _slope(gaps, high)[0] < 0:
        low, high = high, 2 * high
    b = high
    for _ in range(200):  # Newton's steps, halving where one would leave the bracket
        slope, curvature = _slope(gaps, b)
        low, high = (b, high) if slope < 0 else (low, b)
        step = b - slope / curvature if curvature > 0 else low
        following = step if low < step < high else (low + high) / 2
        if abs(following - b) <= 1e-12 * b:
            break
        b = following
    return float(scale / b)


def _slope(gaps, b):
    """Return first and second derivative of the loss at b."""
    shares = np.exp(b * gaps - (b * gaps).max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    first = (shares * gaps).sum(axis=1)
    return first.mean(), ((shares * gaps**2).sum(axis=1) - first**2).mean()


def _check(logits, labels):
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if logits.ndim != 2 or 0 in logits.shape or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits must be (N, K) and labels (N,), at least one, not {logits.shape} and {labels.shape}.")
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite numbers. NaN among them is a sign of a training that diverged.")
    if not np.isin(labels, np.arange(logits.shape[1])).all():
        raise ValueError(
            f"labels must be whole numbers from 0 to {logits.shape[1] - 1}, one a column of logits; "
            f"they lie between {labels.min()} and {labels.max()}."
        )
    return logits, labels.astype(np.int64)
