"""Changing a trained network: a new head, frozen layers, learning rates by depth, a cut in two.

A network here is one with `features`, whose children run one after another, and `output` (`fc` in GluonCV's
ResNet v1b). Its *groups* are what is frozen or trained together: each child of `features` that holds a convolution,
with the layers after it that hold none (normalisation, activation, pooling), and last of all the output.
"""

import json

from d2lcls.models.efficientnet import EfficientNet, set_image_size

import mxnet as mx
from mxnet import gluon
from mxnet.gluon import nn

HEADS = ("output", "fc")


def replace_head(net, classes, seed=0):
    """Give a network a new, freshly drawn last layer for another set of classes; nothing else is touched.

    Do not call `net.initialize()` after this, as many copied examples do: with `force_reinit=True` that draws
    every parameter anew, and the pretrained ones are gone.

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
    if layer.weight._data is None and not layer.weight._deferred_init:
        raise ValueError("The network is not initialised. Call net.initialize(), or load its parameters, first.")
    ctx = layer.weight.list_ctx()
    inputs = layer.weight.shape[1]
    if not inputs:
        raise ValueError("The network's shapes are not known yet. Call it with a batch, or load its parameters, first.")
    mx.random.seed(seed)
    if isinstance(layer, nn.Dense):
        new = nn.Dense(classes, in_units=inputs)
    else:
        new = nn.Conv2D(classes, 1, use_bias=layer.bias is not None, in_channels=inputs)
    new.initialize(mx.init.Normal(0.01), ctx=ctx)
    if layer is not old:  # what follows it, such as SqueezeNet's mean over the pixels, stays
        whole = nn.HybridSequential()
        whole.add(new, *list(old)[1:])
        new = whole
    setattr(net, name, new)
    forget_compiled(net)


def layer_groups(net):
    """List a network's groups from the image to the logits, each a list of blocks that run one after another.

    Raises:
        ValueError: the network has no `features` or no head.
    """
    groups = []
    for child in _features(net):
        if not groups or _has_weights(child) and any(map(_has_weights, groups[-1])):
            groups.append([])
        groups[-1].append(child)
    return [*groups, [getattr(net, head_name(net))]]


def train_last(net, groups):
    """Train the last groups of a network only; all before are frozen.

    A frozen layer's parameters are left alone by every step, weight decay included, and a frozen BatchNorm uses its
    running statistics and no longer updates them: with gradients off alone, it would still normalise by each batch.

    Args:
        net: network with groups.
        groups: how many to train, counted from the output; `len(layer_groups(net))` trains all.

    Raises:
        ValueError: there are not so many groups.
    """
    found = layer_groups(net)
    if not 1 <= groups <= len(found):
        raise ValueError(f"groups must lie between 1 and {len(found)}, the number of groups, not {groups}.")
    for place, group in enumerate(found):
        trained = place >= len(found) - groups
        for block in group:
            for parameter in block.collect_params().values():
                # A rate of zero is frozen, too. Running statistics refuse "write".
                parameter.grad_req = "write" if trained and parameter.lr_mult else "null"
            for layer in _normalisations(block):
                layer._kwargs["use_global_stats"] = not trained or getattr(layer, "held", False)
    forget_compiled(net)


def hold_statistics(net):
    """Have every BatchNorm normalise by its running statistics, in training too, and leave these as they are.

    With few images or small batches, a batch's own statistics are a poor guide, and those of ImageNet serve better.
    The scale and shift that BatchNorm learns go on learning. It stays so, whatever `train_last` does.
    """
    for layer in _normalisations(net):
        layer.held = layer._kwargs["use_global_stats"] = True
    forget_compiled(net)


def _normalisations(block):
    found = []
    block.apply(lambda layer: found.append(layer) if isinstance(layer, nn.BatchNorm) else None)
    return found


def set_lr_multipliers(net, decay):
    """Let every group learn more slowly than the one after it (Howard and Ruder, ULMFiT, 2018).

    Args:
        net: network with groups.
        decay: factor from one group to the one before it; 1 gives all the same rate. The output keeps the full rate.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must lie above 0 and at most at 1, not {decay}.")
    found = layer_groups(net)
    for place, group in enumerate(found):
        for block in group:
            for parameter in block.collect_params().values():
                if parameter.lr_mult:  # zero is frozen for good
                    parameter.lr_mult = decay ** (len(found) - 1 - place)


def gradual(net, num_epochs, start=1):
    """Plan gradual unfreezing (Howard and Ruder, 2018): the output first, then deeper groups at even intervals.

    Args:
        net: network with groups.
        num_epochs: length of the training; in its last third, all groups are trained.
        start: groups trained in the first epoch.

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
    """The groups of a network after a cut, with `features` and `output` as a whole network has them.

    Args:
        children: list of the blocks of `features`, which stay the network's own.
        output: its head.
    """

    def __init__(self, children, output, **kwargs):
        super().__init__(**kwargs)
        self.features = nn.HybridSequential()
        self.features.add(*children)
        self.output = output

    def hybrid_forward(self, F, x):
        """Return logits (N, K) for what the front returned."""
        return self.output(self.features(x))


def set_bias_multiplier(net, factor):
    """Let biases, BatchNorm's among them, learn at another rate than weights.

    Args:
        net: any `gluon.Block`; the `lr_mult` of its biases is multiplied.
        factor: of their rate, above 0.

    Raises:
        ValueError: factor is 0 or below.
    """
    if not factor > 0:
        raise ValueError(f"The factor of the biases' rate must be above 0, not {factor}.")
    for parameter in net.collect_params().values():
        if parameter._differentiable and parameter.name.endswith(("bias", "beta")):
            parameter.lr_mult *= factor


def split(net, groups, size=None):
    """Cut a network in two that share its parameters: a front to be run once, and the last groups, to be trained.

    Args:
        net: network with groups.
        groups: how many belong to the tail, counted from the output; 1 is the output alone.
        size: side of the images in pixels; needed where padding depends on it, as in EfficientNet-Lite.

    Returns:
        (front, tail): `HybridSequential` and `Tail`; tail(front(x)) is net(x), without dropout before the cut.

    Raises:
        ValueError: there are not so many groups, or the network does more between features and output.
    """
    found = layer_groups(net)
    if not 1 <= groups < len(found):
        raise ValueError(f"groups must lie between 1 and {len(found) - 1}, one less than there are, not {groups}.")
    if size is not None:
        set_image_size(net, size, size)
    elif isinstance(net, EfficientNet):
        raise ValueError("This network's padding depends on the size of its images: pass size=.")
    front = nn.HybridSequential()
    front.add(*sum(found[: len(found) - groups], []))
    tail = Tail(sum(found[len(found) - groups : -1], []), found[-1][0])
    image = mx.sym.var("data")
    if _operators(tail(front(image))) != _operators(net(image)):
        raise ValueError(f"{type(net).__name__} does more than run its `features` and its head, so it cannot be split.")
    return front, tail


def forget_compiled(net):
    """Have a hybridized network traced again at its next call, as after a change of its layers it must be."""
    net.apply(lambda block: block._clear_cached_op() if isinstance(block, gluon.HybridBlock) else None)


def head_name(net):
    """Return the name of the attribute that holds a network's last layer.

    Raises:
        ValueError: it has none that is dense or a 1x1 convolution.
    """
    for name in HEADS:
        head = getattr(net, name, None)
        layer = head[0] if isinstance(head, nn.HybridSequential) and len(head) else head
        if isinstance(layer, nn.Dense) or isinstance(layer, nn.Conv2D) and layer._kwargs["kernel"] == (1, 1):
            return name
    raise ValueError(
        f"{type(net).__name__} has no last layer called {' or '.join(HEADS)} that is dense or a 1x1 "
        "convolution, so its head cannot be told from its features."
    )


def _features(net):
    if isinstance(getattr(net, "features", None), (nn.HybridSequential, nn.Sequential)):
        return list(net.features)
    if hasattr(net, "layer1"):  # GluonCV's ResNet v1b names its children as PyTorch does
        return [child for child in net._children.values() if child is not getattr(net, head_name(net))]
    raise ValueError(f"{type(net).__name__} has no `features`, a sequence of layers, so it cannot be taken apart.")


def _operators(symbol):
    return [(node["op"], node.get("attrs")) for node in json.loads(symbol.tojson())["nodes"]]


def _has_weights(block):
    return any(
        parameter._differentiable and len(parameter.shape or ()) > 1 for parameter in block.collect_params().values()
    )
