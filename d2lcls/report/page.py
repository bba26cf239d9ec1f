"""What was found in a run as one HTML page that needs no other file and no network: what `d2lcls report` writes."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from d2lcls.book import plots
from d2lcls.explain.confusion import most_mistaken
from d2lcls.explain.scores import wilson_interval
from d2lcls.report.cautions import cautions
from d2lcls.report.drawings import MOST_CLASSES, as_file, draw_calibration
from d2lcls.report.facts import facts, percent, surroundings, train_command
from d2lcls.report.findings import Findings
from d2lcls.training.recipe import Recipe

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

TEMPLATE = Path(__file__).with_name("page.html")
SHOWN_CLASSES = 20  # the weakest; the others are folded away
PAIRS, MISTAKES = 15, 12
PIXELATED = 64  # side in pixels up to which an image is kept exactly, and enlarged with visible pixels


def report_page(findings: Findings) -> str:
    """Return the HTML page about a run. Names from the data are escaped, and the page may run no script.

    Args:
        findings: as `examine_run` returns them.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = percent
    analysis, recipe = findings.analysis, findings.run.recipe
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"{recipe.model} on {Path(findings.dataset).stem}",
        today=datetime.date.today().isoformat(),
        findings=findings,
        analysis=analysis,
        calibration=findings.calibration,
        facts=facts(findings),
        surroundings=surroundings(),
        command=train_command(recipe),
        settings=_settings(findings),
        cautions=cautions(findings),
        curves=list(_curves(findings)),
        rows=list(_class_rows(findings)),
        shown_classes=SHOWN_CLASSES,
        pairs=list(_pairs(findings)),
        shares=_shares(findings) if len(analysis.classes) <= MOST_CLASSES else None,
        mistakes=list(_mistakes(findings)),
        reliability=_figure_uri(draw_calibration(findings.calibration)),
    )


def _settings(findings: Findings) -> list[tuple[str, str, str]]:
    """Return (name, value, meaning) of the recipe's fields."""
    rows = []
    for field in dataclasses.fields(Recipe):
        value = getattr(findings.run.recipe, field.name)
        if value != field.default:
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            rows.append((field.name, shown, field.metadata["text"]))
    return rows


def _curves(findings: Findings) -> Iterator[tuple[str, str]]:
    """Yield (data URI, description) of each learning curve."""
    last, best = findings.epochs[-1], findings.best_epoch
    for name, text in (("loss", f"{last.train_loss:.3f}"), ("accuracy", percent(last.train_accuracy))):
        figure = plots.show_curve(findings.epochs, name, name.capitalize())
        description = f"{name.capitalize()} over {len(findings.epochs)} epochs: at the end {text} in training"
        validation = {"loss": best.valid_loss, "accuracy": best.valid_accuracy}[name]
        if validation is not None:
            shown = f"{validation:.3f}" if name == "loss" else percent(validation)
            description += f"; in validation {shown} in epoch {best.epoch}, whose parameters are used"
        yield _figure_uri(figure), f"{description}."


def _class_rows(findings: Findings) -> Iterator[dict[str, Any]]:
    """Yield name, numbers of images, accuracy and its interval for each class with images, the weakest first."""
    analysis, trained = findings.analysis, findings.training_counts
    for k in analysis.weakest():
        low, high = wilson_interval(int(analysis.matrix[k, k]), int(analysis.counts[k]))
        yield {
            "name": analysis.classes[k],
            "images": int(analysis.counts[k]),
            "trained": None if trained is None else int(trained[k]),
            "accuracy": float(analysis.class_accuracies[k]),
            "low": low,
            "high": high,
        }


def _pairs(findings: Findings) -> Iterator[dict[str, Any]]:
    """Yield true class, predicted class, number of images and their share of the true class."""
    analysis = findings.analysis
    positions = tuple(map(str, range(len(analysis.classes))))  # two classes of ImageNet may share a name
    for true, predicted, count in most_mistaken(analysis.matrix, positions, PAIRS):
        names = {"true": analysis.classes[int(true)], "predicted": analysis.classes[int(predicted)]}
        yield {**names, "count": count, "of": int(analysis.counts[int(true)])}


def _shares(findings: Findings) -> list[list[float]]:
    """Return the confusion matrix as shares of each true class."""
    matrix = findings.analysis.matrix
    return (matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))).tolist()


def _mistakes(findings: Findings) -> Iterator[dict[str, Any]]:
    for example in findings.mistakes[:MISTAKES]:
        yield {
            "example": example,
            "file": _within(example.name, findings.dataset),
            "image": _image_uri(example.image),
            "cam": None if example.cam is None else _image_uri(example.cam),
        }


def _within(name: str, dataset: str) -> str:
    """Return the path of a picture without the folder of its data set, or another name as it is."""
    folder = Path(dataset) if Path(dataset).is_dir() else Path(dataset).parent
    return str(Path(name).relative_to(folder)) if Path(name).is_relative_to(folder) else name


def _figure_uri(figure: Figure) -> str:
    return _uri(as_file(figure, "svg"), "svg+xml")


def _image_uri(image: np.ndarray) -> str:
    """Return a uint8 image (H, W, C) as a data URI: exact if it is small, and compressed as JPEG otherwise."""
    kind = "png" if max(image.shape[:2]) <= PIXELATED else "jpeg"
    stream = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(stream, kind, quality=85)
    return _uri(stream.getvalue(), kind)


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
