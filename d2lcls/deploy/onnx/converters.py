"""Converters to ONNX for operators of image networks that MXNet's exporter lacks or converts wrongly.

Faults of MXNet 1.9.1's own converters: `FullyConnected` does not flatten where the file does not state `flatten`, as
before 2017; `BatchNorm` with `fix_gamma`, its default, multiplies by a gamma that MXNet ignores; a PReLU's slopes go
along the width; `SoftmaxOutput` ignores `multi_output`; the default of `knorm` in `LRN` is 1, in MXNet 2; that of
`no_bias` in `Deconvolution` is False, in MXNet True; `Reshape` fails for -2, -3 and -4; a `mean` over axes becomes a
dozen nodes. Converters of pooling and resizing are in `d2lcls.deploy.onnx.spatial`; `d2lcls.deploy.onnx.registry` shows
how to add one.

All return operators of opset 13. Some need shapes, or are better with them; `to_onnx` writes them into the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from d2lcls.deploy.onnx import spatial  # noqa: F401  registers its converters
from d2lcls.deploy.onnx.registry import CONVERTERS, OPSET, Layer, converts

import numpy as np

if TYPE_CHECKING:
    from d2lcls.deploy.onnx.registry import Converted, Converter


def register() -> None:
    """Put all converters into the registry of MXNet's exporter, for `mx.onnx.export_model` too, instead of its own.

    It may be called again after another converter was added.
    """
    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    registry = MXNetGraph.registry_.setdefault(OPSET, {})
    for operator, function in CONVERTERS.items():
        known = registry.get(operator) or MXNetGraph.registry_[12].get(operator)
        if not isinstance(known, _Adapted):
            registry[operator] = _Adapted(function, known)


class _Adapted:
    """A converter as MXNet's exporter calls it."""

    def __init__(self, function: Converter, exporter: Callable[..., Converted] | None) -> None:
        self.function, self.exporter = function, exporter

    def __call__(self, node: Mapping[str, Any], **context: Any) -> Converted:
        return self.function(Layer(node, context, self.exporter))


@converts("SoftmaxActivation")
def softmax_activation(layer: Layer) -> Converted:
    """Softmax over the channels, or by default over the last axis."""
    return layer.done("Softmax", layer.inputs[0], axis=1 if layer.attributes.get("mode") == "channel" else -1)


@converts("SoftmaxOutput")
def softmax_output(layer: Layer) -> Converted:
    """Softmax over axis 1 (multi_output), or else over the last axis.

    That is what MXNet computes with oneDNN, as in its wheels for the CPU. Without oneDNN, and without `preserve_shape`,
    the softmax is over all values of an image; for logits (N, K), as in nearly every network, it is the same.
    """
    return layer.done("Softmax", layer.inputs[0], axis=1 if layer.true("multi_output") else -1)


@converts(
    "BlockGrad",
    "MakeLoss",
    "make_loss",
    "LinearRegressionOutput",
    "MAERegressionOutput",
    "SVMOutput",
    "IdentityAttachKLSparseReg",
    "_copyto",
    "_CrossDeviceCopy",
)
def same(layer: Layer) -> Converted:
    """Operators that only matter in training return their first input."""
    return layer.done("Identity", layer.inputs[0])


@converts("FullyConnected")
def fully_connected(layer: Layer) -> Converted:
    """A dense layer; it flattens its input unless `flatten` is False."""
    data, weight, *bias = layer.inputs
    bias = [] if layer.true("no_bias") else bias
    if layer.true("flatten", True):
        if not (layer.shapes and len(layer.shapes[0]) == 2):
            data = layer.op("Flatten", data, axis=1)
        return layer.done("Gemm", data, weight, *bias, transB=1)
    product = ["MatMul", data, layer.op("Transpose", weight, perm=[1, 0])]
    return layer.done("Add", layer.op(*product), *bias) if bias else layer.done(*product)


@converts("BatchNorm", "_contrib_SyncBatchNorm")
def batch_norm(layer: Layer) -> Converted:
    """Normalisation with running statistics; with `fix_gamma`, the default, gamma is 1."""
    axis = int(layer.attributes.get("axis", 1))
    if axis != 1 and not (layer.shapes and axis % len(layer.shapes[0]) == 1):
        raise NotImplementedError(f"BatchNorm {layer.name!r} normalises axis {axis}; only 1 can be converted.")
    if layer.true("output_mean_var"):
        raise NotImplementedError(f"BatchNorm {layer.name!r} returns mean and variance, which ONNX's does not.")
    data, gamma, *rest = layer.inputs
    if layer.true("fix_gamma", True):
        array = layer.weights.get(gamma)
        if array is None:
            raise NotImplementedError(f"BatchNorm {layer.name!r}: gamma is computed, and fix_gamma is on.")
        gamma = layer.constant(np.ones_like(array), array.dtype)
    return layer.done("BatchNormalization", data, gamma, *rest, epsilon=float(layer.attributes.get("eps", 1e-3)))


@converts("LeakyReLU")
def leaky_relu(layer: Layer) -> Converted:
    """PReLU with a slope per channel; rrelu with the mean of its bounds, as in MXNet's prediction."""
    kind = layer.attributes.get("act_type", "leaky")
    if kind == "rrelu":
        bounds = [
            float(layer.attributes.get(key, value)) for key, value in (("lower_bound", 0.125), ("upper_bound", 0.334))
        ]
        return layer.done("LeakyRelu", layer.inputs[0], alpha=sum(bounds) / 2)
    if kind != "prelu":
        return layer.original()
    data, slope = layer.inputs
    array = layer.weights.get(slope)
    if array is not None and array.size == 1:
        return layer.done("PRelu", data, layer.op("Reshape", slope, layer.constant([1])))
    if layer.shapes:
        shape = [-1, *[1] * (len(layer.shapes[0]) - 2)]
        if array is not None:
            return layer.done("PRelu", data, layer.constant(array.reshape(shape), array.dtype))
        return layer.done("PRelu", data, layer.op("Reshape", slope, layer.constant(shape)))
    # Without shapes: (N, C, ...) as (N, C, rest).
    flat = layer.op("Reshape", data, layer.constant([0, 0, -1]))
    activated = layer.op("PRelu", flat, layer.op("Reshape", slope, layer.constant([-1, 1])))
    return layer.done("Reshape", activated, layer.shape_of(data))


@converts("L2Normalization")
def l2_normalization(layer: Layer) -> Converted:
    """Division by the L2 norm of an image, of the channels of each pixel, or of the pixels of each channel."""
    mode, data = layer.attributes.get("mode", "instance"), layer.inputs[0]
    epsilon = layer.constant(float(layer.attributes.get("eps", 1e-10)), layer.types[0])
    form, axis = {"instance": ([0, -1], 1), "spatial": ([0, 0, -1], 2), "channel": (None, 1)}[mode]
    x = layer.op("Reshape", data, layer.constant(form)) if form else data
    total = layer.op("ReduceSum", layer.op("Mul", x, x), layer.constant([axis]), keepdims=1)
    norm = layer.op("Sqrt", layer.op("Add", total, epsilon))
    if not form:
        return layer.done("Div", x, norm)
    return layer.done("Reshape", layer.op("Div", x, norm), layer.shape_of(data))


@converts("LRN")
def local_response(layer: Layer) -> Converted:
    """Local response normalisation, with MXNet's defaults."""
    alpha, beta, bias = (
        float(layer.attributes.get(key, default)) for key, default in (("alpha", 1e-4), ("beta", 0.75), ("knorm", 2))
    )
    size = int(layer.attributes["nsize"])
    return layer.done("LRN", layer.inputs[0], alpha=alpha, beta=beta, bias=bias, size=size)


@converts("topk")
def top_k(layer: Layer) -> Converted:
    """The largest or smallest values, their indices or both, in the type that the graph states."""
    from onnx import helper

    kind, axis = layer.attributes.get("ret_typ", "indices"), layer.attributes.get("axis", "-1")
    k, data = int(layer.attributes.get("k", 1)), layer.inputs[0]
    if kind == "mask":
        raise NotImplementedError(f"topk {layer.name!r} returns a mask, which cannot be converted.")
    if axis == "None":
        data, axis = layer.op("Reshape", data, layer.constant([-1])), "0"
    if k > 0:
        count = layer.constant([k])
    else:  # all
        count = layer.op("Gather", layer.shape_of(data), layer.constant([int(axis)]), axis=0)
    both = kind == "both"
    # Outputs are called NAME or NAME0, NAME1; see `_convert_node` of d2lcls.deploy.onnx.convert.
    values = f"{layer.name}0" if both or kind == "value" else f"{layer.name}__values"
    indices = f"{layer.name}__indices"
    layer.op("TopK", data, count, outputs=[values, indices], axis=int(axis), largest=int(not layer.true("is_ascend")))
    if kind == "value":
        return layer.nodes, (layer.types[0],)
    dtype = np.dtype(layer.attributes.get("dtype", "float32"))
    layer.op(
        "Cast", indices, outputs=[f"{layer.name}1" if both else layer.name], to=helper.np_dtype_to_tensor_dtype(dtype)
    )
    return layer.nodes, (layer.types[0], dtype) if both else (dtype,)


@converts("mean", "sum", "max", "min", "prod")
def reduction(layer: Layer) -> Converted:
    """A mean, sum, product, maximum or minimum over axes."""
    axes = layer.numbers("axis")
    rank = len(layer.shapes[0]) if layer.shapes else None
    if layer.true("exclude") and rank:
        axes = [axis for axis in range(rank) if axis not in {one % rank for one in axes}]
    elif layer.true("exclude"):
        return layer.original()
    if not axes or len(axes) == rank and not layer.true("keepdims"):
        return layer.original()  # over all axes MXNet's result has one axis, ONNX's none
    kind, keep = f"Reduce{layer.node['op'].capitalize()}", int(layer.true("keepdims"))
    if kind == "ReduceSum":
        return layer.done(kind, layer.inputs[0], layer.constant(axes), keepdims=keep)
    return layer.done(kind, layer.inputs[0], axes=axes, keepdims=keep)


@converts("Reshape")
def reshape(layer: Layer) -> Converted:
    """Any reshape of which at most one size depends on the number of images."""
    if not (layer.output and layer.larger):
        return layer.original()
    free = [axis for axis, (one, two) in enumerate(zip(layer.output, layer.larger)) if one != two]
    if len(free) > 1 or 0 in layer.output:
        return layer.original()
    sizes = [-1 if axis in free else size for axis, size in enumerate(layer.output)]
    return layer.done("Reshape", layer.inputs[0], layer.constant(sizes))
