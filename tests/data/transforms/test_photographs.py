from d2lcls.data import random_erasing, random_resized_crop, rotate

import numpy as np
import pytest
from PIL import Image

TRANSFORMS = {"random_resized_crop": random_resized_crop(), "rotate": rotate(), "random_erasing": random_erasing(1)}


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(n=16, height=30, width=42, channels=3):
    return rng(99).integers(0, 256, (n, height, width, channels), dtype=np.uint8)


def photographs(n, height=120, width=200):
    """Windows of a smooth picture, so that rounding of positions hardly shows."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([128 + 100 * np.sin(x / 17), 128 + 100 * np.cos(y / 13), (x + y) / 2], axis=2)
    return np.repeat(image.astype(np.uint8)[None], n, axis=0)


def positions(n, height=120, width=200):
    """Pictures whose first channel is the column of each pixel, and the second its row."""
    y, x = np.mgrid[:height, :width]
    return np.repeat(np.stack([x, y, 0 * x], axis=2).astype(np.uint8)[None], n, axis=0)


def cut(made):
    """Find the rectangles that became the pictures of `positions`: top, left, height, width, from the slopes."""
    _, height, width, _ = made.shape
    found = []
    for image in made.astype(float):
        edges = []
        for values, size in ((image[:, :, 1].mean(axis=1), height), (image[:, :, 0].mean(axis=0), width)):
            inside = slice(size // 6, -(size // 6))  # interpolation stops at the rectangle's own border
            slope, start = np.polyfit(np.arange(size)[inside] + 0.5, values[inside] + 0.5, 1)
            edges.append((start, slope * size))
        found.append([edges[0][0], edges[1][0], edges[0][1], edges[1][1]])
    return np.array(found)


@pytest.mark.parametrize("shape", [(5, 30, 42, 3), (3, 42, 30, 1), (2, 9, 14, 4), (1, 1, 1, 1), (2, 1, 40, 3)])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_shape_and_dtype_stay_and_the_input_is_unchanged(name, shape):
    images = rng(9).integers(0, 256, shape, dtype=np.uint8)
    before = images.copy()
    images.setflags(write=False)
    made = TRANSFORMS[name](images, rng())
    assert made.shape == images.shape and made.dtype == np.uint8
    made[:] = 0  # the result is no view of the input
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_generator_decides_everything(name):
    transform, images = TRANSFORMS[name], noise()
    np.testing.assert_array_equal(transform(images, rng(1)), transform(images, rng(1)))
    assert (transform(images, rng(1)) != transform(images, rng(2))).any()
    state = rng(1)
    assert (transform(images, state) != transform(images, state)).any()  # it moves on


@pytest.mark.parametrize("name", TRANSFORMS)
def test_images_of_a_batch_change_differently(name):
    made = TRANSFORMS[name](np.repeat(noise(1), 8, axis=0), rng())
    assert len({image.tobytes() for image in made}) == 8


# random_resized_crop


def test_crops_of_another_size_show_the_same_rectangles():
    images = positions(20, 160, 240)
    same, larger = (random_resized_crop(size=size)(images, rng(3)) for size in (None, (200, 180)))
    assert larger.shape == (20, 200, 180, 3) and larger.dtype == np.uint8
    np.testing.assert_allclose(cut(larger), cut(same), atol=2)
    assert random_resized_crop(size=50)(noise(channels=1), rng()).shape == (16, 50, 50, 1)
    with pytest.raises(ValueError, match="size must be a number of pixels or .height, width., above 0, not 0"):
        random_resized_crop(size=0)


def test_the_whole_image_is_the_image():
    for images in (noise(), noise(channels=1)):
        made = random_resized_crop((1, 1), (1, 1))(images, rng())
        np.testing.assert_array_equal(made, images)


@pytest.mark.parametrize("scale, ratio", [((0.08, 1), (3 / 4, 4 / 3)), ((0.35, 0.6), (0.9, 2)), ((0.25, 0.25), (1, 1))])
def test_area_shape_and_place_of_crops_lie_in_their_ranges(scale, ratio):
    top, left, height, width = cut(random_resized_crop(scale, ratio)(positions(400), rng())).T
    area, shape = height * width / (120 * 200), (width / 200) / (height / 120)
    slack = 0.5 / height + 0.5 / width + 0.02  # of whole pixels and of the slopes
    assert (area > scale[0] * (1 - slack)).all() and (area < scale[1] * (1 + slack)).all()
    assert (shape > ratio[0] * (1 - slack)).all() and (shape < ratio[1] * (1 + slack)).all()
    assert (top > -0.6).all() and (left > -0.6).all()
    assert (top + height < 120.6).all() and (left + width < 200.6).all()
    if scale[0] < scale[1]:
        assert area.min() < scale[0] + 0.1 * (scale[1] - scale[0])
        assert area.max() > scale[1] - 0.1 * (scale[1] - scale[0])
        assert shape.min() < ratio[0] * 1.05 and shape.max() > ratio[1] / 1.1
    room = 120 - height > 20
    assert room.any() and 0.4 < (top / (120 - height))[room].mean() < 0.6  # anywhere between the borders


def test_areas_and_shapes_are_distributed_as_torchvision_documents_it():
    def draw(generator):  # one attempt after the other, at most ten, then the whole square
        for _ in range(10):
            area = generator.uniform(0.08, 1) * 150 * 150
            ratio = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
            width, height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if 0 < width <= 150 and 0 < height <= 150:
                return height, width
        return 150, 150

    generator = rng(1)
    heights, widths = np.array([draw(generator) for _ in range(20_000)]).T
    _, _, height, width = cut(random_resized_crop()(positions(3000, 150, 150), rng(2))).T
    for share in (10, 25, 50, 75, 90):
        found, expected = (np.percentile(h * w / 150**2, share) for h, w in ((height, width), (heights, widths)))
        assert found == pytest.approx(expected, abs=0.03)
        found, expected = (np.percentile(w / h, share) for h, w in ((height, width), (heights, widths)))
        assert found == pytest.approx(expected, abs=0.03)


def test_crops_are_scaled_as_pillow_does_it():
    rectangles = np.rint(cut(random_resized_crop()(positions(40), rng(5)))).astype(int)  # the same draws as below
    images = photographs(40)
    made = random_resized_crop()(images, rng(5))
    for before, after, (top, left, height, width) in zip(images, made, rectangles):
        part = Image.fromarray(before[top : top + height, left : left + width])
        expected = np.array(part.resize((200, 120), Image.BILINEAR))
        np.testing.assert_allclose(after.astype(int), expected, rtol=0, atol=1)


def test_one_channel_is_cropped_as_three():
    images = noise(channels=1)
    made = random_resized_crop()(images.repeat(3, axis=3), rng(2))
    np.testing.assert_array_equal(random_resized_crop()(images, rng(2)).repeat(3, axis=3), made)


def test_where_no_rectangle_fits_the_image_stays_whole():
    images = noise(50, 4, 4)
    np.testing.assert_array_equal(random_resized_crop((0.001, 0.002))(images, rng()), images)


# rotate


@pytest.mark.parametrize("degrees", [5, 30, 180])
def test_rotation_is_pillows(degrees):
    angles = rng(5).uniform(-degrees, degrees, size=30)
    images = photographs(30)
    made = rotate(degrees)(images, rng(5))
    for before, after, angle in zip(images, made, angles):
        expected = np.array(Image.fromarray(before).rotate(angle, Image.BILINEAR, fillcolor=(128,) * 3))
        differ = (abs(after.astype(int) - expected) > 3).any(axis=2)
        assert differ.mean() < 0.03  # along the border, which Pillow does not blend with the grey outside


def test_no_rotation_changes_nothing_and_half_a_turn_is_both_mirrors():
    np.testing.assert_array_equal(rotate(0)(noise(), rng()), noise())

    class HalfATurn:
        def uniform(self, low, high, size):
            return np.full(size, high)

    np.testing.assert_array_equal(rotate(180)(noise(), HalfATurn()), noise()[:, ::-1, ::-1])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_corners_become_mid_grey(channels):
    made = rotate(60)(np.zeros((30, 40, 40, channels), dtype=np.uint8), rng())
    turned = made.reshape(30, -1).any(axis=1)
    assert turned.sum() > 25 and (made[made > 0] <= 128).all()
    assert (made[:, 0, 0].min(axis=1) == 128).mean() > 0.8 and (made[:, 20, 20] == 0).all()


# random_erasing


def erased(images, made):
    """The bounding box of what changed in each image: top, left, height, width; and how many pixels did."""
    found = []
    for before, after in zip(images, made):
        mask = (before != after).any(axis=2)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        found.append([rows[0], columns[0], np.ptp(rows) + 1, np.ptp(columns) + 1, mask.sum()])
    return np.array(found).T


@pytest.mark.parametrize("scale, ratio", [((0.02, 0.4), (0.3, 1 / 0.3)), ((0.1, 0.2), (1, 2)), ((0.25, 0.25), (1, 1))])
def test_area_and_shape_of_what_is_erased_lie_in_their_ranges(scale, ratio):
    images = np.zeros((500, 60, 100, 3), dtype=np.uint8)
    top, left, height, width, count = erased(images, random_erasing(1, scale, ratio)(images, rng()))
    np.testing.assert_allclose(count, height * width, atol=3)  # a full rectangle; (0, 0, 0) is drawn rarely
    area, shape = height * width / 6000, width / height
    slack = 0.5 / height + 0.5 / width + 0.25 / (height * width)  # of whole pixels
    assert (area >= scale[0] * (1 - slack)).all() and (area <= scale[1] * (1 + slack)).all()
    assert (shape >= ratio[0] * (1 - 2 * slack)).all() and (shape <= ratio[1] * (1 + 2 * slack)).all()
    assert (top == 0).any() and (left == 0).any() and (top + height == 60).any() and (left + width == 100).any()
    if scale[0] < scale[1]:
        assert np.ptp(area) > 0.9 * (scale[1] - scale[0])
        assert (shape < np.sqrt(ratio[0] * ratio[1])).mean() == pytest.approx(0.5, abs=0.15)


def test_what_is_erased_becomes_noise():
    images = np.full((50, 60, 60, 3), 7, dtype=np.uint8)
    made = random_erasing(1, (0.3, 0.4), (1, 1))(images, rng())
    values = np.concatenate([after[(after != 7).any(axis=2)] for after in made])
    assert 126 < values.mean() < 129 and 73 < values.std() < 75 and values.min() == 0 and values.max() == 255
    assert abs(np.corrcoef(values.T) - np.eye(3)).max() < 0.02  # each channel on its own


def test_a_share_of_the_images_is_erased():
    images = noise(1000, 12, 12)
    np.testing.assert_array_equal(random_erasing(0)(images, rng()), images)
    for probability in (0.25, 1):
        changed = (random_erasing(probability)(images, rng()) != images).any(axis=(1, 2, 3))
        assert changed.mean() == pytest.approx(probability, abs=0.04)


def test_where_no_rectangle_fits_nothing_is_erased():
    images = noise(20, 1, 40)
    np.testing.assert_array_equal(random_erasing(1, (0.5, 0.9), (0.3, 0.5))(images, rng()), images)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: random_resized_crop((0, 1)), r"scale must be two shares of the area above 0 .*, not \(0, 1\)"),
        (lambda: random_resized_crop((0.5, 0.4)), "the smaller one first"),
        (lambda: random_resized_crop((0.5, 1.1)), "at most 1"),
        (lambda: random_resized_crop((float("nan"), 1)), "not .nan, 1"),
        (lambda: random_resized_crop(ratio=(1.1, 2)), r"ratio must be two factors.*not \(1.1, 2\)"),
        (lambda: random_resized_crop(ratio=(0.5, float("inf"))), "ratio must be two factors"),
        (lambda: rotate(-1), "degrees must lie between 0 and 180, not -1"),
        (lambda: rotate(181), "not 181"),
        (lambda: random_erasing(1.5), "probability must lie between 0 and 1, not 1.5"),
        (lambda: random_erasing(float("nan")), "not nan"),
        (lambda: random_erasing(1, (0, 0.4)), "scale must be two shares"),
        (lambda: random_erasing(1, (0.1, 2)), "scale must be two shares"),
        (lambda: random_erasing(1, ratio=(2, 1)), r"ratio must be two numbers above 0.*, not \(2, 1\)"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
