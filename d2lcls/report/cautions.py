"""What limits the conclusions from a run's scores: only statements that are true of this run."""

from __future__ import annotations

from collections.abc import Iterator

from d2lcls.explain.scores import wilson_interval
from d2lcls.report.facts import held_out, percent
from d2lcls.report.findings import SAME, Findings

FEW = 30  # images of a class, below which its accuracy is rough
FEW_TO_TRAIN = 50
FEW_TO_CALIBRATE = 500
UNEVEN = 5  # times as many images in the largest class as in the smallest
GAP = 0.1  # between the accuracies on training and validation images


def cautions(findings: Findings) -> list[str]:
    """Return one sentence or two on each thing that limits what the scores of a run say."""
    return [*_of_the_split(findings), *_of_the_counts(findings), *_of_the_training(findings), *_of_the_rest(findings)]


def _of_the_split(findings: Findings) -> Iterator[str]:
    if findings.sample:
        yield (
            "The data set could not be downloaded, and these images are a small sample in its place: the scores say "
            "nothing about the data set."
        )
    other = findings.run.recipe.dataset != findings.dataset
    if findings.split == "train" and not other:
        yield "The network was trained on these images, so the score says little about new ones."
    elif findings.split == "validation" and not other:
        yield (
            "The best epoch was chosen by its accuracy on these images, and perhaps the options were too: expect a "
            "lower accuracy on new images."
        )
    elif findings.split == "test":
        yield (
            "This page shows test images. If you change the training because of what you see here, the next score "
            "on the same images will be too optimistic."
        )
    if other:
        yield f"The images come from {findings.dataset}, not from the data set that the network was trained on."


def _of_the_counts(findings: Findings) -> Iterator[str]:
    counts = findings.analysis.counts
    scored = counts[counts > 0]
    if few := int((scored < FEW).sum()):
        least = int(scored.min())
        low, high = wilson_interval(round(least / 2), least)
        yield (
            f"{few} of {len(scored)} classes have fewer than {FEW} images here, so their accuracies are imprecise: "
            f"with {least}, an observed accuracy of one half is compatible with {percent(low, 0)} to "
            f"{percent(high, 0)}."
        )
    if missing := int((counts == 0).sum()):
        yield f"{missing} of {len(counts)} classes have no images here, so nothing is known about them."
    if len(scored) > 1 and scored.max() >= UNEVEN * scored.min():
        yield (
            f"The classes have between {scored.min():,} and {scored.max():,} images here. The accuracy is dominated by "
            "the large ones; the balanced accuracy gives every class the same weight."
        )
    yield (
        "The interval covers sampling error only, and assumes that the images are independent. With several "
        "pictures of one object or scene it is too narrow, and it says nothing about images of another kind."
    )


def _of_the_training(findings: Findings) -> Iterator[str]:
    run, best = findings.run, findings.best_epoch
    trained = findings.training_counts
    if trained is not None and (few := int((trained < FEW_TO_TRAIN).sum())):
        yield (
            f"{few} of {len(trained)} classes have fewer than {FEW_TO_TRAIN} training images, the smallest "
            f"{trained.min():,}. More images would probably help more than a different network."
        )
    if findings.not_opened:
        yield f"The training images could not be counted: {findings.not_opened}"
    if not run.validation_images:
        yield "There was no validation set, so it is not known whether an earlier epoch was better."
    elif held_out(findings):
        yield (
            "The validation images were drawn at random from the training images. If several pictures show the same "
            "object, some of them are in both sets, and the validation accuracy is too high."
        )
    if len(findings.epochs) < run.recipe.num_epochs and not run.recipe.patience:
        yield f"Training stopped after {len(findings.epochs)} of {run.recipe.num_epochs} epochs."
    elif run.validation_images and best.epoch == findings.epochs[-1].epoch > 1:
        yield "The last epoch was the best, so longer training may improve the network further."
    if best.valid_accuracy is not None and best.train_accuracy - best.valid_accuracy > GAP:
        yield (
            f"The accuracy is {percent(best.train_accuracy, 0)} on the training images and "
            f"{percent(best.valid_accuracy, 0)} on the validation images: the network overfits."
        )


def _of_the_rest(findings: Findings) -> Iterator[str]:
    calibration, images = findings.calibration, len(findings.analysis)
    if calibration.temperature and calibration.fitted_on == SAME:
        yield "The temperature was fitted on the same images that it is evaluated on, so its effect is overestimated."
    if images < FEW_TO_CALIBRATE:
        yield (
            f"With {images:,} images, the expected calibration error is imprecise, and biased upwards even for a "
            "well-calibrated network."
        )
    if findings.run.recipe.tta:
        yield "The recipe averages six views of each image (d2lcls evaluate --tta); this page uses one view."
    if findings.mistakes and not findings.no_maps:
        yield (
            "A Grad-CAM map shows where the network found evidence for its prediction, at the coarse resolution of its "
            "last layers, but not what that evidence was."
        )
