"""ONNX files that keep their weights in files elsewhere, which ONNX Runtime would read."""

from d2lcls.deploy import ModelError
from d2lcls.deploy.onnx_runtime import open_session

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def write(folder, location, inner=False):
    weight = onnx.numpy_helper.from_array(np.ones(4, np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=str(location))
    value = onnx.helper.make_tensor_value_info
    nodes, initialisers = [onnx.helper.make_node("Add", ["x", "w"], ["y"])], [weight]
    if inner:
        nodes, initialisers = [onnx.helper.make_node("Constant", [], ["w"], value=weight), *nodes], []
    graph = onnx.helper.make_graph(nodes, "g", [value("x", 1, [4])], [value("y", 1, [4])], initializer=initialisers)
    path = folder / "model.onnx"
    opset = onnx.helper.make_opsetid("", 13)
    path.write_bytes(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString())
    return path


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("kind", ["parent", "absolute", "link"])
def test_data_outside_the_folder_is_refused(kind, inner, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(16))
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    location = {"parent": "../secret", "absolute": tmp_path / "secret", "link": "link"}[kind]
    path = write(folder, location, inner)
    with pytest.raises(ModelError, match="model.onnx: keeps data in .*, which is not a file in its folder"):
        open_session(path)


def test_data_in_the_folder_is_read(tmp_path):
    (tmp_path / "weights").write_bytes(np.full(4, 2, np.float32).tobytes())
    np.testing.assert_array_equal(open_session(write(tmp_path, "weights"))(np.zeros(4)), np.full(4, 2))


@pytest.mark.parametrize("content", [b"\x08", b"not a model", b"\xff" * 100])
def test_damaged_files(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="model.onnx: "):
        open_session(tmp_path / "model.onnx")
