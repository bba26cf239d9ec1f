"""The images of a run: those that it was trained on, validated on, and can be tested on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from d2lcls import data
from d2lcls.data.images import Images
from d2lcls.data.lazy import LazyImages
from d2lcls.training.pipeline import open_images
from d2lcls.training.runs import Run

SPLITS = ("test", "validation", "train")


def open_run_split(run: Run, split: str = "test", dataset: str | None = None) -> Images | LazyImages:
    """Open the images to score a run on.

    Args:
        run: as `load_run` returns it.
        split: "test", "validation" or "train".
        dataset: another data set or folder with the same classes; None is what the run was trained on.

    Raises:
        ValueError: the run has no validation set, or its images are not known; or a class is not one of the run's.
        BrokenImage: a picture cannot be read, and the recipe does not skip these.
        FileNotFoundError, DataUnavailable: as `data.open_split`.
    """
    if split == "validation" and not run.validation_images:
        raise ValueError("The run was trained without a validation set (--validation 0).")
    if split != "test":
        train, validation = open_trained_on(run, dataset)
        return validation if split == "validation" and validation else train
    trained_on = run.recipe.dataset or ""
    if not dataset and Path(trained_on).suffix == ".rec":
        raise ValueError(f"{trained_on} holds the training images. Name the test images with --dataset TEST.rec.")
    images = data.open_split(dataset or trained_on, "test", size=run.image_shape[:2], draft=True)
    if isinstance(images, LazyImages):
        return images.with_classes(run.classes).checked(run.recipe.skip_broken)
    return images


def open_trained_on(run: Run, dataset: str | None = None) -> tuple[Images | LazyImages, Images | LazyImages | None]:
    """Open the images that a run was trained and validated on; the latter are None if it has none.

    Args:
        run, dataset: as for `open_run_split`.

    Raises:
        ValueError: the run was validated on images that the caller of `fit` chose.
        Others: as `open_run_split`.
    """
    train, validation = open_images(dataclasses.replace(run.recipe, dataset=dataset or run.recipe.dataset or ""))
    if (len(validation) if validation else 0) != run.validation_images:
        raise ValueError(
            f"The run was validated on {run.validation_images:,} images of the caller's choice, which are not "
            "in its folder: score the test set, or call d2lcls.training.evaluate."
        )
    return train, validation
