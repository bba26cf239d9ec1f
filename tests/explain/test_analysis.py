from statistics import NormalDist

from d2lcls.explain import Analysis, most_mistaken, wilson_interval

import numpy as np
import pytest

CLASSES = ("cat", "dog", "owl")


def analysis():
    """Six images: a cat and two dogs recognised; a dog surely and a cat barely taken for a cat and a dog; no owl."""
    logits = np.log([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.1, 0.8, 0.1], [0.2, 0.6, 0.2], [0.97, 0.02, 0.01]])
    return Analysis((logits + 3).astype(np.float32), np.array([0, 0, 1, 1, 1]), CLASSES)


def test_score_and_weak_classes():
    found = analysis()
    assert len(found) == 5 and found.hits == 3 and found.accuracy == 0.6
    assert found.counts.tolist() == [2, 3, 0] and found.matrix.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]
    assert found.balanced == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found.weakest() == [0, 1]  # no word on the owl
    assert found.interval == wilson_interval(3, 5)


def test_the_worst_mistakes_are_those_with_the_largest_loss():
    found = analysis()
    np.testing.assert_allclose(found.losses, -np.log([0.7, 0.4, 0.8, 0.6, 0.02]), rtol=1e-5)
    np.testing.assert_allclose(found.probabilities[4], [0.97, 0.02, 0.01], rtol=1e-5)
    assert found.worst(10) == [4, 1] and found.worst(1) == [4]


def test_logits_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="the training diverged"):
        Analysis(np.array([[0, np.nan]]), np.array([0]), ("a", "b"))


def test_mistakes_are_listed_by_direction():
    matrix = np.array([[90, 3, 0], [4, 80, 1], [0, 9, 70]])
    assert most_mistaken(matrix, CLASSES, 3) == [("owl", "dog", 9), ("dog", "cat", 4), ("cat", "dog", 3)]
    assert most_mistaken(np.diag([3, 2, 1]), CLASSES) == []


@pytest.mark.parametrize(
    "hits, images, low, high",
    [  # from Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_agrees_with_published_values(hits, images, low, high):
    assert wilson_interval(hits, images) == pytest.approx((low, high), abs=6e-5)
    assert wilson_interval(images - hits, images) == pytest.approx((1 - high, 1 - low), abs=6e-5)


def test_wilsons_interval_ends_where_the_test_of_that_accuracy_just_rejects():
    for limit in wilson_interval(37, 50, 0.9):
        assert abs(37 / 50 - limit) / (limit * (1 - limit) / 50) ** 0.5 == pytest.approx(NormalDist().inv_cdf(0.95))


@pytest.mark.parametrize("hits, images", [(-1, 5), (6, 5), (0, 0)])
def test_impossible_counts_are_refused(hits, images):
    with pytest.raises(ValueError, match="hits must lie between 0 and images"):
        wilson_interval(hits, images)
