"""Arrays of shapes that MXNet accepts, and then divides by zero, or reads and writes beyond their end."""

import shutil
from types import SimpleNamespace

from d2lcls.deploy import ModelError, load_model, read_manifest
from d2lcls.deploy.exporting import save_graph
from d2lcls.deploy.graph.input_shapes import GraphError, check_sizes
from d2lcls.deploy.graph.symbol_json import parse_symbol
from d2lcls.deploy.manifest import write_manifest
from d2lcls.deploy.rescue.load import RescueError, build_old_model

import mxnet as mx
import numpy as np
import psutil
import pytest

x = mx.sym.var("data")


@pytest.mark.parametrize("shape", [(1, 4), (2, 4, 6, 6, 7), (0, 1), (-1, 5), (-4, 1, 2, -2, 3)])
def test_reshaping_to_another_size(shape):
    with pytest.raises((GraphError, mx.MXNetError), match="it reshapes|Invalid|Check failed"):
        check_sizes(mx.sym.Reshape(mx.sym.relu(x), shape=shape), {"data": (2, 4, 6, 6)})


@pytest.mark.parametrize("shape", [(0, -1), (-1, 36), (2, 4, 36), (-3, 0, 0), (0, -4, 2, 2, -2)])
def test_reshaping_to_the_same_size(shape):
    assert check_sizes(mx.sym.Reshape(mx.sym.relu(x), shape=shape), {"data": (2, 4, 6, 6)}) == 4 * 3 * 288


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 4, 4), (1,) * 9])
def test_empty_arrays_and_arrays_of_too_many_axes(shape):
    with pytest.raises(GraphError, match="'data' has the shape .*, expected 1 to 8 sizes of 1 or more"):
        check_sizes(mx.sym.relu(x), {"data": shape})


def test_layers_that_need_more_than_memory(monkeypatch):
    with pytest.raises(GraphError, match="would have .* numbers; MXNet's arrays hold less than 2"):
        check_sizes(mx.sym.tile(x, reps=(4096, 4096)), {"data": (4, 64)})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 30))
    with pytest.raises(GraphError, match="a layer needs 4.0 GB, and 1.0 GB are free"):
        check_sizes(mx.sym.tile(x, reps=(1 << 10, 1 << 10)), {"data": (32, 32)})


@pytest.mark.parametrize("operator", [mx.sym.elemwise_div, mx.sym.broadcast_div, mx.sym.broadcast_mod])
def test_whole_numbers_are_not_divided(operator):
    y = operator(x, mx.sym.var("y"))
    shapes = {"data": (2, 4), "y": (2, 4)}
    assert check_sizes(y, shapes)
    with pytest.raises(GraphError, match="it divides whole numbers"):
        check_sizes(y, shapes, {"data": np.int8, "y": np.int8})
    with pytest.raises(GraphError, match="it divides whole numbers"):
        check_sizes(mx.sym.norm(x), {"data": (2, 4)}, {"data": np.int32})
    with pytest.raises(GraphError, match="it divides whole numbers"):
        check_sizes(operator(*(mx.sym.cast(z, "int32") for z in (x, y))), shapes)


@pytest.mark.parametrize(
    "symbol, reason",
    [
        (mx.sym.Reshape(x, shape=(1, 3)), "it reshapes .1, 3, 16, 16. to .1, 3."),
        (mx.sym.Reshape(x, shape=(1, 768)), "it reshapes .2, 3, 16, 16. to .1, 768."),
        (mx.sym.FullyConnected(x, num_hidden=3, name="f"), "the file of parameters lacks f_bias, f_weight"),
        (mx.sym.relu(mx.sym.var("other")), "the file of parameters lacks other"),
        (mx.sym.ones((2, 3)), "it has no input 'data'"),
        (mx.sym.Convolution(x, mx.sym.zeros((4, 3, 5, 5)), kernel=(3, 3), num_filter=4, no_bias=True), "Shape inc"),
    ],
)
def test_model_folders_whose_graph_cannot_be_computed(symbol, reason, model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    save_graph(folder, symbol, {"arg:unused": mx.nd.ones(1)}, {})
    write_manifest(folder, read_manifest(folder, verify=False))
    with pytest.raises(ModelError, match=f"{folder}: MXNet cannot compute its graph .*{reason}") as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_old_models_that_reshape_to_another_size():
    graph = parse_symbol(mx.sym.Reshape(x, shape=(1, 4)).tojson())
    with pytest.raises(RescueError, match="it reshapes .2, 3, 8, 8. to .1, 4."):
        build_old_model(graph, {}, (3, 8, 8)).run(np.zeros((2, 3, 8, 8), np.float32))
