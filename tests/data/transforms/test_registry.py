import subprocess
import sys

from d2lcls.data import TRANSFORMS, make_transform
from d2lcls.data.transforms import augment

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
    "text, message",
    [
        ("pad_crpo:2", r"^Unknown transform 'pad_crpo': did you mean 'pad_crop'\?$"),
        ("zoom", r"^Unknown transform 'zoom': choose one of pad_crop, reflect_crop, .*randaugment\.$"),
        ("flip:2", r"^'flip' takes no number of pixels \(only pad_crop, reflect_crop, cutout do\), so not 'flip:2'"),
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
