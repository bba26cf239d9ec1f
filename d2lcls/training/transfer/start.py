"""Where a training starts: from random parameters, ImageNet weights, a file of weights or an earlier run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from d2lcls.data.batches import Batches
from d2lcls.machine.gluon import parameters_by_path
from d2lcls.models import get_model, hold_statistics, initialise_from_data, preprocessing, replace_head
from d2lcls.models.own import check_logits, is_own
from d2lcls.models.surgery import HEADS, head_name
from d2lcls.models.zoo import model_name
from d2lcls.training.checkpoints import load_checkpoint
from d2lcls.training.recipe import Recipe
from d2lcls.training.runs import Run, best_checkpoint, read_run
from d2lcls.training.steps import settle_shapes
from d2lcls.weights.files import load_weights, rows_in_file
from d2lcls.weights.hub import HUB
from d2lcls.weights.store import has_own_source

import mxnet as mx


class Expected(NamedTuple):
    """The images that parameters were trained on: their side in pixels, mean and std on the 0..1 scale."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def locate(recipe: Recipe) -> Recipe:
    """Return a recipe that names its starting point by an absolute path, with the model of an earlier run filled in.

    Raises:
        FileNotFoundError, ValueError: as `read_run`; or the run is one of another model.
    """
    if recipe.weights:
        recipe = dataclasses.replace(recipe, weights=str(Path(recipe.weights).resolve()))
    if recipe.from_run:
        recipe = dataclasses.replace(recipe, from_run=str(Path(recipe.from_run).resolve()))
        recipe = dataclasses.replace(recipe, model=recipe.model or _earlier_run(recipe).recipe.model)
    return recipe


def expected_input(recipe: Recipe) -> Expected | None:
    """Return the images that the parameters a recipe starts from were trained on; None if that is not known.

    Those of a file of weights are known where the model has ImageNet weights, whose preprocessing is then assumed.

    Args:
        recipe: as `locate` returns it, with a model.

    Raises:
        FileNotFoundError, ValueError: as `locate`; or images of an earlier run are not square, and no size is given.
    """
    assert recipe.model
    if recipe.from_run:
        run = _earlier_run(recipe)
        height, width = run.size or run.image_shape[:2]
        if height != width and not recipe.size:
            raise ValueError(
                f"{recipe.from_run}: was trained on images of {height} x {width} pixels, and training takes square "
                "ones. Give their side with --size."
            )
        return Expected(height, run.mean, run.std)
    if recipe.pretrained or (recipe.weights and _has_imagenet_weights(recipe.model)):
        images = preprocessing(recipe.model, recipe.weights)
        return Expected(images.crop, images.mean, images.std)
    return None


def check_start(recipe: Recipe) -> None:
    """Check, before any image is read, that the starting point of a new run exists.

    Raises:
        FileNotFoundError: there is no such file, or no epoch of the earlier run was finished.
        ValueError: a network of one's own cannot have ImageNet weights; or as `locate`.
    """
    if recipe.weights and not Path(recipe.weights).is_file():
        raise FileNotFoundError(f"{recipe.weights}: no such file of weights.")
    if recipe.from_run:
        best_checkpoint(recipe.from_run, _earlier_run(recipe))
    if recipe.pretrained and is_own(recipe.model or ""):
        raise ValueError(
            f"{recipe.model}: there are no ImageNet weights for a network of your own. Leave out --pretrained, or name "
            "a file with --weights."
        )


def make_network(
    recipe: Recipe, batches: Batches, restored: bool = False, report: Callable[[str], Any] | None = None
) -> mx.gluon.HybridBlock:
    """Make and initialise the network of a resolved recipe.

    If it starts from trained parameters, its BatchNorm statistics are held: with few images, a batch's own statistics
    mislead, and running ones lag behind.

    Args:
        recipe: `Recipe`; its `seed` decides the new head, MXNet's global seed the other parameters.
        batches: the training batches.
        restored: a checkpoint will replace all parameters, so that ImageNet weights and earlier runs are not needed.
        report: function called with a sentence that says which parameters of a file or an earlier run were loaded.

    Raises:
        FileNotFoundError: there is no such file of weights or run.
        WeightsError, CheckpointError: it is damaged, or belongs to another network.
        ValueError: the last layer must be replaced and is not known, or a network of one's own has other outputs.
    """
    assert recipe.model
    classes = len(batches.data.classes)
    if recipe.starts_trained:
        net = _trained_network(recipe, batches, restored, report)
        hold_statistics(net)
    else:
        net = get_model(recipe.model, classes)
        net.initialize(mx.init.MSRAPrelu(slope=0))
        initialise_from_data(net, batches)
    if is_own(recipe.model):
        check_logits(net, recipe.model, batches.example().shape, classes)
    return net


def _trained_network(
    recipe: Recipe, batches: Batches, restored: bool, report: Callable[[str], Any] | None
) -> mx.gluon.HybridBlock:
    """Return a network with the parameters that the recipe starts from, and with a last layer for its classes."""
    assert recipe.model
    classes = len(batches.data.classes)
    if recipe.weights and (Path(recipe.weights).exists() or not restored):
        net, theirs = _network_of_file(recipe, classes)
        _fit_head(net, recipe, theirs, classes, theirs == classes, report)
    elif restored:
        net = _blank_network(recipe, classes, batches)
    elif recipe.from_run:
        run = _earlier_run(recipe)
        net = _blank_network(recipe, len(run.classes), batches)
        load_checkpoint(best_checkpoint(recipe.from_run, run), net)
        _fit_head(net, recipe, len(run.classes), classes, run.classes == tuple(batches.data.classes), report)
    else:
        net = get_model(recipe.model, 1000, pretrained=True)
        replace_head(net, classes, recipe.seed)
    return net


def _earlier_run(recipe: Recipe) -> Run:
    """Return the run that a recipe starts from, if it is one of the recipe's model."""
    assert recipe.from_run
    run = read_run(recipe.from_run)
    theirs = run.recipe.model or ""
    if recipe.model is None and is_own(theirs):
        raise ValueError(
            f"{recipe.from_run}: was trained with {theirs}, a network of your own. Name it with --model {theirs}, "
            "which runs its code."
        )
    if recipe.model is not None and model_name(recipe.model) != theirs:
        raise ValueError(
            f"{recipe.from_run}: was trained with the model {theirs}, not {recipe.model}. Leave out --model, or start "
            f"from a run of {recipe.model}."
        )
    return run


def _has_imagenet_weights(model: str) -> bool:
    return not model.startswith("cifar_") and (model in HUB or has_own_source(model))


def _blank_network(recipe: Recipe, classes: int, batches: Batches) -> mx.gluon.HybridBlock:
    """Return a network whose parameters have shapes and no meaning yet."""
    assert recipe.model
    net = get_model(recipe.model, classes)
    net.initialize()
    settle_shapes(net, batches.example(), [mx.cpu()], recipe.seed)
    return net


def _network_of_file(recipe: Recipe, classes: int) -> tuple[mx.gluon.HybridBlock, int]:
    """Return the network whose parameters are in a file of weights, and its number of classes."""
    assert recipe.model and recipe.weights
    net = get_model(recipe.model, classes)
    theirs = rows_in_file(net, recipe.weights, _head_layers(net)) or classes
    net = net if theirs == classes else get_model(recipe.model, theirs)
    net.initialize()
    load_weights(net, recipe.weights)
    return net, theirs


def _fit_head(
    net: mx.gluon.HybridBlock,
    recipe: Recipe,
    theirs: int,
    classes: int,
    same: bool,
    report: Callable[[str], Any] | None,
) -> None:
    """Keep the last layer if the classes are the same, or replace it, and say which parameters are those loaded."""
    names = list(parameters_by_path(net))
    if same:
        loaded = f"all {len(names)} parameters of {recipe.model}"
    else:
        head = [name for name in names if name.startswith(f"{head_name(net)}.")]
        replace_head(net, classes, recipe.seed)
        loaded = (
            f"{len(names) - len(head)} of {len(names)} parameters of {recipe.model}, not {' and '.join(head)}: the "
            f"last layer for {theirs} classes is replaced by a new one for {classes}"
        )
    if report:
        report(f"Started from {recipe.weights or recipe.from_run}: loaded {loaded}.")


def _head_layers(net: mx.gluon.Block) -> tuple[str, ...]:
    """Return the paths that a network's last layer may have."""
    return tuple(f"{head}{inside}" for head in HEADS if hasattr(net, head) for inside in ("", ".0"))
