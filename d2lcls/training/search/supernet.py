"""Weight sharing: one large network whose layers are cut to every architecture of a search, trained once for all.

A trained supernet scores a candidate in seconds, where training it would take minutes. Whether its ranking is that of
networks trained on their own is another question, which has to be measured.

Sources: Bender et al., "Understanding and Simplifying One-Shot Architecture Search" (2018), on ranking by shared
weights; Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling" (2020), on training one
random sub-network per step and computing BatchNorm's statistics anew for each candidate; Yu et al., "Slimmable Neural
Networks" (2019), on sharing the first channels of a layer; Cai et al., "Once-for-All" (2020), on sharing the centre of
a filter and the first layers of a group, here without its matrices between filters of different sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from d2lcls.data.batches import Batches
from d2lcls.machine.gluon import blocks_of, layer_options, parameters_by_path
from d2lcls.machine.progress import Progress
from d2lcls.models.fast94 import Architecture, initialise_from_data
from d2lcls.models.surgery import set_bias_multiplier
from d2lcls.training.evaluation import evaluate
from d2lcls.training.recipe import Recipe
from d2lcls.training.search.architecture import FAST94, LARGEST, MOST, WIDEST
from d2lcls.training.steps import make_trainer, step_seed

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd
from mxnet.gluon import nn

READ_EVERY = 8  # steps between two readings of the loss


class Supernet(gluon.Block):
    """A network of fast94's family that can compute as any smaller one, with parts of its own weights.

    A smaller network has the first channels of each layer, the first convolutions of each group and the centre of each
    filter. BatchNorm normalises by the statistics of each batch: running ones would mix those of all sub-networks.

    Args:
        reference: the architecture whose budget the candidates have; the supernet has the largest layers of any.
        classes: number of logits.
    """

    def __init__(self, reference: Architecture = FAST94, classes: int = 10, **kwargs: object) -> None:
        super().__init__(**kwargs)
        first, second, third = (int(WIDEST * width) for width in reference.widths)
        self.largest = Architecture((first, second, third), (MOST,) * 3, (LARGEST,) * 3)
        self.classes = classes
        with self.name_scope():
            self.net = self.largest.make(classes)

    def forward(self, x: nd.NDArray, architecture: Architecture) -> nd.NDArray:
        """Return the logits (N, K) of a sub-network for images x (N, 3, 32, 32), by the statistics of this batch."""
        x = _gelu(self.net.whitening(x))
        for (convolution, norm), width, kernel, first in self._used(architecture):
            weight = _cut(convolution.weight.data(), (width, x.shape[1], kernel, kernel))
            x = nd.Convolution(x, weight, kernel=(kernel,) * 2, pad=(kernel // 2,) * 2, num_filter=width, no_bias=True)
            if first:
                x = nd.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type="max")
            x = _gelu(_normalised(x, norm.beta.data()))
        x = nd.Pooling(x, kernel=(3, 3), stride=(3, 3), pool_type="max")
        weight = _cut(self.net.output.weight.data(), (self.classes, x.shape[1]))
        return nd.FullyConnected(x, weight, num_hidden=self.classes, no_bias=True) / 9

    def extract(self, architecture: Architecture, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> nn.HybridBlock:
        """Return a network of its own with a sub-network's weights.

        Args:
            architecture: of the sub-network.
            batches: of training images, by which BatchNorm's running statistics are computed.
        """
        net = architecture.make(self.classes)
        net.initialize()
        net(nd.zeros((1, 3, 32, 32)))
        shared = parameters_by_path(self.net)
        pairs = [(net.whitening.weight, shared["whitening.weight"]), (net.output.weight, shared["output.weight"])]
        for own, ((convolution, norm), *_) in zip(_pairs(net), self._used(architecture)):
            pairs += [(own[0].weight, convolution.weight), (own[1].beta, norm.beta)]
        for parameter, source in pairs:
            parameter.set_data(_cut(source.data(), parameter.shape))
        recompute_statistics(net, batches)
        return net

    def _used(self, architecture: Architecture) -> Iterator[tuple[tuple[nn.Conv2D, nn.BatchNorm], int, int, bool]]:
        """Yield ((convolution, normalisation), width, kernel, whether it begins a group) of a sub-network."""
        layers = _pairs(self.net)
        groups = zip(architecture.widths, architecture.convolutions, architecture.kernels)
        for group, (width, number, kernel) in enumerate(groups):
            for index in range(number):
                yield layers[group * MOST + index], width, kernel, index == 0


def train_supernet(
    supernet: Supernet, train: Batches, recipe: Recipe, sample: Callable[[np.random.Generator], Architecture]
) -> None:
    """Train the shared weights: each step trains one sub-network on one batch.

    Args:
        supernet: initialised `Supernet`; it is whitened first.
        train: `Batches` of colour images of 32 x 32 pixels.
        recipe: its epochs, optimizer, learning rate, schedule, weight decay, loss and seed are used.
        sample: function that draws an architecture, such as `architecture.draw`.

    Raises:
        ArithmeticError: the loss became NaN or infinite.
    """
    mx.random.seed(recipe.seed)
    supernet.net(nd.array(train.example()))  # settles the shape of the last layer
    initialise_from_data(supernet.net, train)
    set_bias_multiplier(supernet, recipe.bias_lr)
    trainer = make_trainer(supernet, recipe.optimizer, recipe.optimizer_arguments(), recipe.decay_biases)
    rate, total = recipe.learning_rate(len(train)), recipe.num_epochs * len(train)
    loss = recipe.make_loss(train.data.counts) or gluon.loss.SoftmaxCrossEntropyLoss()
    rng, step = np.random.default_rng(recipe.seed), 0
    with Progress(total) as progress:
        for epoch in range(recipe.num_epochs):
            for x, y in train.epoch(epoch):
                mx.random.seed(step_seed(recipe.seed, step))
                trainer.set_learning_rate(rate(step))
                with autograd.record():
                    losses = loss(supernet(nd.array(x), sample(rng)), nd.array(y))
                losses.backward()
                nd.waitall()  # as `train_step` does
                trainer.step(len(x), ignore_stale_grad=True)  # layers that this sub-network lacks
                step += 1
                if step % READ_EVERY == 0 or step == total:
                    value = float(losses.mean().asscalar())
                    if not math.isfinite(value):
                        raise ArithmeticError(f"The loss of step {step} is not a finite number. Use a lower lr.")
                    progress.update(step, f"loss {value:.3f}")


def shared_accuracy(
    supernet: Supernet, architecture: Architecture, train: Batches, valid: Batches, steps: int
) -> float:
    """Return the accuracy, 0 to 1, of a sub-network with the shared weights.

    Args:
        supernet: trained `Supernet`.
        architecture: of the sub-network.
        train: training images, of which `steps` batches give BatchNorm's statistics.
        valid: images to score it on.
        steps: number of batches.
    """
    batches = (batch for batch, _ in zip(train.epoch(0), range(steps)))
    net = supernet.extract(architecture, batches)
    net.hybridize(static_alloc=True, static_shape=True)
    return evaluate(net, valid).accuracy


def recompute_statistics(net: gluon.Block, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Set BatchNorm's running statistics to the means of those of some batches.

    Args:
        net: initialised network whose shapes are known; its parameters stay the same.
        batches: pairs of float32 (N, C, H, W) and anything.
    """
    norms = [layer_options(layer) for layer in blocks_of(net, nn.BatchNorm)]
    before = [options["momentum"] for options in norms]
    for step, (x, _) in enumerate(batches):
        for options in norms:
            options["momentum"] = step / (step + 1)
        with autograd.record():
            logits = net(nd.array(x))
        logits.backward()  # in which MXNet updates the statistics
        nd.waitall()
    for options, momentum in zip(norms, before):
        options["momentum"] = momentum


def _pairs(net: gluon.Block) -> list[tuple[nn.Conv2D, nn.BatchNorm]]:
    """Return the convolutions of a `Fast94` behind the whitening, each with its normalisation, in order."""
    return list(zip(blocks_of(net.features, nn.Conv2D), blocks_of(net.features, nn.BatchNorm)))


def _cut(array: nd.NDArray, shape: tuple[int, ...]) -> nd.NDArray:
    """Cut an array: the first channels of the first two axes, the centre of the others."""
    begin = [0 if axis < 2 else (array.shape[axis] - size) // 2 for axis, size in enumerate(shape)]
    return nd.slice(array, begin=begin, end=[first + size for first, size in zip(begin, shape)])


def _gelu(x: nd.NDArray) -> nd.NDArray:
    return nd.LeakyReLU(x, act_type="gelu")


def _normalised(x: nd.NDArray, beta: nd.NDArray) -> nd.NDArray:
    """Normalise by the batch's own statistics and add the first of the shifts."""
    channels = x.shape[1]
    ones, zeros = nd.ones(channels), nd.zeros(channels)
    return nd.BatchNorm(x, ones, _cut(beta, (channels,)), zeros, ones.copy(), fix_gamma=True, eps=1e-5)
