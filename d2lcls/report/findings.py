"""Examining a run: all that its report and its folder of explanations are made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from d2lcls.data.download.cache import DataUnavailable
from d2lcls.data.images import Images
from d2lcls.data.lazy import LazyImages
from d2lcls.data.loading import is_sample
from d2lcls.explain.analysis import Analysis
from d2lcls.explain.calibration import CalibrationCurve, calibration_curve, fit_temperature
from d2lcls.machine.gluon import parameters_by_path
from d2lcls.report.examples import Example, Explainer
from d2lcls.training.checkpoints import read_progress
from d2lcls.training.evaluation import predict
from d2lcls.training.loop import Epoch
from d2lcls.training.run_images import open_run_split, open_trained_on
from d2lcls.training.runs import Run, load_run

import mxnet as mx
import numpy as np

AnyImages = Images | LazyImages
SAME = "the same images"  # on which a temperature is fitted if there are no others


@dataclass(frozen=True, eq=False)
class Calibration:
    """Whether a run's confidence agrees with its accuracy on the scored split, as trained and with a temperature.

    Args:
        before: with the logits as they are.
        after: with the logits divided by the temperature; None if there is none.
        temperature: above 0, or None.
        fitted_on: which images it was fitted on, in words; `SAME` for those that are scored.
        reason: why there is none.
    """

    before: CalibrationCurve
    after: CalibrationCurve | None
    temperature: float | None
    fitted_on: str
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Findings:
    """What was found in a run.

    Args:
        folder: the run's.
        run: its description.
        epochs: the results of each epoch that is finished.
        parameters: number of numbers that the network holds.
        split: "test", "validation" or "train".
        dataset: what the split is of: a name or a path.
        sample: whether the images are the package's sample, which stands in for data that could not be fetched.
        analysis: of the split.
        calibration: on the split.
        mistakes: of the split, the largest loss first.
        no_maps: why the mistakes have no Grad-CAM map; empty if they have.
        training_counts: number of training images of each class, int (K,), without validation; None if they could not
            be opened.
        not_opened: why not; empty if they were.
    """

    folder: Path
    run: Run
    epochs: list[Epoch]
    parameters: int
    split: str
    dataset: str
    sample: bool
    analysis: Analysis
    calibration: Calibration
    mistakes: list[Example]
    no_maps: str
    training_counts: np.ndarray | None
    not_opened: str

    @property
    def best_epoch(self) -> Epoch:
        """The epoch whose parameters are used: the best in validation, or without validation the last."""
        if not self.run.validation_images:
            return self.epochs[-1]
        return max(self.epochs, key=lambda record: (record.valid_accuracy or 0.0, -record.epoch))


def examine_run(
    folder: str | Path,
    split: str = "test",
    dataset: str | None = None,
    ctx: mx.Context | list[mx.Context] | None = None,
    mistakes: int = 24,
    verbose: bool = False,
) -> Findings:
    """Score a run on a split, and find out what it confuses and whether its confidence can be trusted.

    Args:
        folder: what `train` wrote.
        split, dataset: as for `open_run_split`.
        ctx: context or list of contexts; None is the CPU.
        mistakes: how many of the worst mistakes to keep.
        verbose: show progress.

    Raises:
        ValueError: no epoch of the run was finished.
        Others: as `load_run` and `open_run_split`.
    """
    run, net = load_run(folder, ctx)
    epochs = [Epoch(**record) for record in read_progress(Path(folder, "last.npz"))["records"]]
    if not epochs:
        raise ValueError(
            f"{folder}: no epoch of this run was finished yet. Finish it with: d2lcls train --resume --out {folder}"
        )
    images = open_run_split(run, split, dataset)
    if dataset and Path(dataset).exists():
        dataset = str(Path(dataset).resolve())  # as in the recipe
    analysis = Analysis(predict(net, run.batches(images), ctx, verbose), images.labels, run.classes)
    train, validation, not_opened = _trained_on(run)
    if validation and not (split == "validation" and not dataset):
        fitted_on = "the validation images"
        logits, labels = predict(net, run.batches(validation), ctx, verbose), validation.labels
    else:
        fitted_on, logits, labels = SAME, analysis.logits, analysis.labels
    explainer = Explainer(folder, run)
    return Findings(
        folder=Path(folder),
        run=run,
        epochs=epochs,
        parameters=sum(parameter.data().size for parameter in parameters_by_path(net).values()),
        split=split,
        dataset=dataset or run.recipe.dataset or "",
        sample=is_sample(images),
        analysis=analysis,
        calibration=calibrate(analysis, fitted_on, logits, labels),
        mistakes=explainer.mistakes(analysis, images, split, mistakes),
        no_maps=explainer.reason,
        training_counts=train.counts() if train else None,
        not_opened=not_opened,
    )


def _trained_on(run: Run) -> tuple[AnyImages | None, AnyImages | None, str]:
    """Return the training and validation images; if they cannot be opened on this machine, None and the reason."""
    try:
        return *open_trained_on(run), ""
    except (ValueError, OSError, DataUnavailable) as error:
        return None, None, " ".join(str(error).split())


def calibrate(analysis: Analysis, fitted_on: str, logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Compare confidence with accuracy, as trained and with a temperature that is fitted on other images if possible.

    Args:
        analysis: of the scored images.
        fitted_on: which images the temperature is fitted on, in words.
        logits, labels: (N, K) and int (N,), of these.
    """
    before = calibration_curve(analysis.logits, analysis.labels)
    try:
        temperature = fit_temperature(logits, labels)
    except ValueError as error:  # no temperature is best: all are right, or the logits are unrelated to the labels
        return Calibration(before, None, None, fitted_on, str(error))
    after = calibration_curve(analysis.logits / temperature, analysis.labels)
    return Calibration(before, after, temperature, fitted_on)
