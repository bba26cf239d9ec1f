"""Small networks of operators that old models use, each with random parameters, for tests of conversion."""

import json

from d2lcls.deploy.graph.input_shapes import find_inputs, infer_shapes
from d2lcls.deploy.graph.symbol_json import parse_symbol
from d2lcls.deploy.rescue.load import build_old_model

import mxnet as mx
import numpy as np

data = mx.sym.var("data")
sym = mx.sym


def make(symbol, shape=(3, 7, 6), seed=0):
    """Turn a symbol into an `OldModel` with random parameters, none of which is what initialisers give."""
    rng = np.random.default_rng(seed)
    graph = parse_symbol(symbol.tojson())
    inputs, labels = find_inputs(graph, graph.load(), ())
    shapes = infer_shapes(symbol, dict.fromkeys(inputs, (1, *shape)))
    arrays = {
        name: rng.uniform(0.2, 1.2, size).astype(np.float32) * rng.choice([-1, 1], size).astype(np.float32)
        if not name.endswith("var")
        else rng.uniform(0.5, 2, size).astype(np.float32)
        for name, size in shapes.items()
        if name not in (*inputs, *labels)
    }
    return build_old_model(graph, arrays, dict.fromkeys(inputs, shape))


def images(model, n=3, seed=1):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(n, *shape)).astype(np.float32) for name, shape in model.shapes.items()}


def old(symbol, *left_out):
    """Return a symbol as a file of before 2017 would have it: without attributes that came later."""
    graph = json.loads(symbol.tojson())
    for node in graph["nodes"]:
        node["attrs"] = {key: value for key, value in node.get("attrs", {}).items() if key not in left_out}
    return mx.sym.load_json(json.dumps(graph))


conv = sym.Convolution(data, kernel=(3, 3), num_filter=4, pad=(1, 1), name="conv")
NETWORKS = {
    "softmax activation, channel": sym.SoftmaxActivation(data, mode="channel"),
    "softmax activation, instance": sym.SoftmaxActivation(data),
    "softmax output, multi": sym.SoftmaxOutput(data, multi_output=True, name="softmax"),
    "softmax output, preserve": sym.SoftmaxOutput(data, preserve_shape=True, name="softmax"),
    "softmax output, last axis": sym.SoftmaxOutput(data, name="softmax"),
    "softmax output, dense": sym.SoftmaxOutput(sym.FullyConnected(data, num_hidden=5), name="softmax"),
    "two losses": sym.Group(
        [
            sym.SoftmaxOutput(sym.FullyConnected(data, num_hidden=5), name="cls"),
            sym.LinearRegressionOutput(sym.FullyConnected(data, num_hidden=4), name="box"),
        ]
    ),
    "logistic output": sym.LogisticRegressionOutput(sym.FullyConnected(data, num_hidden=5), name="out"),
    "svm output": sym.SVMOutput(sym.FullyConnected(data, num_hidden=5), name="out"),
    "mae output": sym.MAERegressionOutput(sym.FullyConnected(data, num_hidden=5), name="out"),
    "mean": sym.mean(data, axis=(2, 3)),
    "mean, kept": sym.mean(data, axis=2, keepdims=True),
    "sum": sym.sum(data, axis=1),
    "max": sym.max(data, axis=(1, 2)),
    "min, others": sym.min(data, axis=0, exclude=True, keepdims=True),
    "product": sym.prod(data, axis=-1),
    "mean of all but channels": sym.mean(data, axis=(0, 1), exclude=True),
    "axes swapped": sym.SwapAxis(data, dim1=1, dim2=-1),
    "cut like another": sym.slice_like(data, sym.Pooling(data, kernel=(3, 2), pool_type="max"), axes=(2, -1)),
    "block grad": sym.BlockGrad(data * 2),
    "make loss": sym.MakeLoss(sym.square(data)),
    "dense, flatten not written": old(sym.FullyConnected(conv, num_hidden=5), "flatten"),
    "dense, no flatten": sym.FullyConnected(data, num_hidden=5, flatten=False),
    "dense, no bias": sym.FullyConnected(data, num_hidden=5, no_bias=True),
    "dense, no bias, no flatten": sym.FullyConnected(data, num_hidden=5, no_bias=True, flatten=False),
    "batch norm, gamma fixed": sym.BatchNorm(conv, eps=2e-5),
    "batch norm, gamma learned": sym.BatchNorm(conv, fix_gamma=False),
    "prelu": sym.LeakyReLU(conv, act_type="prelu"),
    "prelu of a row": sym.LeakyReLU(sym.FullyConnected(data, num_hidden=5), act_type="prelu"),
    "prelu, one slope": sym.LeakyReLU(data, gamma=sym.var("a_gamma", shape=(1,)), act_type="prelu"),
    "rrelu": sym.LeakyReLU(data, act_type="rrelu", lower_bound=0.1, upper_bound=0.5)[0],
    "leaky": sym.LeakyReLU(data, slope=0.1),
    "elu": sym.LeakyReLU(data, act_type="elu", slope=0.7),
    "selu": sym.LeakyReLU(data, act_type="selu"),
    "gelu": sym.LeakyReLU(data, act_type="gelu"),
    "l2, channel": sym.L2Normalization(data, mode="channel"),
    "l2, instance": sym.L2Normalization(data, eps=0.1),
    "l2, spatial": sym.L2Normalization(data, mode="spatial"),
    "lrn, knorm not written": sym.LRN(data, nsize=3, alpha=0.1),
    "topk, places": sym.topk(data, k=2, axis=1),
    "topk, values": sym.topk(data, k=2, ret_typ="value"),
    "topk, both": sym.Group(list(sym.topk(data, k=3, axis=2, ret_typ="both", is_ascend=True))),
    "topk, used on": sym.topk(data, k=2, axis=1, dtype="int32").astype("float32") * 2,
    "topk, all": sym.topk(data, k=0, axis=1, ret_typ="value"),
    "reshape, rest": sym.Reshape(data, shape=(0, 0, -1)),
    "reshape, split": sym.Reshape(data, shape=(0, -4, 1, -1, -2)),
    "reshape, merged": sym.Reshape(data, shape=(-3, 0, 0)),
    "reshape, reverse": sym.Reshape(data, shape=(-1, 0), reverse=True),
    "upsampling": sym.UpSampling(data, scale=3, sample_type="nearest"),
    "upsampling, bilinear": sym.UpSampling(
        data, sym.var("up_weight"), scale=2, sample_type="bilinear", num_filter=3, num_args=2
    ),
    "upsampling, bilinear by three": sym.UpSampling(
        data, sym.var("up_weight"), scale=3, sample_type="bilinear", num_filter=3, num_args=2
    ),
    "upsampling, several": sym.UpSampling(
        sym.UpSampling(data, scale=2, sample_type="nearest"), data, scale=2, sample_type="nearest", num_args=2
    ),
    "upsampling, summed": sym.UpSampling(
        sym.UpSampling(data, scale=2, sample_type="nearest"),
        data,
        scale=2,
        sample_type="nearest",
        num_args=2,
        multi_input_mode="sum",
    ),
    "pad": sym.Pad(data, mode="constant", pad_width=(0, 0, 0, 0, 1, 2, 0, 3), constant_value=0.5),
    "pad, edge": sym.Pad(data, mode="edge", pad_width=(0, 0, 0, 0, 1, 2, 0, 3)),
    "pad of weights": sym.Convolution(
        data,
        sym.Pad(sym.var("a_weight", shape=(4, 3, 3, 3)), mode="constant", pad_width=(0, 0, 0, 0, 0, 1, 0, 1)),
        kernel=(4, 4),
        num_filter=4,
        no_bias=True,
    ),
    "crop, size": sym.Crop(data, h_w=(3, 2), offset=(1, 2), num_args=1),
    "crop, middle": sym.Crop(data, h_w=(4, 3), center_crop=True, num_args=1),
    "crop, like": sym.Crop(data, sym.Convolution(data, kernel=(3, 3), num_filter=1), offset=(1, 2), num_args=2),
    "crop, like, middle": sym.Crop(
        data, sym.Convolution(data, kernel=(3, 4), num_filter=1), center_crop=True, num_args=2
    ),
    "deconvolution": sym.Deconvolution(data, kernel=(4, 4), stride=(2, 2), pad=(1, 1), num_filter=2),
    "deconvolution, bias, groups": sym.Deconvolution(
        data, kernel=(3, 2), stride=(2, 3), adj=(1, 0), num_filter=6, num_group=3, no_bias=False
    ),
    "deconvolution, target": sym.Deconvolution(data, kernel=(4, 4), stride=(2, 2), num_filter=2, target_shape=(16, 14)),
    "adaptive pooling": sym.contrib.AdaptiveAvgPooling2D(data, output_size=(3, 4)),
    "adaptive pooling, larger": sym.contrib.AdaptiveAvgPooling2D(data, output_size=(9, 6)),
    "adaptive pooling, square": sym.contrib.AdaptiveAvgPooling2D(data, output_size=3),
    "adaptive pooling, one": sym.contrib.AdaptiveAvgPooling2D(data),
    "pooling, global": sym.Pooling(data, global_pool=True, kernel=(7, 7), pool_type="avg"),
    "pooling, sum": sym.Pooling(data, kernel=(3, 2), stride=(2, 2), pad=(1, 0), pool_type="sum"),
    **{
        f"pooling, {kind}, {form}, kernel {kernel}, stride {stride}, pad {pad}, {included}": sym.Pooling(
            data,
            kernel=kernel,
            stride=stride,
            pad=pad,
            pool_type=kind,
            pooling_convention=form,
            count_include_pad=included,
        )
        for kind, included in (("max", True), ("avg", True), ("avg", False))
        for form in ("full", "valid")
        for kernel, stride, pad in (
            ((2, 2), (2, 2), (0, 0)),
            ((3, 3), (2, 2), (1, 1)),
            ((3, 2), (3, 3), (0, 1)),
            ((2, 2), (3, 3), (0, 0)),
        )
    },
}
