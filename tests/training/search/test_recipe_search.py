import dataclasses
import shutil

from d2lcls.training import Recipe
from d2lcls.training.search import (
    best_trial,
    pareto_front,
    read_space,
    trials_table,
    tune,
    tune_recipe,
    uniform,
    with_values,
)

import numpy as np
import pytest
from PIL import Image

PLANE = {"x": uniform(0, 1), "y": uniform(0, 1)}
BOTH = {"good": "maximize", "cost": "minimize"}


def two(trial, x, y):
    return x * (1 - y), x


def test_front_is_what_no_trial_beats():
    study = tune(two, PLANE, trials=30, storage=None, objectives=BOTH, verbose=False)
    records, front = trials_table(study), pareto_front(study)
    beaten = {
        record.number
        for record in records
        for other in records
        if other.value >= record.value and other.others[0] <= record.others[0] and other != record
    }
    assert {record.number for record in front} == {record.number for record in records} - beaten
    assert 2 <= len(front) < 30 and [r.value for r in front] == sorted((r.value for r in front), reverse=True)
    assert all(record.value == two(None, **record.parameters)[0] for record in records)
    assert all(record.others == two(None, **record.parameters)[1:] for record in records)
    assert best_trial(study) == front[0] and study.metric_names == ["good", "cost"]


def test_several_objectives_find_more_than_chance():
    def volume(front):
        """Area of the plane that a front dominates, with the goods upwards and a cost of 1 as the worst."""
        points = sorted((record.others[0], record.value) for record in front)
        costs = [cost for cost, _ in points] + [1]
        return sum(good * (after - cost) for (cost, good), after in zip(points, costs[1:]))

    volumes = {
        at_random: np.mean(
            [
                volume(
                    pareto_front(
                        tune(
                            two,
                            PLANE,
                            trials=40,
                            storage=None,
                            seed=seed,
                            objectives=BOTH,
                            at_random=at_random,
                            verbose=False,
                        )
                    )
                )
                for seed in range(3)
            ]
        )
        for at_random in (False, True)
    }
    assert volumes[False] > volumes[True]


def test_lines_of_trials_show_all_objectives(capsys):
    tune(two, PLANE, trials=1, storage=None, objectives=BOTH)
    assert len(capsys.readouterr().out.split("complete")[1].split("x")[0].split()) == 2


@pytest.mark.parametrize(
    "before, after", [(BOTH, None), (None, BOTH), (BOTH, {"good": "maximize", "size": "minimize"})]
)
def test_other_objectives_are_refused(tmp_path, before, after):
    def objective(objectives):
        return two if objectives else lambda trial, x, y: x

    storage = f"sqlite:///{tmp_path}/tune.db"
    tune(objective(before), PLANE, trials=1, storage=storage, objectives=before, verbose=False)
    with pytest.raises(ValueError, match="was started with other objectives: (good, cost|one).*another name"):
        tune(objective(after), PLANE, trials=1, storage=storage, objectives=after, verbose=False)


def test_as_many_numbers_as_objectives_are_needed():
    with pytest.raises(ValueError, match="objective must return 2 finite numbers, not 0.5"):
        tune(lambda trial, x, y: 0.5, PLANE, trials=1, storage=None, objectives=BOTH)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of two classes of coloured noise, 15 pictures each."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for channel, name in enumerate(("red", "green")):
        (root / name).mkdir(parents=True)
        for number in range(15):
            image = rng.integers(0, 100, (40, 40, 3), dtype=np.uint8)
            image[..., channel] += 120
            Image.fromarray(image).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def recipe(photos):
    return Recipe(dataset=str(photos), num_epochs=1, validation=0.2, batch_size=8, size=32, cache=True)


def test_pictures_are_decoded_once(photos, recipe, tmp_path):
    """From the second trial on, the files are not there any more."""
    copy, calls = tmp_path / "photos", []
    shutil.copytree(photos, copy)

    def candidate(recipe, values):
        calls.append(values)
        if len(calls) == 2:
            shutil.rmtree(copy)
        return with_values(recipe, values)

    recipe = dataclasses.replace(recipe, dataset=str(copy))
    space = read_space({"lr": "0.01..0.1", "augment": "none,flip"})
    arguments = {"trials": 4, "storage": None, "verbose": False, "candidate": candidate}
    study = tune_recipe(recipe, space, **arguments)
    assert [record.state for record in trials_table(study)] == ["complete"] * 4
    calls.clear()
    shutil.copytree(photos, copy)
    with pytest.raises(OSError, match=".png"):
        tune_recipe(dataclasses.replace(recipe, cache=False), space, **arguments)


def test_costs_are_measured_once_for_each_network(recipe):
    space = read_space({"model": "cnn,mobilenet0.25", "size": "16,32", "lr": "0.01,0.02"})
    study = tune_recipe(
        dataclasses.replace(recipe, size=None),
        space,
        trials=6,
        storage=None,
        objectives=("multiply_adds", "latency", "accuracy"),
        verbose=False,
    )
    assert study.metric_names == ["accuracy", "multiply_adds", "latency"]
    costs = {}
    for record in trials_table(study):
        network = record.parameters["model"], record.parameters["size"]
        costs.setdefault(network, set()).add(record.others)
    assert len(costs) > 1 and all(len(values) == 1 for values in costs.values())
    assert all(milliseconds > 0 for values in costs.values() for _, milliseconds in values)
    for model in {model for model, size in costs}:
        sizes = {size: next(iter(values))[0] for (other, size), values in costs.items() if other == model}
        if len(sizes) == 2:
            assert 3.5 < sizes[32] / sizes[16] < 4.1


@pytest.mark.parametrize(
    "changes, entries, message",
    [
        (
            {},
            {"train_last": "1..2"},
            "train_last and unfreeze freeze layers, so the network must start from trained weights",
        ),
        ({"pretrained": True}, {"model": "mobilenet0.25,cnnn"}, "No image classifier is called 'cnnn'"),
        ({"validation": 0.0}, {"lr": "0.1,0.2"}, "validation must be above 0"),
        ({"optimizer": "adam"}, {"momentum": "0.8..0.9"}, "momentum goes with the optimizers sgd and nag only"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_first_trial(recipe, changes, entries, message):
    begun = []
    with pytest.raises(ValueError, match=message):
        tune_recipe(
            dataclasses.replace(recipe, **changes), read_space(entries), trials=1, storage=None, on_begin=begun.append
        )
    assert not begun


@pytest.mark.parametrize("objectives", [("latency",), ("accuracy", "speed"), ("accuracy", "accuracy"), ()])
def test_wrong_objectives(recipe, objectives):
    with pytest.raises(ValueError, match="objectives must be accuracy and any of latency, parameters, multiply_adds"):
        tune_recipe(recipe, read_space({"lr": "0.1,0.2"}), trials=1, storage=None, objectives=objectives)
