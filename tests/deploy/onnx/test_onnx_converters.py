"""Each converter by parity: a small network of MXNet against ONNX Runtime, with and without the network's shapes."""

import mxnet as mx
import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from d2lcls.deploy.onnx.checked import write_onnx
from d2lcls.deploy.onnx.convert import to_onnx
from d2lcls.deploy.onnx.converters import register
from d2lcls.deploy.onnx.registry import CONVERTERS, OPSET, converts
from d2lcls.deploy.rescue.load import RescueError

from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph
from old_networks import NETWORKS, conv, data, images, make, sym


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
    register()
    monkeypatch.setattr(MXNetGraph.registry_[OPSET]["LRN"], "function", CONVERTERS["BlockGrad"])
    model = make(NETWORKS["lrn, knorm not written"])
    with pytest.raises(RescueError, match="does not compute the same .*differ by up to"):
        write_onnx(model, tmp_path / "model.onnx", images(model))
    assert not (tmp_path / "model.onnx").exists()


def test_what_has_no_converter_is_named():
    with pytest.raises(RescueError, match="No converter to ONNX is known for rcbrt"):
        to_onnx(make(sym.rcbrt(data)))
    with pytest.raises(RescueError, match="topk 'best' returns a mask"):
        to_onnx(make(sym.topk(data, ret_typ="mask", name="best")))


def test_a_converter_can_be_added_once(tmp_path, monkeypatch):
    monkeypatch.setattr(MXNetGraph, "registry_", {opset: {**known} for opset, known in MXNetGraph.registry_.items()})
    monkeypatch.setitem(CONVERTERS, "rsqrt", None)  # removed again at the end of the test
    del CONVERTERS["rsqrt"]
    model = make(sym.rsqrt(sym.square(data) + 1))
    with pytest.raises(RescueError, match="No converter to ONNX is known for rsqrt"):
        to_onnx(model)
    converts("rsqrt")(lambda layer: layer.done("Reciprocal", layer.op("Sqrt", layer.inputs[0])))
    assert write_onnx(model, tmp_path / "model.onnx", images(model)).largest < 1e-5
    with pytest.raises(ValueError, match="LRN has a converter already: local_response"):
        converts("Correlation", "LRN")(lambda layer: layer.nodes)
    assert "Correlation" not in CONVERTERS


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
