"""What was found in a run as figures."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from d2lcls.book import plots
from d2lcls.explain.analysis import Analysis
from d2lcls.explain.confusion import most_mistaken

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from d2lcls.report.examples import Example
    from d2lcls.report.findings import Calibration, Findings

MOST_CLASSES = 20  # of a confusion matrix that can still be read
MOST_PAIRS = 25  # drawn instead of a larger one


def draw_confusion(analysis: Analysis) -> Figure | None:
    """Draw the confusion matrix or, of more than `MOST_CLASSES` classes, the pairs that are confused most often.

    Returns:
        figure; None if there are too many classes and not one mistake.
    """
    classes = [short(name) for name in analysis.classes]
    if len(classes) <= MOST_CLASSES:
        return plots.show_confusion(analysis.matrix, classes)
    pairs = most_mistaken(analysis.matrix, classes, MOST_PAIRS)
    if not pairs:
        return None
    figure = plots.show_bars(
        [f"{true} → {predicted}" for true, predicted, _ in pairs],
        [count for _, _, count in pairs],
        "images (true class → predicted class)",
    )
    figure.suptitle(f"The {len(pairs)} most frequent mistakes among {len(classes)} classes")  # wider than the axes
    figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def draw_calibration(calibration: Calibration) -> Figure:
    """Draw accuracy over confidence, as trained and with the temperature."""
    curves = {"as trained": calibration.before}
    if calibration.after and calibration.temperature:
        curves[f"temperature {calibration.temperature:.2f}"] = calibration.after
    return plots.show_calibration(curves)


def draw_mistakes(findings: Findings) -> Figure | None:
    """Draw a contact sheet of the worst mistakes, the largest loss first; None if there are none."""
    if not findings.mistakes:
        return None
    return _sheet([each.image for each in findings.mistakes], [_caption(each) for each in findings.mistakes], columns=6)


def draw_maps(examples: Sequence[Example]) -> Figure | None:
    """Draw images with their Grad-CAM maps beside them; None if they have none."""
    with_maps = [(each, each.cam) for each in examples if each.cam is not None]
    if not with_maps:
        return None
    pictures = [part for each, cam in with_maps for part in (_in_colour(each.image, cam.shape), cam)]
    captions = [part for each, _ in with_maps for part in (_caption(each), "Grad-CAM:\n" + short(each.predicted))]
    return _sheet(pictures, captions, columns=6)


def as_file(figure: Figure, format: str) -> bytes:
    """Return a figure as the content of a "png" or "svg" file; the same figure gives the same bytes."""
    stream, metadata = io.BytesIO(), {"Date": None} if format == "svg" else {}
    with warnings.catch_warnings(), rc_context({"svg.hashsalt": "d2lcls"}):
        # A class name in a script that matplotlib's font lacks is drawn as boxes; the tables have it.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(stream, format=format, dpi=150, metadata=metadata)
    return stream.getvalue()


def short(name: str, length: int = 22) -> str:
    """Return a name, cut to a number of letters; bytes of a folder's name that are not UTF-8 become question marks."""
    name = name.encode("utf-8", "replace").decode()
    return name if len(name) <= length else name[: length - 1] + "…"


def _caption(example: Example) -> str:
    says = f"{short(example.predicted)} {example.probability:.0%}"
    return says if example.true is None else f"{short(example.true)}\nas {says}"


def _sheet(images: Sequence[np.ndarray], captions: Sequence[str], columns: int) -> Figure:
    return plots.show_images(np.stack(images), captions, columns, size=1.9)


def _in_colour(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return an image as uint8 (H, W, 3) of the height and width of its map."""
    import cv2

    colour = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    return colour if colour.shape[:2] == shape[:2] else cv2.resize(colour, shape[1::-1], interpolation=cv2.INTER_CUBIC)
