"""The book's figures. Every function returns a matplotlib `Figure`; colours stay apart in grey too."""

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

DARK, ACCENT, LIGHT = "#1b3a5c", "#d1662b", "#9db8d2"  # luminance 21%, 52% and 70%


def show_images(images, titles=None, columns=8, size=1.1):
    """Lay images out in a grid.

    Args:
        images: uint8 (N, H, W, C) or (N, H, W); one channel is shown in grey.
        titles: N texts, or None.
        columns: images a row.
        size: inches of an image's side.
    """
    images = np.asarray(images)
    if images.ndim not in (3, 4) or images.size == 0:
        raise ValueError(f"images must be (N, H, W, C) or (N, H, W), at least one, not {images.shape}.")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(columns * size, rows * (size + (0.25 if titles is not None else 0))), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for place, axis in enumerate(axes.flat):
        axis.axis("off")
        if place < len(images):
            image = images[place]
            if image.ndim == 3 and image.shape[2] == 1:
                image = image[:, :, 0]
            axis.imshow(
                image, cmap="gray" if image.ndim == 2 else None, vmin=0, vmax=255 if image.dtype == np.uint8 else None
            )
            if titles is not None:
                axis.set_title(titles[place], fontsize=8)
    return figure


def show_curves(records, title="Loss and accuracy"):
    """Draw loss and accuracy over the epochs, training dashed, validation solid.

    Args:
        records: list of `Epoch`.
        title: the finding, in a few words.
    """
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [r.epoch for r in records]
    for axis, name, scale in ((left, "loss", 1), (right, "accuracy", 100)):
        for split, style, colour in (("train", "--o", LIGHT), ("valid", "-s", DARK)):
            values = [getattr(r, f"{split}_{name}") for r in records]
            if values and values[0] is not None:
                axis.plot(
                    epochs,
                    [scale * v for v in values],
                    style,
                    color=colour,
                    markersize=4,
                    label={"train": "training", "valid": "validation"}[split],
                )
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    left.set_ylabel("mean cross-entropy an image (nats)")
    right.set_ylabel("top-1 accuracy (%)")
    left.legend()
    figure.suptitle(title)
    return figure


def show_confusion(matrix, classes, title="What is taken for what"):
    """Draw a confusion matrix as percentages of each true class.

    Args:
        matrix: int (K, K), as `explain.confusion_matrix` returns.
        classes: the K names.
        title: the finding, in a few words.
    """
    share = 100 * matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axis = figure.subplots()
    drawn = axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for (row, column), percent in np.ndenumerate(share):
        if percent >= 0.5:
            axis.text(
                column,
                row,
                f"{percent:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if percent > 55 else "black",
            )
    axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axis.set_yticks(range(len(classes)), classes)
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    axis.set_title(title)
    figure.colorbar(drawn, label="images of the true class (%)", shrink=0.8)
    return figure


def show_bars(names, values, label, errors=None, title=None):
    """Draw one horizontal bar a name.

    Args:
        names: N texts.
        values: N numbers.
        label: what the axis measures, with its unit.
        errors: N half-lengths of error bars, or None.
        title: the finding, in a few words.
    """
    figure = Figure(figsize=(7, 0.7 + 0.35 * len(names)), layout="constrained")
    axis = figure.subplots()
    places = np.arange(len(names))[::-1]
    axis.barh(places, values, xerr=errors, color=LIGHT, edgecolor=DARK, capsize=3)
    axis.set_yticks(places, names)
    axis.set_xlabel(label)
    axis.grid(axis="x", alpha=0.3)
    if title:
        axis.set_title(title)
    return figure


def show_search(records, label="validation accuracy", title=None):
    """Draw what each trial of a search came to, and the best so far as a line; pruned trials are hollow.

    Args:
        records: list of `TrialRecord`, as `trials_table` returns; one of them complete.
        label: what the trials' value measures, with its unit.
        title: the finding, in a few words; None names the best trial.

    Raises:
        ValueError: no trial is complete.
    """
    complete = [r for r in records if r.state == "complete"]
    pruned = [r for r in records if r.state == "pruned" and r.value is not None]
    if not complete:
        raise ValueError(f"records must hold a complete trial; none of these {len(records)} is. Run more trials.")
    best = max(complete, key=lambda r: r.value)
    numbers, values = [r.number for r in complete], [r.value for r in complete]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.step(numbers, np.maximum.accumulate(values), where="post", color=DARK, label="best so far")
    axis.plot(numbers, values, "o", color=ACCENT, label="complete")
    if pruned:
        axis.plot(
            [r.number for r in pruned],
            [r.value for r in pruned],
            "o",
            color=DARK,
            fillstyle="none",
            label="pruned, last report",
        )
    axis.set_xlabel("trial")
    axis.set_ylabel(label)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.legend()
    axis.set_title(title or f"Trial {best.number} is the best of {len(complete) + len(pruned)}: {best.value:.3f}")
    return figure


def show_range_test(result, title="The loss at every learning rate"):
    """Draw the losses of a learning-rate range test over the rate, and mark the suggestion.

    Args:
        result: `RangeTest`.
        title: the finding, in a few words.
    """
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.semilogx(result.rates, result.losses, "o", color=LIGHT, markersize=3, label="one batch")
    axis.semilogx(result.rates, result.smoothed, color=DARK, label="smoothed")
    if result.suggestion is not None:
        axis.axvline(result.suggestion, color=ACCENT, linestyle="--", label=f"suggestion {result.suggestion:.2g}")
    least, most = result.smoothed.min(), result.smoothed.max()
    axis.set_ylim(least - 0.1 * (most - least) - 1e-3, most + 0.1 * (most - least) + 1e-3)  # no single batch decides
    axis.set_xlabel("learning rate (logarithmic)")
    axis.set_ylabel("mean loss an image")
    axis.grid(alpha=0.3)
    axis.legend()
    axis.set_title(title)
    return figure


def show_calibration(curves, title="Is it right as often as it is sure?"):
    """Draw accuracy over confidence; on the dashed diagonal a network is as right as it is sure.

    Args:
        curves: dict from a name to a `CalibrationCurve`, as `explain.calibration_curve` returns; at most three.
        title: the finding, in a few words.
    """
    looks = ((DARK, "s", "-"), (ACCENT, "o", "--"), (LIGHT, "^", ":"))  # apart by shape, too
    if not 1 <= len(curves) <= len(looks):
        raise ValueError(f"curves must hold one to {len(looks)} curves, not {len(curves)}.")
    figure = Figure(figsize=(5, 5), layout="constrained")
    axis, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axis.plot((0, 100), (0, 100), "--", color="black", linewidth=1)
    for (name, curve), (colour, marker, line) in zip(curves.items(), looks):
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
    axis.set_ylabel("accuracy (%)")
    axis.set_title(title)
    axis.legend(fontsize=8)
    below.set_xlabel("confidence (%)")
    below.set_ylabel("images (%)")
    below.set_xlim(0, 100)
    for each in (axis, below):
        each.grid(alpha=0.3)
    return figure


def show_map(points, labels, classes, title="What lies close, looks alike to the network"):
    """Draw features as points in the plane, one colour and shape a class, its name at the middle of its points.

    Args:
        points: (N, 2), as `explain.map_features` returns.
        labels: int (N,).
        classes: the K names.
        title: the finding, in a few words.
    """
    points, labels = np.asarray(points), np.asarray(labels)
    if points.ndim != 2 or points.shape[1] != 2 or labels.shape != points.shape[:1]:
        raise ValueError(f"points must be (N, 2) and labels (N,), not {points.shape} and {labels.shape}.")
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axis = figure.subplots()
    markers = "os^vDP*X<>"
    colours = colormaps["viridis"](np.linspace(0, 0.9, len(classes)))  # from dark to light: in grey, too
    for k, name in enumerate(classes):
        own = points[labels == k]
        if len(own):
            axis.scatter(*own.T, s=10, color=colours[k], marker=markers[k % len(markers)], linewidths=0)
            axis.text(
                *np.median(own, axis=0),
                name,
                ha="center",
                va="center",
                fontsize=9,
                bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.5},
            )
    axis.set_xlabel("first axis (no unit)")
    axis.set_ylabel("second axis (no unit)")
    axis.set_title(title)
    return figure
