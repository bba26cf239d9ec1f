"""From MXNet to ONNX, the format that nearly every other runtime reads."""

from unittest.mock import patch

import numpy as np

from d2lcls.deploy.export import load_graph, new_folder, read_graph
from d2lcls.deploy.graph import fold_batch_norm
from d2lcls.deploy.manifest import ModelError, derive, read_manifest, write_manifest
from d2lcls.deploy.onnx_runtime import import_onnx, open_session
from d2lcls.files import write_atomically

OPSET = 13  # for which MXNet's converters were written; its exporter would stamp the newest that onnx knows
FILE = "model.onnx"


def export_onnx(folder, target, tolerance=1e-4):
    """Write a model as ONNX with any number of pictures a batch, and compare it with MXNet.

    Args:
        folder: model folder of form "mxnet".
        target: a new or empty folder for the model of form "onnx".
        tolerance: largest allowed difference of a logit, as a share of the largest one.

    Returns:
        (`Manifest`, largest difference of a logit on random inputs, as that share).

    Raises:
        FileNotFoundError, ModelError: as `read_manifest`; also where the ONNX model computes something else, or MXNet's
            exporter knows no converter for an operator.
        ValueError: the target is not empty.
        ImportError: onnx is not installed; names the extra.
    """
    manifest, target = read_manifest(folder), new_folder(target)
    if manifest.form != "mxnet":
        raise ModelError(f"{folder}: a model of form {manifest.form}; ONNX is made of one of form mxnet.")
    symbol, arguments, statistics = fold_batch_norm(*load_graph(folder))
    model = graph_to_onnx(symbol, {**arguments, **statistics}, manifest.input_shape(), manifest.input_name)
    write_atomically(target / FILE, lambda file: file.write(model.SerializeToString()))
    x = np.random.default_rng(0).normal(size=manifest.input_shape(3)).astype(np.float32)
    expected = read_graph(folder, manifest)(x)
    difference = float(np.abs(open_session(target / FILE)(x) - expected).max() / np.abs(expected).max())
    if not difference <= tolerance:
        (target / FILE).unlink()
        raise ModelError(f"{folder}: as ONNX the model's logits differ by up to {difference:.2g} of the largest, "
                         f"more than {tolerance:g}. One of its operators is not converted rightly; please report its name.")
    written = derive(manifest, "onnx", opset=OPSET, largest_difference=difference)
    return write_manifest(target, written, ["onnx", "mxnet"]), difference


def graph_to_onnx(symbol, parameters, shape, input_name="data"):
    """Convert a graph of MXNet's operators.

    Args:
        symbol: `mx.sym.Symbol` with one input.
        parameters: dict from name to NDArray.
        shape: (1, ...) of the input; the first axis is left free.
        input_name: its name.

    Returns:
        `onnx.ModelProto`, checked, of opset `OPSET`, its parameters no inputs of the graph.

    Raises:
        ModelError: an operator has no converter; names it.
    """
    onnx = import_onnx()
    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    try:
        # Its check would hold opset 13 against the rules of the newest; the one below does not.
        with patch.object(onnx.checker, "check_graph"), patch.object(onnx.helper, "make_tensor", _make_tensor):
            graph = MXNetGraph().create_onnx_graph_proto(
                symbol, dict(parameters), [tuple(shape)], [onnx.TensorProto.FLOAT], opset_version=OPSET, dynamic=True,
                dynamic_input_shapes=[("N", *shape[1:])])
    except AttributeError as error:
        if "No conversion function registered" not in str(error):
            raise
        raise ModelError(f"MXNet's exporter cannot convert this model: {error}") from error
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]  # else a runtime may not fold constants
    del graph.input[:]
    graph.input.extend(inputs)
    graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], producer_name="d2lcls",
                                   ir_version=7)  # the one that goes with this opset
    onnx.checker.check_model(model, full_check=True)
    return model


def _make_tensor(name, data_type, dims, vals, raw=False):
    """Do what `onnx.helper.make_tensor` does, but keep numbers as bytes: a list of ten million takes a minute."""
    from onnx import helper, numpy_helper

    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    values = np.frombuffer(vals, dtype) if raw else np.asarray(vals, dtype)
    return numpy_helper.from_array(values.reshape(dims), name)
