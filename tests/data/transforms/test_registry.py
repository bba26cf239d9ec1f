import subprocess
import sys

from d2lcls.data import (
    TRANSFORMS,
    colour_jitter,
    make_transform,
    random_erasing,
    random_resized_crop,
    rotate,
    standard_for,
)
from d2lcls.data.transforms import augment
from d2lcls.data.transforms.registry import crops, forms

import numpy as np
import pytest

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 12, 10, 3), dtype=np.uint8)


def applied(transform):
    return transform(IMAGES, np.random.default_rng(1))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_name_makes_the_transform_with_its_defaults(name):
    np.testing.assert_array_equal(applied(make_transform(name)), applied(TRANSFORMS[name]()))


@pytest.mark.parametrize("name", ["pad_crop", "reflect_crop", "cutout"])
def test_a_number_of_pixels_may_follow(name):
    sized = applied(make_transform(f"{name}:3"))
    np.testing.assert_array_equal(sized, applied(getattr(augment, name)(3)))
    assert (sized != applied(make_transform(name))).any()


@pytest.mark.parametrize(
    "text, transform",
    [
        ("random_resized_crop:0.35", random_resized_crop((0.35, 1.0))),
        ("rotate:30", rotate(30)),
        ("rotate:7.5", rotate(7.5)),
        ("colour_jitter:0.4", colour_jitter(0.4, 0.4, 0.4)),
        ("random_erasing:0.9", random_erasing(0.9)),
    ],
)
def test_other_numbers_may_follow(text, transform):
    made = applied(make_transform(text))
    np.testing.assert_array_equal(made, applied(transform))
    assert (made != applied(make_transform(text.partition(":")[0]))).any()


def test_the_forms_are_all_transforms_and_their_numbers():
    assert [form.partition("[")[0] for form in forms().split(", ")] == list(TRANSFORMS)
    assert "pad_crop[:PIXELS], " in forms() and "rotate[:DEGREES], " in forms() and "flip, " in forms()


@pytest.mark.parametrize("height, width, photograph", [(32, 32, 0), (63, 300, 0), (64, 64, 1), (224, 300, 1)])
def test_the_standard_depends_on_the_shorter_side(height, width, photograph):
    assert standard_for(height, width) == (("pad_crop", "flip"), ("random_resized_crop:0.35", "flip"))[photograph]
    for text in standard_for(height, width):
        make_transform(text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("pad_crpo:2", r"^Unknown transform 'pad_crpo': did you mean 'pad_crop'\?$"),
        ("zoom", r"^Unknown transform 'zoom': choose one of pad_crop, reflect_crop, .*autoaugment\.$"),
        ("flip:2", r"^'flip' takes no number \(only pad_crop, .*, random_erasing do\), so not 'flip:2'\.$"),
        ("autoaugment:3", "'autoaugment' takes no number"),
        ("rotate:left", "^After rotate: a number of degrees is needed, as in 'rotate:15', not 'rotate:left'\\.$"),
        ("rotate:", "After rotate: a number of degrees is needed"),
        ("rotate:200", "^'rotate:200': degrees must lie between 0 and 180, not 200.0\\.$"),
        ("rotate:nan", "degrees must lie between 0 and 180, not nan"),
        ("random_resized_crop:x", "After random_resized_crop: the smallest share of the area is needed"),
        ("random_resized_crop:2", "^'random_resized_crop:2': scale must be two shares of the area"),
        ("random_erasing:1.5", "^'random_erasing:1.5': probability must lie between 0 and 1, not 1.5"),
        ("random_erasing:often", "After random_erasing: a probability is needed, as in 'random_erasing:0.25'"),
        ("colour_jitter:7", "^'colour_jitter:7': brightness must lie between 0 and 1, not 7.0"),
        ("pad_crop:two", "After pad_crop: a whole number of pixels is needed, as in 'pad_crop:2', not 'pad_crop:two'"),
        ("pad_crop:-2", "a whole number of pixels is needed"),
        ("pad_crop:", "a whole number of pixels is needed"),
        ("cutout:0", "size must be 1 pixel or more, not 0"),
    ],
)
def test_bad_texts_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        make_transform(text)


def test_the_names_are_quick_to_import():
    code = (
        "import sys; from d2lcls.data import TRANSFORMS; assert not {'cv2', 'mxnet', 'PIL', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("text", ["random_resized_crop", "random_resized_crop:0.5", "flip", "pad_crop:2"])
def test_only_random_resized_crop_takes_a_size(text):
    images = np.random.default_rng(0).integers(0, 256, (4, 20, 30, 3), dtype=np.uint8)
    made = make_transform(text, (10, 12))(images, np.random.default_rng(1))
    assert made.shape == ((4, 10, 12, 3) if crops(text) else images.shape)
    assert crops(text) == text.startswith("random_resized_crop")
