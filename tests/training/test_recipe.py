import dataclasses
import json

from d2lcls.training import LOSSES, RECIPES, Recipe, focal

import pytest


def test_a_recipe_comes_back_from_json():
    recipe = Recipe(dataset="cats", augment=("pad_crop:2",), small_first=(28, 3), unfreeze={0: 1, 2: 4}, lr=0.3)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    for named in RECIPES.values():
        assert Recipe.from_json(json.loads(json.dumps(named.to_json()))) == named


def test_functions_are_kept_as_descriptions():
    fields = json.loads(json.dumps(Recipe(loss=focal(2.0), schedule=lambda step: 0.1).to_json()))
    assert fields["loss"] == "function focal.<locals>.loss" and "lambda" in fields["schedule"]
    again = Recipe.from_json(fields)
    with pytest.raises(ValueError, match="was a function.*pass the function again"):
        again.make_loss(lambda: None)
    with pytest.raises(ValueError, match="was a function.*pass the function again"):
        again.learning_rate(10)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_epochs": 0}, "num_epochs must be above 0, not 0"),
        ({"lr": -0.1}, "lr must be above 0, not -0.1"),
        ({"lr": float("nan")}, "lr must be above 0, not nan"),
        ({"validation": 2.0}, "validation must be at most 1, not 2.0"),
        ({"schedule": "cosin"}, "schedule must be one of constant, cosine, .*, not 'cosin'"),
        ({"loss": "focl"}, f"loss must be one of {', '.join(LOSSES)}, not 'focl'"),
        ({"augment": ("flop",)}, "Unknown transform 'flop'"),
        ({"augment": ("standard", "rotate:x")}, "After rotate: a number of degrees is needed"),
        ({"cutmix": -1.0}, "cutmix must be at least 0, not -1.0"),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum goes with the optimizers sgd and nag only, not adam"),
        ({"loss": "focal", "label_smoothing": 0.1}, "label_smoothing goes with the loss cross_entropy only, not focal"),
        ({"loss": focal(), "class_weights": True}, "class_weights goes with a loss by name only"),
        ({"label_smoothing": 1.0}, "label_smoothing must be below 1, not 1.0"),
        ({"validation": 1.0}, "validation must be below 1"),
        ({"num_epochs": 1.5}, "num_epochs must be a whole number, not 1.5"),
        ({"small_first": (0, 3)}, "small_first must be a side in pixels and a number of epochs"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)


def test_every_field_is_described():
    table = Recipe().describe()
    for field in dataclasses.fields(Recipe):
        assert field.metadata["text"] and f"| `{field.name}` |" in table
    changed = RECIPES["fast94"].describe(changed=True)
    assert "| `lr` | 1.5 |" in changed and "`seed`" not in changed


def test_the_same_number_of_epochs_changes_nothing():
    assert RECIPES["fast94"].scaled(RECIPES["fast94"].num_epochs) == RECIPES["fast94"]


@pytest.mark.parametrize("epochs", (2, 4, 26))
def test_phases_keep_their_shares_and_the_last_epoch_is_whole(epochs):
    whole, short = RECIPES["fast94"], RECIPES["fast94"].scaled(epochs)
    assert short.warmup_epochs / epochs == pytest.approx(whole.warmup_epochs / whole.num_epochs)
    side, first = short.small_first
    assert side == whole.small_first[0] and first < epochs
    assert first == pytest.approx(epochs * whole.small_first[1] / whole.num_epochs, abs=1)
    assert RECIPES["fast94"].scaled(1).small_first is None


def test_the_standard_augmentation_depends_on_the_images():
    small, large = ("pad_crop", "flip"), ("random_resized_crop:0.35", "flip")
    assert Recipe().for_images(32, 32).augment == small and Recipe().for_images(224, 224).augment == large
    mixed = Recipe(augment=("cutout:4", "standard", "randaugment"))
    assert mixed.for_images(28, 28).augment == ("cutout:4", *small, "randaugment")
    given = Recipe(augment=("pad_crop",))
    assert given.for_images(224, 224) == given and large == mixed.for_images(64, 96).for_images(32, 32).augment[1:3]


def test_names_of_optimizers_are_those_of_mxnet_in_lower_case():
    assert Recipe(optimizer="SGD").optimizer_arguments()["momentum"] == 0.9
