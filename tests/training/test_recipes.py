from d2lcls.training.recipes import RECIPES, shortened

import pytest


def test_as_long_as_it_is_nothing_changes():
    assert shortened("fast94", RECIPES["fast94"]["epochs"]) == RECIPES["fast94"]


@pytest.mark.parametrize("epochs", (1, 2, 4, 26))
def test_phases_keep_their_shares_and_the_last_epoch_is_whole(epochs):
    whole, short = RECIPES["fast94"], shortened("fast94", epochs)
    assert short["warmup_epochs"] / epochs == pytest.approx(whole["warmup_epochs"] / whole["epochs"])
    side, first = short["small_first"]
    assert side == whole["small_first"][0] and first < epochs
    assert first == pytest.approx(epochs * whole["small_first"][1] / whole["epochs"], abs=1)
