"""The facts on the page are those of the run, and so are the cautions."""

import dataclasses
import shlex

from d2lcls import cli
from d2lcls.commands.parsers import recipe_of
from d2lcls.explain import Analysis
from d2lcls.report.cautions import cautions
from d2lcls.report.facts import facts, train_command
from d2lcls.training import RECIPES, Recipe
from d2lcls.training.pipeline import resolve

import numpy as np
import pytest


def understood(command):
    """The recipe that a command line carries out."""
    words = shlex.split(command)
    assert words[:2] == ["d2lcls", "train"]
    options = cli.make_parser().parse_args(words[1:])
    return recipe_of(options, RECIPES[options.recipe] if options.recipe else Recipe(), scale=bool(options.recipe))


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(dataset="my photos", model="resnet18_v1b", pretrained=True, unfreeze="gradual", augment=()),
        Recipe(augment=("random_resized_crop:0.5", "flip"), size=64, mixup=0.2, cutmix=1.0, seed=3, validation=0.0),
        Recipe(small_first=(24, 3), optimizer="adam", lr=0.001, clip_norm=1.0, label_smoothing=0.1),
        Recipe(loss="focal", balanced=True, class_weights=True, skip_broken=True),
        RECIPES["fast94"],
        RECIPES["fast94"].scaled(5),
        dataclasses.replace(RECIPES["fast94"].scaled(1), lr=0.7),
    ],
)
def test_the_command_carries_out_the_same_recipe(recipe):
    stored = Recipe.from_json(resolve(recipe).for_images(32, 32).to_json())
    assert understood(train_command(stored)) == stored


def test_a_recipe_that_no_command_can_say_has_none():
    assert train_command(Recipe(optimizer_params={"beta1": 0.8}, optimizer="adam")) is None
    assert train_command(Recipe.from_json(Recipe(schedule=lambda step: 0.1).to_json())) is None
    assert train_command(Recipe(tta=True)) is None


def test_facts_say_how_the_validation_images_were_chosen(findings):
    assert facts(findings)["Validation images"] == "12, the validation split of the data"
    drawn = with_recipe(findings, validation=0.1)
    assert facts(drawn)["Validation images"] == "12, held out from the training images"
    assert facts(with_recipe(findings, validation_folder="elsewhere"))["Validation images"] == "12, from elsewhere"
    without = dataclasses.replace(findings, run=dataclasses.replace(findings.run, validation_images=0))
    assert facts(without)["Validation images"] == "none" and "those of the last" in facts(without)["Epochs"]


def with_recipe(findings, **changes):
    recipe = dataclasses.replace(findings.run.recipe, **changes)
    return dataclasses.replace(findings, run=dataclasses.replace(findings.run, recipe=recipe))


def warned(findings, text):
    found = [caution for caution in cautions(findings) if text in caution]
    assert len(found) <= 1
    return bool(found)


def test_the_split_decides_what_to_be_careful_about(findings):
    texts = {
        "test": "This page shows test images",
        "validation": "The best epoch was chosen by its accuracy on these images",
        "train": "trained on these images, so",
    }
    for split in texts:
        of_split = dataclasses.replace(findings, split=split)
        assert [each for each, text in texts.items() if warned(of_split, text)] == [split]


def test_few_images_are_mentioned_only_where_there_are_few(findings):
    assert warned(findings, "3 of 3 classes have fewer than 30 images here")
    assert warned(findings, "with 6, an observed accuracy of one half is compatible with 19\u00a0% to 81\u00a0%")
    assert warned(findings, "3 of 3 classes have fewer than 50 training images, the smallest 12")
    labels = np.repeat(np.arange(3), 400)
    many = dataclasses.replace(
        findings,
        analysis=Analysis(np.eye(3)[labels] * 4, labels, findings.run.classes),
        training_counts=np.array([900, 900, 900]),
    )
    assert not warned(many, "fewer than") and not warned(many, "the expected calibration error is imprecise")


def test_uneven_and_missing_classes_are_mentioned(findings):
    labels = np.repeat([0, 1], [100, 20])
    uneven = Analysis(np.eye(3)[labels] * 4, labels, findings.run.classes)
    found = dataclasses.replace(findings, analysis=uneven)
    assert warned(found, "between 20 and 100 images here") and warned(found, "1 of 3 classes have no images here")
    assert not warned(findings, "images here. The accuracy is dominated") and not warned(findings, "have no image")


def test_what_is_true_of_other_runs_is_mentioned_there_only(findings):
    changed = {
        "a small sample": dataclasses.replace(findings, sample=True),
        "drawn at random from the training images": with_recipe(findings, validation=0.1),
        "There was no validation set": dataclasses.replace(
            findings, run=dataclasses.replace(findings.run, validation_images=0)
        ),
        "Training stopped after 4 of 9 epochs": with_recipe(findings, num_epochs=9),
        "six views": with_recipe(findings, tta=True),
        "could not be counted: gone": dataclasses.replace(findings, not_opened="gone", training_counts=None),
        "come from other": dataclasses.replace(findings, dataset="other"),
        "the network overfits": dataclasses.replace(
            findings,
            epochs=[dataclasses.replace(each, train_accuracy=0.99, valid_accuracy=0.5) for each in findings.epochs],
        ),
    }
    for text, found in changed.items():
        assert warned(found, text) and not warned(findings, text), text
