"""The table at the top of each chapter: how far the classifier has come, and what the chapter adds."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any, NamedTuple

from d2lcls.book import results


class Row(NamedTuple):
    """One line of the scoreboard."""

    chapter: str  # name of its file, without the extension
    network: str  # what classifies, in a few words
    adds: str  # what the chapter adds, in a few words
    entry: str  # key in results/scoreboard.json


ROWS = (
    Row("images-as-numbers", "guessing", "pixels, labels, splits", "guess"),
    Row("first-classifier", "nearest class mean", "a baseline without training", "nearest_mean"),
    Row("first-classifier", "softmax regression", "gradient descent", "softmax_regression"),
    Row("first-classifier", "small dense network", "a hidden layer and backpropagation", "dense"),
    Row("convolutional-networks", "SmallCNN, 2 epochs", "convolutions", "cnn_2_epochs"),
    Row("training-loop", "SmallCNN, 12 epochs", "a training loop that can be trusted", "cnn_12_epochs"),
    Row("augmentation", "the same, augmented", "shifted and mirrored images", "cnn_augmented"),
    Row("optimisation", "the same, rate 0.2", "a tuned learning rate", "cnn_tuned"),
    Row("deeper-networks", "CIFAR-ResNet-20", "shortcuts, and so depth", "resnet20"),
    Row("making-it-fast", "fast94, six views", "a recipe for few epochs", "fast94"),
)


class Scoreboard:
    """The rows of all chapters up to one of them, for a notebook to display."""

    def __init__(self, rows: list[tuple[Row, Mapping[str, Any]]], current: str) -> None:
        self.rows, self.current = rows, current

    def __repr__(self) -> str:
        lines = [f"{'network':<22}{'test accuracy':>14}{'minutes':>9}{'parameters':>12}  this chapter adds"]
        for row, entry in self.rows:
            mark = "> " if row.chapter == self.current else "  "
            lines.append(
                f"{row.network:<22}{_accuracy(entry):>14}{_minutes(entry):>9}{_size(entry):>12}{mark}{row.adds}"
            )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        heads = ("network", "test accuracy", "minutes", "parameters", "what the chapter adds")
        lines = ["".join(f'<th scope="col">{name}</th>' for name in heads)]
        for row, entry in self.rows:
            texts = (row.network, _accuracy(entry), _minutes(entry), _size(entry), row.adds)
            marked = ' class="current"' if row.chapter == self.current else ""
            lines.append("".join(f"<td{marked}>{html.escape(text)}</td>" for text in texts))
        body = "".join(f"<tr>{line}</tr>" for line in lines[1:])
        head = f"<caption>Highlighted: this chapter.</caption><thead><tr>{lines[0]}</tr></thead>"
        return f'<table class="scoreboard">{head}<tbody>{body}</tbody></table>'


def scoreboard(chapter: str) -> Scoreboard:
    """Return the scoreboard up to a chapter, whose rows are marked.

    Args:
        chapter: name of its file, without the extension.

    Raises:
        ValueError: no row belongs to this chapter.
    """
    last = max((index for index, row in enumerate(ROWS) if row.chapter == chapter), default=None)
    if last is None:
        names = ", ".join(dict.fromkeys(row.chapter for row in ROWS))
        raise ValueError(f"chapter must be one of {names}, not {chapter!r}.")
    measured = results.read("scoreboard")
    return Scoreboard([(row, measured[row.entry]) for row in ROWS[: last + 1]], chapter)


def _accuracy(entry: Mapping[str, Any]) -> str:
    return f"{entry['accuracy']['mean']:.1f}%"


def _minutes(entry: Mapping[str, Any]) -> str:
    minutes = entry["minutes"]["median"]
    if minutes < 0.05:
        return "–"  # nothing is trained
    return f"{minutes:.0f}" if minutes >= 10 else f"{minutes:.1f}"


def _size(entry: Mapping[str, Any]) -> str:
    return f"{entry['parameters']:,}"
