"""The learning-rate range test: a short training with a rising rate shows which rates are worth a long one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from d2lcls.data.batches import Batches
from d2lcls.machine.gluon import has_data
from d2lcls.machine.progress import Progress
from d2lcls.models.features import FeatureBatches
from d2lcls.models.surgery import set_bias_multiplier, set_lr_multipliers, train_last
from d2lcls.training.evaluation import as_contexts, check_labels
from d2lcls.training.recipe import Recipe
from d2lcls.training.steps import make_trainer, settle_shapes, step_seed, train_step
from d2lcls.weights.store import get_weights

import mxnet as mx
import numpy as np

if TYPE_CHECKING:
    from d2lcls.data.images import Images
    from d2lcls.data.lazy import LazyImages

_MEMORY = 0.9  # share of the old average in the smoothed loss: about ten steps count
_DIVERGED = 4  # times the lowest smoothed loss


@dataclass(frozen=True, eq=False)  # == of arrays is no single answer
class RangeTest:
    """The results of a range test, step by step; `losses` are means per image, `smoothed` their moving average.

    Args:
        rates: float64 (S,), the learning rates, ascending; S is below `steps` if the test stopped early.
        losses: float64 (S,), each of one batch, before the update at that rate.
        smoothed: float64 (S,), exponential moving average of the losses, each step counting 0.9 times the next;
            without the usual bias towards 0 at the beginning.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray

    @property
    def suggestion(self) -> float | None:
        """A tenth of the rate at which the smoothed loss is lowest, as `lr` for a recipe.

        None if that is below the lowest rate tried: then no rate reduced the loss for long enough; try a smaller
        `lowest`, and look at the network and the data. If the smoothed loss is lowest at the last rate, it was still
        falling, and higher rates may work too. The curve tells more than one number.

        Source of the rule: Howard and Gugger, "Deep Learning for Coders with fastai and PyTorch" (2020), chapter 5.
        """
        rate = float(self.rates[self.smoothed.argmin()]) / 10
        return rate if rate >= self.rates[0] else None

    def __str__(self) -> str:
        text = (
            f"{len(self.rates)} rates from {self.rates[0]:.3g} to {self.rates[-1]:.3g}, lowest smoothed loss "
            f"{self.smoothed.min():.4f} at {self.rates[self.smoothed.argmin()]:.3g}"
        )
        return text + (f", suggestion {self.suggestion:.3g}" if self.suggestion else ", no suggestion")


def lr_range_test(
    net: mx.gluon.HybridBlock,
    train: Batches | FeatureBatches,
    recipe: Recipe | None = None,
    *,
    lowest: float = 1e-5,
    highest: float = 10,
    steps: int = 100,
    ctx: mx.Context | list[mx.Context] | None = None,
) -> RangeTest:
    """Train for a few steps with a learning rate that rises from `lowest` to `highest`, then restore the network.

    The rate is multiplied by the same factor every step. The test stops when the loss is not a finite number or
    the smoothed loss exceeds 4 times its minimum. Afterwards the network is as it was: parameters, running statistics,
    gradients, devices, hybridization, and initial values still to be drawn. Only MXNet's random generator has advanced;
    `fit` seeds it itself.

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), where the rate rises linearly.

    Args:
        net: initialised `gluon.HybridBlock` that maps (N, C, H, W) to logits (N, K).
        train: `Batches`; as many epochs of it are used as the steps need.
        recipe: optimizer, weight decay, loss, L1 penalty, clipping and seed; best the one that `fit` will get, because
            the right rate depends on all of them and on the batch size. None is the default recipe.
        lowest, highest: the first and last learning rate.
        steps: number of steps, 2 or more.
        ctx: as for `fit`.

    Returns:
        `RangeTest`.

    Raises:
        ValueError: an argument does not fit, or the loss is not a finite number at the very first step.
    """
    if not 0 < lowest < highest < math.inf:
        raise ValueError(
            f"lowest and highest must be learning rates above 0, lowest the smaller one, not {lowest} and {highest}."
        )
    if steps < 2:
        raise ValueError(f"steps must be 2 or more, not {steps}.")
    recipe, ctx = recipe or Recipe(), as_contexts(ctx)
    restore = _remember(net)
    try:
        for parameter in net.collect_params().values():
            if has_data(parameter):
                parameter.reset_ctx(ctx)  # new arrays: training writes into these only
        outputs = settle_shapes(net, train.example(), ctx, recipe.seed)
        check_labels(train.data, outputs)
        if (train.mixup or train.cutmix) and outputs != len(train.data.classes):
            raise ValueError(
                f"mixup and cutmix need a network with one output per class: {len(train.data.classes)}, not {outputs}."
            )
        arguments = {**recipe.optimizer_arguments(), "learning_rate": lowest}
        trainer = make_trainer(net, recipe.optimizer, arguments, recipe.decay_biases)
        return _sweep(net, train, trainer, np.geomspace(lowest, highest, steps), recipe, ctx)
    finally:
        restore()


def find_lr(
    recipe: Recipe,
    *,
    lowest: float = 1e-5,
    highest: float = 10,
    steps: int = 100,
    ctx: mx.Context | list[mx.Context] | None = None,
    on_begin: Callable[[Images | LazyImages], Any] | None = None,
) -> RangeTest:
    """Carry out the range test for a recipe, with its images and a new network; nothing is written.

    `d2lcls lr-find` is this function. Layers that the recipe freezes at first are frozen, and learning-rate multipliers
    are set as it says. The test computes in float32, whatever the precision.

    Args:
        recipe: `Recipe`; its number of epochs, learning rate and schedule have no effect.
        lowest, highest, steps, ctx: as for `lr_range_test`.
        on_begin: function called with the training images before the first step.

    Returns:
        `RangeTest`.

    Raises:
        As `d2lcls.training.train` and `lr_range_test`.
    """
    from d2lcls.training import pipeline

    recipe = pipeline.resolve(recipe)
    pipeline.check_start(recipe)
    pipeline.check_feasible(recipe, as_contexts(ctx))
    if recipe.pretrained:
        get_weights(recipe.model or pipeline.MODEL)  # their source decides the preprocessing
    train, validation = pipeline.open_images(recipe)
    batches, _ = pipeline.cut_batches(recipe, train, validation)
    mx.random.seed(recipe.seed)
    net = pipeline.make_network(recipe, batches)
    if recipe.layer_lr_decay != 1:
        set_lr_multipliers(net, recipe.layer_lr_decay)
    if recipe.bias_lr != 1:
        set_bias_multiplier(net, recipe.bias_lr)
    if groups := _first_groups(recipe):
        train_last(net, groups)
    if on_begin:
        on_begin(train)
    return lr_range_test(net, batches, recipe, lowest=lowest, highest=highest, steps=steps, ctx=ctx)


def _first_groups(recipe: Recipe) -> int | None:
    """Return how many groups of layers a recipe trains in its first epoch; None is all."""
    if isinstance(recipe.unfreeze, Mapping):
        return recipe.unfreeze[0]
    return recipe.train_last or (1 if recipe.unfreeze else None)


def _sweep(
    net: mx.gluon.HybridBlock,
    train: Batches | FeatureBatches,
    trainer: mx.gluon.Trainer,
    rates: np.ndarray,
    recipe: Recipe,
    ctx: list[mx.Context],
) -> RangeTest:
    losses: list[float] = []
    smoothed: list[float] = []
    average, loss = 0.0, recipe.make_loss(train.data.counts)
    batches = itertools.chain.from_iterable(map(train.epoch, itertools.count()))  # epoch after epoch
    with Progress(len(rates)) as progress:
        for step, (rate, (x, y)) in enumerate(zip(rates, batches)):
            mx.random.seed(step_seed(recipe.seed, step))
            trainer.set_learning_rate(rate)
            sums, _ = train_step(net, trainer, x, y, ctx, loss, recipe.clip_norm, recipe.l1)
            value = sum(float(part.asscalar()) for part in sums) / len(x)
            if not math.isfinite(value):
                break
            average = _MEMORY * average + (1 - _MEMORY) * value
            losses.append(value)
            smoothed.append(average / (1 - _MEMORY ** (step + 1)))
            progress.update(step + 1, f"lr {rate:.2g}, loss {value:.3f}")
            if smoothed[-1] > _DIVERGED * min(smoothed):
                break
    if not losses:
        raise ValueError(
            "The loss of the first batch is not a finite number, before any step was made. "
            "Look at the network's parameters and at the loss function."
        )
    return RangeTest(rates[: len(losses)].copy(), np.array(losses), np.array(smoothed))


def _remember(net: mx.gluon.Block) -> Callable[[], None]:
    """Return a function that restores a network to its present state, whatever is done to it meanwhile.

    It keeps the attributes of every layer and parameter, not copies of their arrays: the parameters are given new
    arrays before training, which only writes into these.
    """
    objects = list(net.collect_params().values())
    net.apply(objects.append)
    saved = [(thing, dict(vars(thing))) for thing in objects]

    def restore() -> None:
        for thing, attributes in saved:
            vars(thing).clear()
            vars(thing).update(attributes)

    return restore
