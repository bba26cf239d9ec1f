"""Networks by name: the book's own, the EfficientNets and GluonCV's."""

from __future__ import annotations

import difflib
import fnmatch
import math
from pathlib import Path
from typing import Any

from d2lcls.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from d2lcls.models.efficientnet_lite import NAMES, SCALES, make_efficientnet
from d2lcls.models.own import is_own, make_own
from d2lcls.models.slow_layers import replace_global_pooling
from d2lcls.models.surgery import replace_head
from d2lcls.weights.hub import HUB
from d2lcls.weights.store import find_weights, get_weights, has_own_source

import mxnet as mx
from mxnet import gluon

# The modules of gluoncv.model_zoo whose networks classify images into as many classes as `classes` says. The others
# hold networks for detection, segmentation or video, or networks that ignore `classes` (hrnet, the pruned ones).
CLASSIFIERS = (
    "alexnet cifarresnet cifarresnext cifarwideresnet densenet dla googlenet inception mobilenet mobilenetv3 nasnet "
    "residual_attentionnet resnest resnet resnetv1b resnext senet shufflenet squeezenet vgg xception yolo.darknet"
)


def list_models(pattern: str = "*") -> list[str]:
    """Return the names that `get_model` accepts and that match a shell pattern such as "cifar_*", sorted."""
    from gluoncv.model_zoo import model_zoo

    modules = {f"gluoncv.model_zoo.{name}" for name in CLASSIFIERS.split()}
    theirs = [name for name, function in model_zoo._models.items() if function.__module__ in modules]
    return sorted(fnmatch.filter(["cnn", "fast94", *NAMES, *theirs], pattern))


def model_name(name: str) -> str:
    """Return a model's name as it is listed, in lower case; those of classes of one's own keep their case."""
    return name if is_own(name) else name.lower()


def get_model(
    name: str,
    classes: int | None = None,
    pretrained: bool | str | Path = False,
    ctx: mx.Context | list[mx.Context] | None = None,
    **kwargs: Any,
) -> gluon.HybridBlock:
    """Make a network, not yet initialised unless it is pretrained.

    Args:
        name: "cnn" for `SmallCNN`, "fast94" for `Fast94` or a longer name of an `Architecture`, an EfficientNet such as
            "efficientnet_lite0", a classifier of GluonCV's model zoo, such as "cifar_resnet20_v1", or a class of your
            own, "package.module:Class", whose code is then run (see `make_own`).
        classes: number of logits; None is 10, and for a pretrained network the 1000 of ImageNet.
        pretrained: True loads ImageNet weights, from this machine or else from the first source that answers; a path
            loads that file. If `classes` is not 1000, a new head then replaces the old one.
        ctx: context or list of contexts of a pretrained network; None is the CPU.
        kwargs: further arguments of that network's constructor. In GluonCV's networks, `replace_global_pooling` makes
            the backward pass faster; their outputs are the same.

    Returns:
        `gluon.HybridBlock` that maps (N, C, H, W) to logits (N, classes).

    Raises:
        ValueError: no classifier has that name; the nearest names are suggested. Or as `make_own`.
        WeightsUnavailable: no source gave the weights.
        WeightsError: the file of weights is damaged, or belongs to another network.
    """
    name = model_name(name)
    if not pretrained:
        return _make(name, 10 if classes is None else classes, kwargs)
    from d2lcls.weights.files import load_weights

    net = _make(name, 1000, kwargs)
    net.initialize(ctx=ctx or mx.cpu())
    load_weights(net, get_weights(name) if pretrained is True else pretrained)
    if classes not in (None, 1000):
        replace_head(net, classes)
    return net


def _make(name, classes, kwargs):
    if is_own(name):
        return make_own(name, classes, **kwargs)
    if name == "cnn":
        from d2lcls.models.cnn import SmallCNN

        return SmallCNN(classes=classes, **kwargs)
    if name == "fast94":
        from d2lcls.models.fast94 import Fast94

        return Fast94(classes=classes, **kwargs)
    if name.startswith("fast94-"):
        from d2lcls.models.fast94 import Architecture

        return Architecture.named(name).make(classes)
    if name in NAMES:
        return make_efficientnet(name, classes, **kwargs)
    known = list_models()
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f" Did you mean {', '.join(nearest)}?" if nearest else ""
        raise ValueError(
            f"No image classifier is called {name!r}.{hint} d2lcls.models.list_models() lists all {len(known)}."
        )
    from gluoncv.model_zoo import get_model as gluoncv_model

    net = gluoncv_model(name, pretrained=False, classes=classes, **kwargs)
    replace_global_pooling(net)
    return net


def preprocessing(name: str, weights: str | Path | None = None) -> Preprocess:
    """Return the preprocessing that a network's ImageNet weights expect.

    Weights from the Hugging Face hub may expect another one than GluonCV's of the same network. Call this after
    `get_model`, when it is known where the weights came from.

    Args:
        name: a name that `get_model` accepts.
        weights: the file of weights; None is the one that is on this machine or, if there is none, one of the source
            that `get_weights` would ask first.
    """
    name = model_name(name)
    if name in HUB:
        path = Path(weights) if weights else find_weights(name)
        if path.name == HUB[name].file if path else not has_own_source(name):
            return HUB[name].preprocess
    size = SCALES[name.rsplit("_", 1)[1]].size if name in NAMES else 299 if "inception" in name else 224
    if "lite" in name:
        return Preprocess(size + 32, size, (127 / 255,) * 3, (128 / 255,) * 3, "bicubic")
    if name.startswith("tf_"):
        return Preprocess(size + 32, size, IMAGENET_MEAN, IMAGENET_STD, "bicubic")
    return Preprocess(
        math.ceil(size / 0.875), size, IMAGENET_MEAN, IMAGENET_STD, "bicubic" if "efficientnet" in name else "bilinear"
    )
