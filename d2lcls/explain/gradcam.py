"""Which parts of an image a prediction depends on: Grad-CAM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from d2lcls.machine.gluon import no_training_behaviour, uncompiled

import numpy as np

if TYPE_CHECKING:
    import mxnet as mx

    Steps = list[tuple[mx.gluon.Block, list[mx.gluon.Block]]]


def grad_cam(
    net: mx.gluon.HybridBlock,
    x: np.ndarray | mx.nd.NDArray,
    layer: mx.gluon.Block | None = None,
    classes: np.ndarray | None = None,
) -> np.ndarray:
    """Map how much each part of an image contributes to a class.

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization" (2017). The feature maps of one layer are added up, each weighted by the mean of the gradient of
    the class's logit over that map; negative contributions are set to 0. The network is not changed.

    Args:
        net: initialised network made of `features`, a HybridSequential, and `output`, like `SmallCNN` and most
            classifiers of GluonCV; hybridized or not.
        x: (N, C, H, W), normalised images.
        layer: block of `net.features`, or of a HybridSequential in it, that returns feature maps (N, C, h, w). None is
            the last one whose maps are larger than 1 x 1.
        classes: int (N,), the class to explain for each image; None is the predicted one.

    Returns:
        float32 (N, H, W), each map scaled to a maximum of 1; all 0 where nothing contributes to the class.

    Raises:
        ValueError: the network is built otherwise, or the images, the layer or the classes are wrong.
    """
    import cv2
    from mxnet import autograd, nd

    steps = _steps(net)
    if layer is not None and not any(layer in blocks for _, blocks in steps):
        raise ValueError(
            f"layer must be a block that net.features runs, or None, not {getattr(layer, 'name', layer)!r}."
        )
    x = x.asnumpy() if isinstance(x, nd.NDArray) else np.asarray(x)
    if x.ndim != 4 or 0 in x.shape or x.dtype.kind != "f":
        raise ValueError(
            "x must be one image or more, normalised, as floats of shape (N, C, H, W), not "
            f"{x.dtype} of shape {x.shape}. `Batches.normalise` converts uint8 images."
        )
    if not np.isfinite(x).all():  # ReLU and pooling can hide NaN from later layers
        raise ValueError("x must hold finite numbers only; NaN or infinity is among them.")
    context = next(iter(net.collect_params().values())).list_ctx()[0]
    x = nd.array(x, ctx=context, dtype="float32")
    with autograd.pause(train_mode=False):
        expected = net(x).asnumpy()
    classes = _check_classes(expected, classes)
    with uncompiled(net), no_training_behaviour(net):
        with autograd.pause(train_mode=False):
            index, maps = _find_maps(steps, x, layer)
        maps.attach_grad()
        # In predict mode, the backward pass of oneDNN's max-pooling is wrong.
        with autograd.record(train_mode=True):
            logits = maps
            for block, _ in steps[index + 1 :]:
                logits = block(logits)
            logits = net.output(logits)
            chosen = nd.pick(logits, nd.array(classes, ctx=context), axis=1).sum()
        if logits.shape != expected.shape or not np.allclose(
            logits.asnumpy(), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()
        ):
            raise ValueError(
                f"{type(net).__name__} does not return net.output(net.features(x)), as Grad-CAM needs: "
                "it computes something in between, or draws random numbers in training."
            )
        gradient = autograd.grad(chosen, [maps])[0].asnumpy()  # a new array: the parameters' gradients stay
    weights = gradient.mean(axis=(2, 3), dtype=np.float64)  # (N, C)
    cams = np.maximum(np.einsum("nc,nchw->nhw", weights, maps.asnumpy()), 0)
    height, width = x.shape[2:]
    cams = np.stack([cv2.resize(cam, (width, height), interpolation=cv2.INTER_LINEAR) for cam in cams])
    highest = cams.max(axis=(1, 2), keepdims=True)
    return (cams / np.where(highest > 0, highest, 1)).astype(np.float32)


def overlay(image: np.ndarray, cam: np.ndarray) -> np.ndarray:
    """Lay a map over its image: the image in grey, coloured from black-violet (0) to pale yellow (1).

    Higher values have lighter colours, so that the result can be read in grey, too.

    Args:
        image: uint8 (H, W, 3) or (H, W, 1).
        cam: (H, W), 0 to 1, as a map of `grad_cam`.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: a shape, the type or the range is wrong.
    """
    import cv2

    image, cam = np.asarray(image), np.asarray(cam)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or image.size == 0:
        raise ValueError(f"image must be uint8 of shape (H, W, 3) or (H, W, 1), not {image.dtype} {image.shape}.")
    if cam.shape != image.shape[:2]:
        raise ValueError(f"cam must have the image's height and width, {image.shape[:2]}, not {cam.shape}.")
    if not (cam.min() >= 0 and cam.max() <= 1):
        raise ValueError(f"cam must lie between 0 and 1; it lies between {cam.min()} and {cam.max()}.")
    grey = image if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None]
    colours = cv2.applyColorMap(np.rint(255 * cam).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]  # from BGR
    return np.rint(0.5 * grey + 0.5 * colours).astype(np.uint8)


def _steps(net: mx.gluon.HybridBlock) -> Steps:
    """List the blocks that `features` runs one after another: (block, [that block, sequences that end with it])."""
    from mxnet.gluon import nn

    def unfold(sequence: Any) -> Steps:
        steps: Steps = []
        for block in sequence:
            # Exactly this class: derived ones, such as HybridConcurrent, run their blocks in parallel.
            steps += unfold(block) if type(block) is nn.HybridSequential and len(block) else [(block, [block])]
        steps[-1][1].append(sequence)
        return steps

    features, output = getattr(net, "features", None), getattr(net, "output", None)
    if not isinstance(features, nn.HybridSequential) or not len(features) or not callable(output):
        raise ValueError(
            f"Grad-CAM needs a network with net.features, a HybridSequential, and net.output; "
            f"{type(net).__name__} is built otherwise."
        )
    return unfold(features)


def _check_classes(logits: np.ndarray, classes: np.ndarray | None) -> np.ndarray:
    if logits.ndim != 2:
        raise ValueError(f"The network must return logits (N, K), not {logits.shape}.")
    if not np.isfinite(logits).all():
        raise ValueError("The network's logits are not finite numbers. Check its parameters and the images.")
    if classes is None:
        return logits.argmax(axis=1)
    classes = np.asarray(classes)
    if classes.shape != logits.shape[:1]:
        raise ValueError(f"classes must have shape {logits.shape[:1]}, one per image, not {classes.shape}.")
    if not np.isin(classes, np.arange(logits.shape[1])).all():
        raise ValueError(f"classes must be whole numbers from 0 to {logits.shape[1] - 1}, not {classes.tolist()}.")
    return classes


def _find_maps(steps: Steps, x: mx.nd.NDArray, layer: mx.gluon.Block | None) -> tuple[int, mx.nd.NDArray]:
    """Return the index of a layer among the steps, and its output for x."""
    layer_index, maps = 0, None
    for index, (block, blocks) in enumerate(steps):
        x = block(x)
        # Maps of 1 x 1, as after global pooling, do not tell one part of the image from another.
        if layer in blocks or layer is None and x.ndim == 4 and x.shape[2] * x.shape[3] > 1:
            layer_index, maps = index, x
    if maps is None:
        raise ValueError("No layer of net.features returns maps larger than 1 x 1. Use larger images.")
    if layer is not None and maps.ndim != 4:
        raise ValueError(f"layer must return maps (N, C, h, w); {layer.name} returns {maps.shape}.")
    return layer_index, maps
