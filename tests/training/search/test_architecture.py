import dataclasses

from d2lcls.models import get_model, summarize
from d2lcls.models.fast94 import Architecture
from d2lcls.training import RECIPES
from d2lcls.training.search import Rejected, best_trial, trials_table, tune_architecture
from d2lcls.training.search.architecture import FAST94, SPACE, candidate, draw, fitted

import numpy as np
import pytest

NARROW = Architecture((16, 32, 32))
PLAIN = {**{f"width_{g}": 1.0 for g in (1, 2, 3)}, **{f"convolutions_{g}": 2 for g in (1, 2, 3)}}
PLAIN |= {f"kernel_{g}": 3 for g in (1, 2, 3)}


def test_the_proportions_of_fast94_give_fast94():
    assert fitted(PLAIN) == FAST94
    assert fitted(PLAIN, NARROW) == NARROW


def test_candidates_have_the_multiply_adds_of_the_reference():
    rng = np.random.default_rng(0)
    for reference in (FAST94, Architecture((32, 128, 128))):
        budget = reference.multiply_adds()
        drawn = [draw(rng, reference) for _ in range(40)]
        assert all(abs(each.multiply_adds() / budget - 1) <= 0.05 for each in drawn)
        assert len(set(drawn)) > 35 and len({each.kernels for each in drawn}) == 8
        assert {number for each in drawn for number in each.convolutions} == {1, 2, 3}
        assert all(width % 8 == 0 for each in drawn for width in each.widths)
        assert all(width <= 2 * own for each in drawn for width, own in zip(each.widths, reference.widths))


def test_multiply_adds_are_those_that_are_counted():
    net = get_model(draw(np.random.default_rng(1)).name, classes=7)
    net.initialize()
    architecture = draw(np.random.default_rng(1))
    assert architecture.multiply_adds(classes=7) == summarize(net, (3, 32, 32)).multiply_adds


def test_what_misses_the_budget_is_rejected():
    wide = {**PLAIN, "width_1": 2.0, "width_2": 0.5, "width_3": 0.5, "convolutions_1": 1}
    assert fitted(wide) is None  # its first group would be more than twice as wide
    with pytest.raises(Rejected):
        candidate(RECIPES["fast94"], wide)
    assert candidate(RECIPES["fast94"], {**PLAIN, "kernel_3": 5}).model.endswith("-k3x3x5")


def test_random_values_are_those_of_the_space():
    rng = np.random.default_rng(0)
    drawn = [{name: parameter.draw(rng) for name, parameter in SPACE.items()} for _ in range(200)]
    widths = np.array([values["width_1"] for values in drawn])
    assert widths.min() >= 0.5 and widths.max() <= 2 and 0.4 < (widths < 1).mean() < 0.6  # evenly in log
    assert {values["convolutions_2"] for values in drawn} == {1, 2, 3}
    assert {values["kernel_2"] for values in drawn} == {3, 5}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """Fast94's recipe for a folder of twelve dark and twelve bright pictures of noise, with a narrow network."""
    from PIL import Image

    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for shift, name in ((0, "dark"), (100, "bright")):
        (root / name).mkdir()
        for number in range(12):
            Image.fromarray(rng.integers(0, 100, (32, 32, 3), dtype=np.uint8) + np.uint8(shift)).save(
                root / name / f"{number}.png"
            )
    return dataclasses.replace(
        RECIPES["fast94"].scaled(1),
        dataset=str(root),
        model=NARROW.name,
        batch_size=8,
        validation=0.25,
        precision="float32",
    )


def test_search_trains_only_what_is_within_the_budget(recipe, tmp_path):
    storage = f"sqlite:///{tmp_path}/tune.db"
    study = tune_architecture(recipe, trials=2, storage=storage, verbose=False, at_random=True)
    records = trials_table(study)
    assert [record.state for record in records] == ["complete"] * 2 and best_trial(study) in records
    assert len(study.get_trials()) > 2  # with so narrow a network, many are rejected
    for record in records:
        model = candidate(recipe, record.parameters).model
        assert abs(Architecture.named(model).multiply_adds() / NARROW.multiply_adds() - 1) <= 0.05
    again = tune_architecture(recipe, trials=3, storage=storage, verbose=False, at_random=True)
    assert trials_table(again)[:2] == records and len(trials_table(again)) == 3


def test_networks_of_other_families_are_refused(recipe):
    with pytest.raises(ValueError, match="'cnn' must be fast94 with three widths"):
        tune_architecture(dataclasses.replace(recipe, model="cnn"), trials=1, storage=None)
