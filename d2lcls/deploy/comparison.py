"""Several forms of one model side by side: do they agree, how large and how fast are they?"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from d2lcls.data.images import Images
from d2lcls.deploy.manifest import Accuracy, read_manifest, write_manifest
from d2lcls.deploy.predictor import open_model
from d2lcls.deploy.timing import command_of, in_turn, inputs_file

import numpy as np


@dataclass(frozen=True)
class Row:
    """One form of a model.

    name: of its folder.
    form: as in its manifest.
    megabytes: of all files in its folder.
    ms: from batch size to the median time of a batch in milliseconds.
    agreement: share of images with the same likeliest class as the first model.
    difference: largest difference of a logit from the first model's.
    top1: share of correct answers, None without labels.
    """

    name: str
    form: str
    megabytes: float
    ms: Mapping[int, float]
    agreement: float
    difference: float
    top1: float | None


def measure_accuracy(folder: str | Path, data: Images, limit: int | None = None, trust: bool = False) -> Accuracy:
    """Score a model on images, and write the accuracy into its manifest.

    Args:
        folder: model folder.
        data: images with the model's classes.
        limit: number of images to score, evenly spread over the set; None is all.
        trust: load machine code too, as for `open_model`.

    Raises:
        ValueError: the set has other classes.
    """
    manifest = read_manifest(folder)
    if tuple(data.classes) != tuple(manifest.classes):
        raise ValueError(
            f"{folder}: the model has the classes {', '.join(manifest.classes)}; this set has "
            f"{', '.join(data.classes)}. Choose another set."
        )
    model = open_model(folder, trust)
    if limit and limit < len(data):
        data = data.subset(np.linspace(0, len(data) - 1, limit).astype(int))
    hits = 0
    for begin in range(0, len(data), 64):
        part = manifest.preprocess.batch(data.images[begin : begin + 64])
        hits += int((model.compute(part).argmax(axis=1) == data.labels[begin : begin + 64]).sum())
    accuracy = Accuracy(hits / len(data), len(data), data.name)
    packages = [name for name in manifest.versions if name not in ("python", "d2lcls")]
    write_manifest(folder, replace(manifest, accuracy=accuracy), packages)
    return accuracy


def compare(
    folders: Sequence[str | Path],
    x: np.ndarray,
    labels: np.ndarray | None = None,
    batch_sizes: Sequence[int] = (1, 64),
    rounds: int = 10,
    tie: float = 1e-3,
    trust: bool = False,
) -> list[Row]:
    """Compare models that should give the same answers, in agreement, size and time; each is timed in its own process.

    Args:
        folders: model folders; the others are compared with the first.
        x: float32 (N, 3, H, W).
        labels: int (N,), if known.
        batch_sizes: to time.
        rounds: how often each is timed.
        tie: as for `agreement`.
        trust: load machine code too, as for `open_model`.

    Returns:
        One row for each folder, in their order.
    """
    manifests = [read_manifest(folder, verify=False) for folder in folders]
    logits = []
    for folder in folders:
        model = open_model(folder, trust)
        logits.append(np.concatenate([model.compute(x[begin : begin + 64]) for begin in range(0, len(x), 64)]))
    with inputs_file(x[: max(batch_sizes)]) as inputs:
        commands = {index: command_of(folder, inputs, trust) for index, folder in enumerate(folders)}
        times = in_turn(commands, batch_sizes, rounds)
    return [
        Row(
            Path(folder).name,
            manifests[index].form,
            megabytes(folder),
            {size: statistics.median(times[size][index]) for size in batch_sizes},
            agreement(logits[0], logits[index], tie),
            float(np.abs(logits[index] - logits[0]).max()),
            None if labels is None else float((logits[index].argmax(axis=1) == labels).mean()),
        )
        for index, folder in enumerate(folders)
    ]


def agreement(first: np.ndarray, second: np.ndarray, tie: float = 1e-3) -> float:
    """Return the share of images for which two models have the same likeliest class.

    Args:
        first, second: their logits (N, K).
        tie: logits of the first model nearer to each other than that are taken as equal: either class agrees.
    """
    return float((first.max(axis=1) - first[np.arange(len(first)), second.argmax(axis=1)] <= tie).mean())


def megabytes(folder: str | Path) -> float:
    """Return the MB of all files of a model folder."""
    return sum(path.stat().st_size for path in Path(folder).iterdir() if path.is_file()) / 1e6


def table(rows: Sequence[Row]) -> str:
    """Return rows as text, with speed as a multiple of the first row's."""
    sizes, width = list(rows[0].ms), max(len(row.name) for row in rows) + 2
    lines = [
        f"{'model':<{width}}{'form':<11}{'MB':>7}{'top-1':>9}{'same top-1':>12}{'largest diff.':>15}"
        + "".join(f"{f'ms, batch {size}':>14}{'':>7}" for size in sizes)
    ]
    for row in rows:
        top1 = "" if row.top1 is None else f"{row.top1:.2%}"
        lines.append(
            f"{row.name:<{width}}{row.form:<11}{row.megabytes:>7.2f}{top1:>9}{row.agreement:>12.2%}"
            f"{row.difference:>15.2g}"
            + "".join(f"{row.ms[size]:>14.2f}{rows[0].ms[size] / row.ms[size]:>6.1f}x" for size in sizes)
        )
    return "\n".join(line.rstrip() for line in lines)
