"""The images of a run: those that it was trained on, validated on, and can be tested on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from d2lcls import data
from d2lcls.data.images import Images
from d2lcls.data.lazy import LazyImages
from d2lcls.training.pipeline import open_images
from d2lcls.training.recipe import Recipe
from d2lcls.training.runs import Run

SPLITS = ("test", "validation", "train")


def open_run_split(
    run: Run, split: str = "test", dataset: str | None = None, root: str | Path | None = None, skip_broken: bool = False
) -> Images | LazyImages:
    """Open the images to score a run on.

    Args:
        run: as `load_run` returns it.
        split: "test", "validation" or "train".
        dataset: another data set or folder with the same classes; None is what the run was trained on.
        root: the folder or .rec file of ImageNet, if not the run's.
        skip_broken: leave out pictures that cannot be read, even if the run's recipe does not.

    Raises:
        ValueError: the run has no validation set, or its images are not known; or a class is not one of the run's.
        BrokenImage: a picture cannot be read, and these are not skipped.
        FileNotFoundError, DataUnavailable: as `data.open_split`.
    """
    if split == "validation" and not run.validation_images:
        raise ValueError("The run was trained without a validation set (--validation 0).")
    if split != "test":
        train, validation = open_trained_on(run, dataset, root, skip_broken)
        return validation if split == "validation" and validation else train
    if not dataset and not root:
        _check_tested_apart(run)
    recipe = _elsewhere(run, dataset, root, skip_broken)
    images = data.open_split(recipe.dataset or "", "test", size=run.image_shape[:2], draft=True, root=recipe.root)
    return images.with_classes(run.classes).checked(recipe.skip_broken) if isinstance(images, LazyImages) else images


def open_trained_on(
    run: Run, dataset: str | None = None, root: str | Path | None = None, skip_broken: bool = False
) -> tuple[Images | LazyImages, Images | LazyImages | None]:
    """Open the images that a run was trained and validated on; the latter are None if it has none.

    Args:
        run, dataset, root, skip_broken: as for `open_run_split`.

    Raises:
        ValueError: the run was validated on other images.
        Others: as `open_run_split`.
    """
    train, validation = open_images(_elsewhere(run, dataset, root, skip_broken))
    found = len(validation) if validation else 0
    if found != run.validation_images and not (dataset or root):
        raise ValueError(
            f"The run was validated on {run.validation_images:,} images, and its data set now gives {found:,}: the "
            "pictures have changed since, or `fit` was called with others. Score the test set, or call "
            "d2lcls.training.evaluate."
        )
    return train, validation


def _check_tested_apart(run: Run) -> None:
    """Raise ValueError if all that the run's recipe names are training images."""
    dataset, root = run.recipe.dataset or "", run.recipe.root
    if Path(dataset).suffix == ".rec":
        raise ValueError(f"{dataset} holds the training images. Name the test images with --dataset TEST.rec.")
    if root and Path(root).exists() and not data.has_split(dataset, "test", root):
        raise ValueError(f"{root} holds the training images. Name ImageNet's validation images with --root.")


def _elsewhere(run: Run, dataset: str | None, root: str | Path | None, skip_broken: bool) -> Recipe:
    """Return the run's recipe with another data set or folder; ImageNet's folder is not that of another data set."""
    own = run.recipe
    if not root and dataset in (None, own.dataset):
        root = own.root
    return dataclasses.replace(
        own,
        dataset=dataset or own.dataset or "",
        root=str(root) if root else None,
        validation_folder=None if dataset or (root and str(root) != own.root) else own.validation_folder,
        skip_broken=skip_broken or own.skip_broken,
    )
