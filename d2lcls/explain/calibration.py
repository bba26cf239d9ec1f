"""Calibration: whether a network's confidence agrees with its accuracy."""

from __future__ import annotations

from dataclasses import dataclass

from d2lcls.explain.scores import softmax

import numpy as np


@dataclass(frozen=True, eq=False)  # == of arrays is an array
class CalibrationCurve:
    """Confidence and accuracy of a network in bins of confidence; shares of 1, NaN in empty bins.

    `edges` is (B + 1,); `confidence` (mean of each bin), `accuracy` and `count` (number of images) are (B,);
    `error` is the expected calibration error.
    """

    edges: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray
    error: float


def calibration_curve(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> CalibrationCurve:
    """Compare confidence, the highest probability of each image, with accuracy.

    The expected calibration error is the mean difference of the two over the bins, each bin weighted by its number of
    images. Sources: Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning" (2015);
    Guo et al., "On Calibration of Modern Neural Networks" (2017).

    Args:
        logits: (N, K), as `predict` returns, perhaps divided by a temperature.
        labels: int (N,), true class of every image.
        bins: number of bins of equal width; each includes its upper edge.

    Raises:
        ValueError: bins, a shape or a value is wrong.
    """
    if bins != int(bins) or bins < 1:
        raise ValueError(f"bins must be a whole number of 1 or more, not {bins}.")
    logits, labels = _check(logits, labels)
    confidence = softmax(logits).max(axis=1)
    correct = logits.argmax(axis=1) == labels
    edges = np.linspace(0, 1, int(bins) + 1)
    bin_of = np.searchsorted(edges, confidence, side="left") - 1
    count = np.bincount(bin_of, minlength=len(edges) - 1)
    confidence_sum = np.bincount(bin_of, weights=confidence, minlength=len(count))
    correct_sum = np.bincount(bin_of, weights=correct, minlength=len(count))
    filled = np.where(count, count, np.nan)
    error = float(np.abs(confidence_sum - correct_sum).sum() / len(labels))
    return CalibrationCurve(edges, confidence_sum / filled, correct_sum / filled, count, error)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Find the temperature by which to divide logits so that confidence matches accuracy.

    It minimises the mean cross-entropy of softmax(logits / T) and changes no prediction. Fit it on validation
    images, never on those the network was trained on. Source: Guo et al., "On Calibration of Modern Neural
    Networks" (2017).

    Args:
        logits: (N, K), of images that the network was not trained on.
        labels: int (N,), their true classes.

    Returns:
        temperature above 0; if it is above 1, the network was overconfident.

    Raises:
        ValueError: a shape or value is wrong, or no temperature is best: all images are classified correctly, or the
            logits are unrelated to the labels.
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
            "loss falls with the temperature without end. Use more images, which the network was not trained on."
        )
    scale = np.abs(gaps).max()
    gaps /= scale
    # In b = scale / T the loss, mean of log(sum(exp(b * gaps))), is convex: its slope has one root.
    low, high = 0.0, 1.0
    while _slope(gaps, high)[0] < 0:
        low, high = high, 2 * high
    b = high
    for _ in range(200):  # Newton's method, with bisection if a step would leave the bracket
        slope, curvature = _slope(gaps, b)
        low, high = (b, high) if slope < 0 else (low, b)
        step = b - slope / curvature if curvature > 0 else low
        following = step if low < step < high else (low + high) / 2
        if abs(following - b) <= 1e-12 * b:
            break
        b = following
    return float(scale / b)


def _slope(gaps: np.ndarray, b: float) -> tuple[float, float]:
    """Return first and second derivative of the loss at b."""
    shares = softmax(b * gaps)
    first = (shares * gaps).sum(axis=1)
    return first.mean(), ((shares * gaps**2).sum(axis=1) - first**2).mean()


def _check(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if logits.ndim != 2 or 0 in logits.shape or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits must be (N, K) and labels (N,), at least one, not {logits.shape} and {labels.shape}.")
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite numbers. NaN among them is a sign that the training diverged.")
    if not np.isin(labels, np.arange(logits.shape[1])).all():
        raise ValueError(
            f"labels must be whole numbers from 0 to {logits.shape[1] - 1}, the columns of logits; "
            f"they lie between {labels.min()} and {labels.max()}."
        )
    return logits, labels.astype(np.int64)
