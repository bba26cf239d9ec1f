from d2lcls.explain import nearest_neighbours, neighbours

import numpy as np
import pytest

RNG = np.random.default_rng(0)


def naive(features, queries, k):
    indices = []
    for query in queries:
        cosines = [f @ query / np.linalg.norm(f) / np.linalg.norm(query) for f in features]
        indices.append(sorted(range(len(features)), key=lambda i: -cosines[i])[:k])
    return indices


@pytest.mark.parametrize("block", [1 << 24, 100, 1])
def test_like_a_loop_whatever_the_block(block, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    features, queries = RNG.normal(size=(40, 6)), RNG.normal(size=(17, 6))
    indices, similarities = nearest_neighbours(features, queries, k=4)
    assert indices.shape == similarities.shape == (17, 4)
    assert indices.dtype == np.int64 and similarities.dtype == np.float32
    assert indices.tolist() == naive(features, queries, 4)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = np.einsum("qkd,qd->qk", unit[indices], queries / np.linalg.norm(queries, axis=1, keepdims=True))
    np.testing.assert_allclose(similarities, expected, atol=2e-6)


def test_length_does_not_count():
    features = np.array([[10, 0], [0, 0.1], [-1, 0]], np.float32)
    indices, similarities = nearest_neighbours(features, [[0.2, 0.1]], k=3)
    assert indices.tolist() == [[0, 1, 2]]
    np.testing.assert_allclose(similarities, [[2 / 5**0.5, 1 / 5**0.5, -2 / 5**0.5]], atol=1e-6)


def test_ties_go_to_the_lower_index():
    one = RNG.normal(size=(1, 65)).astype(np.float32)
    features = np.concatenate([-one] + [one * scale for scale in RNG.uniform(0.1, 9, 30)])
    indices, similarities = nearest_neighbours(features, one, k=7)
    assert indices.tolist() == [[1, 2, 3, 4, 5, 6, 7]] and (similarities == 1).all()


def test_all_of_them_and_none_asked():
    features = RNG.normal(size=(5, 3))
    indices, similarities = nearest_neighbours(features, features, k=5)
    assert indices[:, 0].tolist() == [0, 1, 2, 3, 4] and np.sort(indices).tolist() == [[0, 1, 2, 3, 4]] * 5
    assert (np.diff(similarities, axis=1) <= 0).all() and np.abs(similarities).max() <= 1
    assert nearest_neighbours(features, features[:0], k=2)[0].shape == (0, 2)


def test_zeros_are_like_nothing():
    indices, similarities = nearest_neighbours([[0, 0], [1, 0], [-1, 0]], [[1, 0], [0, 0]], k=3)
    assert indices.tolist() == [[1, 0, 2], [0, 1, 2]] and similarities.tolist() == [[1, 0, -1], [0, 0, 0]]


def test_inputs_are_left_alone():
    features, queries = RNG.normal(size=(2, 6, 3)).astype(np.float32)
    before = features.copy(), queries.copy()
    nearest_neighbours(features, queries, 2)
    np.testing.assert_array_equal((features, queries), before)


@pytest.mark.parametrize(
    "features, queries, k, message",
    [
        (np.ones((4, 3)), np.ones((2, 2)), 1, r"the same D, not \(4, 3\) and \(2, 2\)"),
        (np.ones(3), np.ones((2, 3)), 1, r"not \(3,\) and \(2, 3\)"),
        (np.ones((0, 3)), np.ones((2, 3)), 1, "at least one"),
        (np.ones((4, 3)), np.ones((2, 3)), 5, "k must be a whole number from 1 to 4, the number of features, not 5"),
        (np.ones((4, 3)), np.ones((2, 3)), 0, "from 1 to 4"),
        (np.ones((4, 3)), np.ones((2, 3)), 1.5, "whole number"),
        ([[1, 1], [np.nan, 1]], [[1, 1]], 1, "features must be finite numbers; row 1 is not"),
        ([[1, 1]], [[np.inf, 1]], 1, "queries must be finite numbers; row 0"),
    ],
)
def test_what_does_not_fit_is_named(features, queries, k, message):
    with pytest.raises(ValueError, match=message):
        nearest_neighbours(features, queries, k)
