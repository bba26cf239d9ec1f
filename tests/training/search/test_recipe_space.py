import json

from d2lcls.training import Recipe
from d2lcls.training.search import choice, integer, load_space, log_uniform, read_space, uniform
from d2lcls.training.search.recipe_space import check_space, default_space, searchable, with_values

import pytest


@pytest.mark.parametrize(
    "name, text, expected",
    [
        ("lr", "1e-4..1e-1", log_uniform(1e-4, 1e-1)),
        ("lr", "0.01..0.05", uniform(0.01, 0.05)),  # less than a factor of 10
        ("lr", "log:0.01..0.05", log_uniform(0.01, 0.05)),
        ("wd", "uniform:1e-5..1e-2", uniform(1e-5, 1e-2)),
        ("mixup", "0..0.4", uniform(0, 0.4)),  # a logarithm of 0 does not exist
        ("train_last", "1..6", integer(1, 6)),
        ("train-last", "1..6", integer(1, 6)),
        ("batch_size", "32,64,128", choice([32, 64, 128])),
        ("train_last", "none,1,2", choice([None, 1, 2])),
        ("pretrained", "false,true", choice([False, True])),
        ("augment", "none,flip,standard cutout", choice(["none", "flip", "standard cutout"])),
        ("small_first", "none,28:1", choice([None, "28:1"])),
        ("model", "efficientnet_lite0,mobilenetv2_1.0", choice(["efficientnet_lite0", "mobilenetv2_1.0"])),
        ("schedule", "cosine, linear", choice(["cosine", "linear"])),
        ("momentum", [0.8, 0.9], choice([0.8, 0.9])),
        ("pretrained", [False, True], choice([False, True])),
        ("clip_norm", [None, 1], choice([None, 1.0])),
    ],
)
def test_notation(name, text, expected):
    assert read_space({name: text}) == {name.replace("-", "_"): expected}


@pytest.mark.parametrize(
    "entries, message",
    [
        ({"lrr": "1..2"}, "^'lrr' cannot be searched: did you mean 'lr'"),
        ({"qqqq": "1..2"}, r"^'qqqq' cannot be searched: choose from model, batch_size, lr.*, label_smoothing"),
        ({"seed": "1..2"}, "^'seed' cannot be searched"),
        ({"num_epochs": "1..2"}, "^'num_epochs' cannot be searched"),
        ({"lr": "a..b"}, "^lr must be a number, not 'a'"),
        ({"lr": "-1..1"}, "^lr must be above 0, not -1.0"),
        ({"lr": "1..0.1"}, "^lr: uniform must go from a smaller number to a greater one, not from 1.0 to 0.1"),
        ({"lr": "0.1"}, "^lr: has a single value, 0.1: give a range or several values"),
        ({"lr": "lin:1..2"}, "^lr: a range is written LOW..HIGH, log:LOW..HIGH or uniform:LOW..HIGH, not lin:1..2"),
        ({"wd": "log:0..1"}, "^wd: log_uniform must begin above 0"),
        ({"batch_size": "1.5..3"}, "^batch_size must be a whole number, not '1.5'"),
        (
            {"batch_size": "log:8..64"},
            "^batch_size: takes whole numbers, whose range is written LOW..HIGH, without log:",
        ),
        ({"schedule": "cosine,sudden"}, "^schedule must be one of .*cosine.*, not 'sudden'"),
        ({"balanced": "yes,no"}, "^balanced must be true or false, not 'yes'"),
        ({"balanced": "false..true"}, "^balanced: takes values separated by commas, not a range"),
        ({"model": "cnn..fast94"}, "^model: takes values separated by commas, not a range"),
        ({"augment": "none,flop"}, "^augment: Unknown transform 'flop': did you mean 'flip'"),
        ({"label_smoothing": "0..1"}, "^label_smoothing must be below 1, not 1.0"),
        ({"small_first": "28,32"}, "^small_first must be pixels, a colon and epochs, as in 28:10, not 28"),
        ({"lr": [0.1, {}]}, "^lr: {} is neither a number, a text, true nor false"),
        ({"lr": "0.1,0.1"}, "^lr: choice must be among two or more different values"),
        ({"train_last": "1..3", "train-last": "1..4"}, "^train_last is in the search space twice"),
        ({}, "is empty: write such as lr=1e-4..1e-1"),
    ],
)
def test_wrong_entries_are_named_in_one_line(entries, message):
    with pytest.raises(ValueError, match=message) as error:
        read_space(entries)
    assert "\n" not in str(error.value)


def test_files(tmp_path):
    (tmp_path / "space.json").write_text(json.dumps({"lr": "1e-4..1e-1", "augment": ["none", "flip"]}))
    (tmp_path / "space.toml").write_text('lr = "1e-4..1e-1"\naugment = ["none", "flip"]\n')
    expected = {"lr": log_uniform(1e-4, 1e-1), "augment": choice(["none", "flip"])}
    assert load_space(tmp_path / "space.json") == load_space(tmp_path / "space.toml") == expected


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.yaml", "lr: 1", "a search space is a .json or a .toml file"),
        ("a.json", "[1]", 'must hold an object, such as {"lr"'),
        ("a.json", "{", "Expecting property name"),
        ("a.toml", "lr = 1..2", "Expected newline"),
        ("a.json", '{"lr": "0..1"}', "lr must be above 0, not 0.0"),
    ],
)
def test_wrong_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        load_space(tmp_path / name)


def test_values_become_those_of_a_recipe():
    values = {"augment": "pad_crop:2 flip", "small_first": "28:1", "train_last": None, "lr": 0.3, "balanced": True}
    recipe = with_values(Recipe(), values)
    assert recipe.augment == ("pad_crop:2", "flip") and recipe.small_first == (28, 1)
    assert recipe.train_last is None and recipe.lr == 0.3 and recipe.balanced
    assert with_values(Recipe(), {"augment": "none"}).augment == ()


def test_every_pair_of_values_is_tried():
    space = read_space({"loss": "cross_entropy,focal", "lr": "0.1,0.2", "label_smoothing": "0,0.1"})
    with pytest.raises(ValueError, match="label_smoothing goes with the loss cross_entropy only, not focal"):
        check_space(Recipe(), space)
    check_space(Recipe(), {name: space[name] for name in ("loss", "lr")})
    check_space(Recipe(), {"lr": space["lr"]})


def test_default_space_fits_every_recipe():
    for pretrained in (False, True):
        check_space(Recipe(pretrained=pretrained), default_space(pretrained))
    assert default_space(True)["lr"].values[1] == default_space()["lr"].values[1] / 10


def test_fields_that_decide_how_long_or_on_what_are_not_searched():
    assert {"lr", "model", "size", "augment", "train_last", "precision", "mixup"} <= set(searchable())
    assert not {"num_epochs", "seed", "dataset", "validation"} & set(searchable())
