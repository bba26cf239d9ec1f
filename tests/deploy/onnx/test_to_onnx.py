import sys

from d2lcls.deploy import ModelError, load_model
from d2lcls.deploy.exporting import export
from d2lcls.deploy.onnx.export import export_onnx, graph_to_onnx
from d2lcls.deploy.onnx.registry import OPSET
from d2lcls.deploy.onnx_runtime import open_session

import mxnet as mx
import numpy as np
import onnx
import pytest


@pytest.mark.parametrize(
    "name",
    [
        "cnn",
        "cifar_resnet20_v1",
        "cifar_resnet20_v2",
        "resnet18_v1",
        "resnet18_v1b",
        "resnet18_v2",
        "mobilenet0.25",
        "mobilenetv2_0.25",
        "efficientnet_lite0",
    ],
)
def test_onnx_runtime_says_what_mxnet_says(network, tmp_path, preprocess, examples, name):
    export(network(name), tmp_path / "m", name, ("a", "b", "c"), preprocess)
    manifest, difference = export_onnx(tmp_path / "m", tmp_path / "o")
    assert manifest.form == "onnx" and manifest.batch is None and manifest.made_from["form"] == "mxnet"
    assert difference < 1e-4 and manifest.made_from["largest_difference"] == difference
    for count in (1, 7):
        expected, found = (load_model(tmp_path / form).compute(examples[:count]) for form in "mo")
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    graph = onnx.load(str(tmp_path / "o/model.onnx"))
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", OPSET)]
    assert [value.name for value in graph.graph.input] == ["data"]  # parameters are no inputs
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert (
        "BatchNormalization" not in {node.op_type for node in graph.graph.node} or name.endswith("_v2") or name == "cnn"
    )


def test_operators_without_a_converter_are_named():
    symbol = mx.sym.rcbrt(mx.sym.var("data"))
    with pytest.raises(ModelError, match="No converter to ONNX is known for rcbrt"):
        graph_to_onnx(symbol, {}, (1, 3, 4, 4))


def test_files_that_are_no_onnx(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        open_session(path)
    for content in (b"", b"no model", bytes(1000)):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="model.onnx: (its opset is none|not an ONNX model, or damaged)"):
            open_session(path)


def test_extras_are_named(tmp_path, monkeypatch, model):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r'onnx is not installed: pip install "d2lcls\[deploy\]"'):
        export_onnx(model, tmp_path / "o")
    with pytest.raises(ImportError, match=r'onnxruntime is not installed: pip install "d2lcls\[deploy\]"'):
        open_session(tmp_path / "model.onnx")
