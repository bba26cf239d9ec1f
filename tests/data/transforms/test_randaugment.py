from d2lcls.data import Batches, Images
from d2lcls.data.transforms import randaugment
from d2lcls.data.transforms.randaugment import OPERATIONS

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

GEOMETRIC = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
DIRECTED = GEOMETRIC + ("colour", "contrast", "brightness", "sharpness")
LEVELS = (0, 0.1, 0.3, 0.7, 1)


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(n=16, height=32, width=32, channels=3, low=0, high=256):
    return rng(99).integers(low, high, (n, height, width, channels), dtype=np.uint8)


def ramps(height=32, width=40):
    """One picture without sharp edges, where rounding of positions hardly shows."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 5 + 20, x * 4 + 10, (x + y) * 2], axis=2).astype(np.uint8)


class Towards:
    """A generator whose every random direction is the given one."""

    def __init__(self, direction):
        self.drawn = (direction + 1) // 2

    def integers(self, number, size):
        return np.full(size, self.drawn)


def test_the_list_is_the_papers():
    assert set(OPERATIONS) == {
        "identity",
        "autocontrast",
        "equalize",
        "rotate",
        "solarize",
        "colour",
        "posterize",
        "contrast",
        "brightness",
        "sharpness",
        "shear_x",
        "shear_y",
        "translate_x",
        "translate_y",
    }


@pytest.mark.parametrize("shape", [(5, 32, 32, 3), (3, 32, 32, 1), (2, 9, 14, 3), (1, 1, 1, 1), (2, 2, 2, 3)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_shape_and_dtype_stay_and_the_input_is_unchanged(name, shape):
    images = rng(9).integers(0, 256, shape, dtype=np.uint8)
    before = images.copy()
    images.setflags(write=False)
    for level in (0, 0.3, 1):
        made = OPERATIONS[name](images, level, rng())
        assert made.shape == images.shape and made.dtype == np.uint8
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"autocontrast", "equalize"}))
def test_level_0_changes_nothing(name):
    images = noise()
    np.testing.assert_array_equal(OPERATIONS[name](images, 0, rng()), images)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"identity"}))
def test_a_picture_comes_out_the_same_alone_or_among_others(name):
    images = noise(low=30, high=210)
    together = OPERATIONS[name](images, 0.6, Towards(1))
    for image, made in zip(images, together):
        np.testing.assert_array_equal(OPERATIONS[name](image[None], 0.6, Towards(1))[0], made)
        assert (made != image).any()


@pytest.mark.parametrize("name", DIRECTED)
def test_both_directions_are_drawn_a_picture(name):
    images = np.repeat(noise(1), 400, axis=0)
    plus, minus = (OPERATIONS[name](images[:1], 0.5, Towards(direction)) for direction in (1, -1))
    made = OPERATIONS[name](images, 0.5, rng())
    is_plus, is_minus = ((made == one).all(axis=(1, 2, 3)) for one in (plus, minus))
    assert (is_plus ^ is_minus).all() and 150 < is_plus.sum() < 250


def pillow(name, picture, level, direction):
    """The same operation as Pillow does it."""
    factor = 1 + 0.9 * level * direction
    enhance = {
        "colour": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "brightness": ImageEnhance.Brightness,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in enhance:
        return enhance[name](picture).enhance(factor)
    if name == "rotate":
        return picture.rotate(30 * level * direction, Image.BILINEAR, fillcolor=(128,) * 3)
    if name in GEOMETRIC:
        x, y = round(0.45 * level * picture.width), round(0.45 * level * picture.height)
        matrix = {
            "shear_x": (1, 0.3 * level * direction, 0, 0, 1, 0),
            "translate_x": (1, 0, x * direction, 0, 1, 0),
            "shear_y": (1, 0, 0, 0.3 * level * direction, 1, 0),
            "translate_y": (1, 0, 0, 0, 1, y * direction),
        }
        return picture.transform(picture.size, Image.AFFINE, matrix[name], Image.BILINEAR, fillcolor=(128,) * 3)
    return {
        "autocontrast": lambda: ImageOps.autocontrast(picture),
        "solarize": lambda: ImageOps.solarize(picture, round(256 * (1 - level))),
        "posterize": lambda: ImageOps.posterize(picture, 8 - round(4 * level)),
    }[name]()


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize(
    "name, tolerance",
    [
        ("solarize", 0),
        ("posterize", 0),
        ("autocontrast", 1),
        ("colour", 1),
        ("contrast", 1),
        ("brightness", 1),
        ("sharpness", 1),
    ],
)  # Pillow truncates, and rounds the mean that contrast starts from
def test_values_are_pillows(name, tolerance, direction):
    images = np.concatenate([noise(low=30, high=210), np.repeat(noise(2, channels=1, low=60, high=61), 3, axis=3)])
    for level in LEVELS:
        for image, made in zip(images, OPERATIONS[name](images, level, Towards(direction))):
            expected = np.array(pillow(name, Image.fromarray(image), level, direction))
            np.testing.assert_allclose(made.astype(int), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("channels", [1, 3])
def test_equalize_maps_each_value_to_the_share_of_pixels_below_it(channels):  # not Pillow's: it rounds to whole steps
    images = (noise(8, channels=channels).astype(int) // 3 + 20) ** 2 // 60  # dark, with gaps
    images = np.concatenate([images.astype(np.uint8), np.full((1, 32, 32, channels), 77, dtype=np.uint8)])
    made = OPERATIONS["equalize"](images, 0.3, rng())
    for n in range(8):
        for c in range(channels):
            plane = images[n, ..., c]
            below = np.array([[(plane <= value).sum() for value in row] for row in plane])  # itself included
            lowest = (plane == plane.min()).sum()
            np.testing.assert_allclose(made[n, ..., c], 255 * (below - lowest) / (plane.size - lowest), atol=0.51)
    np.testing.assert_array_equal(made[8], images[8])


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("name", GEOMETRIC)
def test_positions_are_pillows(name, direction):
    for level in LEVELS:
        made = OPERATIONS[name](ramps()[None], level, Towards(direction))[0]
        expected = np.array(pillow(name, Image.fromarray(ramps()), level, direction))
        differ = (abs(made.astype(int) - expected) > 3).any(axis=2)
        assert differ.mean() < 0.06  # along the border, which Pillow does not blend with the grey outside


def test_the_middle_of_a_turn_and_the_top_of_a_shear_stay_where_they_are():
    y, x = np.mgrid[:32, :40]
    turned = np.cos(np.pi / 6) * (x - 19.5) - np.sin(np.pi / 6) * (y - 15.5) + 19.5  # where each pixel comes from
    for name, source in {"rotate": turned, "shear_x": x + 0.3 * (y + 0.5)}.items():
        made = OPERATIONS[name]((6 * x).astype(np.uint8)[None, ..., None], 1, Towards(1))[0, ..., 0]
        inside = (source >= 1) & (source <= 38) & (y >= 8) & (y < 24) & (x >= 8) & (x < 32)
        assert abs((made / 6 - source)[inside].mean()) < 0.02  # pixels


def test_translation_is_a_shift_with_grey_behind_it():
    images = noise(4)
    made = OPERATIONS["translate_x"](images, 1, Towards(1))  # 0.45 of 32 pixels
    np.testing.assert_array_equal(made[:, :, :-14], images[:, :, 14:])
    assert (made[:, :, -14:] == 128).all()
    made = OPERATIONS["translate_y"](images, 0.5, Towards(-1))
    np.testing.assert_array_equal(made[:, 7:], images[:, :-7])
    assert (made[:, :7] == 128).all()


def test_one_channel_is_as_three_equal_ones():
    images = noise(channels=1)
    for name, operation in OPERATIONS.items():
        three = operation(images.repeat(3, axis=3), 0.7, Towards(1))
        np.testing.assert_allclose(
            operation(images, 0.7, Towards(1)).repeat(3, axis=3).astype(int), three, atol=1, err_msg=name
        )
    np.testing.assert_array_equal(OPERATIONS["colour"](images, 1, rng()), images)


def test_values_are_clipped_instead_of_wrapping():
    assert (OPERATIONS["brightness"](np.full((1, 2, 2, 3), 200, dtype=np.uint8), 1, Towards(1)) == 255).all()
    made = OPERATIONS["contrast"](np.array([100, 200], dtype=np.uint8).repeat(3).reshape(1, 1, 2, 3), 3, Towards(1))
    assert made[0, 0].tolist() == [[0] * 3, [255] * 3]


def test_one_operation_is_drawn_evenly_from_the_list(monkeypatch):
    for number, name in enumerate(OPERATIONS):
        monkeypatch.setitem(OPERATIONS, name, lambda images, level, rng, number=number: images + np.uint8(number))
    made = randaugment(1)(np.zeros((14_000, 1, 1, 3), dtype=np.uint8), rng())
    counts = np.bincount(made[:, 0, 0, 0], minlength=14)
    assert len(counts) == 14 and counts.min() > 850 and counts.max() < 1150  # 1000 expected, deviation 30


def test_operations_follow_each_other_at_the_level_asked_for(monkeypatch):
    seen = []

    def add(images, level, rng):
        seen.append(level)
        return images + np.uint8(1)

    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, add)
    assert (randaugment(3, 12)(np.zeros((50, 2, 2, 1), dtype=np.uint8), rng()) == 3).all()
    assert set(seen) == {12 / 30}


def test_the_generator_decides_everything():
    transform, images = randaugment(), noise()
    np.testing.assert_array_equal(transform(images, rng(1)), transform(images, rng(1)))
    assert (transform(images, rng(1)) != transform(images, rng(2))).any()


def test_the_transform_leaves_its_input_alone_and_returns_no_view():
    images = noise()
    images.setflags(write=False)
    for operations in (0, 2):
        made = randaugment(operations)(images, rng())
        assert made.shape == images.shape and made.dtype == np.uint8 and not np.shares_memory(made, images)
    np.testing.assert_array_equal(randaugment(0)(images, rng()), images)


def test_in_batches():
    data = Images(noise(20), np.arange(20) % 2, ("a", "b"), "made")
    batches = Batches(data, 8, shuffle=True, augment=(randaugment(),))
    whole, tail = list(batches.epoch(1)), list(batches.epoch(1, start=1))
    np.testing.assert_array_equal(whole[2][0], tail[1][0])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"operations": -1}, "operations must be a whole number, 0 or more, not -1"),
        ({"operations": 1.5}, "operations must be a whole number, 0 or more, not 1.5"),
        ({"magnitude": 31}, "magnitude must lie between 0 and 30, not 31"),
        ({"magnitude": -1}, "magnitude must lie between 0 and 30"),
        ({"magnitude": float("nan")}, "magnitude must lie between 0 and 30"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        randaugment(**options)


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channel_counts_are_refused(channels):
    with pytest.raises(ValueError, match=rf"one or three channels; these have the shape \(16, 32, 32, {channels}\)"):
        randaugment()(noise(channels=channels), rng())
