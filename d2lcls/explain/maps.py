"""Features as points in the plane."""

from __future__ import annotations

import numpy as np


def map_features(features: np.ndarray, method: str = "pca", seed: int = 0) -> np.ndarray:
    """Place features in the plane so that similar ones lie close.

    "pca" projects onto the two directions of greatest variance: points far apart in the plane are at least as far
    apart in the features. "tsne" keeps neighbours together at the cost of everything else: distances between groups,
    and their sizes, mean nothing. Source of the latter: van der Maaten and Hinton, "Visualizing Data using t-SNE"
    (2008); it starts from the first 50 principal components.

    Args:
        features: (N, D), D of 2 or more; N of 2 or more, 4 or more for "tsne", which is slow beyond a few
            thousand.
        method: "pca" or "tsne"; the latter needs scikit-learn.
        seed: of "tsne".

    Returns:
        float32 (N, 2).

    Raises:
        ValueError: the method is neither, or the features have a wrong shape or are not finite.
        ImportError: scikit-learn is not installed.
    """
    if method not in ("pca", "tsne"):
        raise ValueError(f"method must be 'pca' or 'tsne', not {method!r}.")
    features = np.asarray(features, dtype=np.float64)
    fewest = 2 if method == "pca" else 4
    if features.ndim != 2 or len(features) < fewest or features.shape[1] < 2:
        raise ValueError(
            f"features must be (N, D) with N of at least {fewest} and D of at least 2, not {features.shape}."
        )
    if not np.isfinite(features).all():
        raise ValueError("features must be finite numbers.")
    return (_principal(features, 2) if method == "pca" else _tsne(features, seed)).astype(np.float32)


def _principal(features: np.ndarray, count: int) -> np.ndarray:
    centred = features - features.mean(axis=0)
    left, singular, directions = np.linalg.svd(centred, full_matrices=False)
    # The sign of a direction is arbitrary: let its largest entry be positive.
    largest = np.abs(directions).argmax(axis=1)
    signs = np.sign(directions[np.arange(len(directions)), largest])
    return (left * singular * signs)[:, :count]


def _tsne(features: np.ndarray, seed: int) -> np.ndarray:
    try:
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    except ModuleNotFoundError as error:
        raise ImportError('t-SNE needs scikit-learn: pip install "d2lcls[tune]"') from error
    perplexity = min(30, (len(features) - 1) / 3)
    with threadpool_limits(1, user_api="openmp"):  # more threads add up in a different order each time
        return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(
            _principal(features, 50).astype(np.float32)
        )
