"""Converters to ONNX of operators on axes: pooling, resizing, cropping, swapping, transposed convolution.

Those with sizes that ONNX counts in another way need the network's shapes; see `d2lcls.deploy.onnx.converters`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from d2lcls.deploy.onnx.registry import Layer, converts

import numpy as np

if TYPE_CHECKING:
    from d2lcls.deploy.onnx.registry import Converted


@converts("Pooling")
def pooling(layer: Layer) -> Converted:
    """Pooling with both of MXNet's ways to round; ONNX and its runtimes disagree about windows that exceed the image.

    With the "full" convention the border is padded here, so that nothing is left to round. As in MXNet, an average is
    divided by the size of the window's part within the image and the layer's own padding.
    """
    kind, form = layer.attributes.get("pool_type", "max"), layer.attributes.get("pooling_convention", "valid")
    size = layer.shapes and layer.shapes[0][2:]
    if layer.attributes.get("layout", "None") not in ("None", "NCHW"):
        raise NotImplementedError(f"Pooling {layer.name!r} has the layout {layer.attributes['layout']}, not NCHW.")
    if layer.true("global_pool") and kind in ("max", "avg"):
        return layer.done("GlobalMaxPool" if kind == "max" else "GlobalAveragePool", layer.inputs[0])
    if (
        layer.true("global_pool")
        or kind == "lp"
        or form == "same"
        or (kind != "sum" and form == "valid")
        or not size
        or len(size) != 2
    ):
        return layer.original()
    kernel = layer.numbers("kernel")
    stride, pad = layer.numbers("stride", (1, 1)), layer.numbers("pad", (0, 0))
    rounding = math.ceil if form == "full" else math.floor
    out = [rounding((n + 2 * p - k) / s) + 1 for n, k, s, p in zip(size, kernel, stride, pad)]
    # Windows that begin beyond the image are empty, and filled in at the end. The others may exceed it.
    inside = [min(o, -(-(n + p) // s)) for o, n, s, p in zip(out, size, stride, pad)]
    over = [max(0, (o - 1) * s + k - n - 2 * p) for o, n, k, s, p in zip(inside, size, kernel, stride, pad)]
    settings: dict[str, Any] = {
        "pads": [*pad, *(p + more for p, more in zip(pad, over))],
        "kernel_shape": kernel,
        "strides": stride,
    }
    if kind == "max":
        return _filled(
            layer, layer.op("MaxPool", layer.inputs[0], **settings), inside, out, float(np.finfo(np.float32).min)
        )
    included = kind == "sum" or layer.true("count_include_pad", True)
    counts = [_counts(n, k, s, p, o, included) for n, k, s, p, o in zip(size, kernel, stride, pad, inside)]
    divisors = np.ones(inside) if kind == "sum" else np.outer(*counts)
    mean = layer.op("AveragePool", layer.inputs[0], count_include_pad=1, **settings)
    scaled = layer.op("Mul", mean, layer.constant(math.prod(kernel) / divisors[None, None], layer.types[0]))
    return _filled(layer, scaled, inside, out, 0)


def _filled(layer: Layer, name: str, inside: list[int], out: list[int], value: float) -> Converted:
    if inside == out:
        return layer.done("Identity", name)
    missing = [o - i for o, i in zip(out, inside)]
    return layer.done("Pad", name, layer.constant([0] * 6 + missing), layer.constant(value, layer.types[0]))


def _counts(size: int, kernel: int, stride: int, pad: int, out: int, included: bool) -> np.ndarray:
    """Count the pixels in each window along one axis, within the image or, if included, its padding too."""
    starts = np.arange(out) * stride - pad
    first, last = (starts, size + pad) if included else (np.maximum(starts, 0), size)
    return np.minimum(starts + kernel, last) - first


@converts("_contrib_AdaptiveAvgPooling2D")
def adaptive_pooling(layer: Layer) -> Converted:
    """Means of nearly equal parts: a product with a matrix of shares on either side."""
    sizes = layer.numbers("output_size", (1,)) or [1]
    height, width = sizes * 2 if len(sizes) == 1 else sizes
    if height == width == 1:
        return layer.done("GlobalAveragePool", layer.inputs[0])
    if not layer.shapes:
        return layer.original()
    rows, columns = (_shares(n, parts) for n, parts in zip(layer.shapes[0][2:], (height, width)))
    by_rows = layer.op("MatMul", layer.constant(rows, layer.types[0]), layer.inputs[0])  # (N, C, height, W)
    return layer.done("MatMul", by_rows, layer.constant(columns.T, layer.types[0]))


def _shares(size: int, parts: int) -> np.ndarray:
    """Return (parts, size): the share of each pixel in the mean of each part."""
    shares = np.zeros((parts, size))
    for part in range(parts):
        first, last = part * size // parts, -(-(part + 1) * size // parts)
        shares[part, first:last] = 1 / (last - first)
    return shares


@converts("UpSampling")
def up_sampling(layer: Layer) -> Converted:
    """Enlarging by a whole number: by repeating pixels, or by a transposed convolution with learned weights."""
    scale = int(layer.attributes["scale"])
    if layer.attributes.get("sample_type", "nearest") == "bilinear":
        weight = layer.weights.get(layer.inputs[1])
        if weight is None:
            raise NotImplementedError(f"UpSampling {layer.name!r}: its weights are computed.")
        pad = math.ceil((scale - 1) / 2)
        kernel = 2 * scale - scale % 2
        return layer.done(
            "ConvTranspose",
            *layer.inputs,
            group=weight.shape[0],
            kernel_shape=[kernel] * 2,
            strides=[scale] * 2,
            pads=[pad] * 4,
        )
    resize: dict[str, Any] = {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    first = ["Resize", layer.inputs[0], "", layer.constant([1, 1, scale, scale], np.float32)]
    if len(layer.inputs) == 1:
        return layer.done(*first, **resize)
    enlarged = [layer.op(*first, **resize)]  # and the others to its size
    size = layer.op("Slice", layer.shape_of(enlarged[0]), layer.constant([2]), layer.constant([4]))
    for name in layer.inputs[1:]:
        front = layer.op("Slice", layer.shape_of(name), layer.constant([0]), layer.constant([2]))
        enlarged.append(layer.op("Resize", name, "", "", layer.op("Concat", front, size, axis=0), **resize))
    if layer.attributes.get("multi_input_mode", "concat") == "sum":
        return layer.done("Sum", *enlarged)
    return layer.done("Concat", *enlarged, axis=1)


@converts("Crop")
def crop(layer: Layer) -> Converted:
    """A window of the size of a second input or of `h_w`, at an offset or in the middle."""
    data = layer.inputs[0]
    if len(layer.inputs) > 1:
        size = layer.op("Slice", layer.shape_of(layer.inputs[1]), layer.constant([2]), layer.constant([4]))
    else:
        size = layer.constant(layer.numbers("h_w", (0, 0)))
    if layer.true("center_crop"):
        whole = layer.op("Slice", layer.shape_of(data), layer.constant([2]), layer.constant([4]))
        start = layer.op("Div", layer.op("Sub", whole, size), layer.constant([2]))
    else:
        start = layer.constant(layer.numbers("offset", (0, 0)))
    return layer.done("Slice", data, start, layer.op("Add", start, size), layer.constant([2, 3]))


@converts("slice_like")
def slice_like(layer: Layer) -> Converted:
    """The beginning of some axes, as long as those of another array."""
    if not layer.shapes:
        return layer.original()
    rank = len(layer.shapes[0])
    axes = [axis % rank for axis in layer.numbers("axes", range(rank))]
    if 0 in axes:  # the number of images is not known
        return layer.original()
    ends = [layer.shapes[1][axis] for axis in axes]
    return layer.done(
        "Slice", layer.inputs[0], layer.constant([0] * len(axes)), layer.constant(ends), layer.constant(axes)
    )


@converts("SwapAxis")
def swap_axes(layer: Layer) -> Converted:
    """Two axes swapped."""
    if not layer.shapes:
        return layer.original()
    order = list(range(len(layer.shapes[0])))
    first, second = (int(layer.attributes.get(key, 0)) for key in ("dim1", "dim2"))
    order[first], order[second] = order[second], order[first]
    return layer.done("Transpose", layer.inputs[0], perm=order)


@converts("Deconvolution")
def deconvolution(layer: Layer) -> Converted:
    """Transposed convolution, by default without a bias; `target_shape` determines the padding if it is given."""
    kernel, target = layer.numbers("kernel"), layer.numbers("target_shape")
    if layer.attributes.get("layout", "None") not in ("None", "NCHW", "NCW", "NCDHW"):
        raise NotImplementedError(f"Deconvolution {layer.name!r} has the layout {layer.attributes['layout']}.")
    ones = [1] * len(kernel)
    stride, dilate = layer.numbers("stride", ones) or ones, layer.numbers("dilate", ones) or ones
    pad = layer.numbers("pad", [0] * len(kernel)) or [0] * len(kernel)
    more = layer.numbers("adj", [0] * len(kernel)) or [0] * len(kernel)
    if any(target):
        if not layer.shapes:
            return layer.original()
        surplus = [
            s * (n - 1) + d * (k - 1) + 1 - t
            for s, n, d, k, t in zip(stride, layer.shapes[0][2:], dilate, kernel, target)
        ]
        pad, more = [(n + 1) // 2 for n in surplus], [n % 2 for n in surplus]
    inputs = layer.inputs[:2] if layer.true("no_bias", True) else layer.inputs
    return layer.done(
        "ConvTranspose",
        *inputs,
        group=int(layer.attributes.get("num_group", 1)),
        kernel_shape=kernel,
        strides=stride,
        dilations=dilate,
        pads=[*pad, *pad],
        output_padding=more,
    )


@converts("Pad", "pad")
def padding(layer: Layer) -> Converted:
    """Padding; that of weights is computed here, as ONNX Runtime 1.26 takes it for the convolution's own and fails."""
    array = layer.weights.get(layer.inputs[0])
    if array is None or layer.attributes.get("mode") != "constant":
        return layer.original()
    widths = np.reshape(layer.numbers("pad_width"), (-1, 2))
    padded = np.pad(array, widths, constant_values=float(layer.attributes.get("constant_value", 0)))
    return layer.done("Identity", layer.constant(padded, array.dtype))
