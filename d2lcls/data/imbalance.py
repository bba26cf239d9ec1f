"""Imbalanced sets, in which some classes are rare: how to make one for an experiment, and weights of its classes."""

from math import inf

from d2lcls.data.images import Images

import numpy as np
import numpy.typing as npt


def long_tailed(data: Images, ratio: float, seed: int = 0) -> Images:
    """Remove images until the class counts fall exponentially from the first class to the last.

    Of K classes, class k keeps n * ratio ** (-k / (K - 1)) images, rounded but at least one, where n is the
    smallest count in `data`. Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples"
    (2019), and Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss" (2019).

    Args:
        data: the whole set.
        ratio: count of the first class divided by that of the last; 1 (equal counts) or more.
        seed: with the same seed, the images for a larger ratio are among those for a smaller one.

    Returns:
        the remaining images, in the order of `data`.

    Raises:
        ValueError: `ratio` is out of range, or a class has no image.
    """
    if not 1 <= ratio < inf:
        raise ValueError(f"ratio must be 1 (equal counts) or more, not {ratio}.")
    counts = data.counts()
    if (counts == 0).any():
        raise ValueError(
            f"{data.name}: class {data.classes[counts.argmin()]!r} has no image, so no class could "
            "keep any. Add images to the class or remove it."
        )
    share = np.arange(len(counts)) / max(len(counts) - 1, 1)  # 0 for the first class, 1 for the last
    wanted = np.rint(counts.min() * float(ratio) ** -share).astype(np.int64)
    return _draw(data, np.maximum(wanted, 1), seed)


def take_per_class(data: Images, n: int, seed: int = 0) -> Images:
    """Draw the same number of images of each class at random.

    Args:
        data: the set to draw from.
        n: images per class, 1 or more.
        seed: with the same seed, the images for a smaller n are among those for a larger one.

    Returns:
        the images drawn, in the order of `data`.

    Raises:
        ValueError: `n` is not a number of images, or a class has fewer.
    """
    _check_number(n)
    counts = data.counts()
    if (counts < n).any():
        fewest = counts.argmin()
        raise ValueError(
            f"{data.name}: class {data.classes[fewest]!r} has {counts[fewest]} images, fewer than the "
            f"{n} wanted of each class. Ask for {counts[fewest]} at most."
        )
    return _draw(data, np.full(len(counts), n), seed)


def take_evenly(data: Images, n: int, seed: int = 0) -> Images:
    """Draw images at random, with class counts as equal as possible.

    Args:
        data: the set to draw from.
        n: images in total, 1 or more. If `data` has fewer, all of them are taken.
        seed: of the random choice.

    Returns:
        the images drawn, in the order of `data`. Of a class with too few images all are taken, and more of the others;
        what remains after equal shares is drawn from randomly chosen classes, one image each.

    Raises:
        ValueError: `n` is not a number of images.
    """
    _check_number(n)
    counts, level = data.counts(), 0
    while level < counts.max() and np.minimum(counts, level + 1).sum() <= n:
        level += 1
    wanted = np.minimum(counts, level)
    more = np.random.default_rng(seed).permutation(np.flatnonzero(counts > level))
    wanted[more[: max(n - wanted.sum(), 0)]] += 1
    return _draw(data, wanted, seed)


def _check_number(n: int) -> None:
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n must be a number of images, 1 or more, not {n!r}.")


def _draw(data: Images, wanted: np.ndarray, seed: int) -> Images:
    """Draw `wanted`, int (K,), images of the classes; a larger number includes the images of a smaller one."""
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(np.flatnonzero(data.labels == k))[:number] for k, number in enumerate(wanted)]
    return data.subset(np.sort(np.concatenate(chosen)))


def class_weights(counts: npt.ArrayLike, beta: float = 1.0) -> np.ndarray:
    """Compute the weight of each class in a loss, larger for rare classes.

    The weight is the inverse of a class's effective number of images, (1 - beta ** n) / (1 - beta), which is n
    itself for beta = 1. It is scaled to a mean of 1 over the images, not over the classes, so that the scale of the
    loss and suitable learning rates do not change.
    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples" (2019).

    Args:
        counts: images of each class, (K,), as `Images.counts` returns.
        beta: 1 weights by inverse frequency, 0 gives all classes the same weight; the paper uses 0.9 to 0.9999.

    Returns:
        float32 (K,); 0 for a class without images.

    Raises:
        ValueError: `counts` are not numbers of images, or all are 0; or `beta` is out of range.
    """
    counts = np.asarray(counts)
    if counts.ndim != 1 or not np.issubdtype(counts.dtype, np.integer) or (counts < 0).any() or not counts.any():
        raise ValueError(
            "counts must be whole numbers from 0, one for each class and not all 0, as Images.counts() "
            f"returns, not {counts.tolist()}."
        )
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must lie between 0 (equal weights) and 1 (inverse frequency), not {beta}.")
    present = counts > 0
    n = counts[present].astype(np.float64)
    weights = np.zeros(len(counts))
    weights[present] = 1 / n if beta == 1 else (1 - beta) / (1 - beta**n)
    return (weights * (counts.sum() / (weights @ counts))).astype(np.float32)
