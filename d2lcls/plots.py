"""The book's figures. Every function returns a matplotlib `Figure`; colours stay apart in grey too."""

import numpy as np
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
    figure = Figure(figsize=(columns * size, rows * (size + (0.25 if titles is not None else 0))),
                    layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for place, axis in enumerate(axes.flat):
        axis.axis("off")
        if place < len(images):
            image = images[place]
            if image.ndim == 3 and image.shape[2] == 1:
                image = image[:, :, 0]
            axis.imshow(image, cmap="gray" if image.ndim == 2 else None, vmin=0,
                        vmax=255 if image.dtype == np.uint8 else None)
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
                axis.plot(epochs, [scale * v for v in values], style, color=colour, markersize=4,
                          label={"train": "training", "valid": "validation"}[split])
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
            axis.text(column, row, f"{percent:.0f}", ha="center", va="center", fontsize=8,
                      color="white" if percent > 55 else "black")
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
