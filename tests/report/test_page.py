"""The page of a run: complete, self-contained, and safe whatever the classes are called."""

import dataclasses
import html
import re
from html.parser import HTMLParser

from d2lcls.explain import Analysis
from d2lcls.report import report_page
from d2lcls.report.findings import SAME, calibrate

import numpy as np
import pytest
from hostile import HOSTILE

VOID = {"meta", "img", "br"}
EXPECTED = VOID | set(
    "html head title style body header h1 p main dl div dt dd span section h2 h3 ul li table thead tbody tr th td "  # noqa: SIM905
    "details summary figure figcaption bdi strong pre code footer".split()
)


class Page(HTMLParser):
    """The elements of a page as (tag, attributes), and its text; raises if they are not nested correctly."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.texts = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert len(attributes) == len(dict(attributes)), (tag, attributes)
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def page(findings):
    return Page(report_page(findings))


def test_hostile_names_are_only_text(findings, page):
    assert {tag for tag, _ in page.elements} <= EXPECTED
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    for name in HOSTILE:
        assert " ".join(name.split()) in page.text
    assert "list <i>.csv" in page.text and "test <b>0-0.png" in page.text


def test_nothing_comes_from_elsewhere(findings, page):
    for tag, attributes in page.elements:
        assert "href" not in attributes and "srcset" not in attributes
        if tag == "img":
            assert attributes["src"].startswith(("data:image/png;base64,", "data:image/svg+xml;base64,"))
    assert not re.search(r"url\(|@import|https?:", report_page(findings))
    policy = dict(page.elements)["meta"]
    assert any("default-src 'none'" in attributes.get("content", "") for _, attributes in page.elements), policy


def test_every_image_has_an_alternative_text(findings, page):
    images = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(images) == 2 * len(findings.mistakes[:12]) + 3 and all(len(image["alt"]) > 10 for image in images)
    assert any(HOSTILE[0] in image["alt"] for image in images)


def test_the_numbers_are_on_the_page(findings, page):
    analysis = findings.analysis
    low, high = analysis.interval
    assert f"{100 * analysis.accuracy:.1f} % 95 % interval {100 * low:.1f} to {100 * high:.1f} %" in page.text
    assert f"Balanced accuracy {100 * analysis.balanced:.1f} %" in page.text
    assert f"Images 18 {analysis.hits} correct" in page.text
    assert f"Parameters {findings.parameters:,}" in page.text
    assert "Training images 36, 12 of each class" in page.text
    assert "Validation images 12, the validation split of the data" in page.text
    worst = findings.mistakes[0]
    assert (
        f"({100 * worst.true_probability:.1f} %) was classified as {worst.predicted} ({100 * worst.probability:.1f} %)"
        in page.text
    )
    assert re.search(r"d2lcls train --dataset '\S+/list <i>.csv' --model cnn --epochs 4 --batch-size 8", page.text)
    assert "mxnet 1.9.1" in page.text and "The test images" not in page.text.split("The training run")[1]


def test_each_class_is_on_the_page_with_its_interval(findings, page):
    for k, name in enumerate(findings.analysis.classes):
        accuracy = 100 * findings.analysis.class_accuracies[k]
        shown = re.escape(" ".join(name.split()))
        assert re.search(rf"{shown} 6 12 {accuracy:.1f} % \d+ to \d+ %", page.text), name


def test_many_classes_are_folded_and_their_matrix_left_out(findings):
    rng = np.random.default_rng(0)
    classes = tuple(f"kind {k}" for k in range(81))
    labels = np.repeat(np.arange(81), 5)
    logits = rng.normal(size=(405, 81)) + 3 * np.eye(81)[labels]
    analysis = Analysis(logits, labels, classes)
    many = dataclasses.replace(
        findings,
        run=dataclasses.replace(findings.run, classes=classes),
        analysis=analysis,
        calibration=calibrate(analysis, SAME, logits, labels),
        mistakes=[],
        training_counts=None,
        not_opened="it is <gone>",
    )
    text = report_page(many)
    page = Page(text)
    assert "The other 61 classes" in page.text and "Confusion matrix" not in page.text
    assert all(f"{name} 5 " in page.text for name in classes)
    assert "81 of 81 classes have fewer than 30 images here" in page.text
    assert "The training images could not be counted: it is <gone>" in page.text
    assert "None: all predictions are correct." in page.text  # no mistakes were kept
    rows = [row for row in re.findall(r"<tr><td>.*?</tr>", text) if "kind" in row]
    assert 10 < len(rows) <= 15 and html.unescape(rows[0]).count("kind") == 2


def test_the_same_findings_make_the_same_page(findings):
    assert report_page(findings) == report_page(findings)
