import re

from d2lcls.book import plots
from d2lcls.book.statistics import Interval, compare, holm, mean_interval, paired_difference, rank_correlation

import numpy as np
import pytest
from scipy import stats

A, B = [71.0, 71.5, 70.9, 71.0], [70.2, 71.0, 69.8, 70.6]


def test_the_example_that_the_book_works_out_by_hand():
    found = paired_difference(A, B)
    assert found.mean == pytest.approx(0.7)
    assert (found.low, found.high) == pytest.approx((0.7 - 3.182 * 0.1**0.5 / 2, 0.7 + 3.182 * 0.1**0.5 / 2), abs=1e-3)
    assert found.shown and str(found) == "+0.70 (+0.20 to +1.20)"
    assert paired_difference(B, A).mean == pytest.approx(-0.7)


def test_it_agrees_with_scipy():
    found = paired_difference(A, B)
    reference = stats.ttest_rel(A, B)
    assert found.p == pytest.approx(reference.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert mean_interval(A, 0.9).high == pytest.approx(stats.ttest_1samp(A, 0).confidence_interval(0.9).high)


def test_an_interval_shows_a_difference_exactly_if_its_p_value_is_at_most_5_percent():
    rng = np.random.default_rng(0)
    found = [mean_interval(rng.normal(1, 1, size=5)) for _ in range(300)]
    assert [each.shown for each in found] == [each.p < 0.05 for each in found]
    assert {each.shown for each in found} == {True, False}


def test_the_interval_contains_the_true_mean_in_95_of_100_experiments():
    rng = np.random.default_rng(0)
    found = [mean_interval(values) for values in rng.normal(0.5, 1.0, size=(4000, 5))]
    assert np.mean([each.low <= 0.5 <= each.high for each in found]) == pytest.approx(0.95, abs=0.015)


def test_an_interval_with_0_says_so():
    found = mean_interval([-1.0, 1.0, 0.5])
    assert not found.shown and str(found).endswith("no difference shown")


def test_equal_differences_leave_no_doubt():
    assert paired_difference([2.0, 3.0], [1.0, 2.0]) == Interval(1.0, 1.0, 1.0, 0.0)
    same = paired_difference(A, A)
    assert same == Interval(0.0, 0.0, 0.0, 1.0) and not same.shown


@pytest.mark.parametrize("values", [[], [1.0], [1.0, np.nan], [[1.0, 2.0], [3.0, 4.0]]])
def test_values_that_have_no_interval_are_refused(values):
    with pytest.raises(ValueError, match="at least two finite numbers"):
        mean_interval(values)


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=re.escape("the same seeds, not (4,) and (3,)")):
        paired_difference(A, B[:3])
    with pytest.raises(ValueError, match="confidence must be"):
        mean_interval(A, 95)
    for p_values in ([], [0.1, 1.2], [np.nan]):
        with pytest.raises(ValueError, match="from 0 to 1"):
            holm(p_values)
    with pytest.raises(ValueError, match="at least one setting"):
        compare(A, {})


def test_holm_s_correction():
    np.testing.assert_allclose(holm([0.030, 0.012, 0.040]), [0.060, 0.036, 0.060])  # the book's example
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
    np.testing.assert_allclose(holm([0.02]), [0.02])


def test_holm_s_correction_limits_the_risk_of_any_false_finding():
    rng = np.random.default_rng(0)
    false = [(holm(stats.ttest_1samp(rng.normal(size=(5, 8)), 0).pvalue) <= 0.05).any() for _ in range(1500)]
    assert np.mean(false) < 0.07


def test_several_settings_are_corrected_together():
    rng = np.random.default_rng(1)
    base = rng.normal(70, 0.3, size=5)
    found = compare(base, {"better": base + rng.normal(3, 0.2, size=5), "same": base + rng.normal(0, 0.5, size=5)})
    assert [shown for _, shown in found.values()] == [True, False]
    assert found["better"][0].mean == pytest.approx(3, abs=0.5)


def test_a_figure_shows_each_seed_and_the_interval():
    figure = plots.show_differences({"with": np.subtract(A, B), "without": [0.1, -0.1, 0.0]}, "points", "A finding")
    (axis,) = figure.axes
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["with", "without"]
    assert axis.get_xlabel() == "points" and "A finding" in (axis.get_title(), axis.get_title(loc="left"))
    seeds = [collection.get_offsets()[:, 0] for collection in axis.collections if len(collection.get_offsets()) > 1]
    np.testing.assert_allclose(seeds[0], np.subtract(A, B))
    bars = [line.get_xdata() for line in axis.lines if len(line.get_xdata()) == 2 and line.get_xdata()[1]]
    np.testing.assert_allclose(bars[0], paired_difference(A, B)[1:3])


def test_rank_correlation_counts_pairs_in_the_same_order():
    found = rank_correlation([1, 2, 3, 4, 5], [1, 2, 3, 5, 4])
    assert found.mean == pytest.approx(8 / 10) and found.p == stats.kendalltau([1, 2, 3, 4, 5], [1, 2, 3, 5, 4]).pvalue
    assert rank_correlation([1, 2, 3, 4, 5], [50, 40, 30, 20, 10]).mean == pytest.approx(-1)
    perfect = rank_correlation(np.arange(8), np.arange(8) ** 3)
    assert perfect.mean == pytest.approx(1) and 0 < perfect.low < 1 and 0.95 < perfect.high < 1


def test_intervals_of_rank_correlations_contain_the_true_one_in_95_of_100_experiments():
    rng, rho = np.random.default_rng(0), 0.7
    draws = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], size=(1000, 15))
    true = 2 / np.pi * np.arcsin(rho)  # of normal numbers with this correlation
    found = [rank_correlation(*sample.T) for sample in draws]
    assert np.mean([each.low <= true <= each.high for each in found]) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    "a, b, message",
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], "five or more"),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4], "as many finite numbers"),
        ([1, 2, 3, 4, np.nan], [1, 2, 3, 4, 5], "as many finite numbers"),
        ([1, 1, 1, 1, 1], [1, 2, 3, 4, 5], "have no order"),
    ],
)
def test_rank_correlation_needs_two_orders(a, b, message):
    with pytest.raises(ValueError, match=message):
        rank_correlation(a, b)
