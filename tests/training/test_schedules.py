import math

from d2lcls.training.schedules import SCHEDULES, constant, cosine, exponential, step

import pytest


def test_warm_up_climbs_in_a_line_to_the_full_rate():
    rate = cosine(0.4, total_steps=100, warmup_steps=4)
    assert [rate(s) for s in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])


def test_cosine_is_half_way_down_in_the_middle_and_ends_at_the_final_share():
    rate = cosine(1.0, total_steps=100, final=0.2)
    assert rate(50) == pytest.approx(0.6)
    assert rate(100) == pytest.approx(0.2)
    assert rate(25) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)


def test_step_falls_at_its_milestones():
    rate = step(1.0, total_steps=100, milestones=(0.5, 0.75), factor=0.1)
    assert [rate(s) for s in (0, 49, 50, 74, 75, 99)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_exponential_shrinks_by_one_factor_a_step():
    rate = exponential(1.0, total_steps=10, final=0.01)
    ratios = [rate(s + 1) / rate(s) for s in range(10)]
    assert ratios == pytest.approx([ratios[0]] * 10)
    assert rate(10) == pytest.approx(0.01)


def test_constant_stays():
    rate = constant(0.3, total_steps=10)
    assert {rate(s) for s in range(10)} == {0.3}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_that_is_all_warm_up_is_allowed(name):
    assert SCHEDULES[name](1.0, total_steps=5, warmup_steps=5)(4) == 1.0


@pytest.mark.parametrize("name", SCHEDULES)
def test_bad_arguments_are_named(name):
    with pytest.raises(ValueError, match="above 0, not -1"):
        SCHEDULES[name](-1, 10)
    with pytest.raises(ValueError, match="the 10 steps of the run, not 11"):
        SCHEDULES[name](1, 10, 11)
