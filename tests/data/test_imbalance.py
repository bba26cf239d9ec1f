from d2lcls.data import Images, class_weights, long_tailed, take_evenly, take_per_class

import numpy as np
import pytest


def made(*counts, seed=0):
    """Images of one pixel in two bytes that hold their own number; classes shuffled among each other."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    numbers = np.arange(len(labels))
    images = np.stack([numbers // 256, numbers % 256], axis=1).astype(np.uint8)[:, None, None]
    return Images(images, labels, tuple("abcdefghij"[: len(counts)]), "made")


def numbers(data):
    return data.images[:, 0, 0, 0].astype(int) * 256 + data.images[:, 0, 0, 1]


@pytest.mark.parametrize("ratio", [1, 2, 10, 100.0])
def test_a_long_tail_falls_by_the_same_factor_from_class_to_class(ratio):
    counts = long_tailed(made(*[500] * 6), ratio).counts()
    np.testing.assert_array_equal(counts, [round(500 * ratio ** (-k / 5)) for k in range(6)])
    assert counts[0] == 500 and counts[-1] == 500 / ratio


def test_a_long_tail_starts_from_the_smallest_class():
    assert long_tailed(made(90, 40, 60), 4).counts().tolist() == [40, 20, 10]


def test_every_class_keeps_an_image():
    assert long_tailed(made(10, 10, 10), 1e6).counts().tolist() == [10, 1, 1]
    assert long_tailed(made(7), 100).counts().tolist() == [7]


SUBSETS = {"long_tailed": lambda data, n, **seed: long_tailed(data, 20 / n, **seed), "take_per_class": take_per_class}


@pytest.mark.parametrize("subset", SUBSETS.values(), ids=SUBSETS)
def test_subsets_keep_order_and_labels_and_are_nested(subset):
    data, larger = made(20, 30, 25, 20), None
    label = dict(zip(numbers(data), data.labels))
    for n in (20, 11, 3, 1):
        part = subset(data, n, seed=4)
        kept = numbers(part)
        assert (np.diff(kept) > 0).all() and part.classes == data.classes  # made in ascending order
        assert [label[number] for number in kept] == part.labels.tolist()
        assert larger is None or set(kept) < larger
        larger = set(kept)


@pytest.mark.parametrize("subset", SUBSETS.values(), ids=SUBSETS)
def test_the_seed_decides_which(subset):
    data = made(20, 30, 25, 20)
    np.testing.assert_array_equal(numbers(subset(data, 5, seed=1)), numbers(subset(data, 5, seed=1)))
    assert set(numbers(subset(data, 5, seed=1))) != set(numbers(subset(data, 5, seed=2)))


def test_take_per_class_takes_n_and_draws_evenly():
    data, taken = made(8, 12), np.zeros(20)
    for seed in range(300):
        part = take_per_class(data, 3, seed)
        assert part.counts().tolist() == [3, 3]
        taken[numbers(part)] += 1
    expected = np.where(data.labels == 0, 300 * 3 / 8, 300 * 3 / 12)
    assert (abs(taken - expected) < 5 * np.sqrt(expected)).all()


@pytest.mark.parametrize("ratio", [0.5, 0, -3, float("nan"), float("inf")])
def test_bad_ratios(ratio):
    with pytest.raises(ValueError, match=r"ratio must be 1 \(equal counts\) or more, not"):
        long_tailed(made(5, 5), ratio)


def test_a_long_tail_needs_every_class():
    with pytest.raises(ValueError, match="made: class 'b' has no image"):
        long_tailed(made(5, 0, 5), 2)


@pytest.mark.parametrize("n", [0, -1, 2.0, True, None])
def test_bad_numbers_of_images(n):
    with pytest.raises(ValueError, match=f"n must be a number of images, 1 or more, not {n!r}"):
        take_per_class(made(5, 5), n)


def test_take_per_class_names_the_class_that_is_short():
    with pytest.raises(ValueError, match="class 'c' has 2 images, fewer than the 4 wanted of each class. Ask for 2"):
        take_per_class(made(5, 3, 2), 4)


@pytest.mark.parametrize(
    "counts, n, expected",
    [
        ((100, 30), 256, [100, 30]),
        ((100, 30), 130, [100, 30]),
        ((100, 30), 90, [60, 30]),
        ((30, 100), 20, [10, 10]),
        ((5, 1, 40, 9), 30, [5, 1, 15, 9]),
        ((7,), 3, [3]),
        ((4, 0, 4), 6, [3, 0, 3]),
    ],
)
def test_take_evenly_fills_up_from_the_larger_classes(counts, n, expected):
    data = made(*counts)
    part = take_evenly(data, n)
    kept = numbers(part)
    assert part.counts().tolist() == expected and (np.diff(kept) > 0).all()
    assert part.labels.tolist() == data.labels[kept].tolist()


def test_take_evenly_lets_chance_decide_who_gives_one_more():
    counts = np.array([take_evenly(made(9, 2, 9, 9), 12, seed).counts() for seed in range(60)])
    assert (
        (counts.sum(axis=1) == 12).all() and (counts[:, 1] == 2).all() and set(counts[:, [0, 2, 3]].ravel()) == {3, 4}
    )
    assert len({tuple(row) for row in counts}) == 3
    few = np.array([take_evenly(made(*[3] * 8), 2, seed).counts() for seed in range(60)])
    assert (few.sum(axis=1) == 2).all() and (few.sum(axis=0) > 0).all()


@pytest.mark.parametrize("n", [0, -1, 2.0, True, None])
def test_take_evenly_needs_a_number(n):
    with pytest.raises(ValueError, match=f"n must be a number of images, 1 or more, not {n!r}"):
        take_evenly(made(5, 5), n)


COUNTS = np.array([5000, 700, 31, 1])


def test_inverse_frequency_gives_every_class_the_same_say():
    weights = class_weights(COUNTS)
    assert weights.dtype == np.float32 and weights.shape == (4,)
    np.testing.assert_allclose(weights * COUNTS, COUNTS.sum() / 4, rtol=1e-6)


@pytest.mark.parametrize("beta", [0, 0.9, 0.999, 0.9999, 1 - 1e-9, 1])
def test_the_mean_weight_of_an_image_is_1(beta):
    for counts in (COUNTS, [3, 0, 4], [7]):
        assert class_weights(counts, beta) @ np.asarray(counts) / np.sum(counts) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.9999])
def test_weights_are_the_inverse_effective_number(beta):
    effective = [sum(beta**i for i in range(n)) for n in COUNTS]  # the geometric series of the paper
    weights = class_weights(COUNTS, beta)
    np.testing.assert_allclose(weights / weights[3], effective[3] / np.array(effective), rtol=1e-5)


def test_the_ends_of_beta():
    np.testing.assert_array_equal(class_weights(COUNTS, 0), 1)
    np.testing.assert_allclose(class_weights(COUNTS, 1 - 1e-10), class_weights(COUNTS), rtol=1e-4)


@pytest.mark.parametrize("beta", [0, 0.99, 1])
def test_a_class_without_images_weighs_nothing(beta):
    weights = class_weights([10, 0, 30], beta)
    assert weights[1] == 0 and (weights[[0, 2]] > 0).all()
    np.testing.assert_array_equal(weights[[0, 2]], class_weights([10, 30], beta))


@pytest.mark.parametrize("counts", [[0, 0], [], [3, -1], [0.5, 2.0], [[3, 4]], 7])
def test_bad_counts(counts):
    with pytest.raises(ValueError, match="counts must be whole numbers from 0, one for each class and not all 0"):
        class_weights(counts)


@pytest.mark.parametrize("beta", [-0.1, 1.1, float("nan")])
def test_bad_beta(beta):
    with pytest.raises(ValueError, match="beta must lie between 0"):
        class_weights([3, 4], beta)
