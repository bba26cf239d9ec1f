"""Features computed once: the frozen layers in front of the last one need not run in every epoch."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass

from d2lcls.data.batches import Batches
from d2lcls.data.prefetch import prefetch
from d2lcls.machine.memory import available_memory
from d2lcls.machine.progress import Progress
from d2lcls.models.features import FeatureBatches, Features
from d2lcls.models.surgery import Tail, split_constant
from d2lcls.training.evaluation import split_and_load
from d2lcls.training.recipe import Recipe

import mxnet as mx
import numpy as np


@dataclass(frozen=True, eq=False)
class Frozen:
    """A network whose last layer alone is trained, split in two, and its images.

    Args:
        front: the layers that return the same for an image in every epoch.
        tail: the rest, which is trained.
        shape: of the features of an image, without the batch.
        train, valid: the images.
    """

    front: mx.gluon.HybridBlock
    tail: Tail
    shape: tuple[int, ...]
    train: Batches
    valid: Batches | None

    def __str__(self) -> str:
        return "The frozen layers' features are computed once: nothing in front of the last layer changes."

    def features(self, ctx: list[mx.Context], verbose: bool = False) -> tuple[FeatureBatches, FeatureBatches | None]:
        """Run the front over all images, and return batches of what it returns, in the order of the images' batches.

        Args:
            ctx: list of contexts that hold the network.
            verbose: show progress.
        """
        for part in (self.front, self.tail):
            part.hybridize(static_alloc=True, static_shape=True)
        train = FeatureBatches(
            self._run(self.train, ctx, verbose), self.train.batch_size, self.train.shuffle, self.train.seed
        )
        if self.valid is None:
            return train, None
        return train, FeatureBatches(self._run(self.valid, ctx, verbose), self.valid.batch_size)

    def _run(self, batches: Batches, ctx: list[mx.Context], verbose: bool) -> Features:
        data = batches.data
        in_order = Batches(data, batches.batch_size, batches.mean, batches.std, size=batches.size)
        values, begin = np.empty((1, len(data), *self.shape), dtype=np.float32), 0
        with Progress(len(in_order), verbose=verbose) as progress, closing(prefetch(in_order.epoch(0))) as parts:
            for step, (x, _) in enumerate(parts, 1):
                for output in [self.front(part) for part in split_and_load(x, ctx)]:
                    values[0, begin : begin + len(output)] = output.asnumpy()
                    begin += len(output)
                progress.update(step, f"features of {data.name}")
        return Features(values, data.labels, tuple(data.classes), data.name)


def find_frozen(
    net: mx.gluon.HybridBlock, recipe: Recipe, train: Batches | FeatureBatches, valid: Batches | FeatureBatches | None
) -> Frozen | None:
    """Return a network split in two if its frozen layers return the same for an image in every epoch; otherwise None.

    They do if the recipe trains the last layer alone (`train_last=1`, no `unfreeze`), in float32, and every epoch shows
    the same images: no transforms, no mixup or cutmix, no windows, no drawing of classes. A frozen BatchNorm is no
    obstacle, since it normalises by its running statistics; dropout and all that follows it are part of the tail. The
    features must fit into half of the available memory, and be no larger than the images.

    Args:
        net: network with known shapes, whose layers are frozen already.
        recipe, train, valid: as for `fit`.
    """
    if recipe.train_last != 1 or recipe.unfreeze or recipe.precision != "float32":
        return None
    if not isinstance(train, Batches) or not (valid is None or isinstance(valid, Batches)):
        return None
    changing = (train.mixup, train.cutmix, train.balanced, train.alternating_flip, train.small_first)
    if any(changing) or train.augment or (valid is not None and valid.augment):
        return None
    shape = train.example().shape
    if valid is not None and valid.example().shape != shape:
        return None
    parts = split_constant(net, (shape[2], shape[3]))
    if parts is None:
        return None
    front, tail = parts
    _, outputs, _ = front(mx.sym.var("data")).infer_shape(data=shape)
    images = len(train.data) + (len(valid.data) if valid is not None else 0)
    length = math.prod(outputs[0])
    if length > math.prod(shape) or 4 * length * images > available_memory() / 2:
        return None
    return Frozen(front, tail, tuple(outputs[0][1:]), train, valid)
