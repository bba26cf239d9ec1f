"""Sets in which some classes are rare: how to make one for an experiment, and how to weigh its classes."""

from math import inf
from numbers import Integral

import numpy as np


def long_tailed(data, ratio, seed=0):
    """Thin out a set until its class counts fall exponentially from the first class to the last.

    Of K classes, class k keeps n * ratio ** (-k / (K - 1)) images, rounded but at least one, where n is the
    smallest count in `data`. Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples"
    (2019), and Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss" (2019).

    Args:
        data: `Images`.
        ratio: how many times as many images the first class has as the last; 1 (equal counts) or more.
        seed: int; with the same seed the images for a larger ratio are among those for a smaller one.

    Returns:
        `Images`, in the order of `data`.

    Raises:
        ValueError: `ratio` is out of range, or a class has no image.
    """
    if not 1 <= ratio < inf:
        raise ValueError(f"ratio must be 1 (equal counts) or more, not {ratio}.")
    counts = data.counts()
    if (counts == 0).any():
        raise ValueError(
            f"{data.name}: class {data.classes[counts.argmin()]!r} has no image, so no class could "
            "keep any. Add images of it or leave the class out."
        )
    share = np.arange(len(counts)) / max(len(counts) - 1, 1)  # 0 for the first class, 1 for the last
    wanted = np.rint(counts.min() * float(ratio) ** -share).astype(np.int64)
    return _draw(data, np.maximum(wanted, 1), seed)


def take_per_class(data, n, seed=0):
    """Draw the same number of images of each class at random.

    Args:
        data: `Images`.
        n: images a class, 1 or more.
        seed: int; with the same seed the images for a smaller n are among those for a larger one.

    Returns:
        `Images`, in the order of `data`.

    Raises:
        ValueError: `n` is no number of images, or a class has fewer.
    """
    if not isinstance(n, Integral) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n must be a number of images a class, 1 or more, not {n!r}.")
    counts = data.counts()
    if (counts < n).any():
        fewest = counts.argmin()
        raise ValueError(
            f"{data.name}: class {data.classes[fewest]!r} has {counts[fewest]} images, fewer than the "
            f"{n} wanted of each class. Ask for {counts[fewest]} at most."
        )
    return _draw(data, np.full(len(counts), n), seed)


def take_evenly(data, n, seed=0):
    """Draw images at random, spread over the classes as evenly as their counts allow.

    Args:
        data: `Images`.
        n: images in all, 1 or more. If `data` has no more than that, all of them are taken.
        seed: int.

    Returns:
        `Images`, in the order of `data`. A class that has too few images gives all of them, and the others make up for
        it; where the share is not whole, a random choice of classes gives one image more.

    Raises:
        ValueError: `n` is not a number of images.
    """
    if not isinstance(n, Integral) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n must be a number of images, 1 or more, not {n!r}.")
    counts, level = data.counts(), 0
    while level < counts.max() and np.minimum(counts, level + 1).sum() <= n:
        level += 1
    wanted = np.minimum(counts, level)
    more = np.random.default_rng(seed).permutation(np.flatnonzero(counts > level))
    wanted[more[: max(n - wanted.sum(), 0)]] += 1
    return _draw(data, wanted, seed)


def _draw(data, wanted, seed):
    """Draw so many images of each class; a longer draw begins with the shorter one."""
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(data.labels == k))[:number] for k, number in enumerate(wanted)]
    return data.subset(np.sort(np.concatenate(chosen)))


def class_weights(counts, beta=1.0):
    """Compute the weight of each class in a loss, so that rare classes count for more.

    The weight is the inverse of a class's effective number of images, (1 - beta ** n) / (1 - beta), which is n
    itself for beta = 1. It is scaled to a mean of 1 over the images, not over the classes: the loss stays on
    its scale and a learning rate keeps its meaning.
    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples" (2019).

    Args:
        counts: images of each class, (K,), as `Images.counts` returns.
        beta: 1 weighs by inverse frequency, 0 weighs all classes alike; the paper uses 0.9 to 0.9999 for what
            lies between.

    Returns:
        float32 (K,); 0 for a class without images.

    Raises:
        ValueError: `counts` are no numbers of images, or are all 0; or `beta` is out of range.
    """
    counts = np.asarray(counts)
    if counts.ndim != 1 or not np.issubdtype(counts.dtype, np.integer) or (counts < 0).any() or not counts.any():
        raise ValueError(
            "counts must be whole numbers from 0, one a class and not all 0, as Images.counts() "
            f"returns, not {counts.tolist()}."
        )
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must lie between 0 (all classes alike) and 1 (inverse frequency), not {beta}.")
    present = counts > 0
    n = counts[present].astype(np.float64)
    weights = np.zeros(len(counts))
    weights[present] = 1 / n if beta == 1 else (1 - beta) / (1 - beta**n)
    return (weights * (counts.sum() / (weights @ counts))).astype(np.float32)
