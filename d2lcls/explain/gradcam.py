"""Where in a picture a network saw its class: Grad-CAM."""

from contextlib import contextmanager

import numpy as np


def grad_cam(net, x, layer=None, classes=None):
    """Map how much each place of an image spoke for a class.

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization" (2017). The maps of one layer are added up, each weighted with the mean of the gradient of
    the class's logit over that map; what speaks against the class is cut off. The network is left as it was.

    Args:
        net: initialised `gluon.HybridBlock` made of `features`, a HybridSequential, and `output`, as `SmallCNN`
            and most classifiers of GluonCV are; hybridized or not.
        x: (N, C, H, W), images as the network takes them; numpy array or NDArray.
        layer: block of `net.features`, or of a HybridSequential in it, that returns maps (N, C, h, w). None is
            the last one whose maps are larger than 1 x 1.
        classes: int (N,), the class to explain for each image; None is the predicted one.

    Returns:
        float32 (N, H, W), each map scaled so that its highest place is 1; all 0 where nothing spoke for the class.

    Raises:
        ValueError: the network is built otherwise, or the images, the layer or the classes do not fit.
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
            f"{x.dtype} of shape {x.shape}. `Batches.normalise` makes it of uint8 images."
        )
    if not np.isfinite(x).all():  # ReLU and pooling can hide NaN from all that comes after
        raise ValueError("x must hold finite numbers only; NaN or infinity is among them.")
    context = next(iter(net.collect_params().values())).list_ctx()[0]
    x = nd.array(x, ctx=context, dtype="float32")
    with autograd.pause(train_mode=False):
        answer = net(x).asnumpy()
    classes = _check_classes(answer, classes)
    with _open_for_gradients(net):
        with autograd.pause(train_mode=False):
            at, maps = _find_maps(steps, x, layer)
        maps.attach_grad()
        # In predict mode, the backward pass of oneDNN's max-pooling is wrong.
        with autograd.record(train_mode=True):
            logits = maps
            for block, _ in steps[at + 1 :]:
                logits = block(logits)
            logits = net.output(logits)
            chosen = nd.pick(logits, nd.array(classes, ctx=context), axis=1).sum()
        if logits.shape != answer.shape or not np.allclose(
            logits.asnumpy(), answer, rtol=1e-3, atol=1e-3 * np.abs(answer).max()
        ):
            raise ValueError(
                f"net.output(net.features(x)) is not what {type(net).__name__} answers, so Grad-CAM "
                "cannot follow it: it does more on the way, or draws random numbers in training."
            )
        gradient = autograd.grad(chosen, [maps])[0].asnumpy()  # into new memory: parameters' gradients stay
    weights = gradient.mean(axis=(2, 3), dtype=np.float64)  # (N, C)
    cams = np.maximum(np.einsum("nc,nchw->nhw", weights, maps.asnumpy()), 0)
    height, width = x.shape[2:]
    cams = np.stack([cv2.resize(cam, (width, height), interpolation=cv2.INTER_LINEAR) for cam in cams])
    highest = cams.max(axis=(1, 2), keepdims=True)
    return (cams / np.where(highest > 0, highest, 1)).astype(np.float32)


def overlay(image, cam):
    """Lay a map over its picture: the picture in grey, coloured from black-violet (0) to pale yellow (1).

    The colours grow lighter with the map, so that the result can be read in grey, too.

    Args:
        image: uint8 (H, W, 3) or (H, W, 1).
        cam: (H, W), 0 to 1, as a map of `grad_cam`.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: the shapes, the type or the range do not fit.
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


def _steps(net):
    """List what `features` runs one after the other: (block, [that block, sequences that end with it])."""
    from mxnet.gluon import nn

    def unfold(sequence):
        steps = []
        for block in sequence:
            # of exactly this class: those derived from it, such as HybridConcurrent, run side by side
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


def _check_classes(answer, classes):
    if answer.ndim != 2:
        raise ValueError(f"The network must return logits (N, K), not {answer.shape}.")
    if not np.isfinite(answer).all():
        raise ValueError("The network's logits are not finite numbers. Check its parameters and the images.")
    if classes is None:
        return answer.argmax(axis=1)
    classes = np.asarray(classes)
    if classes.shape != answer.shape[:1]:
        raise ValueError(f"classes must have shape {answer.shape[:1]}, one an image, not {classes.shape}.")
    if not np.isin(classes, np.arange(answer.shape[1])).all():
        raise ValueError(f"classes must be whole numbers from 0 to {answer.shape[1] - 1}, not {classes.tolist()}.")
    return classes


def _find_maps(steps, x, layer):
    """Return the place of a layer among the steps, and what it makes of x."""
    at, maps = None, None
    for place, (block, blocks) in enumerate(steps):
        x = block(x)
        # 1 x 1 is what global pooling leaves, and says nothing about places
        if layer in blocks or layer is None and x.ndim == 4 and x.shape[2] * x.shape[3] > 1:
            at, maps = place, x
    if maps is None:
        raise ValueError("No layer of net.features returns maps larger than 1 x 1. Use larger images.")
    if maps.ndim != 4:
        raise ValueError(f"layer must return maps (N, C, h, w); {layer.name} returns {maps.shape}.")
    return at, maps


@contextmanager
def _open_for_gradients(net):
    """Let blocks run one by one and, though in train mode, compute what they do in predict mode."""
    from mxnet.gluon import nn

    blocks = []
    net.apply(blocks.append)
    active = [block for block in blocks if getattr(block, "_active", False)]
    norms = [block for block in blocks if "use_global_stats" in getattr(block, "_kwargs", {})]
    dropouts = [block for block in blocks if isinstance(block, nn.Dropout)]
    settings = [norm._kwargs["use_global_stats"] for norm in norms]
    rates = [dropout._rate for dropout in dropouts]
    try:
        for block in active:
            block._active = False  # compiled graphs know nothing of these settings; hybridize(False) would drop them
        for norm in norms:
            norm._kwargs["use_global_stats"] = True
        for dropout in dropouts:
            dropout._rate = 0
        yield
    finally:
        for block in active:
            block._active = True
        for norm, setting in zip(norms, settings):
            norm._kwargs["use_global_stats"] = setting
        for dropout, rate in zip(dropouts, rates):
            dropout._rate = rate
