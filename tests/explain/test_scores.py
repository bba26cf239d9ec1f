from d2lcls.explain import balanced_accuracy, confusion_matrix, per_class_accuracy, softmax

import numpy as np
import pytest

MATRIX = np.array([[90, 10, 0], [5, 5, 0], [0, 0, 0]])


def test_a_class_without_images_is_nan_and_left_out():
    np.testing.assert_array_equal(per_class_accuracy(MATRIX), [0.9, 0.5, np.nan])
    assert balanced_accuracy(MATRIX) == pytest.approx(0.7)  # not 95 of 110


def test_like_a_loop():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    expected = [(predicted[labels == c] == c).mean() for c in range(4)]
    matrix = confusion_matrix(labels, predicted, 4)
    np.testing.assert_allclose(per_class_accuracy(matrix), expected)
    assert balanced_accuracy(matrix) == pytest.approx(np.mean(expected))


def test_always_the_common_class_is_chance():
    assert balanced_accuracy([[1000, 0], [10, 0]]) == 0.5


@pytest.mark.parametrize(
    "matrix, message",
    [
        (np.zeros((2, 3)), r"shape \(K, K\), .* not \(2, 3\)"),
        (np.zeros((0, 0)), r"not \(0, 0\)"),
        ([1, 2], r"not \(2,\)"),
        ([[1, -1], [0, 1]], "counts of 0 or more .* down to -1"),
        ([[np.nan]], "counts"),
    ],
)
@pytest.mark.parametrize("score", [per_class_accuracy, balanced_accuracy])
def test_what_does_not_fit_is_named(score, matrix, message):
    with pytest.raises(ValueError, match=message):
        score(matrix)


def test_no_image_at_all():
    assert np.isnan(per_class_accuracy(np.zeros((2, 2)))).all()
    with pytest.raises(ValueError, match="holds no image"):
        balanced_accuracy(np.zeros((2, 2), int))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_is_along_the_last_axis_and_does_not_overflow(dtype):
    logits = np.array([[[0, np.log(3)], [1e30, 1e30]], [[-1e30, 0], [700, 700 + np.log(4)]]], dtype)
    probabilities = softmax(logits)
    assert probabilities.dtype == dtype
    np.testing.assert_allclose(probabilities, [[[0.25, 0.75], [0.5, 0.5]], [[0, 1], [0.2, 0.8]]], rtol=1e-4)
    np.testing.assert_array_equal(softmax(logits[0, 0]), probabilities[0, 0])
