"""Asking a network: its logits, and how good they are."""

from dataclasses import dataclass

import mxnet as mx
import numpy as np
from mxnet import nd


@dataclass(frozen=True)
class Evaluation:
    """A network's score on a set: mean cross-entropy, top-1 and top-5 as shares of 1, number of images."""

    loss: float
    accuracy: float
    top5: float
    images: int

    def __str__(self):
        return f"loss {self.loss:.4f}, top-1 {self.accuracy:.2%}, top-5 {self.top5:.2%} on {self.images:,} images"


def evaluate(net, batches, ctx=None):
    """Score a network; every image counts once, the short last batch included.

    Args:
        net: initialised `gluon.Block` that maps (N, C, H, W) to logits (N, K).
        batches: `Batches` with labels, not mixed up.
        ctx: context or list of contexts; None is where the network's parameters are.

    Returns:
        `Evaluation`. With five classes or fewer, top-5 is 1.
    """
    loss, hits, hits5, images = 0.0, 0, 0, 0
    for logits, labels in _outputs(net, batches, ctx):
        check_labels(batches.data, logits.shape[1])
        own = logits[np.arange(len(labels)), labels]
        highest = logits.max(axis=1)
        loss += float((highest + np.log(np.exp(logits - highest[:, None]).sum(axis=1)) - own).sum())
        hits += int((logits.argmax(axis=1) == labels).sum())
        hits5 += int(((logits > own[:, None]).sum(axis=1) < 5).sum())
        images += len(labels)
    return Evaluation(loss / images, hits / images, hits5 / images, images)


def predict(net, batches, ctx=None):
    """Return the logits of every image, float32 of shape (N, K), in the order of the batches."""
    return np.concatenate([logits for logits, _ in _outputs(net, batches, ctx)]).astype(np.float32)


def softmax(logits):
    """Turn logits (N, K) into probabilities (N, K) whose rows sum to 1."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def check_labels(data, outputs):
    """Raise ValueError if a set has a label that a network with so many outputs cannot give."""
    if data.labels.max() >= outputs:
        raise ValueError(f"The set has a label {data.labels.max()}, but the network has only {outputs} outputs. "
                         f"Make it with classes={len(data.classes)}.")


def as_contexts(ctx):
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


def split_and_load(x, ctx):
    """Share an array out over contexts, in nearly equal parts; contexts beyond its length get none.

    Args:
        x: numpy array of shape (N, ...), N of 1 or more.
        ctx: list of contexts.

    Returns:
        list of NDArrays, on the first min(N, len(ctx)) contexts.
    """
    parts = min(len(x), len(ctx))
    return [nd.array(part, ctx=c, dtype=x.dtype) for part, c in zip(np.array_split(x, parts), ctx)]


def _outputs(net, batches, ctx):
    if ctx is None:
        ctx = next(iter(net.collect_params().values())).list_ctx()
    ctx = as_contexts(ctx)
    for x, labels in batches:
        outputs = [net(part) for part in split_and_load(x, ctx)]
        yield np.concatenate([output.asnumpy() for output in outputs]).astype(np.float64), labels
