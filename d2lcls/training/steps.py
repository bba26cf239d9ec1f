"""One training step, on one device or several, and what must be true before the first."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from d2lcls.machine.gluon import has_data, is_deferred, is_learnable, trainer_parameters
from d2lcls.machine.memory import check_memory
from d2lcls.training.evaluation import split_and_load
from d2lcls.training.optimizers.adamw import AdamW as AdamW  # MXNet knows its name once it is imported

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon, nd

if TYPE_CHECKING:
    from d2lcls.training.losses import Loss


def make_trainer(
    net: gluon.Block, optimizer: str, optimizer_params: dict[str, Any], decay_biases: bool = False
) -> gluon.Trainer:
    """Return a `gluon.Trainer` whose weight decay spares biases and normalisation parameters.

    Args:
        net: `gluon.Block` whose shapes are known.
        optimizer, optimizer_params: as for `gluon.Trainer`; "adamw" is `AdamW`.
        decay_biases: decay them too, by as much per step as weights, whatever their `lr_mult`.
    """
    parameters = net.collect_params()
    for parameter in parameters.values():
        others = 1 / parameter.lr_mult if decay_biases and parameter.lr_mult else 0.0
        parameter.wd_mult = 1.0 if len(parameter.shape) > 1 else others
    # Running statistics stay outside: at its first step a Trainer copies all that it holds from the first
    # device to the others, in a race with BatchNorm's update of them. Frozen parameters are inside, and
    # passed over at every step, so that they can be unfrozen later.
    learned = {name: parameter for name, parameter in parameters.items() if is_learnable(parameter)}
    return gluon.Trainer(learned, optimizer, optimizer_params, update_on_kvstore=False)


def train_step(
    net: gluon.Block,
    trainer: gluon.Trainer,
    x: np.ndarray,
    y: np.ndarray,
    ctx: list[mx.Context],
    loss: Loss | None = None,
    clip_norm: float | None = None,
    l1: float = 0.0,
    loss_scale: LossScale | None = None,
) -> tuple[list[nd.NDArray], list[nd.NDArray]]:
    """Make one step: forward, backward, update.

    Every device computes the gradient of its share of the batch; the sum of all, divided by the size of
    the batch, is the mean gradient, whatever the number of devices.

    Args:
        net, trainer: the network and its trainer, as `make_trainer` makes it.
        x: float32 (N, C, H, W).
        y: int (N,), or float32 (N, K) with the share of each class.
        ctx: list of contexts that hold the network.
        loss: function of (logits, labels) that returns (N,); None is cross-entropy.
        clip_norm: largest allowed norm of the mean gradient; None never clips.
        l1: factor of the sum of all weights' absolute values, which is added to the mean loss; biases and
            normalisation parameters are spared. (The L2 penalty is the optimizer's weight decay.)
        loss_scale: `LossScale` for a network in float16, which learns from the step; None is a scale of 1.

    Returns:
        (losses, hits): on each context the sum of its losses and its number of hits, NDArrays of shape (1,)
        that may still be being computed.
    """
    loss = loss or gluon.loss.SoftmaxCrossEntropyLoss(sparse_label=y.ndim == 1)
    shares = list(zip(split_and_load(x, ctx), split_and_load(y, ctx)))
    with autograd.record():
        outputs = [net(images) for images, _ in shares]
        losses = [loss(logits, labels) for logits, (_, labels) in zip(outputs, shares)]
        scale = loss_scale.scale if loss_scale else 1.0
        scaled = losses if scale == 1 else [value * scale for value in losses]
    autograd.backward(scaled)
    if ctx[0].device_type == "cpu":
        # MXNet's engine may update one parameter while the backward pass still works on others, and on CPUs
        # the last bits then depend on which was quicker.
        nd.waitall()
    trained = [parameter for parameter in trainer_parameters(trainer) if parameter.grad_req != "null"]
    for idle in ctx[len(shares) :]:  # more devices than images: these add nothing to the gradient
        for parameter in trained:
            parameter.grad(idle)[:] = 0
            parameter.data(idle)._fresh_grad = True
    trainer.allreduce_grads()
    finite = loss_scale is None or all_finite(
        [parameter.grad(ctx[0]) for parameter in trained]
    )  # they are the same on all
    if l1:
        for parameter in trained:
            if parameter.wd_mult:
                for device in ctx:
                    gradient = parameter.grad(device)
                    gradient += l1 * len(x) * scale * parameter.data(device).sign()
    if clip_norm is not None:
        for device in ctx:
            gradients = [p.grad(device) for p in trained]
            gluon.utils.clip_global_norm(gradients, clip_norm * len(x) * scale, check_isfinite=False)
    if finite:
        trainer.update(len(x) * scale)
    if loss_scale:
        loss_scale.update(finite)
    return [value.sum() for value in losses], [_hits(*pair) for pair in zip(outputs, shares)]


def step_seed(seed: int, step: int) -> int:
    """Return the seed of MXNet's generator for one step: dropout depends on the run's seed and the step alone."""
    return (seed * 1_000_003 + step) % 2**31


def check_training_memory(net: gluon.HybridBlock, shape: tuple[int, ...]) -> None:
    """Raise MemoryError if the layers' outputs, which the backward pass needs, cannot fit into memory.

    Their gradients and oneDNN's own copies may take as much again.

    Args:
        net: `gluon.HybridBlock` on CPUs.
        shape: (N, C, H, W) of a batch.
    """
    layers = net(mx.sym.var("data")).get_internals()
    try:
        _, outputs, _ = layers.infer_shape_partial(data=shape)
    except mx.MXNetError:  # the images do not fit the network, which `settle_shapes` says better
        return
    check_memory(
        4 * sum(math.prod(output) for output in outputs),
        f"Training on batches of {shape[0]} images of {' x '.join(map(str, shape[1:]))}",
        "Use a smaller batch size or smaller images (--batch-size, --size).",
    )


def settle_shapes(net: gluon.HybridBlock, x: np.ndarray, ctx: list[mx.Context], seed: int) -> int:
    """Put a network on its devices, draw the parameters that wait for a shape, and hybridize it.

    Args:
        net: initialised `gluon.HybridBlock`.
        x: float32 (N, C, H, W), any batch.
        ctx: list of contexts.
        seed: for the parameters still to be drawn.

    Returns:
        int, the number of logits.

    Raises:
        ValueError: the network was not initialised, or cannot take such images.
    """
    parameters = net.collect_params()
    for parameter in parameters.values():
        if not has_data(parameter) and not is_deferred(parameter):
            raise ValueError(
                f"The parameter {parameter.name} was not initialised. "
                "Call net.initialize(mx.init.MSRAPrelu()) before fit."
            )
    for parameter in parameters.values():
        if not has_data(parameter) or parameter.list_ctx() != ctx:
            parameter.reset_ctx(ctx)  # takes the mean of all copies, whose last bit may then differ from theirs
    mx.random.seed(seed)
    try:
        for part in split_and_load(x[:1].repeat(len(ctx), axis=0), ctx):
            logits = net(part)
            logits.wait_to_read()
    except (mx.MXNetError, ValueError) as error:  # Gluon turns MXNet's error into the latter where shapes are deferred
        if isinstance(error, ValueError) and "Deferred initialization failed" not in str(error):
            raise
        raise ValueError(
            f"{type(net).__name__} cannot take images of {x.shape[2]} x {x.shape[3]} pixels with "
            f"{x.shape[1]} channels. Use larger images or another network."
        ) from error
    net.hybridize(**memory_plan(net))
    return logits.shape[1]


def memory_plan(net: gluon.Block) -> dict[str, bool]:
    """Return the arguments with which `hybridize` makes a network train quickest: static memory, in most cases.

    Not where frozen parameters come after learned ones: MXNet then computes some gradients that frozen filters have no
    use for, the slowest of all among them, those of 5x5 depthwise convolutions. A frozen front costs nothing.
    """
    learned = [parameter.grad_req != "null" for parameter in net.collect_params().values() if is_learnable(parameter)]
    static = learned == sorted(learned)
    return {"static_alloc": static, "static_shape": static}


def average_running_statistics(net: gluon.Block) -> None:
    """Give every device the mean of the BatchNorm statistics that the devices gathered apart."""
    nd.waitall()  # MXNet does not count BatchNorm's update of them as a write that a read must wait for
    for parameter in net.collect_params().values():
        copies = parameter.list_data()
        moved = parameter.grad_req == "null" and any((copy.asnumpy() != copies[0].asnumpy()).any() for copy in copies)
        if moved:
            parameter.set_data(sum(copy.as_in_context(mx.cpu()) for copy in copies) / len(copies))


def is_finite(net: gluon.Block) -> bool:
    """Whether every parameter is a finite number everywhere."""
    return all_finite([p.list_data()[0].astype("float32", copy=False) for p in net.collect_params().values()])


def all_finite(arrays: list[nd.NDArray]) -> bool:
    """Whether every number in a list of float32 NDArrays is finite."""
    parts = [arrays[begin : begin + 200] for begin in range(0, len(arrays), 200)]  # it crashes on more
    return all(nd.multi_all_finite(*part, num_arrays=len(part)).asscalar() for part in parts)


def _hits(logits: nd.NDArray, share: tuple[nd.NDArray, nd.NDArray]) -> nd.NDArray:
    labels = share[1] if share[1].ndim == 1 else share[1].argmax(axis=1)
    return (logits.argmax(axis=1) == labels.astype("float32")).sum()


class LossScale:
    """Keeps gradients within the range of float16: the loss is multiplied by a scale that adapts to the gradients.

    A step whose gradients overflow is skipped and halves the scale; after `patience` good steps it doubles. bfloat16
    has the range of float32 and needs none of this. Source: Micikevicius et al. (2018), section 3.2.

    Args:
        scale: the initial scale.
        good: good steps since the scale changed.
        patience: number of good steps after which it doubles.
    """

    def __init__(self, scale: float = 2.0**16, good: float = 0, patience: float = 2000) -> None:
        self.scale, self.good, self.patience = scale, good, patience

    def update(self, finite: bool) -> None:
        """Adapt the scale, given whether all gradients of the last step were finite."""
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.scale = max(self.scale / 2, 1.0)
        elif self.good == self.patience:
            self.scale, self.good = self.scale * 2, 0


class Tally:
    """Loss and accuracy over the batches of an epoch, every image counted once whatever the size of its batch.

    Devices compute while Python continues, and reading a result waits for it. Results are therefore kept as they are
    and read a few batches later, all at once.

    Args:
        loss, hits, images: sums so far, of a resumed epoch.
    """

    def __init__(self, loss: float = 0.0, hits: float = 0, images: float = 0) -> None:
        self.loss, self.hits, self.images = loss, hits, images
        self._unread: list[tuple[int, int, list[nd.NDArray], list[nd.NDArray]]] = []

    def add(self, step: int, images: int, losses: list[nd.NDArray], hits: list[nd.NDArray]) -> int:
        """Add a batch, with what `train_step` returned; return the number of batches that are not read yet."""
        self._unread.append((step, images, losses, hits))
        return len(self._unread)

    def settle(self) -> int | None:
        """Read all batches; return the first step whose loss is NaN or infinite, or None."""
        for step, images, losses, hits in self._unread:
            loss = sum(float(value.asscalar()) for value in losses)
            if not math.isfinite(loss):
                return step
            self.loss += loss
            self.hits += sum(int(value.asscalar()) for value in hits)
            self.images += images
        self._unread = []
        return None

    @property
    def mean_loss(self) -> float:
        """Mean loss per image, over the batches read so far."""
        return self.loss / max(1, self.images)

    @property
    def accuracy(self) -> float:
        """Share of correct predictions, 0 to 1, over the batches read so far."""
        return self.hits / max(1, self.images)
