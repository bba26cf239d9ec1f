"""Evaluating a network: its logits, and how accurate they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from d2lcls.explain.scores import softmax as softmax
from d2lcls.machine.progress import Progress

import mxnet as mx
import numpy as np
from mxnet import gluon, nd

if TYPE_CHECKING:
    from d2lcls.data.batches import Batches
    from d2lcls.models.features import FeatureBatches


@dataclass(frozen=True)
class Evaluation:
    """A network's score on a set: mean cross-entropy, top-1 and top-5 as shares of 1, number of images."""

    loss: float
    accuracy: float
    top5: float
    images: int

    def __str__(self) -> str:
        return f"loss {self.loss:.4f}, top-1 {self.accuracy:.2%}, top-5 {self.top5:.2%} on {self.images:,} images"


def scored_at_once(height: int, width: int) -> int:
    """Return how many images of a size, in pixels, to score in a batch: 256 small ones, fewer of photographs.

    A batch of 256 photographs of 224 x 224 pixels takes 15 GB of memory in EfficientNet-Lite0.
    """
    return 256 if height * width <= 64**2 else 32


Views = Callable[[np.ndarray], Iterable[tuple[float, np.ndarray]]]


def evaluate(
    net: gluon.Block,
    batches: Batches | FeatureBatches,
    ctx: mx.Context | list[mx.Context] | None = None,
    verbose: bool = False,
    views: Views | None = None,
) -> Evaluation:
    """Score a network; every image counts once, the short last batch included.

    No more than two batches are in memory at a time, so a set that is read lazily may be of any size.

    Args:
        net: initialised `gluon.Block` that maps (N, C, H, W) to logits (N, K).
        batches: `Batches` without mixup and cutmix.
        ctx: context or list of contexts; None is where the network's parameters are.
        verbose: show progress.
        views: function from a batch to pairs of a weight and a view of it, such as `six_views`, whose logits are added
            up; None is the batch alone.

    Returns:
        `Evaluation`. With five classes or fewer, top-5 is 1.

    Raises:
        ValueError: a label is beyond the network's outputs.
    """
    return evaluate_classes(net, batches, ctx, verbose, views)[0]


def evaluate_classes(
    net: gluon.Block,
    batches: Batches | FeatureBatches,
    ctx: mx.Context | list[mx.Context] | None = None,
    verbose: bool = False,
    views: Views | None = None,
) -> tuple[Evaluation, np.ndarray]:
    """Score a network as `evaluate` does, and on each class by itself.

    Args:
        net, batches, ctx, verbose, views: as for `evaluate`.

    Returns:
        (`Evaluation`, accuracies): float64 (K,), top-1 of the images of each class of the set as a share of 1; NaN
        for a class without images.

    Raises:
        ValueError: a label is beyond the network's outputs.
    """
    classes = len(batches.data.classes)
    loss, hits5, hits, counts = 0.0, 0, np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    with Progress(len(batches), verbose=verbose) as progress:
        for step, (logits, labels) in enumerate(_outputs(net, batches, ctx, views), 1):
            if step == 1:
                check_labels(batches.data, logits.shape[1])
            own = logits[np.arange(len(labels)), labels]
            highest = logits.max(axis=1)
            loss += float((highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1)) - own).sum())
            answered = ~np.isnan(highest)  # comparisons with NaN are False, which would make it a hit
            hits += np.bincount(labels[answered & (logits.argmax(axis=1) == labels)], minlength=classes)
            hits5 += int((answered & ((logits > own[:, None]).sum(axis=1) < 5)).sum())
            counts += np.bincount(labels, minlength=classes)
            progress.update(step, f"top-1 {hits.sum() / counts.sum():.2%}")
    images = int(counts.sum())
    accuracies = np.divide(hits, counts, out=np.full(classes, np.nan), where=counts > 0)
    return Evaluation(loss / images, int(hits.sum()) / images, hits5 / images, images), accuracies


def predict(
    net: gluon.Block,
    batches: Batches | FeatureBatches,
    ctx: mx.Context | list[mx.Context] | None = None,
    verbose: bool = False,
) -> np.ndarray:
    """Return the logits of every image, float32 of shape (N, K), in the order of the batches.

    Args:
        net, batches, ctx: as for `evaluate`.
        verbose: show progress.
    """
    logits = []
    with Progress(len(batches), verbose=verbose) as progress:
        for step, (of_batch, _) in enumerate(_outputs(net, batches, ctx), 1):
            logits.append(of_batch.astype(np.float32))
            progress.update(step, "predicting")
    return np.concatenate(logits)


def check_labels(data: Any, outputs: int) -> None:
    """Raise ValueError if a set has a label that a network with so many outputs cannot give."""
    if data.labels.max() >= outputs:
        raise ValueError(
            f"The set has a label {data.labels.max()}, but the network has only {outputs} outputs. "
            f"Make it with classes={len(data.classes)}."
        )


def as_contexts(ctx: mx.Context | Iterable[mx.Context] | None) -> list[mx.Context]:
    """Return a list of contexts for a context, a list of them, or None (one CPU).

    Raises:
        ValueError: the list is empty, or names a context twice.
    """
    if ctx is None:
        return [mx.cpu()]
    ctx = [ctx] if isinstance(ctx, mx.Context) else list(ctx)
    if not ctx or len(set(ctx)) < len(ctx):
        raise ValueError(f"ctx must be one or more different contexts, not {ctx}.")
    return ctx


def split_and_load(x: np.ndarray, ctx: list[mx.Context]) -> list[nd.NDArray]:
    """Distribute an array over contexts, in nearly equal parts; contexts beyond its length get none.

    Args:
        x: numpy array of shape (N, ...), N of 1 or more.
        ctx: list of contexts.

    Returns:
        list of NDArrays, on the first min(N, len(ctx)) contexts.
    """
    parts = min(len(x), len(ctx))
    return [
        nd.array(part, ctx=staging(c), dtype=x.dtype).as_in_context(c) for part, c in zip(np.array_split(x, parts), ctx)
    ]


def staging(context: mx.Context) -> mx.Context:
    """Return the context from which a GPU can copy while it computes: pinned memory; for other contexts, themselves."""
    return mx.cpu_pinned(context.device_id) if context.device_type == "gpu" else context


def _outputs(
    net: gluon.Block, batches: Any, ctx: Any, views: Views | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if ctx is None:
        ctx = next(iter(net.collect_params().values())).list_ctx()
    ctx = as_contexts(ctx)
    waiting = None
    for x, labels in batches:
        weighted = [
            [weight * net(part) for part in split_and_load(view, ctx)]
            for weight, view in (views(x) if views else [(1, x)])
        ]
        outputs = [sum(of_part) for of_part in zip(*weighted)]
        # MXNet computes these while the next batch is read and decoded: only asnumpy waits.
        if waiting:
            yield _settled(*waiting)
        waiting = outputs, labels
    if waiting:
        yield _settled(*waiting)


def _settled(outputs: list[nd.NDArray], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([output.asnumpy() for output in outputs]).astype(np.float64), labels


def six_views(x: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """Yield six views of a batch: as it is, and shifted by a pixel in two directions, each also mirrored.

    For test-time augmentation: the logits of the views are averaged. Source: Jordan, "94% on CIFAR-10 in 3.29 Seconds
    on a Single GPU" (2024), section 3.5.

    Args:
        x: float32 (N, C, H, W).

    Yields:
        (weight, view): the weights sum to 1; float32 (N, C, H, W).
    """
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    for weight, view in ((0.5, x), (0.25, padded[:, :, :height, :width]), (0.25, padded[:, :, 2:, 2:])):
        yield weight / 2, view
        yield weight / 2, view[:, :, :, ::-1]
