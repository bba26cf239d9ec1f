import dataclasses
import io

from d2lcls.explain import Analysis, most_mistaken
from d2lcls.report import drawings
from d2lcls.report.drawings import as_file, draw_calibration, draw_confusion, draw_maps, draw_mistakes, short
from d2lcls.report.findings import SAME, calibrate

import numpy as np
import pytest
from hostile import HOSTILE
from PIL import Image


@pytest.fixture(autouse=True)
def no_warnings(recwarn):
    yield
    assert [str(warning.message) for warning in recwarn] == []


def drawn(figure):
    pixels = np.asarray(Image.open(io.BytesIO(as_file(figure, "png"))).convert("RGB"))
    assert pixels.std() > 3
    return pixels


def many_classes(classes=81):
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(classes), 20)
    names = tuple(f"kind {k} with a name that is longer than others" for k in range(classes))
    return Analysis(rng.normal(size=(len(labels), classes)) + 3 * np.eye(classes)[labels], labels, names)


def test_hostile_names_are_drawn_as_they_are(findings):
    axis = draw_confusion(findings.analysis).axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == [short(name) for name in sorted(HOSTILE)]
    for figure in (draw_confusion(findings.analysis), draw_mistakes(findings), draw_maps(findings.mistakes)):
        drawn(figure)
    assert short(HOSTILE[2]).startswith(r"$\frac{$ 漢字") and len(short(HOSTILE[2])) == 22
    assert short("caf\udce9") == "caf?"


def test_of_many_classes_the_most_frequent_mistakes_are_drawn():
    analysis = many_classes()
    figure = draw_confusion(analysis)
    axis = figure.axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    pairs = most_mistaken(analysis.matrix, analysis.classes, 25)
    assert labels == [f"{short(true)} → {short(guess)}" for true, guess, _ in pairs] and len(labels) == 25
    assert [bar.get_width() for bar in axis.patches] == [count for _, _, count in pairs]
    height, width, _ = drawn(figure).shape
    assert height < 2000
    right = Analysis(10 * np.eye(81), np.arange(81), analysis.classes)
    assert draw_confusion(right) is None


def test_a_matrix_of_twenty_classes_has_a_label_for_each():
    axis = draw_confusion(many_classes(20)).axes[0]
    assert len(axis.get_xticklabels()) == 20 and drawn(axis.figure).shape[0] < 1200


def test_calibration_is_drawn_with_and_without_a_temperature():
    analysis = many_classes(10)
    found = calibrate(analysis, SAME, analysis.logits, analysis.labels)
    legend = draw_calibration(found).axes[0].get_legend().get_texts()
    assert [text.get_text()[:14] for text in legend] == ["as trained (ex", f"temperature {found.temperature:.2f}"[:14]]
    right = Analysis(10 * np.eye(3), np.arange(3), ("a", "b", "c"))
    found = calibrate(right, SAME, right.logits, right.labels)
    assert found.after is None and "None of the 3 images" in found.reason
    assert len(draw_calibration(found).axes[0].get_legend().get_texts()) == 1


def test_maps_stand_beside_their_images(findings):
    figure = draw_maps(findings.mistakes[:2])
    shown = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    expected = [part for each in findings.mistakes[:2] for part in (each.image, each.cam)]
    for pixels, image in zip(shown, expected):
        np.testing.assert_array_equal(pixels, image)
    grey = dataclasses.replace(findings.mistakes[0], image=findings.mistakes[0].image[:, :, :1])
    larger = dataclasses.replace(grey, cam=np.zeros((32, 32, 3), dtype=np.uint8))
    drawn(draw_maps([larger]))
    assert draw_maps([dataclasses.replace(grey, cam=None)]) is None and draw_maps([]) is None


def test_files_are_the_same_every_time():
    for kind in ("png", "svg"):
        assert as_file(draw_confusion(many_classes(5)), kind) == as_file(draw_confusion(many_classes(5)), kind)
    assert drawings.MOST_CLASSES == 20
