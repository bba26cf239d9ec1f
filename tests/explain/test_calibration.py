from d2lcls.explain import calibration_curve, fit_temperature

import numpy as np
import pytest

RNG = np.random.default_rng(0)


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def loss(logits, labels, temperature):
    return -np.log(softmax(logits / temperature)[np.arange(len(labels)), labels]).mean()


def drawn(n, classes, temperature):
    """Logits and labels of a network that is too sure by a known temperature."""
    logits = RNG.normal(0, 1.5, (n, classes))
    labels = (softmax(logits).cumsum(axis=1) > RNG.random((n, 1))).argmax(axis=1)
    return logits * temperature, labels


def test_curve_like_a_loop():
    logits, labels = drawn(500, 4, 2.0)
    curve = calibration_curve(logits, labels, bins=10)
    probabilities, error = softmax(logits), 0
    for b in range(10):
        low, high = b / 10, (b + 1) / 10
        inside = [i for i in range(500) if low < probabilities[i].max() <= high]
        assert curve.count[b] == len(inside)
        if inside:
            sure = np.mean([probabilities[i].max() for i in inside])
            right = np.mean([probabilities[i].argmax() == labels[i] for i in inside])
            assert curve.confidence[b] == pytest.approx(sure) and curve.accuracy[b] == pytest.approx(right)
            error += len(inside) / 500 * abs(sure - right)
        else:
            assert np.isnan(curve.confidence[b]) and np.isnan(curve.accuracy[b])
    assert curve.error == pytest.approx(error) and curve.count.sum() == 500
    assert (curve.count == 0).any()  # below 1 / 4
    np.testing.assert_allclose(curve.edges, np.linspace(0, 1, 11))


def test_bins_hold_their_upper_edge():
    curve = calibration_curve([[0, 0], [0, 0], [1000, 0]], [0, 1, 1], bins=2)  # confidence 1/2, 1/2 and 1
    assert curve.count.tolist() == [2, 1]
    assert curve.accuracy.tolist() == [0.5, 0] and curve.confidence.tolist() == [0.5, 1]
    assert curve.error == pytest.approx(1 / 3)


def test_of_a_sure_and_right_network_the_error_is_0():
    assert calibration_curve(1e4 * np.eye(3, dtype=np.float32), [0, 1, 2]).error == 0


def test_a_curve_cannot_be_changed():
    curve = calibration_curve([[0, 1]], [0])
    with pytest.raises(AttributeError):
        curve.error = 0


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_is_found_again(temperature):
    logits, labels = drawn(20_000, 5, temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)
    calibrated = calibration_curve(logits / fit_temperature(logits, labels), labels)
    assert calibrated.error < 0.02
    if temperature != 1:
        assert calibration_curve(logits, labels).error > 3 * calibrated.error


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("n, classes", [(12, 2), (200, 100)])
def test_no_other_temperature_is_better(n, classes, scale):
    logits, labels = drawn(n, classes, 1.0)
    logits[0, (labels[0] + 1) % classes] = logits[0].max() + 0.5  # one is wrong, whatever was drawn
    found = fit_temperature(scale * logits, labels)
    best = loss(scale * logits, labels, found)
    for factor in (0.9, 0.999, 1.001, 1.1):
        assert loss(scale * logits, labels, factor * found) > best
    assert found / scale == pytest.approx(fit_temperature(logits, labels), rel=1e-9)


def test_closed_form_of_two_classes():
    # gap g, right with probability p: best where the sigmoid of g / T is p
    labels = np.array([0] * 9 + [1])
    logits = np.tile([3.0, 0.0], (10, 1))
    assert fit_temperature(logits, labels) == pytest.approx(3 / np.log(9), rel=1e-10)


def test_one_error_by_a_hair():
    logits = np.array([[5.0, 0], [0, 5], [1e-9, 0]])
    labels = np.array([0, 1, 1])
    found = fit_temperature(logits, labels)
    assert 0 < found < 1
    for factor in (0.9, 1.1):
        assert loss(logits, labels, factor * found) >= loss(logits, labels, found)


@pytest.mark.parametrize(
    "logits, labels, message",
    [
        ([[2, 1], [0, 3]], [0, 1], "None of the 2 images has a logit above that of its true class"),
        ([[2, 2], [0, 3]], [1, 1], "None of the 2 images"),
        ([[2, 1], [0, 3]], [1, 0], "no higher than the others on average"),
        ([[1, 1], [1, 1]], [1, 0], "no higher than the others on average"),
    ],
)
def test_no_temperature_is_best(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, labels)


@pytest.mark.parametrize("call", [calibration_curve, fit_temperature])
@pytest.mark.parametrize(
    "logits, labels, message",
    [
        ([1, 2], [0, 1], r"logits must be \(N, K\) and labels \(N,\), at least one, not \(2,\) and \(2,\)"),
        (np.zeros((0, 3)), [], "at least one"),
        ([[1, 2]], [0, 1], r"not \(1, 2\) and \(2,\)"),
        ([[1, 2]], [2], "whole numbers from 0 to 1, the columns of logits; they lie between 2 and 2"),
        ([[1, 2]], [0.5], "whole numbers"),
        ([[1, np.nan]], [0], "finite"),
    ],
)
def test_what_does_not_fit_is_named(call, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        call(logits, labels)


@pytest.mark.parametrize("bins", [0, -3, 2.5])
def test_bins_are_whole_numbers(bins):
    with pytest.raises(ValueError, match="bins must be a whole number of 1 or more"):
        calibration_curve([[1, 2]], [0], bins)
