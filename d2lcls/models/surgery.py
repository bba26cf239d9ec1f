"""Changing a trained network: a new head, frozen layers, learning rates by depth, a split in two.

The functions take networks with `features`, whose children run one after another, and `output` (`fc` in GluonCV's
ResNet v1b). The layers of a *group* are frozen or trained together: each child of `features` that holds a convolution,
with the layers after it that hold none (normalisation, activation, pooling), and finally the output.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from d2lcls.machine.gluon import blocks_of, children, clear_cache, has_data, is_deferred, is_learnable, layer_options
from d2lcls.models.efficientnet import EfficientNet, set_image_size

import mxnet as mx
from mxnet import gluon
from mxnet.gluon import nn

HEADS = ("output", "fc")
RANDOM = ("Dropout", "_shuffle", "_random", "_sample")  # how the names of operators begin that draw numbers


def replace_head(net: gluon.Block, classes: int, seed: int = 0) -> None:
    """Replace a network's last layer by a newly initialised one for another set of classes; nothing else changes.

    Do not call `net.initialize()` after this, as many examples do: with `force_reinit=True` that draws every
    parameter again, and the pretrained ones are lost.

    Args:
        net: initialised network whose last layer is dense, or a 1x1 convolution as in MobileNetV2.
        classes: number of logits.
        seed: of the new weights, drawn from a normal distribution of standard deviation 0.01; biases are 0.

    Raises:
        ValueError: the network has no head of these kinds, or is not initialised.
    """
    if classes < 1:
        raise ValueError(f"Expected classes of 1 or more, not {classes}.")
    name = head_name(net)
    old = getattr(net, name)
    layer = old[0] if isinstance(old, nn.HybridSequential) else old
    if not (has_data(layer.weight) or is_deferred(layer.weight)):
        raise ValueError("The network is not initialised. Call net.initialize(), or load its parameters, first.")
    ctx = layer.weight.list_ctx()
    inputs = layer.weight.shape[1]
    if not inputs:
        raise ValueError("The network's shapes are not known yet. Call it with a batch, or load its parameters, first.")
    mx.random.seed(seed)
    if isinstance(layer, nn.Dense):
        new = nn.Dense(classes, in_units=inputs)
    else:
        # MobileNetV2 has one only with weights from PyTorch, of which a network made for a checkpoint knows nothing.
        bias = layer.bias is not None and type(net).__name__ != "MobileNetV2"
        new = nn.Conv2D(classes, 1, use_bias=bias, in_channels=inputs)
    new.initialize(mx.init.Normal(0.01), ctx=ctx)
    if layer is not old:  # the layers after it, such as SqueezeNet's mean over the pixels, stay
        whole = nn.HybridSequential()
        whole.add(new, *list(old)[1:])
        new = whole
    setattr(net, name, new)
    clear_cache(net)


def layer_groups(net: gluon.Block) -> list[list[gluon.Block]]:
    """List a network's groups from the image to the logits, each a list of blocks that run one after another.

    Raises:
        ValueError: the network has no `features` or no head.
    """
    groups: list[list[gluon.Block]] = []
    for child in _features(net):
        if not groups or _has_weights(child) and any(map(_has_weights, groups[-1])):
            groups.append([])
        groups[-1].append(child)
    return [*groups, [getattr(net, head_name(net))]]


def train_last(net: gluon.Block, groups: int) -> None:
    """Train only the last groups of a network; all groups before them are frozen.

    Training steps change no parameter of a frozen layer, not even by weight decay, and a frozen BatchNorm uses its
    running statistics and no longer updates them: without its gradients alone, it would still normalise by each batch.

    Args:
        net: network with groups.
        groups: how many to train, counted from the output; `len(layer_groups(net))` trains all.

    Raises:
        ValueError: the network has fewer groups.
    """
    all_groups = layer_groups(net)
    if not 1 <= groups <= len(all_groups):
        raise ValueError(f"groups must lie between 1 and {len(all_groups)}, the number of groups, not {groups}.")
    for index, group in enumerate(all_groups):
        trained = index >= len(all_groups) - groups
        for block in group:
            for parameter in block.collect_params().values():
                # A learning rate of zero means frozen, too. Running statistics refuse "write".
                parameter.grad_req = "write" if trained and parameter.lr_mult else "null"
            for layer in blocks_of(block, nn.BatchNorm):
                layer_options(layer)["use_global_stats"] = not trained or getattr(layer, "held", False)
    clear_cache(net)


def hold_statistics(net: gluon.Block) -> None:
    """Let every BatchNorm normalise by its running statistics, in training too, and never update them.

    With few images or small batches, a batch's own statistics are unreliable, and those of ImageNet work better.
    BatchNorm's scale and shift are still trained. `train_last` does not undo this.
    """
    for layer in blocks_of(net, nn.BatchNorm):
        layer.held = layer_options(layer)["use_global_stats"] = True
    clear_cache(net)


def set_lr_multipliers(net: gluon.Block, decay: float) -> None:
    """Train every group with a smaller learning rate than the one after it (Howard and Ruder, ULMFiT, 2018).

    Args:
        net: network with groups.
        decay: factor from one group to the one before it; 1 gives all the same rate. The output keeps the full rate.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must lie above 0 and at most at 1, not {decay}.")
    for distance, group in enumerate(reversed(layer_groups(net))):
        for block in group:
            for parameter in block.collect_params().values():
                if parameter.lr_mult:  # zero is frozen for good
                    parameter.lr_mult = decay**distance


def gradual(net: gluon.Block, num_epochs: int, start: int = 1) -> dict[int, int]:
    """Plan gradual unfreezing (Howard and Ruder, 2018): the output first, then deeper groups at equal intervals.

    Args:
        net: network with groups.
        num_epochs: length of the training; in its last third, all groups are trained.
        start: number of groups trained in the first epoch.

    Returns:
        dict from an epoch, counted from 0, to the number of groups trained from then on, for `fit(unfreeze=...)`.
    """
    total = len(layer_groups(net))
    if not 1 <= start <= total:
        raise ValueError(f"start must lie between 1 and {total}, the number of groups, not {start}.")
    last = max(1, num_epochs * 2 // 3)
    plan = {epoch: start + (total - start) * epoch // last for epoch in range(min(last + 1, num_epochs))}
    return {epoch: groups for epoch, groups in plan.items() if epoch == 0 or groups != plan[epoch - 1]}


class Tail(gluon.HybridBlock):
    """The last groups of a network, with `features` and `output` as in a whole network.

    Args:
        blocks: the blocks of `features`, shared with the network.
        output: its head.
    """

    def __init__(self, blocks: Sequence[gluon.Block], output: gluon.Block, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.features = nn.HybridSequential()
        self.features.add(*blocks)
        self.output = output

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Return logits (N, K) for the output of the front."""
        return self.output(self.features(x))


def set_bias_multiplier(net: gluon.Block, factor: float) -> None:
    """Train biases, including BatchNorm's, with another learning rate than weights.

    Args:
        net: any network; the `lr_mult` of its biases is multiplied.
        factor: of their rate, above 0.

    Raises:
        ValueError: factor is 0 or below.
    """
    if not factor > 0:
        raise ValueError(f"The factor of the biases' rate must be above 0, not {factor}.")
    for parameter in net.collect_params().values():
        if is_learnable(parameter) and parameter.name.endswith(("bias", "beta")):
            parameter.lr_mult *= factor


def split(net: gluon.Block, groups: int, size: int | tuple[int, int] | None = None) -> tuple[nn.HybridSequential, Tail]:
    """Split a network in two that share its parameters: a front to be run once, and the last groups, to be trained.

    Args:
        net: network with groups.
        groups: how many belong to the tail, counted from the output; 1 is the output alone.
        size: side, or (height, width), of the images in pixels; needed where padding depends on it, as in
            EfficientNet-Lite.

    Returns:
        (front, tail): tail(front(x)) is net(x), without dropout in the front.

    Raises:
        ValueError: the network has too few groups, or does more between features and output.
    """
    all_groups = layer_groups(net)
    if not 1 <= groups < len(all_groups):
        raise ValueError(
            f"groups must lie between 1 and {len(all_groups) - 1}, one less than the network has, not {groups}."
        )
    if size is not None:
        set_image_size(net, *(size if isinstance(size, tuple) else (size, size)))
    elif isinstance(net, EfficientNet):
        raise ValueError("This network's padding depends on the size of its images: pass size=.")
    front = nn.HybridSequential()
    front.add(*sum(all_groups[:-groups], []))
    tail = Tail(sum(all_groups[-groups:-1], []), all_groups[-1][0])
    image = mx.sym.var("data")
    if _operators(tail(front(image))) != _operators(net(image)):
        raise ValueError(f"{type(net).__name__} does more than run its `features` and its head, so it cannot be split.")
    return front, tail


def split_constant(net: gluon.Block, size: tuple[int, int]) -> tuple[nn.HybridSequential, Tail] | None:
    """Split a network whose last layer alone is trained, so that the front returns the same at every step.

    Dropout draws anew at every step: the front ends before the first layer that draws random numbers.

    Args:
        net: network with groups, all but the last of them frozen by `train_last`.
        size: (height, width) of the images in pixels.

    Returns:
        (front, tail) as `split`; None if the first layer is random already, or the network does more than run its
        `features` and its head.
    """
    set_image_size(net, *size)
    blocks, image = _features(net), mx.sym.var("data")
    end = next((index for index, block in enumerate(blocks) if is_random(block)), len(blocks))
    if not end:
        return None
    front = nn.HybridSequential()
    front.add(*blocks[:end])
    tail = Tail(blocks[end:], getattr(net, head_name(net)))
    return (front, tail) if _operators(tail(front(image))) == _operators(net(image)) else None


def head_name(net: gluon.Block) -> str:
    """Return the name of the attribute that holds a network's last layer.

    Raises:
        ValueError: no such layer is dense or a 1x1 convolution.
    """
    for name in HEADS:
        head = getattr(net, name, None)
        layer = head[0] if isinstance(head, nn.HybridSequential) and len(head) else head
        if isinstance(layer, nn.Dense) or isinstance(layer, nn.Conv2D) and layer_options(layer)["kernel"] == (1, 1):
            return name
    raise ValueError(
        f"{type(net).__name__} has no last layer called {' or '.join(HEADS)} that is dense or a 1x1 "
        "convolution, so its head cannot be told from its features."
    )


def _features(net: gluon.Block) -> list[gluon.Block]:
    if isinstance(getattr(net, "features", None), (nn.HybridSequential, nn.Sequential)):
        return list(net.features)
    if hasattr(net, "layer1"):  # GluonCV's ResNet v1b names its children as PyTorch does
        return [child for child in children(net).values() if child is not getattr(net, head_name(net))]
    raise ValueError(f"{type(net).__name__} has no `features`, a sequence of layers, so it cannot be taken apart.")


def _operators(symbol):
    return [(node["op"], node.get("attrs")) for node in json.loads(symbol.tojson())["nodes"]]


def is_random(block: gluon.HybridBlock) -> bool:
    """Whether a block draws random numbers in training, as dropout does."""
    operators = _operators(block(mx.sym.var("data")))
    return any(op.startswith(RANDOM) or (attrs or {}).get("act_type") == "rrelu" for op, attrs in operators)


def _has_weights(block):
    return any(
        is_learnable(parameter) and len(parameter.shape or ()) > 1 for parameter in block.collect_params().values()
    )
