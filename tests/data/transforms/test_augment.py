import colorsys

from d2lcls.data import STANDARD, colour_jitter, cutmix, cutout, flip, mixup, pad_crop, reflect_crop

import numpy as np
import pytest

TRANSFORMS = {
    "pad_crop": pad_crop(2),
    "flip": flip(),
    "cutout": cutout(4),
    "colour_jitter": colour_jitter(),
    "hue": colour_jitter(hue=0.3),
}


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(n=16, height=10, width=12, channels=3):
    return rng(99).integers(0, 256, (n, height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_shape_and_dtype_stay_and_the_input_is_unchanged(name, channels):
    images = noise(channels=channels)
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
def test_a_single_image(name):
    assert TRANSFORMS[name](noise(1), rng()).shape == (1, 10, 12, 3)


@pytest.mark.parametrize("padding", [0, 1, 3, 15])
def test_pad_crop_is_the_naive_loop(padding):
    images = noise()
    n, height, width, channels = images.shape
    top, left = rng(5).integers(0, 2 * padding + 1, size=(2, n))
    expected = np.zeros_like(images)
    for i in range(n):
        for y in range(height):
            for x in range(width):
                from_y, from_x = y + top[i] - padding, x + left[i] - padding
                if 0 <= from_y < height and 0 <= from_x < width:
                    expected[i, y, x] = images[i, from_y, from_x]
    np.testing.assert_array_equal(pad_crop(padding)(images, rng(5)), expected)


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_reflect_crop_is_the_naive_loop(padding):
    images = noise()
    n, height, width, _ = images.shape
    top, left = rng(5).integers(0, 2 * padding + 1, size=(2, n))

    def inside(place, size):
        place = abs(place)  # the border itself is not repeated
        return place if place < size else 2 * (size - 1) - place

    expected = np.stack(
        [
            [
                [
                    images[i, inside(y + top[i] - padding, height), inside(x + left[i] - padding, width)]
                    for x in range(width)
                ]
                for y in range(height)
            ]
            for i in range(n)
        ]
    )
    np.testing.assert_array_equal(reflect_crop(padding)(images, rng(5)), expected)


def test_pad_crop_covers_every_shift_about_equally():
    dot = np.zeros((5000, 9, 9, 1), dtype=np.uint8)
    dot[:, 4, 4] = 1
    _, y, x, _ = np.nonzero(pad_crop(2)(dot, rng()))
    counts = np.zeros((9, 9), dtype=int)
    np.add.at(counts, (y, x), 1)
    assert counts.sum() == 5000 and counts[2:7, 2:7].sum() == 5000
    assert counts[2:7, 2:7].min() > 140 and counts.max() < 260  # 200 expected, standard deviation 14


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_flip_is_the_naive_loop(channels):
    turned = noise(channels=channels).transpose(0, 2, 1, 3)  # no longer contiguous in memory
    mirrored = rng(5).random(16) < 0.3
    expected = np.stack([image[:, ::-1] if turn else image for image, turn in zip(turned, mirrored)])
    np.testing.assert_array_equal(flip(0.3)(turned, rng(5)), expected)


def test_flip_by_its_probability():
    images = noise(400, 4, 5)
    np.testing.assert_array_equal(flip(0)(images, rng()), images)
    np.testing.assert_array_equal(flip(1)(images, rng()), images[:, :, ::-1])
    made = flip(0.25)(images, rng())
    flipped = (made == images[:, :, ::-1]).all(axis=(1, 2, 3))
    kept = (made == images).all(axis=(1, 2, 3))
    assert (flipped ^ kept).all() and 70 < flipped.sum() < 130


@pytest.mark.parametrize("size", [1, 4, 5])
def test_cutout_hides_a_square_and_hangs_over_edges(size):
    images = np.zeros((3000, 12, 14, 3), dtype=np.uint8)
    hidden = cutout(size, fill=200)(images, rng())
    assert set(np.unique(hidden)) == {0, 200}
    mask = hidden[..., 0] > 0
    assert (hidden > 0).all(axis=3).sum() == mask.sum()  # all channels alike
    heights, widths = mask.any(axis=2).sum(axis=1), mask.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(mask.sum(axis=(1, 2)), heights * widths)  # a full rectangle
    interior = ~(mask[:, [0, -1]].any(axis=(1, 2)) | mask[:, :, [0, -1]].any(axis=(1, 2)))
    assert interior.any() and (heights[interior] == size).all() and (widths[interior] == size).all()
    assert heights.max() == widths.max() == size
    smallest = size - size // 2 if size > 1 else 1  # the centre is always inside
    assert heights.min() >= min(smallest, size // 2 + 1) and widths.min() >= min(smallest, size // 2 + 1)
    assert (heights < size).any() == (size > 1)
    assert mask.any(axis=0).all()  # every pixel is hidden sometimes


def test_cutout_as_large_as_the_picture():
    made = cutout(40)(noise(), rng())
    assert (made == 128).all()


def test_colour_jitter_of_nothing_changes_nothing():
    for channels in (1, 3):
        images = noise(channels=channels)
        np.testing.assert_array_equal(colour_jitter(0, 0, 0)(images, rng()), images)


def test_brightness_stays_within_its_limits():
    images = np.full((2000, 2, 2, 3), 100, dtype=np.uint8)
    made = colour_jitter(0.3, 0, 0)(images, rng())
    assert (made == made[:, :1, :1, :1]).all()
    assert made.min() in (70, 71) and made.max() in (129, 130) and 98 < made.mean() < 102


def test_contrast_keeps_the_mean_and_saturation_keeps_the_grey():
    images = rng(3).integers(80, 176, (300, 6, 6, 3), dtype=np.uint8)
    grey = images @ np.array([0.299, 0.587, 0.114])
    made = colour_jitter(0, 0.5, 0)(images, rng()) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(made.mean(axis=(1, 2)), grey.mean(axis=(1, 2)), atol=0.5)
    ratio = made.std(axis=(1, 2)) / grey.std(axis=(1, 2))
    assert 0.48 < ratio.min() < 0.6 and 1.4 < ratio.max() < 1.52
    made = colour_jitter(0, 0, 0.5)(images, rng())
    np.testing.assert_allclose(made @ np.array([0.299, 0.587, 0.114]), grey, atol=0.6)
    assert np.ptp(made, axis=3).mean(axis=(1, 2)).std() > 1


def test_saturation_leaves_grey_pictures_alone():
    for images in (noise(channels=1), np.repeat(noise(channels=1), 3, axis=3)):
        np.testing.assert_array_equal(colour_jitter(0, 0, 1)(images, rng()), images)


def test_colour_jitter_is_the_naive_loop():
    images, grey_of = noise(), np.array([0.299, 0.587, 0.114])
    brightness, contrast, saturation = rng(5).uniform(-1, 1, size=(3, 16)) * [[0.1], [0.2], [0.3]]
    made = colour_jitter(0.1, 0.2, 0.3)(images, rng(5))
    for i, image in enumerate(images):
        x = image * (1 + brightness[i])
        grey = (x @ grey_of)[..., None]
        x = grey + (x - grey) * (1 + saturation[i])
        x = grey.mean() + (x - grey.mean()) * (1 + contrast[i])
        np.testing.assert_allclose(made[i], x.clip(0, 255), atol=0.51)


def test_colour_jitter_clips_instead_of_wrapping():
    images = np.full((200, 2, 2, 3), 250, dtype=np.uint8)
    assert colour_jitter(0.2, 0, 0)(images, rng()).min() >= 200


def test_hues_turn_as_in_colorsys():
    images = noise(12, 5, 6)
    turns = rng(5)
    turns.uniform(size=(3, 12))  # of brightness, contrast and saturation
    made = colour_jitter(0, 0, 0, hue=0.5)(images, rng(5))
    for before, after, turn in zip(images, made, turns.uniform(-0.5, 0.5, size=12)):
        for pixel, found in zip(before.reshape(-1, 3), after.reshape(-1, 3)):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel / 255)
            expected = 255 * np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value))
            np.testing.assert_allclose(found, expected, atol=0.6)


def test_hues_turn_up_to_the_share_and_grey_has_none():
    images = np.repeat(np.array([[[[200, 20, 20]]]], dtype=np.uint8), 400, axis=0)
    made = colour_jitter(0, 0, 0, hue=0.1)(images, rng())[:, 0, 0]
    hues = np.array([(colorsys.rgb_to_hsv(*pixel / 255)[0] + 0.5) % 1 - 0.5 for pixel in made])
    assert -0.103 < hues.min() < -0.09 and 0.09 < hues.max() < 0.103 and abs(hues.mean()) < 0.01
    for images in (noise(channels=1), np.repeat(noise(channels=1), 3, axis=3)):
        np.testing.assert_array_equal(colour_jitter(0, 0, 0, hue=0.5)(images, rng()), images)


def test_mixup_blends_images_and_labels_alike():
    images, labels = noise(), np.arange(16) % 5
    blended, targets = mixup(images, labels, 5, 0.8, rng(7))
    assert blended.dtype == np.uint8 and targets.dtype == np.float32 and targets.shape == (16, 5)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    generator = rng(7)
    share, other = generator.beta(0.8, 0.8, size=16), generator.permutation(16)
    for i in range(16):
        expected = share[i] * images[i] + (1 - share[i]) * images[other[i]].astype(float)
        np.testing.assert_allclose(blended[i], expected, atol=0.51)
        target = np.zeros(5)
        target[labels[i]] += share[i]
        target[labels[other[i]]] += 1 - share[i]
        np.testing.assert_allclose(targets[i], target, atol=1e-6)


def test_mixup_leaves_its_input_alone_and_works_on_one_image():
    images, labels = noise(1), np.array([1])
    before = images.copy()
    blended, targets = mixup(images, labels, 2, 1.0, rng())
    np.testing.assert_array_equal(blended, before)
    np.testing.assert_array_equal(images, before)
    np.testing.assert_allclose(targets, [[0, 1]], atol=1e-6)


def test_a_small_alpha_blends_little():
    _, small = mixup(noise(), np.arange(16), 16, 0.01, rng())
    _, large = mixup(noise(), np.arange(16), 16, 100.0, rng())
    assert np.sort(small, axis=1)[:, -1].mean() > 0.9 > 0.75 > np.sort(large, axis=1)[:, -1].mean()


def numbered(n, height=10, width=12):
    """Images of which each pixel is the image's number."""
    return np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, height, width, 3)).copy()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 20.0])
def test_cutmix_shares_are_those_of_the_pixels(alpha):
    images = numbered(200, 11, 17)
    mixed, targets = cutmix(images, np.arange(200), 200, alpha, rng(3))
    assert mixed.dtype == np.uint8 and targets.dtype == np.float32
    for image, target in zip(mixed, targets):
        pixels = np.bincount(image[..., 0].ravel(), minlength=200) / (11 * 17)
        np.testing.assert_allclose(target, pixels, rtol=0, atol=1e-7)
        assert (image == image[..., :1]).all()


def test_labels_of_cutmix_are_classes():
    labels = np.array([2, 0, 2, 1, 1, 0, 2, 0])
    mixed, targets = cutmix(numbered(8), labels, 3, 1.0, rng())
    expected = np.eye(3)[labels[mixed[..., 0]]].mean(axis=(1, 2))
    np.testing.assert_allclose(targets, expected, atol=1e-6)
    assert (targets.max(axis=1) < 1).any()


def test_cutmix_is_the_naive_loop():
    images, generator = noise(), rng(7)
    share, other = generator.beta(0.8, 0.8, size=16), generator.permutation(16)
    rows, columns = generator.integers(0, 10, size=16), generator.integers(0, 12, size=16)
    mixed, _ = cutmix(images, np.zeros(16, dtype=int), 1, 0.8, rng(7))
    for i in range(16):
        height, width = round(10 * np.sqrt(1 - share[i])), round(12 * np.sqrt(1 - share[i]))
        top, left = rows[i] - height // 2, columns[i] - width // 2
        expected = images[i].copy()
        part = slice(max(top, 0), max(top + height, 0)), slice(max(left, 0), max(left + width, 0))
        expected[part] = images[other[i]][part]
        np.testing.assert_array_equal(mixed[i], expected)


def test_alpha_decides_the_area_that_is_pasted():
    def pasted(alpha):
        images = np.zeros((2000, 40, 40, 1), dtype=np.uint8)
        images[::2] = 1
        mixed, _ = cutmix(images, np.zeros(2000, dtype=int), 1, alpha, rng())
        areas = (mixed != images).mean(axis=(1, 2, 3))
        return areas[areas > 0]  # half of the pairs are alike

    assert pasted(500.0).max() == pytest.approx(0.5, abs=0.05)  # sides of 0.71, whole
    assert pasted(500.0).min() > 0.1  # a quarter, in a corner
    assert pasted(1.0).std() > 0.15 and pasted(1.0).max() > 0.85


def test_cutmix_leaves_its_input_alone_and_works_on_one_image():
    images = noise(1, channels=1)
    before = images.copy()
    images.setflags(write=False)
    mixed, targets = cutmix(images, np.array([1]), 2, 1.0, rng())
    np.testing.assert_array_equal(mixed, before)
    np.testing.assert_allclose(targets, [[0, 1]])
    mixed[:] = 0
    np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: pad_crop(-1), "padding must be 0 or more pixels, not -1"),
        (lambda: flip(1.5), "probability must lie between 0 and 1, not 1.5"),
        (lambda: flip(-0.1), "not -0.1"),
        (lambda: flip(float("nan")), "not nan"),
        (lambda: cutout(0), "size must be 1 pixel or more, not 0"),
        (lambda: cutout(4, fill=256), "fill must lie between 0 and 255, not 256"),
        (lambda: cutout(4, fill=-1), "not -1"),
        (lambda: colour_jitter(brightness=-0.1), "brightness must lie between 0 and 1, not -0.1"),
        (lambda: colour_jitter(contrast=2), "contrast must lie between 0 and 1, not 2"),
        (lambda: colour_jitter(saturation=1.1), "saturation must lie between 0 and 1, not 1.1"),
        (lambda: colour_jitter(hue=0.6), "hue must lie between 0 and 0.5, not 0.6"),
        (lambda: mixup(noise(), np.arange(16), 16, 0, rng()), "alpha must be above 0, not 0"),
        (lambda: cutmix(noise(), np.arange(16), 16, 0, rng()), "alpha must be above 0, not 0"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_standard_recipe_is_pad_crop_and_flip():
    images, generator = noise(), rng(1)
    made = images
    for transform in STANDARD:
        made = transform(made, generator)
    generator = rng(1)
    np.testing.assert_array_equal(made, flip(0.5)(pad_crop(4)(images, generator), generator))
