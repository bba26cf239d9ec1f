"""Several forms of one model side by side: do they agree, how large and how fast are they?"""

import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from d2lcls.deploy.manifest import Accuracy, write_manifest
from d2lcls.deploy.predictor import load_model
from d2lcls.deploy.timing import command_of, in_turn

import numpy as np


@dataclass(frozen=True)
class Row:
    """One form of a model.

    name: of its folder.
    form: as in its manifest.
    megabytes: of all files in its folder.
    ms: dict from batch size to the median time of a batch in milliseconds.
    agreement: share of images with the same likeliest class as the first model.
    difference: largest difference of a logit from the first model's.
    top1: share of right answers, None without labels.
    """

    name: str
    form: str
    megabytes: float
    ms: dict
    agreement: float
    difference: float
    top1: float | None


def measure_accuracy(folder, data, limit=None):
    """Score a model on images, and write the accuracy into its manifest.

    Args:
        folder: model folder.
        data: `Images` with the model's classes.
        limit: number of images to score, evenly spread over the set; None is all.

    Returns:
        `Accuracy`.

    Raises:
        ValueError: the set has other classes.
    """
    model = load_model(folder)
    if tuple(data.classes) != tuple(model.manifest.classes):
        raise ValueError(
            f"{folder}: the model knows the classes {', '.join(model.manifest.classes)}; this set has "
            f"{', '.join(data.classes)}."
        )
    if limit and limit < len(data):
        data = data.subset(np.linspace(0, len(data) - 1, limit).astype(int))
    hits = 0
    for begin in range(0, len(data), 64):
        part = model.manifest.preprocess.batch(data.images[begin : begin + 64])
        hits += int((model.compute(part).argmax(axis=1) == data.labels[begin : begin + 64]).sum())
    accuracy = Accuracy(hits / len(data), len(data), data.name)
    packages = [name for name in model.manifest.versions if name not in ("python", "d2lcls")]
    write_manifest(folder, replace(model.manifest, accuracy=accuracy), packages)
    return accuracy


def compare(folders, x, labels=None, batch_sizes=(1, 64), rounds=10, tie=1e-3):
    """Compare models that should say the same, in answers, size and time, each in a process of its own.

    Args:
        folders: model folders; the first is what the others are held against.
        x: float32 (N, 3, H, W).
        labels: int (N,), if known.
        batch_sizes: to time.
        rounds: how often each is timed.
        tie: logits of the first model nearer to each other than that are taken as equal: either answer agrees.

    Returns:
        list of `Row`, in the order of the folders.
    """
    models = [load_model(folder) for folder in folders]
    logits = [
        np.concatenate([model.compute(x[begin : begin + 64]) for begin in range(0, len(x), 64)]) for model in models
    ]
    with tempfile.TemporaryDirectory() as work:
        np.save(Path(work, "x.npy"), x[: max(batch_sizes)])
        times = in_turn(
            {place: command_of(folder, Path(work, "x.npy")) for place, folder in enumerate(folders)},
            batch_sizes,
            rounds,
        )
    first = logits[0]
    rows = []
    for place, (folder, model, found) in enumerate(zip(folders, models, logits)):
        rows.append(
            Row(
                Path(folder).name,
                model.manifest.form,
                megabytes(folder),
                {n: statistics.median(times[n][place]) for n in batch_sizes},
                agreement(first, found, tie),
                float(np.abs(found - first).max()),
                None if labels is None else float((found.argmax(axis=1) == labels).mean()),
            )
        )
    return rows


def agreement(first, found, tie=1e-3):
    """Return the share of images whose likeliest class is the same, or leads by no more than `tie`.

    Args:
        first, found: logits (N, K) of two models; a lead is one in the first's.
    """
    return float((first.max(axis=1) - first[np.arange(len(first)), found.argmax(axis=1)] <= tie).mean())


def megabytes(folder):
    """Return the MB of all files of a model folder."""
    return sum(path.stat().st_size for path in Path(folder).iterdir() if path.is_file()) / 1e6


def table(rows):
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
