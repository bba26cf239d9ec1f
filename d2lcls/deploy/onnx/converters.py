"""Converters to ONNX for operators of old image networks that MXNet's exporter lacks or gets wrong.

`register()` puts them into the exporter's own registry, for `mx.onnx.export_model` too. What is wrong without them, seen
with MXNet 1.9.1: `FullyConnected` without a written `flatten` (every file before 2017) does not flatten;
`BatchNorm` with `fix_gamma`, its default, multiplies by a gamma that MXNet ignores; a PReLU's slopes go along the width;
`SoftmaxOutput` ignores `multi_output`; `LRN` takes 1 for `knorm` where MXNet takes 2; `Deconvolution` takes `no_bias`
for False where MXNet takes True; `Reshape` gives up on -2, -3 and -4; a `mean` over axes becomes a dozen nodes. Those of pooling and resizing are in
`d2lcls.deploy.onnx.spatial`.

All are made of operators of opset 13. Some are better with shapes, which `with_shapes` writes into the graph.
"""

from d2lcls.deploy.onnx import spatial  # noqa: F401  registers its converters
from d2lcls.deploy.onnx.registry import CONVERTERS, OPSET, Layer, converts

import numpy as np


def register():
    """Put all converters into the registry of MXNet's exporter, in front of its own; more than once does no harm."""
    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    def adapt(function, theirs):
        return lambda node, **context: function(Layer(node, context, theirs))

    registry = MXNetGraph.registry_.setdefault(OPSET, {})
    for operator, function in CONVERTERS.items():
        found = registry.get(operator) or MXNetGraph.registry_[12].get(operator)
        if getattr(found, "of", None) is not function:
            registry[operator] = adapt(function, found)
            registry[operator].of = function


@converts("null")
def variable(layer):
    """Store a parameter as bytes: the exporter makes a list of Python numbers of it, which takes eight times its size."""
    if layer.context.get("is_input"):
        return layer.original()
    from onnx import helper, numpy_helper

    array = layer.context["weights"][layer.name]
    stored = numpy_helper.from_array(np.ascontiguousarray(array), layer.name)
    layer.context["initializer"].append(stored)
    return [helper.make_tensor_value_info(layer.name, stored.data_type, array.shape)], (array.dtype,)


@converts("SoftmaxActivation")
def softmax_activation(layer):
    """Softmax over the channels, or by default over the last axis."""
    return layer.done("Softmax", layer.inputs[0], axis=1 if layer.attributes.get("mode") == "channel" else -1)


@converts("SoftmaxOutput")
def softmax_output(layer):
    """Softmax over axis 1 (multi_output), or else over the last axis.

    That is what MXNet computes with oneDNN, as in its wheels for the CPU. Without, and unless `preserve_shape` is on, it
    takes all values of an image together; on rows of logits, what nearly every network has, it is the same.
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
def same(layer):
    """What matters in training only passes its first input on."""
    return layer.done("Identity", layer.inputs[0])


@converts("FullyConnected")
def fully_connected(layer):
    """A dense layer; it flattens unless told not to."""
    data, weight, *bias = layer.inputs
    bias = [] if layer.true("no_bias") else bias
    if layer.true("flatten", True):
        if not (layer.shapes and len(layer.shapes[0]) == 2):
            data = layer.op("Flatten", data, axis=1)
        return layer.done("Gemm", data, weight, *bias, transB=1)
    product = ["MatMul", data, layer.op("Transpose", weight, perm=[1, 0])]
    return layer.done("Add", layer.op(*product), *bias) if bias else layer.done(*product)


@converts("BatchNorm", "_contrib_SyncBatchNorm")
def batch_norm(layer):
    """Normalisation with running statistics; gamma counts as 1 with fix_gamma, the default."""
    axis = int(layer.attributes.get("axis", 1))
    if axis != 1 and not (layer.shapes and axis % len(layer.shapes[0]) == 1):
        raise NotImplementedError(f"BatchNorm {layer.name!r} normalises axis {axis}; only 1 can be converted.")
    if layer.true("output_mean_var"):
        raise NotImplementedError(f"BatchNorm {layer.name!r} gives mean and variance, which ONNX's does not.")
    data, gamma, *rest = layer.inputs
    if layer.true("fix_gamma", True):
        array = layer.context["weights"].get(gamma)
        if array is None:
            raise NotImplementedError(f"BatchNorm {layer.name!r}: gamma is computed, and fix_gamma is on.")
        gamma = layer.constant(np.ones_like(array), array.dtype)
    return layer.done("BatchNormalization", data, gamma, *rest, epsilon=float(layer.attributes.get("eps", 1e-3)))


@converts("LeakyReLU")
def leaky_relu(layer):
    """PReLU with a slope a channel; rrelu with the mean of its bounds, as MXNet predicts; the others as the exporter."""
    kind = layer.attributes.get("act_type", "leaky")
    if kind == "rrelu":
        bounds = [
            float(layer.attributes.get(key, value)) for key, value in (("lower_bound", 0.125), ("upper_bound", 0.334))
        ]
        return layer.done("LeakyRelu", layer.inputs[0], alpha=sum(bounds) / 2)
    if kind != "prelu":
        return layer.original()
    data, slope = layer.inputs
    array = layer.context["weights"].get(slope)
    if array is not None and array.size == 1:
        return layer.done("PRelu", data, layer.op("Reshape", slope, layer.constant([1])))
    if layer.shapes:
        shape = [-1, *[1] * (len(layer.shapes[0]) - 2)]
        if array is not None:
            return layer.done("PRelu", data, layer.constant(array.reshape(shape), array.dtype))
        return layer.done("PRelu", data, layer.op("Reshape", slope, layer.constant(shape)))
    # (N, C, ...) as (N, C, rest), whatever the rest is
    three = layer.op("Reshape", data, layer.constant([0, 0, -1]))
    made = layer.op("PRelu", three, layer.op("Reshape", slope, layer.constant([-1, 1])))
    return layer.done("Reshape", made, layer.shape_of(data))


@converts("L2Normalization")
def l2_normalization(layer):
    """Division by the root of the sum of squares over an image, over its channels, or over the places of each channel."""
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
def local_response(layer):
    """Local response normalisation, with MXNet's defaults."""
    value = {
        key: float(layer.attributes.get(key, default))
        for key, default in (("alpha", 1e-4), ("beta", 0.75), ("knorm", 2))
    }
    return layer.done(
        "LRN",
        layer.inputs[0],
        alpha=value["alpha"],
        beta=value["beta"],
        bias=value["knorm"],
        size=int(layer.attributes["nsize"]),
    )


@converts("topk")
def top_k(layer):
    """The largest or smallest, as values, as places or both, in the type that the graph asks for."""
    from onnx import helper

    kind, axis = layer.attributes.get("ret_typ", "indices"), layer.attributes.get("axis", "-1")
    count, data = int(layer.attributes.get("k", 1)), layer.inputs[0]
    if kind == "mask":
        raise NotImplementedError(f"topk {layer.name!r} gives a mask, which cannot be converted.")
    if axis == "None":
        data, axis = layer.op("Reshape", data, layer.constant([-1])), 0
    if count > 0:
        count = layer.constant([count])
    else:  # all of them
        count = layer.op("Gather", layer.shape_of(data), layer.constant([int(axis)]), axis=0)
    both = kind == "both"
    values = (
        f"{layer.name}0" if both or kind == "value" else f"{layer.name}__values"
    )  # names as the exporter awaits them
    places = f"{layer.name}__places"
    layer.op("TopK", data, count, outputs=[values, places], axis=int(axis), largest=int(not layer.true("is_ascend")))
    if kind == "value":
        return layer.nodes, (layer.types[0],)
    dtype = np.dtype(layer.attributes.get("dtype", "float32"))
    layer.op(
        "Cast", places, outputs=[f"{layer.name}1" if both else layer.name], to=helper.np_dtype_to_tensor_dtype(dtype)
    )
    return layer.nodes, (layer.types[0], dtype) if both else (dtype,)


@converts("mean", "sum", "max", "min", "prod")
def reduction(layer):
    """A mean, sum, product or extreme over axes; the exporter makes a dozen nodes of one without `keepdims`."""
    axes = layer.numbers("axis")
    rank = len(layer.shapes[0]) if layer.shapes else None
    if layer.true("exclude") and rank:
        axes = [axis for axis in range(rank) if axis not in {one % rank for one in axes}]
    elif layer.true("exclude"):
        return layer.original()
    if not axes or len(axes) == rank and not layer.true("keepdims"):
        return layer.original()  # all of them: MXNet's result has one axis, ONNX's none
    kind, keep = f"Reduce{layer.node['op'].capitalize()}", int(layer.true("keepdims"))
    if kind == "ReduceSum":
        return layer.done(kind, layer.inputs[0], layer.constant(axes), keepdims=keep)
    return layer.done(kind, layer.inputs[0], axes=axes, keepdims=keep)


@converts("Reshape")
def reshape(layer):
    """Any reshape of which one size at most depends on how many images there are."""
    if not (layer.output and layer.larger):
        return layer.original()
    free = [place for place, (one, other) in enumerate(zip(layer.output, layer.larger)) if one != other]
    if len(free) > 1 or 0 in layer.output:
        return layer.original()
    sizes = [-1 if place in free else size for place, size in enumerate(layer.output)]
    return layer.done("Reshape", layer.inputs[0], layer.constant(sizes))
