from d2lcls.explain import confusion_matrix, most_confused

import numpy as np
import pytest


def test_counted_like_a_loop():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, 500), rng.integers(0, 4, 500)
    expected = np.zeros((4, 4), dtype=int)
    for true, guess in zip(labels, predicted):
        expected[true, guess] += 1
    matrix = confusion_matrix(labels, predicted, 4)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, expected)


def test_rows_are_true_and_columns_predicted():
    assert confusion_matrix([0, 0, 1], [1, 1, 1], 2).tolist() == [[0, 2], [0, 1]]


def test_classes_without_images_keep_their_place():
    assert confusion_matrix([1], [1], 3).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert confusion_matrix([], [], 2).tolist() == [[0, 0], [0, 0]]


def test_small_integer_types_do_not_overflow():
    labels = np.full(10, 199, dtype=np.uint8)
    assert confusion_matrix(labels, labels, 200)[199, 199] == 10


def test_mxnets_floats_are_counted():
    assert confusion_matrix([0, 1], np.array([1, 1], dtype=np.float32), 2).tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    "labels, predicted, message",
    [
        ([0, 1], [0], r"one shape \(N,\), not \(2,\) and \(1,\)"),
        ([[0, 1]], [[0, 1]], r"one shape \(N,\)"),
        ([0, 3], [0, 1], "labels must lie between 0 and 2; they lie between 0 and 3"),
        ([0, 1], [-1, 1], "predicted must lie between 0 and 2; they lie between -1 and 1"),
        ([0.5, 1.0], [0, 1], "labels must be whole numbers; one is 0.5"),
        ([0, 1], [float("nan"), 1], "predicted must lie between 0 and 2"),
    ],
)
def test_what_does_not_fit_is_named(labels, predicted, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(labels, predicted, 3)


def test_pairs_count_both_directions_and_leave_out_the_diagonal():
    matrix = np.array([[90, 3, 0], [4, 80, 1], [0, 9, 70]])
    assert most_confused(matrix, ("cat", "dog", "deer")) == [("dog", "deer", 10), ("cat", "dog", 7)]
    assert most_confused(matrix, ("cat", "dog", "deer"), top=1) == [("dog", "deer", 10)]
    assert most_confused(np.eye(3, dtype=int), "abc") == []
