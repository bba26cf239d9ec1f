from d2lcls.data import (
    Batches,
    Images,
    autoaugment,
    channel_statistics,
    colour_jitter,
    cutout,
    flip,
    pad_crop,
    random_erasing,
    random_resized_crop,
    rotate,
)
from d2lcls.data.transforms import augment

import numpy as np
import pytest

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def make(n=23, height=6, width=5, channels=3, classes=4):
    """Random images, whose label follows from their number."""
    images = np.random.default_rng(0).integers(0, 256, (n, height, width, channels), dtype=np.uint8)
    return Images(images, np.arange(n, dtype=np.int64) % classes, tuple("abcdefgh"[:classes]), "made")


def numbered(n=23):
    """Images that hold their own number, so that order can be read from a batch."""
    images = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), dtype=np.uint8)
    return Images(images, np.arange(n, dtype=np.int64) % 2, ("even", "odd"), "numbered")


def order(batches, number):
    return [int(i) for x, _ in batches.epoch(number) for i in batches.denormalise(x)[:, 0, 0, 0]]


def same(first, second):
    first, second = list(first), list(second)
    assert len(first) == len(second)
    for (x1, y1), (x2, y2) in zip(first, second):
        np.testing.assert_array_equal(x1, x2)
        np.testing.assert_array_equal(y1, y2)


def test_values_are_those_of_a_float64_reference():
    data = make(256)
    x, y = next(iter(Batches(data, 256, MEAN, STD)))
    expected = ((data.images.astype(np.float64) / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    assert x.dtype == np.float32 and y.dtype == np.int32 and x.shape == (256, 3, 6, 5)
    assert x.flags.c_contiguous
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(y, data.labels)


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_each_value_is_scaled_and_shifted_in_float32(channels):
    """Published results were trained on these bits."""
    mean, std = np.linspace(0.2, 0.6, channels), np.linspace(0.2, 0.3, channels)
    images = make(n=60, channels=channels).images.transpose(0, 2, 1, 3)  # not contiguous in memory
    scale, shift = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
    x = Batches(make(channels=channels), 8, mean, std).normalise(images)
    np.testing.assert_array_equal(x, (images.astype(np.float32) * scale + shift).transpose(0, 3, 1, 2))


def test_without_statistics_the_scale_is_0_to_1():
    data = make()
    x, _ = next(iter(Batches(data, 23)))
    np.testing.assert_allclose(x, data.images.transpose(0, 3, 1, 2) / 255.0, atol=1e-7)


def test_normalised_with_its_own_statistics_a_set_has_mean_0_and_std_1():
    data = make(200)
    x = np.concatenate([x for x, _ in Batches(data, 64, *channel_statistics(data.images))])
    np.testing.assert_allclose(x.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=(0, 2, 3)), 1, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_denormalise_inverts(channels):
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(channels, axis=3)
    data = Images(every, np.zeros(1, dtype=np.int64), ("a",), "every value")
    batches = Batches(data, 1, np.linspace(0.1, 0.5, channels), np.linspace(0.01, 0.3, channels))
    np.testing.assert_array_equal(batches.denormalise(batches.normalise(every)), every)


def test_denormalise_takes_mxnets_arrays_and_clips():
    import mxnet as mx

    batches = Batches(make(), 4, MEAN, STD)
    x, _ = next(iter(batches))
    np.testing.assert_array_equal(batches.denormalise(mx.nd.array(x)), batches.data.images[:4])
    assert set(np.unique(batches.denormalise(np.full((1, 3, 2, 2), 1e3)))) == {255}
    assert set(np.unique(batches.denormalise(np.full((1, 3, 2, 2), -1e3)))) == {0}


def test_every_image_comes_exactly_once():
    for shuffle in (False, True):
        batches = Batches(numbered(), 5, shuffle=shuffle)
        for number in range(3):
            assert sorted(order(batches, number)) == list(range(23))
    assert order(Batches(numbered(), 5), 7) == list(range(23))


def test_labels_follow_their_images():
    for x, y in Batches(numbered(), 5, shuffle=True).epoch(3):
        np.testing.assert_array_equal(np.rint(x[:, 0, 0, 0] * 255) % 2, y)


def test_order_depends_on_seed_and_epoch_alone():
    batches = Batches(numbered(), 5, shuffle=True, seed=1)
    second = order(batches, 2)
    assert order(batches, 0) != order(batches, 1) != second  # out of turn and after other epochs:
    assert order(Batches(numbered(), 5, shuffle=True, seed=1), 2) == second
    assert order(Batches(numbered(), 7, shuffle=True, seed=1, augment=(flip(),)), 2) == second
    assert order(Batches(numbered(), 5, shuffle=True, seed=2), 2) != second


AUGMENTED = {
    "plain": {},
    "augmented": {"augment": (pad_crop(1), flip(), cutout(2), colour_jitter())},
    "mixup": {"augment": (flip(),), "mixup": 0.4},
    "cutmix": {"augment": (flip(),), "cutmix": 1.0},
    "one of two": {"mixup": 0.4, "cutmix": 1.0},
    "photographs": {"augment": (random_resized_crop(), rotate(20), random_erasing(), autoaugment())},
}


@pytest.mark.parametrize("options", AUGMENTED.values(), ids=AUGMENTED)
def test_an_epoch_from_the_middle_is_the_tail_of_the_whole(options):
    batches = Batches(make(), 5, MEAN, STD, shuffle=True, seed=3, **options)
    whole = list(batches.epoch(4))
    for start in range(len(batches) + 1):
        same(batches.epoch(4, start=start), whole[start:])


@pytest.mark.parametrize("options", AUGMENTED.values(), ids=AUGMENTED)
def test_the_same_seed_gives_the_same_batches_and_another_does_not(options):
    first, again, other = (Batches(make(), 5, shuffle=True, seed=seed, **options) for seed in (1, 1, 2))
    same(first.epoch(1), again.epoch(1))
    assert any((a != b).any() for (a, _), (b, _) in zip(first.epoch(1), other.epoch(1)))


def test_augmentation_differs_between_epochs_and_batches():
    data = Images(np.repeat(make(1).images, 8, axis=0), np.zeros(8, dtype=np.int64), ("a",), "eight alike")
    batches = Batches(data, 4, augment=(pad_crop(3),))
    (a, _), (b, _) = batches.epoch(0)
    (c, _), _ = batches.epoch(1)
    assert (a != b).any() and (a != c).any()


def test_mixup_differs_between_epochs_batches_and_seeds():
    data = Images(make(8).images, np.arange(8) % 4, tuple("abcd"), "twice the same labels")
    one, other = (Batches(data, 4, mixup=0.5, seed=seed) for seed in (1, 2))
    shares = [y for batches in (one.epoch(0), one.epoch(1), other.epoch(0)) for _, y in batches]
    assert len({y.tobytes() for y in shares}) == 6


def test_with_mixup_and_cutmix_each_batch_gets_one_of_the_two():
    values = np.array([0, 128, 255], dtype=np.uint8)
    images = np.repeat(values, 200)[:, None, None, None] * np.ones((1, 8, 8, 3), dtype=np.uint8)
    data = Images(images, np.repeat(np.arange(3), 200), ("a", "b", "c"), "three colours")
    batches = Batches(data, 6, shuffle=True, mixup=5.0, cutmix=5.0)
    pasted = 0
    for x, y in batches:
        made = batches.denormalise(x)
        shares = (made[..., :1] == values).mean(axis=(1, 2))
        is_pasted = np.isin(made, values).all()
        pasted += is_pasted
        if is_pasted:
            np.testing.assert_allclose(y, shares, atol=1e-6)
        else:
            np.testing.assert_allclose(made[:, 0, 0, 0], y @ values, atol=0.51)
            assert (made == made[:, :1, :1]).all()
    assert 30 < pasted < 70  # of 100


def test_the_draw_between_the_two_costs_a_single_one_no_random_number():
    for option in ("mixup", "cutmix"):
        data = make(8)
        x, y = next(iter(Batches(data, 8, seed=3, **{option: 0.7})))
        mix = getattr(augment, option)
        images, targets = mix(data.images, data.labels, 4, 0.7, np.random.default_rng([3, 0, 0]))
        np.testing.assert_array_equal(y, targets)
        np.testing.assert_allclose(x.transpose(0, 2, 3, 1) * 255, images, atol=1e-3)


def test_transforms_are_applied_in_their_order():
    data = make()
    double, add = (lambda images, rng: images // 2), (lambda images, rng: images // 4 + 100)
    x, _ = next(iter(Batches(data, 23, augment=(double, add))))
    np.testing.assert_allclose(x.transpose(0, 2, 3, 1) * 255, data.images // 2 // 4 + 100, atol=1e-3)


def test_the_data_is_never_changed():
    data = make()
    before = data.images.copy()
    data.images.setflags(write=False)
    for _ in Batches(data, 5, MEAN, STD, shuffle=True, augment=(pad_crop(1), flip(), cutout(2)), mixup=0.2):
        pass
    np.testing.assert_array_equal(data.images, before)


@pytest.mark.parametrize(
    "batch_size, sizes", [(5, [5, 5, 5, 5, 3]), (23, [23]), (22, [22, 1]), (100, [23]), (1, [1] * 23)]
)
def test_the_last_batch_may_be_shorter(batch_size, sizes):
    batches = Batches(make(), batch_size)
    assert len(batches) == len(sizes) and [len(x) for x, _ in batches] == sizes
    assert [len(y) for _, y in batches] == sizes


def test_a_single_image():
    batches = Batches(make(1), shuffle=True, augment=(pad_crop(1), flip()), mixup=0.5)
    assert len(batches) == 1 and [x.shape for x, _ in batches] == [(1, 3, 6, 5)]


def test_mixup_gives_a_share_of_each_class():
    for x, y in Batches(make(), 5, mixup=0.5, seed=1):
        assert y.dtype == np.float32 and y.shape == (len(x), 4)
        np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-6)
        assert ((y > 0).sum(axis=1) <= 2).all()


def test_real_statistics_of_one_channel():
    batches = Batches(make(channels=1), 8, [0.5], [0.25])
    x, _ = next(iter(batches))
    np.testing.assert_allclose(x[:, 0], (batches.data.images[:8, ..., 0] / 255 - 0.5) / 0.25, atol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch_size must be 1 or more, not 0"),
        ({"mixup": -0.1}, r"mixup must be 0 \(off\) or above, not -0.1"),
        ({"mean": (0.5,)}, r"mean has shape \(1,\); the images have 3 channels, so \(3,\) is needed"),
        ({"std": (0.5, 0.5, 0.5, 0.5)}, r"std has shape \(4,\); the images have 3 channels"),
        ({"mean": 0.5}, r"mean has shape \(\)"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be above 0 in every channel, not .0.5 0.  0.5."),
        ({"std": (0.5, float("nan"), 0.5)}, "std must be above 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        Batches(make(), **options)


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="The set of images is empty"):
        Batches(make().subset([]))


def test_the_random_numbers_are_those_that_published_results_were_made_with():
    draws, expected = [], np.arange(23)

    def note(images, rng):
        draws.append(rng.integers(1 << 40))
        return images

    batches = Batches(numbered(), 5, shuffle=True, seed=6, augment=(note,))
    np.random.default_rng([6, 2]).shuffle(expected)
    assert order(batches, 2) == expected.tolist()
    assert draws == [np.random.default_rng([6, 2, batch]).integers(1 << 40) for batch in range(5)]


class Lazy:
    """Images that are not in memory: they know their shape, and give those at an array of positions or a slice."""

    def __init__(self, images):
        self._images, self.shape = images, images.shape

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        assert isinstance(index, slice) or isinstance(index, np.ndarray) and index.dtype.kind == "i", index
        return self._images[index]


def test_images_need_not_be_in_memory():
    data = make()
    lazy = make()
    object.__setattr__(lazy, "images", Lazy(data.images))
    options = {"shuffle": True, "augment": (flip(),), "mixup": 0.3, "size": 9, "balanced": True}
    same(Batches(lazy, 5, **options).epoch(2), Batches(data, 5, **options).epoch(2))
    np.testing.assert_array_equal(Batches(lazy, 5, size=9).example(), Batches(data, 5, size=9).example())


def scaled(data, size, **kwargs):
    """The images of a set as its batches show them, uint8 (N, H, W, C)."""
    batches = Batches(data, 8, size=size, **kwargs)
    return np.concatenate([batches.denormalise(x) for x, _ in batches])


def area_weights(before, after):
    """Matrix (after, before) whose rows average the pixels that a larger pixel covers."""
    edges = np.arange(after + 1) * before / after
    overlap = np.minimum(edges[1:, None], np.arange(before) + 1) - np.maximum(edges[:-1, None], np.arange(before))
    return overlap.clip(0) * after / before


def bicubic_weights(before, after, a=-0.75):
    """Matrix (after, before) of Keys's cubic kernel; the outermost pixels go on beyond the border."""
    weights = np.zeros((after, before))
    for i in range(after):
        centre = (i + 0.5) * before / after - 0.5
        for j in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            t = abs(centre - j)
            near, far = (a + 2) * t**3 - (a + 3) * t**2 + 1, a * (t**3 - 5 * t**2 + 8 * t - 4)
            weights[i, min(max(j, 0), before - 1)] += near if t <= 1 else far
    return weights


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize(
    "size, weights",
    [
        ((20, 31), bicubic_weights),
        ((6, 12), bicubic_weights),
        ((3, 25), bicubic_weights),
        ((4, 2), area_weights),
        ((3, 5), area_weights),
        ((6, 2), area_weights),
    ],
)
def test_images_grow_by_bicubic_interpolation_and_shrink_by_averaging(size, weights, channels):
    data = make(channels=channels)  # 6 x 5 pixels
    expected = np.einsum("ih,nhwc,jw->nijc", weights(6, size[0]), data.images, weights(5, size[1]))
    made = scaled(data, size)
    assert made.shape == (23, *size, channels)
    np.testing.assert_allclose(made, expected.clip(0, 255), atol=1.01)


def test_a_size_the_images_have_changes_nothing():
    np.testing.assert_array_equal(scaled(make(), (6, 5)), make().images)
    np.testing.assert_array_equal(scaled(make(), None), make().images)


def test_one_number_is_a_square_and_the_batch_is_normalised():
    x, _ = next(iter(Batches(make(), 7, MEAN, STD, size=10)))
    assert x.shape == (7, 3, 10, 10) and x.dtype == np.float32 and x.flags.c_contiguous
    plain, _ = next(iter(Batches(make(), 7, size=10)))
    np.testing.assert_allclose(x, (plain - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1)), atol=1e-5)


def test_scaling_comes_after_augmentation_and_mixup():
    seen = []

    def note(images, rng):
        seen.append(images.shape[1:])
        return images

    options = {"shuffle": True, "seed": 1, "augment": (pad_crop(1), flip(), note), "mixup": 0.5}
    small, large = Batches(make(), 5, **options), Batches(make(), 5, size=(12, 10), **options)
    for (x, y), (x2, y2) in zip(small.epoch(3), large.epoch(3)):
        images = Images(small.denormalise(x), np.zeros(len(x), dtype=np.int64), ("a",), "augmented")
        np.testing.assert_array_equal(scaled(images, (12, 10)), large.denormalise(x2))
        np.testing.assert_array_equal(y, y2)
    assert set(seen) == {(6, 5, 3)}


@pytest.mark.parametrize("options", AUGMENTED.values(), ids=AUGMENTED)
@pytest.mark.parametrize("size", [None, 9])
def test_the_example_is_the_first_image_unaugmented(size, options):
    batches = Batches(make(), 5, MEAN, STD, shuffle=True, size=size, **options)
    x, _ = next(iter(Batches(make(), 5, MEAN, STD, size=size)))
    example = batches.example()
    assert example.dtype == np.float32
    np.testing.assert_array_equal(example, x[:1])


def rare(counts=(200, 20, 0, 2)):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None].repeat(2, axis=1)
    return Images(images, labels, tuple("abcd"), "rare")


def test_balanced_draws_classes_and_their_images_evenly():
    data = rare()
    batches = Batches(data, 50, shuffle=True, balanced=True)
    assert len(batches) == 5
    drawn = np.concatenate([order(batches, number) for number in range(60)])
    assert len(drawn) == 60 * 222
    classes = np.bincount(data.labels[drawn], minlength=4)
    assert classes[2] == 0 and (abs(classes[[0, 1, 3]] - 60 * 74) < 5 * np.sqrt(60 * 74)).all()
    images = np.bincount(drawn, minlength=222)
    expected = 60 * 74 / data.counts()[data.labels]
    assert (abs(images - expected) < 5 * np.sqrt(expected)).all()


def test_balanced_labels_follow_their_images():
    data = rare()
    batches = Batches(data, 50, shuffle=True, balanced=True)
    for x, y in batches.epoch(1):
        np.testing.assert_array_equal(data.labels[batches.denormalise(x)[:, 0, 0, 0]], y)


def test_a_balanced_epoch_depends_on_seed_and_number_alone_and_resumes():
    options = {"shuffle": True, "balanced": True, "augment": (pad_crop(1),)}
    batches = Batches(make(), 5, seed=1, **options)
    whole = list(batches.epoch(2))
    for start in range(len(batches) + 1):
        same(Batches(make(), 5, seed=1, **options).epoch(2, start=start), whole[start:])
    balanced = Batches(rare(), 50, shuffle=True, balanced=True, seed=1)
    assert order(balanced, 0) != order(balanced, 1)
    assert order(balanced, 0) != order(Batches(rare(), 50, shuffle=True, balanced=True, seed=2), 0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"balanced": True}, "balanced=True draws its images at random: it needs shuffle=True"),
        ({"size": 0}, r"size must be a number of pixels or \(height, width\), above 0, not 0"),
        ({"size": (4, 5, 3)}, r"size must be .* not \(4, 5, 3\)"),
        ({"size": 4.5}, "size must be .* not 4.5"),
        ({"small_first": (6, 1)}, "small_first: windows of 6 pixels do not fit into images of 6 x 5"),
        ({"small_first": (3, 1), "size": 8}, "Give either small_first or size"),
    ],
)
def test_bad_size_or_balance(options, message):
    with pytest.raises(ValueError, match=message):
        Batches(make(), **options)


def test_alternating_flips_show_each_image_both_ways_in_two_epochs():
    images = np.random.default_rng(0).integers(0, 256, (40, 5, 6, 3), dtype=np.uint8)
    data = Images(images, np.arange(40), tuple(map(str, range(40))), "noise")
    batches = Batches(data, 16, shuffle=True, alternating_flip=True, seed=3)
    expected = np.random.default_rng([3, 2**31]).random(40) < 0.5  # as published results were made
    assert 10 < expected.sum() < 30
    for number in range(4):
        for x, labels in batches.epoch(number):
            flipped = expected[labels] != (number % 2 == 1)
            np.testing.assert_array_equal(
                batches.denormalise(x),
                np.where(flipped[:, None, None, None], images[labels][:, :, ::-1], images[labels]),
            )


def test_small_first_shows_windows_and_then_whole_images():
    images = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1) + np.arange(30, dtype=np.uint8).reshape(1, 5, 6, 1)
    data = Images(images, np.zeros(40, dtype=np.int64), ("a",), "numbered")
    batches = Batches(data, 16, small_first=(4, 2))
    windows = []
    for number, sides in enumerate([(4, 4), (4, 4), (5, 6), (5, 6)]):
        seen = np.concatenate([batches.denormalise(x) for x, _ in batches.epoch(number)])
        assert seen.shape == (40, *sides, 1)
        corners = seen[:, 0, 0, 0] - np.arange(40)
        if number < 2:
            windows += [corners[:16].tolist(), corners[16:32].tolist()]
            assert set(corners) == {0, 1, 2, 6, 7, 8}  # every place that there is for a window
            np.testing.assert_array_equal(seen, (np.arange(40) + corners)[:, None, None, None] + images[:1, :4, :4])
    np.testing.assert_array_equal(seen, images)
    assert len(set(map(tuple, windows))) == 4  # drawn anew for every batch
    assert batches.example().shape == (1, 1, 5, 6)
