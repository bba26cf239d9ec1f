"""Which images have similar features."""

from __future__ import annotations

import numpy as np

BLOCK = 1 << 24  # similarities computed at once: 64 MB of float32


def nearest_neighbours(features: np.ndarray, queries: np.ndarray, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Find the features most similar to each query, by the cosine of the angle between them.

    Similarities are rounded to 6 decimals, about the precision of float32, before they are compared, so that ties do
    not depend on the order of summation; of equal ones, the lower index comes first. A vector of zeros has similarity
    0 to every vector.

    Args:
        features: (N, D), such as the outputs of `net.features`.
        queries: (Q, D).
        k: number of neighbours per query, 1 to N.

    Returns:
        (indices, similarities): int64 (Q, k), rows of `features`, nearest first; float32 (Q, k), -1 to 1.

    Raises:
        ValueError: a shape is wrong, k is out of range, or a feature is not finite.
    """
    features, queries = np.asarray(features, dtype=np.float32), np.asarray(queries, dtype=np.float32)
    if features.ndim != 2 or queries.ndim != 2 or features.shape[1] != queries.shape[1] or 0 in features.shape:
        raise ValueError(
            "features must be (N, D), at least one, and queries (Q, D) of the same D, "
            f"not {features.shape} and {queries.shape}."
        )
    if k != int(k) or not 1 <= k <= len(features):
        raise ValueError(f"k must be a whole number from 1 to {len(features)}, the number of features, not {k}.")
    k = int(k)
    lengths, query_lengths = _lengths("features", features), _lengths("queries", queries)
    indices, similarities = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    rows = max(1, BLOCK // len(features))
    for start in range(0, len(queries), rows):
        block = slice(start, start + rows)
        # the features are divided after the product: a normalised copy would double the memory
        cosines = (queries[block] / query_lengths[block, None]) @ features.T
        cosines /= lengths
        np.clip(np.round(cosines, 6, out=cosines), -1, 1, out=cosines)
        kth = np.partition(cosines, len(features) - k, axis=1)[:, len(features) - k]
        for row, (cosine, threshold) in enumerate(zip(cosines, kth), start):
            candidates = np.flatnonzero(cosine >= threshold)  # k, or more if some tie for the last place
            best = candidates[np.argsort(-cosine[candidates], kind="stable")[:k]]
            indices[row], similarities[row] = best, cosine[best]
    return indices, similarities


def _lengths(name: str, vectors: np.ndarray) -> np.ndarray:
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))  # without a temporary as large as the vectors
    if not np.isfinite(lengths).all():
        raise ValueError(f"{name} must be finite numbers; row {np.flatnonzero(~np.isfinite(lengths))[0]} is not.")
    return np.where(lengths > 0, lengths, np.float32(1))
