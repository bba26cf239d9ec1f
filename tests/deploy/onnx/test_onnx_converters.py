"""Each converter by parity: a small network of MXNet against ONNX Runtime, with and without the network's shapes."""

import json
import sys

import mxnet as mx
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from d2lcls.deploy.graph.input_shapes import find_inputs, infer_shapes
from d2lcls.deploy.graph.symbol_json import parse_symbol
from d2lcls.deploy.onnx.checked import to_onnx, write_onnx
from d2lcls.deploy.onnx.converters import OPSET, register
from d2lcls.deploy.rescue.load import RescueError, assemble

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
    return assemble(graph, arrays, dict.fromkeys(inputs, shape))


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


@pytest.mark.parametrize("name", NETWORKS)
def test_parity(name, tmp_path):
    model = make(NETWORKS[name])
    parity = write_onnx(model, tmp_path / "model.onnx", images(model))
    assert parity.largest < 1e-5 and parity.images == 3 and parity.free_batch and parity.opset == OPSET
    assert len(parity.differences) == len(model.symbol.list_outputs())


WITHOUT_SHAPES = (
    "softmax activation, instance",
    "softmax output, last axis",
    "softmax output, dense",
    "prelu",
    "prelu of a row",
    "dense, flatten not written",
    "batch norm, gamma fixed",
    "l2, spatial",
    "upsampling, summed",
    "crop, like, middle",
    "deconvolution, bias, groups",
    "topk, places",
)


@pytest.mark.parametrize("name", WITHOUT_SHAPES)
def test_parity_with_the_exporter_called_as_ever(name):
    import onnx
    import onnxruntime
    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    register()
    register()
    model = make(NETWORKS[name])
    graph = MXNetGraph().create_onnx_graph_proto(
        model.symbol,
        {n: mx.nd.array(a) for n, a in model.parameters.items()},
        [(3, 3, 7, 6)],
        [1],
        opset_version=OPSET,
        dynamic=False,
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=7)
    x = images(model)
    found = onnxruntime.InferenceSession(made.SerializeToString()).run(None, x)
    for one, other in zip(found, model.run(x).values()):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_wrong_network_is_not_written(tmp_path, monkeypatch):
    from d2lcls.deploy.onnx.converters import CONVERTERS, same

    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    register()
    monkeypatch.setitem(
        MXNetGraph.registry_[OPSET],
        "LRN",
        lambda node, **context: CONVERTERS["BlockGrad"](sys.modules[same.__module__].Layer(node, context)),
    )
    monkeypatch.setitem(CONVERTERS, "LRN", CONVERTERS["LRN"])
    monkeypatch.setattr("d2lcls.deploy.onnx.checked.register", lambda: None)
    model = make(NETWORKS["lrn, knorm not written"])
    with pytest.raises(RescueError, match="does not compute the same .*differ by up to"):
        write_onnx(model, tmp_path / "model.onnx", images(model))
    assert not (tmp_path / "model.onnx").exists()


def test_what_has_no_converter_is_named():
    with pytest.raises(RescueError, match="No converter to ONNX is known for Correlation"):
        to_onnx(make(sym.Correlation(data, data + 1, pad_size=1)))
    with pytest.raises(RescueError, match="topk 'best' gives a mask"):
        to_onnx(make(sym.topk(data, ret_typ="mask", name="best")))


def test_what_the_file_says():
    model = make(sym.Group([sym.SoftmaxOutput(sym.FullyConnected(conv, num_hidden=5, name="fc"), name="prob"), conv]))
    made = to_onnx(model)
    assert [(one.domain, one.version) for one in made.opset_import] == [("", OPSET)]
    assert [one.name for one in made.graph.input] == ["data"]  # neither parameters nor labels
    assert [one.name for one in made.graph.output] == ["prob", "conv"]  # in MXNet's order, not the graph's
    shapes = [
        [d.dim_param or d.dim_value for d in one.type.tensor_type.shape.dim]
        for one in (*made.graph.input, *made.graph.output)
    ]
    assert shapes == [["N", 3, 7, 6], ["N", 5], ["N", 4, 7, 6]]
    fixed = to_onnx(model, free_batch=False)
    assert fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    used = {name for node in made.graph.node for name in node.input}
    assert {tensor.name for tensor in made.graph.initializer} <= used
