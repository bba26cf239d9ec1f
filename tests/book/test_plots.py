import io

from d2lcls.book import plots
from d2lcls.training import Epoch
from d2lcls.training.search.tuning import TrialRecord

import numpy as np
import pytest
from PIL import Image

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 10, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def no_warnings(recwarn):
    yield
    assert [str(warning.message) for warning in recwarn] == []


def drawn(figure):
    """Draw a figure and return its pixels, to see that there is something on the page."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=60)
    pixels = np.asarray(Image.open(stream).convert("RGB"))
    assert pixels.std() > 3
    return pixels


def epochs(n=3, valid=True):
    return [
        Epoch(
            i + 1,
            0.1,
            2.0 - 0.1 * i,
            0.3 + 0.1 * i,
            2.1 if valid else None,
            0.25 + 0.1 * i if valid else None,
            1000.0,
            1.0,
        )
        for i in range(n)
    ]


@pytest.mark.parametrize("n, columns, grid", [(5, 8, (1, 5)), (5, 3, (2, 3)), (1, 8, (1, 1)), (5, 5, (1, 5))])
def test_images_lie_in_a_grid(n, columns, grid):
    figure = plots.show_images(IMAGES[:n], columns=columns)
    drawn(figure)
    assert len(figure.axes) == grid[0] * grid[1]
    shown = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert len(shown) == n
    for axis, image in zip(shown, IMAGES):
        np.testing.assert_array_equal(axis, image)
    assert not any(axis.axison for axis in figure.axes)


def test_titles_stand_over_their_images():
    figure = plots.show_images(IMAGES, titles=list("abcde"), columns=3)
    drawn(figure)
    assert [axis.get_title() for axis in figure.axes] == ["a", "b", "c", "d", "e", ""]


@pytest.mark.parametrize("shape", [(3, 8, 10, 1), (3, 8, 10), (3, 1, 10, 1), (3, 1, 1, 3), (1, 1, 1, 1)])
def test_one_channel_and_one_pixel(shape):
    images = np.linspace(0, 255, int(np.prod(shape))).reshape(shape).astype(np.uint8)
    figure = plots.show_images(images)
    figure.savefig(io.BytesIO(), format="png")
    image = figure.axes[0].images[0]
    expected = images[0, ..., 0] if shape[-1] == 1 else images[0]
    np.testing.assert_array_equal(image.get_array(), expected)
    assert image.get_array().ndim == 3 or (image.get_cmap().name == "gray" and image.get_clim() == (0, 255))


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (8, 8), ()])
def test_no_images_are_refused(shape):
    with pytest.raises(ValueError, match="images must be .* at least one, not"):
        plots.show_images(np.zeros(shape, dtype=np.uint8))


def test_curves():
    figure = plots.show_curves(epochs(), "It learns")
    drawn(figure)
    left, right = figure.axes
    assert figure.get_suptitle() == "It learns"
    assert left.get_xlabel() == right.get_xlabel() == "epoch"
    assert "nats" in left.get_ylabel() and "%" in right.get_ylabel()
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["training", "validation"]
    np.testing.assert_allclose(right.lines[0].get_ydata(), [30, 40, 50])
    np.testing.assert_allclose(left.lines[1].get_ydata(), [2.1] * 3)
    assert left.lines[0].get_linestyle() != left.lines[1].get_linestyle()  # not by colour alone


def test_curves_without_validation_and_of_one_epoch():
    figure = plots.show_curves(epochs(1, valid=False))
    drawn(figure)
    assert all(len(axis.lines) == 1 for axis in figure.axes) and figure.get_suptitle()


def test_confusion():
    matrix = np.array([[8, 2, 0], [0, 5, 5], [0, 0, 0]])
    figure = plots.show_confusion(matrix, ("cat", "dog", "deer"), "Dogs pass for deer")
    drawn(figure)
    axis, bar = figure.axes
    assert axis.get_title() == "Dogs pass for deer" and "%" in bar.get_ylabel()
    assert axis.get_xlabel() == "predicted class" and axis.get_ylabel() == "true class"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["cat", "dog", "deer"]
    texts = {(text.get_position()): text.get_text() for text in axis.texts}
    assert texts == {(0, 0): "80", (1, 0): "20", (1, 1): "50", (2, 1): "50"}  # x is the predicted class


def test_bars():
    figure = plots.show_bars(["first", "second"], [1.0, 2.0], "images/s", errors=[0.1, 0.2], title="Second wins")
    drawn(figure)
    axis = figure.axes[0]
    assert axis.get_xlabel() == "images/s" and axis.get_title() == "Second wins"
    heights = {label.get_text(): y for label, y in zip(axis.get_yticklabels(), axis.get_yticks())}
    assert heights["first"] > heights["second"]  # read from the top
    assert [patch.get_width() for patch in axis.patches] == [1.0, 2.0]


def test_bars_without_errors_and_title():
    drawn(plots.show_bars(["one"], [3.0], "seconds"))


def test_colours_stay_apart_in_grey():
    def luminance(colour):
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    values = sorted(map(luminance, (plots.DARK, plots.ACCENT, plots.LIGHT)))
    assert min(np.diff(values)) > 0.15


def trial(number, state, value):
    return TrialRecord(number, state, value, {"lr": 0.1}, 3)


def test_search():
    figure = plots.show_search(
        [
            trial(0, "complete", 0.5),
            trial(1, "pruned", 0.2),
            trial(2, "complete", 0.4),
            trial(3, "fail", None),
            trial(4, "pruned", None),
            trial(5, "complete", 0.75),
        ]
    )
    drawn(figure)
    axis = figure.axes[0]
    best, complete, pruned = axis.lines
    np.testing.assert_array_equal(best.get_xydata(), [(0, 0.5), (2, 0.5), (5, 0.75)])
    np.testing.assert_array_equal(complete.get_xydata(), [(0, 0.5), (2, 0.4), (5, 0.75)])
    np.testing.assert_array_equal(pruned.get_xydata(), [(1, 0.2)])
    assert complete.get_fillstyle() != pruned.get_fillstyle()  # not by colour alone
    assert axis.get_xlabel() == "trial" and axis.get_ylabel() == "validation accuracy"
    assert axis.get_title() == "Trial 5 is the best of 4: 0.750"


def test_search_without_pruned_trials_does_not_speak_of_them():
    figure = plots.show_search([trial(0, "complete", 0.5), trial(1, "pruned", None)], "top-1 (%)", "One will do")
    drawn(figure)
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["best so far", "complete"]
    assert axis.get_ylabel() == "top-1 (%)" and axis.get_title() == "One will do"


def test_front_of_several_objectives():
    records = [
        TrialRecord(number, "complete", value, {"lr": 0.1}, 0, others)
        for number, value, others in [(0, 0.5, (2.0, 10.0)), (1, 0.75, (3.0, 20.0)), (2, 0.4, (2.5, 30.0))]
    ]
    figure = plots.show_front(
        [*records, trial(3, "fail", None)], records[:2], ["accuracy", "latency (ms)", "parameters"]
    )
    drawn(figure)
    assert [axis.get_xlabel() for axis in figure.axes] == ["latency (ms)", "parameters"]
    every, front = figure.axes[1].lines
    np.testing.assert_array_equal(every.get_xydata(), [(10, 0.5), (20, 0.75), (30, 0.4)])
    np.testing.assert_array_equal(front.get_xydata(), [(10, 0.5), (20, 0.75)])
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", "1"]
    with pytest.raises(ValueError, match="front must hold a complete trial"):
        plots.show_front(records, [], ["accuracy", "latency (ms)"])


def test_search_needs_a_complete_trial():
    with pytest.raises(ValueError, match="a complete trial; none of these 1 is"):
        plots.show_search([trial(0, "pruned", 0.5)])
