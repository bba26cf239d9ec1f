"""Searching for the fields of a recipe: trials on the images, networks and training that `train` would use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2lcls.data.cached import cached
from d2lcls.data.images import Images, split_validation
from d2lcls.data.lazy import LazyImages
from d2lcls.machine.gluon import is_learnable
from d2lcls.machine.temporary import temporary_folder
from d2lcls.models import get_model, layer_groups, summarize
from d2lcls.models.costs import latency
from d2lcls.training import pipeline
from d2lcls.training.evaluation import as_contexts
from d2lcls.training.recipe import Recipe
from d2lcls.training.search.recipe_space import check_space, variations, with_values
from d2lcls.training.search.space import Parameter
from d2lcls.training.search.tuning import fit_trial, tune
from d2lcls.training.transfer.start import check_start
from d2lcls.weights.store import get_weights

import mxnet as mx

if TYPE_CHECKING:
    import optuna

AnyImages = Images | LazyImages
Shape = tuple[int, int, int]

# What a network costs, by the name of the objective: function of the network and (C, H, W) of an image.
COSTS: dict[str, Callable[[mx.gluon.HybridBlock, Shape], float]] = {
    "latency": latency,
    "parameters": lambda net, shape: sum(
        parameter.list_data()[0].size for parameter in net.collect_params().values() if is_learnable(parameter)
    ),
    "multiply_adds": lambda net, shape: summarize(net, shape).multiply_adds,
}


def tune_recipe(
    recipe: Recipe,
    space: Mapping[str, Parameter],
    *,
    share: float = 1.0,
    objectives: Sequence[str] = ("accuracy",),
    ctx: list[mx.Context] | None = None,
    on_begin: Callable[[AnyImages, AnyImages], Any] | None = None,
    candidate: Callable[[Recipe, Mapping[str, Any]], Recipe] = with_values,
    **arguments: Any,
) -> optuna.Study:
    """Search for the fields of a recipe with the best validation accuracy.

    With further objectives, the search is for the recipes that no other one beats in all of them, see `pareto_front`.
    Images, weights and costs are read or measured once: pictures are decoded at each size once if the recipe says
    `cache`, and each network's latency is measured at its first trial and kept in the study.

    Args:
        recipe: `Recipe`, of which each trial replaces the fields in `space`; `validation` must not be 0.
        space: dict from fields to parameters, as `read_space` returns it. Values of `augment` and `small_first` are
            texts, as on the command line.
        share: share of the training and validation images to search with, above 0.
        objectives: "accuracy", and any of "latency" (median milliseconds of a single image on this machine, which
            should be idle), "parameters" and "multiply_adds".
        ctx: list of contexts; None is the CPU.
        on_begin: function called with the training and validation images before the first trial.
        candidate: function of the recipe and the values that a trial drew to the recipe to train; what it raises ends
            the search, except `optuna.TrialPruned`, which skips the trial.
        arguments: further arguments of `tune`.

    Returns:
        Optuna's study.

    Raises:
        ValueError: the recipe has no validation set, values of the space do not go together, or as `tune`.
    """
    objectives = check_objectives(objectives)
    if recipe.validation == 0:
        raise ValueError("A search needs a validation set: validation must be above 0.")
    searched = space if candidate is with_values else {}  # other candidates check their values themselves
    recipes = _check(recipe, searched, as_contexts(ctx))
    for name in dict.fromkeys(each.model for each in recipes if each.pretrained):
        get_weights(name or pipeline.MODEL)  # their source decides the preprocessing
    with _images(recipe.cache, share, recipe.seed) as images_for:
        train, validation = images_for(pipeline.resolve(recipes[0]))
        if on_begin:
            on_begin(train, validation)

        def objective(trial: optuna.Trial, **values: Any) -> Any:
            chosen = pipeline.resolve(candidate(recipe, values))
            batches, valid = pipeline.cut_batches(chosen, *images_for(chosen))
            mx.random.seed(recipe.seed)
            net = pipeline.make_network(chosen, batches)
            accuracy = fit_trial(trial, net, batches, valid, chosen, ctx=ctx)
            _, channels, height, width = batches.example().shape
            shape = channels, height, width
            return accuracy, *(_cost(trial.study, name, net, chosen.model, shape) for name in objectives[1:])

        directions = {name: "minimize" if name in COSTS else "maximize" for name in objectives}
        return tune(
            objective, space, seed=recipe.seed, objectives=directions if len(objectives) > 1 else None, **arguments
        )


def check_objectives(objectives: Sequence[str]) -> tuple[str, ...]:
    """Return the names of objectives with "accuracy" first.

    Raises:
        ValueError: it is not among them, one is unknown, or one is there twice.
    """
    if "accuracy" not in objectives or len(set(objectives)) < len(objectives) or set(objectives) - {"accuracy", *COSTS}:
        raise ValueError(
            f"objectives must be accuracy and any of {', '.join(COSTS)}, each once, not {', '.join(objectives)}."
        )
    return ("accuracy", *(name for name in objectives if name != "accuracy"))


def _check(recipe: Recipe, space: Mapping[str, Parameter], ctx: list[mx.Context]) -> list[Recipe]:
    """Return recipes with all values of the space, after a check that each pair of values can be trained."""
    check_space(recipe, space)
    recipes = list(variations(recipe, space, together=2))
    start = ("pretrained", "weights", "from_run")
    decisive = ("model", "size", "batch_size", "precision", "train_last", "unfreeze", *start)
    for each in {tuple(getattr(each, name) for name in decisive): each for each in recipes}.values():
        resolved = pipeline.resolve(each)
        check_start(resolved)
        pipeline.check_feasible(resolved, ctx)
        assert resolved.model
        groups = len(layer_groups(get_model(resolved.model))) if each.train_last else 0
        if each.train_last and each.train_last > groups:
            raise ValueError(f"train_last must be at most {groups} for {resolved.model}, not {each.train_last}.")
    return recipes


@contextmanager
def _images(cache: bool, share: float, seed: int) -> Iterator[Callable[[Recipe], tuple[AnyImages, AnyImages]]]:
    """Yield a function from a resolved recipe to its training and validation images, opened once for each size."""
    opened: dict[int | None, tuple[AnyImages, AnyImages]] = {}
    with ExitStack() as files:
        folder = files.enter_context(temporary_folder()) if cache else None

        def kept(images: AnyImages, name: str) -> AnyImages:
            if share < 1:  # that share of each class
                images = split_validation(images, share, seed)[1]
            if folder is None or isinstance(images, Images):
                return images
            return files.enter_context(cached(images, Path(folder, name)))

        def images_for(recipe: Recipe) -> tuple[AnyImages, AnyImages]:
            size = recipe.size
            if size not in opened:
                in_memory = [pair for pair in opened.values() if isinstance(pair[0], Images)]
                if in_memory:  # whatever the size: batches scale them
                    return in_memory[0]
                train, validation = pipeline.open_images(recipe)
                assert validation is not None
                opened[size] = kept(train, f"train-{size}"), kept(validation, f"validation-{size}")
            return opened[size]

        yield images_for


def _cost(study: optuna.Study, name: str, net: mx.gluon.HybridBlock, model: str | None, shape: Shape) -> float:
    """Return what a network costs, as the study knows it: measured again, equal networks would differ by chance."""
    key = f"{name} of {model} for images of {' x '.join(map(str, shape))}"
    known = study.user_attrs
    if key not in known:
        study.set_user_attr(key, float(COSTS[name](net, shape)))
        known = study.user_attrs
    return known[key]
