"""The book's figures. Every function returns a matplotlib `Figure`; its colours are distinct in grey, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from d2lcls.book.statistics import mean_interval

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from d2lcls.explain.calibration import CalibrationCurve
    from d2lcls.training.loop import Epoch
    from d2lcls.training.search.range_test import RangeTest
    from d2lcls.training.search.tuning import TrialRecord

STYLE = Path(__file__).with_name("book.mplstyle")  # for matplotlib.pyplot.style.use
DARK, ACCENT, LIGHT = "#1b3a5c", "#d1662b", "#9db8d2"  # luminance 21%, 52% and 70%


def show_images(images: np.ndarray, titles: Sequence[str] | None = None, columns: int = 8, size: float = 1.1) -> Figure:
    """Lay images out in a grid.

    Args:
        images: uint8 (N, H, W, C) or (N, H, W); one channel is shown in grey.
        titles: N texts, or None.
        columns: images per row.
        size: side of each image in inches.
    """
    images = np.asarray(images)
    if images.ndim not in (3, 4) or images.size == 0:
        raise ValueError(f"images must be (N, H, W, C) or (N, H, W), at least one, not {images.shape}.")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(columns * size, rows * (size + (0.25 if titles is not None else 0))), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for index, (axis, image) in enumerate(zip(axes.flat, images)):
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[:, :, 0]
        axis.imshow(
            image, cmap="gray" if image.ndim == 2 else None, vmin=0, vmax=255 if image.dtype == np.uint8 else None
        )
        if titles is not None:
            axis.set_title(titles[index], fontsize=9.5, parse_math=False)
    return figure


def show_curves(records: Sequence[Epoch], title: str = "Loss and accuracy") -> Figure:
    """Draw loss and accuracy over the epochs, training dashed, validation solid.

    Args:
        records: as `fit` returns them.
        title: the finding, in a few words.
    """
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_curve(left, records, "loss")
    _draw_curve(right, records, "accuracy")
    left.legend()
    figure.suptitle(title)
    return figure


def show_curve(records: Sequence[Epoch], name: str, title: str) -> Figure:
    """Draw one of the two panels of `show_curves`, narrow enough for a phone.

    Args:
        records: as `fit` returns them.
        name: "loss" or "accuracy".
        title: the finding, in a few words.
    """
    figure, axis = new_figure(4.4, 3.2)
    _draw_curve(axis, records, name)
    axis.set_title(title)
    axis.legend()
    return figure


def _draw_curve(axis: Axes, records: Sequence[Epoch], name: str) -> None:
    scale, label = {"loss": (1, "cross-entropy per image (nats)"), "accuracy": (100, "accuracy (%)")}[name]
    epochs = [record.epoch for record in records]
    for split, text, style, colour in (("train", "training", "--o", LIGHT), ("valid", "validation", "-s", DARK)):
        values = [getattr(record, f"{split}_{name}") for record in records]
        if values and values[0] is not None:
            axis.plot(epochs, [scale * value for value in values], style, color=colour, markersize=4, label=text)
    axis.set(xlabel="epoch", ylabel=label)
    _whole_numbers(axis)
    axis.grid(alpha=0.3)


def show_confusion(matrix: np.ndarray, classes: Sequence[str], title: str = "Which classes are confused") -> Figure:
    """Draw a confusion matrix as percentages of each true class.

    Args:
        matrix: int (K, K), as `explain.confusion_matrix` returns.
        classes: the K names.
        title: the finding, in a few words.
    """
    share = 100 * matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    figure, axis = new_figure(6.4, 5.6)
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
    axis.grid(False)
    for (row, column), percent in np.ndenumerate(share):
        if percent > 0.5:  # 0.5 itself would be rounded to 0
            colour = "white" if percent > 55 else "black"
            axis.text(column, row, f"{percent:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right", parse_math=False)
    axis.set_yticks(range(len(classes)), classes, parse_math=False)
    axis.set(xlabel="predicted class", ylabel="true class", title=title)
    figure.colorbar(image, label="images of the true class (%)", shrink=0.8)
    return figure


def show_bars(
    names: Sequence[str],
    values: Sequence[float],
    label: str,
    errors: Sequence[float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw one horizontal bar per name.

    Args:
        names: N texts.
        values: N numbers.
        label: name of the axis, with its unit.
        errors: N half-widths of error bars, or None.
        title: the finding, in a few words.
    """
    figure, axis = new_figure(7, 0.7 + 0.35 * len(names))
    positions = np.arange(len(names))[::-1]
    axis.barh(positions, values, xerr=errors, color=LIGHT, edgecolor=DARK, capsize=3)
    axis.set_yticks(positions, names, parse_math=False)
    axis.set_xlabel(label)
    axis.grid(axis="x", alpha=0.3)
    if title:
        axis.set_title(title)
    return figure


def show_differences(differences: Mapping[str, Sequence[float] | np.ndarray], label: str, title: str) -> Figure:
    """Draw paired differences: each seed as a ring, their mean as a square, and its 95 % confidence interval as a bar.

    Args:
        differences: by name of the change, one number per seed; at least two.
        label: name of the axis, with its unit.
        title: the finding, in a few words.
    """
    figure, axis = new_figure(7, 1.1 + 0.5 * len(differences))
    for row, values in zip(range(len(differences))[::-1], differences.values()):
        found = mean_interval(values)
        axis.plot((found.low, found.high), (row, row), "-", color=DARK, linewidth=2.5, solid_capstyle="butt")
        axis.plot(found.mean, row, "s", color=DARK, markersize=7)
        axis.scatter(values, np.full(len(values), row + 0.22), s=22, facecolors="none", edgecolors=ACCENT)
    axis.axvline(0, color="black", linestyle=":", linewidth=1.2)
    axis.set_yticks(range(len(differences))[::-1], list(differences))
    axis.set_ylim(-0.6, len(differences) - 0.4)
    axis.set_xlabel(label)
    axis.set_title(title)
    axis.grid(axis="x", alpha=0.3)
    return figure


def show_search(records: Sequence[TrialRecord], label: str = "validation accuracy", title: str | None = None) -> Figure:
    """Draw the result of each trial of a search, and the best so far as a line; pruned trials are hollow.

    Args:
        records: as `trials_table` returns them; at least one complete.
        label: what the trials' value measures, with its unit.
        title: the finding, in a few words; None names the best trial.

    Raises:
        ValueError: no trial is complete.
    """
    complete = [(r.number, r.value) for r in records if r.state == "complete" and r.value is not None]
    pruned = [(r.number, r.value) for r in records if r.state == "pruned" and r.value is not None]
    if not complete:
        raise ValueError(f"records must hold a complete trial; none of these {len(records)} is. Run more trials.")
    best, best_value = max(complete, key=lambda trial: trial[1])
    numbers, values = zip(*complete)
    figure, axis = new_figure(7, 3.2)
    axis.step(numbers, np.maximum.accumulate(values), where="post", color=DARK, label="best so far")
    axis.plot(numbers, values, "o", color=ACCENT, label="complete")
    if pruned:
        axis.plot(*zip(*pruned), "o", color=DARK, fillstyle="none", label="pruned, last report")
    _whole_numbers(axis)
    title = title or f"Trial {best} is the best of {len(complete) + len(pruned)}: {best_value:.3f}"
    axis.set(xlabel="trial", ylabel=label, title=title)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def show_front(records: Sequence[TrialRecord], front: Sequence[TrialRecord], labels: Sequence[str]) -> Figure:
    """Draw the trials of a search with several objectives, and those on the Pareto front, with their numbers.

    Args:
        records: as `trials_table` returns them.
        front: as `pareto_front` returns it; at least one.
        labels: names of the objectives with their units: the first upwards, each other one to the right in an axis of
            its own.

    Raises:
        ValueError: the front is empty.
    """
    if not front:
        raise ValueError("front must hold a complete trial. Run more trials.")
    complete = [record for record in records if record.state == "complete"]
    figure = Figure(figsize=(1.5 + 4.2 * (len(labels) - 1), 3.4), layout="constrained")
    for index, (axis, label) in enumerate(zip(figure.subplots(1, len(labels) - 1, squeeze=False)[0], labels[1:])):
        axis.plot(*_points(complete, index), "o", color=DARK, fillstyle="none", label="other trials")
        axis.plot(*_points(front, index), "s", color=ACCENT, label="Pareto front")
        for record in front:
            axis.annotate(
                str(record.number), (record.others[index], record.value), xytext=(5, 3), textcoords="offset points"
            )
        axis.set(xlabel=label, ylabel=f"validation {labels[0]}")
        axis.grid(alpha=0.3)
    axis.legend()
    figure.suptitle(f"{len(front)} of {len(complete)} trials are beaten by no other one in everything")
    return figure


def _points(records: Sequence[TrialRecord], index: int) -> tuple[list[float], list[float | None]]:
    return [record.others[index] for record in records], [record.value for record in records]


def show_range_test(result: RangeTest, title: str = "The loss at every learning rate") -> Figure:
    """Draw the losses of a learning-rate range test over the learning rate, and mark the suggestion.

    Args:
        result: as `lr_range_test` returns it.
        title: the finding, in a few words.
    """
    figure, axis = new_figure(7, 3.2)
    axis.semilogx(result.rates, result.losses, "o", color=LIGHT, markersize=3, label="one batch")
    axis.semilogx(result.rates, result.smoothed, color=DARK, label="smoothed")
    if result.suggestion is not None:
        axis.axvline(result.suggestion, color=ACCENT, linestyle="--", label=f"suggestion {result.suggestion:.2g}")
    least, most = min(result.smoothed.min(), min(result.losses)), result.smoothed.max()
    # The smoothed curve sets the upper limit, so that no single batch with a very large loss does.
    axis.set_ylim(least - 0.1 * (most - least) - 1e-3, most + 0.1 * (most - least) + 1e-3)
    axis.set(xlabel="learning rate (logarithmic)", ylabel="mean loss per image (nats)", title=title)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def show_calibration(
    curves: Mapping[str, CalibrationCurve], title: str = "Does confidence agree with accuracy?"
) -> Figure:
    """Draw accuracy over confidence; on the dashed diagonal they agree.

    Args:
        curves: by name, as `explain.calibration_curve` returns them; at most three.
        title: the finding, in a few words.
    """
    styles = ((DARK, "s", "-"), (ACCENT, "o", "--"), (LIGHT, "^", ":"))  # distinct by shape, too
    if not 1 <= len(curves) <= len(styles):
        raise ValueError(f"curves must hold one to {len(styles)} curves, not {len(curves)}.")
    figure = Figure(figsize=(5, 5), layout="constrained")
    axis, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axis.plot((0, 100), (0, 100), "--", color="black", linewidth=1)
    for (name, curve), (colour, marker, line) in zip(curves.items(), styles):
        filled = curve.count > 0
        axis.plot(
            100 * curve.confidence[filled],
            100 * curve.accuracy[filled],
            f"-{marker}",
            color=colour,
            markersize=4,
            label=f"{name} (expected error {100 * curve.error:.1f} points)",
        )
        below.stairs(
            100 * curve.count / curve.count.sum(), 100 * curve.edges, color=colour, linewidth=1.5, linestyle=line
        )
    axis.set(ylabel="accuracy (%)", title=title)
    axis.legend(fontsize=8)
    below.set(xlabel="confidence (%)", ylabel="images (%)", xlim=(0, 100))
    for each in (axis, below):
        each.grid(alpha=0.3)
    return figure


def show_map(
    points: np.ndarray, labels: np.ndarray, classes: Sequence[str], title: str = "Close points have similar features"
) -> Figure:
    """Draw features as points in the plane, with one colour and shape per class, and its name at their median.

    Args:
        points: (N, 2), as `explain.map_features` returns.
        labels: int (N,).
        classes: the K names.
        title: the finding, in a few words.
    """
    points, labels = np.asarray(points), np.asarray(labels)
    if points.ndim != 2 or points.shape[1] != 2 or labels.shape != points.shape[:1]:
        raise ValueError(f"points must be (N, 2) and labels (N,), not {points.shape} and {labels.shape}.")
    figure, axis = new_figure(6.4, 5.6)
    markers = "os^vDP*X<>"
    colours = colormaps["viridis"](np.linspace(0, 0.9, len(classes)))  # from dark to light, distinct in grey
    box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5}
    for k, name in enumerate(classes):
        x, y = points[labels == k].T
        if len(x):
            axis.scatter(x, y, s=10, color=colours[k], marker=markers[k % len(markers)], linewidths=0)
            axis.text(np.median(x), np.median(y), name, ha="center", va="center", fontsize=9, bbox=box)
    axis.set(xlabel="first axis (no unit)", ylabel="second axis (no unit)", title=title)
    return figure


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of a size in inches, and its only axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _whole_numbers(axis: Axes) -> None:
    axis.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
