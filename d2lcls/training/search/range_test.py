"""The learning-rate range test: a short training with a climbing rate shows which rates are worth a long one."""

import itertools
import math
from dataclasses import dataclass

from d2lcls.machine.progress import Progress
from d2lcls.training.evaluation import as_contexts, check_labels
from d2lcls.training.steps import make_trainer, settle_shapes, train_step

import mxnet as mx
import numpy as np

_MEMORY = 0.9  # share of the old average in the smoothed loss: about ten steps count
_DIVERGED = 4  # times the least smoothed loss


@dataclass(frozen=True, eq=False)  # == of arrays is no single answer
class RangeTest:
    """What a range test saw, step by step; `losses` are means an image, `smoothed` their moving average.

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
    def suggestion(self):
        """A tenth of the rate at which the smoothed loss is least, as `lr` for `fit`.

        None if that is below the lowest rate tried: then no rate brought the loss down for long enough, and the
        test wants a smaller `lowest`, or a look at the network and the data. If the smoothed loss is least at
        the last rate, it was still falling and higher rates may serve too. The curve says more than one number.

        Source of the rule: Howard and Gugger, "Deep Learning for Coders with fastai and PyTorch" (2020), chapter 5.
        """
        rate = float(self.rates[self.smoothed.argmin()]) / 10
        return rate if rate >= self.rates[0] else None

    def __str__(self):
        text = (
            f"{len(self.rates)} rates from {self.rates[0]:.3g} to {self.rates[-1]:.3g}, least smoothed loss "
            f"{self.smoothed.min():.4f} at {self.rates[self.smoothed.argmin()]:.3g}"
        )
        return text + (f", suggestion {self.suggestion:.3g}" if self.suggestion else ", no suggestion")


def lr_range_test(
    net,
    train,
    *,
    lowest=1e-5,
    highest=10,
    steps=100,
    optimizer="sgd",
    optimizer_params=None,
    wd=5e-4,
    clip_norm=None,
    loss=None,
    ctx=None,
    seed=0,
):
    """Train for a few steps with a rate that climbs from `lowest` to `highest`, then put the network back.

    The rate is multiplied by the same factor every step. The test stops when the loss is not a finite number or
    the smoothed loss exceeds 4 times its least. The network is afterwards as if nothing had happened:
    parameters, running statistics, gradients, devices, hybridization, and initial values still to be drawn. Only
    MXNet's own random numbers have moved on; `fit` seeds them itself.

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), where the rate climbs in a
    straight line.

    Args:
        net: initialised `gluon.HybridBlock` that maps (N, C, H, W) to logits (N, K).
        train: `Batches`; as many epochs of it are used as the steps need.
        lowest, highest: the first and last learning rate.
        steps: number of steps, 2 or more.
        optimizer, optimizer_params, wd, clip_norm, loss, ctx, seed: as for `fit`, and best the same as for it: the
            right rate depends on all of them and on the batch size.

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
    ctx = as_contexts(ctx)
    if optimizer_params is None:
        optimizer_params = {"momentum": 0.9} if optimizer in ("sgd", "nag") else {}
    put_back = _remember(net)
    try:
        for parameter in net.collect_params().values():
            if parameter._data is not None:
                parameter.reset_ctx(ctx)  # new arrays: the training writes into those only
        outputs = settle_shapes(net, train.example(), ctx, seed)
        check_labels(train.data, outputs)
        if train.mixup and outputs != len(train.data.classes):
            raise ValueError(
                f"mixup needs a network with one output a class: {len(train.data.classes)}, not {outputs}."
            )
        trainer = make_trainer(net, optimizer, {"learning_rate": lowest, "wd": wd, **optimizer_params})
        return _climb(net, train, trainer, np.geomspace(lowest, highest, steps), ctx, loss, clip_norm, seed)
    finally:
        put_back()


def _climb(net, train, trainer, rates, ctx, loss, clip_norm, seed):
    losses, smoothed, average = [], [], 0.0
    batches = itertools.chain.from_iterable(map(train.epoch, itertools.count()))  # epoch after epoch
    with Progress(len(rates)) as progress:
        for step, (rate, (x, y)) in enumerate(zip(rates, batches)):
            mx.random.seed((seed * 1_000_003 + step) % 2**31)  # dropout depends on seed and step alone, as in fit
            trainer.set_learning_rate(rate)
            sums, _ = train_step(net, trainer, x, y, ctx, loss, clip_norm)
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


def _remember(net):
    """Return a function that puts a network back as it is now, whatever is done to it meanwhile.

    It keeps the attributes of every layer and parameter, not copies of their arrays: the parameters are given new
    arrays before the training, which only writes into those.
    """
    things = list(net.collect_params().values())
    net.apply(things.append)
    kept = [(thing, dict(vars(thing))) for thing in things]

    def put_back():
        for thing, attributes in kept:
            vars(thing).clear()
            vars(thing).update(attributes)

    return put_back
