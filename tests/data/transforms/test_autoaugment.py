import importlib

from d2lcls.data import autoaugment
from d2lcls.data.transforms.operations import invert

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

MODULE = importlib.import_module("d2lcls.data.transforms.autoaugment")  # the package's attribute is the function
POLICY = MODULE.IMAGENET_POLICY
# Table 9 of the paper, by the operations' names in Pillow; a magnitude that means nothing is left out.
PUBLISHED = """
Posterize 0.4 8, Rotate 0.6 9
Solarize 0.6 5, AutoContrast 0.6
Equalize 0.8, Equalize 0.6
Posterize 0.6 7, Posterize 0.6 6
Equalize 0.4, Solarize 0.2 4
Equalize 0.4, Rotate 0.8 8
Solarize 0.6 3, Equalize 0.6
Posterize 0.8 5, Equalize 1.0
Rotate 0.2 3, Solarize 0.6 8
Equalize 0.6, Posterize 0.4 6
Rotate 0.8 8, Color 0.4 0
Rotate 0.4 9, Equalize 0.6
Equalize 0.0, Equalize 0.8
Invert 0.6, Equalize 1.0
Color 0.6 4, Contrast 1.0 8
Rotate 0.8 8, Color 1.0 2
Color 0.8 8, Solarize 0.8 7
Sharpness 0.4 7, Invert 0.6
ShearX 0.6 5, Equalize 1.0
Color 0.4 0, Equalize 0.6
Equalize 0.4, Solarize 0.2 4
Solarize 0.6 5, AutoContrast 0.6
Invert 0.6, Equalize 1.0
Color 0.6 4, Contrast 1.0 8
Equalize 0.8, Equalize 0.6
"""
ROWS = [[entry.split() for entry in line.split(", ")] for line in PUBLISHED.strip().splitlines()]


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(n=16, height=24, width=32, channels=3):
    return rng(99).integers(0, 256, (n, height, width, channels), dtype=np.uint8)


def picture(height=60, width=80):
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 3 + 20, x * 2 + 30, (x + y) + 40], axis=2).astype(np.uint8)


class Drawing:
    """A generator that draws one pair, applies what has a chance, and always takes one direction."""

    def __init__(self, pair, direction):
        self.pair, self.direction = pair, direction

    def integers(self, number, size):
        return np.full(size, self.pair if number == 25 else (self.direction + 1) // 2)

    def random(self, size):
        return np.zeros(size)


def pillow(image, name, magnitude, direction):
    """The published operation as Pillow does it, with the paper's ranges divided into ten values."""
    share = magnitude / 9
    if name == "Rotate":
        return image.rotate(30 * share * direction, Image.BILINEAR, fillcolor=(128,) * 3)
    if name == "ShearX":
        matrix = (1, 0.3 * share * direction, 0, 0, 1, 0)
        return image.transform(image.size, Image.AFFINE, matrix, Image.BILINEAR, fillcolor=(128,) * 3)
    if name in ("Color", "Contrast", "Sharpness"):
        return getattr(ImageEnhance, name)(image).enhance(1 + 0.9 * share * direction)
    return {
        "Posterize": lambda: ImageOps.posterize(image, 8 - round(4 * share)),
        "Solarize": lambda: ImageOps.solarize(image, round(256 * (1 - share))),
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Invert": lambda: ImageOps.invert(image),
        # Pillow's own rounds to whole steps.
        "Equalize": lambda: Image.merge(
            "RGB", [Image.fromarray(cv2.equalizeHist(np.array(plane))) for plane in image.split()]
        ),
    }[name]()


def test_there_are_25_pairs_of_which_five_occur_twice():
    assert len(POLICY) == len(ROWS) == 25 and len(set(POLICY)) == 20


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("pair", range(25))
def test_a_pair_is_what_was_published(pair, direction):
    made = autoaugment()(picture()[None], Drawing(pair, direction))[0]
    expected = Image.fromarray(picture())
    for (name, chance, *magnitude), (_, probability, strength) in zip(ROWS[pair], POLICY[pair]):
        assert probability == float(chance)
        if magnitude:
            assert strength == int(magnitude[0])
        if float(chance):
            expected = pillow(expected, name, int(magnitude[0]) if magnitude else 0, direction)
    differ = (abs(made.astype(int) - np.array(expected)) > 3).any(axis=2)
    assert differ.mean() < 0.08  # borders of turned pictures, and values beside a threshold


def test_inverting_is_pillows():
    made = invert(noise(1), 0.5, rng())[0]
    np.testing.assert_array_equal(made, ImageOps.invert(Image.fromarray(noise(1)[0])))


def test_pairs_and_operations_are_drawn_with_their_probabilities(monkeypatch):
    def add(number):
        return lambda images, level, rng: images + np.uint8(number * (1 + 100 * (level == 1)))

    monkeypatch.setattr(
        MODULE, "IMAGENET_POLICY", (((add(1), 0.3, 0), (add(2), 1.0, 0)), ((add(1), 0, 9), (add(1), 0.5, 9)))
    )
    made = autoaugment()(np.zeros((20_000, 1, 1, 3), dtype=np.uint8), rng())[:, 0, 0, 0]
    shares = {value: (made == value).mean() for value in np.unique(made)}
    assert set(shares) == {0, 2, 3, 101}
    for value, share in {2: 0.35, 3: 0.15, 0: 0.25, 101: 0.25}.items():
        assert shares[value] == pytest.approx(share, abs=0.015)


@pytest.mark.parametrize("shape", [(40, 24, 32, 3), (40, 9, 5, 1), (1, 1, 1, 1), (3, 2, 2, 3)])
def test_shape_and_dtype_stay_and_the_input_is_unchanged(shape):
    images = rng(9).integers(0, 256, shape, dtype=np.uint8)
    before = images.copy()
    images.setflags(write=False)
    made = autoaugment()(images, rng())
    assert made.shape == shape and made.dtype == np.uint8 and not np.shares_memory(made, images)
    np.testing.assert_array_equal(images, before)


def test_the_generator_decides_everything():
    transform = autoaugment()
    np.testing.assert_array_equal(transform(noise(), rng(1)), transform(noise(), rng(1)))
    assert (transform(noise(), rng(1)) != transform(noise(), rng(2))).any()


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channel_counts_are_refused(channels):
    with pytest.raises(ValueError, match=rf"autoaugment needs images of one or three .* \(16, 24, 32, {channels}\)"):
        autoaugment()(noise(channels=channels), rng())
