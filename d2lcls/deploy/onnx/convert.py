"""An MXNet model converted to ONNX, by this package's converters and MXNet's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from d2lcls.deploy.graph.input_shapes import infer_outputs
from d2lcls.deploy.onnx.converters import register
from d2lcls.deploy.onnx.registry import CONVERTERS, OPSET
from d2lcls.deploy.onnx_file import import_onnx
from d2lcls.deploy.rescue.load import OldModel, RescueError

import mxnet as mx
import numpy as np

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto


def to_onnx(model: OldModel, free_batch: bool = True) -> ModelProto:
    """Convert a model to ONNX of opset `OPSET`, checked.

    Args:
        model: to convert.
        free_batch: whether the first axis of inputs and outputs is to be free, called "N".

    Raises:
        RescueError: an operator, named in the message, has no converter, or none for its attributes.
        ImportError: onnx is not installed; names the extra.
    """
    onnx = import_onnx()
    register()
    _check_converters(model)
    symbol = _with_shapes(model, free_batch)
    try:
        converted = onnx.helper.make_model(
            _convert(symbol, model, free_batch),
            opset_imports=[onnx.helper.make_opsetid("", OPSET)],
            producer_name="d2lcls",
            ir_version=7,
        )
        onnx.checker.check_model(converted, full_check=True)
    except (
        NotImplementedError,
        AttributeError,
        AssertionError,
        KeyError,
        IndexError,
        ValueError,
        TypeError,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as error:
        raise RescueError(f"The network cannot be written as ONNX: {' '.join(str(error).split())[:300]}") from error
    return converted


def _check_converters(model: OldModel) -> None:
    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    used = {node["op"] for node in json.loads(model.symbol.tojson())["nodes"]}  # MXNet's names for them, not aliases
    missing = sorted(used.difference({"null"}, *(MXNetGraph.registry_.get(opset, {}) for opset in (12, 13))))
    if missing:
        raise RescueError(
            f"No converter to ONNX is known for {', '.join(missing)}. Cut the network off before it, or "
            "register one as d2lcls.deploy.onnx.registry describes."
        )


def _with_shapes(model: OldModel, free_batch: bool) -> mx.sym.Symbol:
    """Return a model's symbol with the shapes of the layers in attributes, for our converters.

    Without `free_batch` the shapes for two images need not be known.
    """
    one = model.node_shapes()
    two = model.node_shapes(2) if free_batch else one
    nodes = []
    for node in model.graph.nodes:
        if node.op in CONVERTERS and node.name in one:
            sources = [(one.get(model.graph.nodes[index].name, []), output) for index, output in node.inputs]
            shapes = {
                "inputs": [known[output] if output < len(known) else None for known, output in sources],
                "output": one[node.name][0],
                "larger": next(iter(two.get(node.name, [])), None),
            }
            node = node._replace(attributes={**node.attributes, "__shapes__": json.dumps(shapes)})
        nodes.append(node)
    return model.graph._replace(nodes=tuple(nodes)).load()


class _Value(NamedTuple):
    """An output of a converted node, as MXNet's converters look it up."""

    name: str
    dtype: np.dtype


def _convert(symbol: mx.sym.Symbol, model: OldModel, free_batch: bool) -> GraphProto:
    """Convert all nodes, as `MXNetGraph.create_onnx_graph_proto` does.

    That method cannot be used: it ends with a check against the newest opset of the package onnx, whichever it is asked
    for. Its graph also has parameters among the inputs, and outputs in another order and without their sizes.
    """
    onnx = import_onnx()
    helper, graph, shapes = onnx.helper, json.loads(symbol.tojson()), model.input_shapes()
    inputs: list[ValueInfoProto] = []
    nodes: list[NodeProto] = []
    stored: list[TensorProto] = []
    values: list[list[_Value]] = []  # the outputs of each node
    names: set[str] = set()
    for index, node in enumerate(graph["nodes"]):
        if node["name"] in names:
            node["name"] = f"idx_{index}_{node['name']}"
        name = node["name"]
        names.add(name)
        if node["op"] != "null":
            added, outputs = _convert_node(node, model.parameters, values, stored, index)
            nodes.extend(added)
            values.append(outputs)
        elif name in model.parameters:
            array = np.ascontiguousarray(model.parameters[name])
            stored.append(onnx.numpy_helper.from_array(array, name))
            values.append([_Value(name, array.dtype)])
        else:
            inputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, _axes(shapes[name], free_batch)))
            values.append([_Value(name, np.dtype(np.float32))])
    ends = [values[index][output].name for index, output, *_ in graph["heads"]]
    used = {name for node in nodes for name in node.input}.union(ends)
    dtypes = {name: array.dtype for name, array in model.parameters.items()} | dict.fromkeys(shapes, np.float32)
    types = [helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) for dtype in symbol.infer_type(**dtypes)[1]]
    sizes = infer_outputs(symbol, model.variable_shapes())
    return helper.make_graph(
        nodes,
        "mxnet_converted_model",
        [value for value in inputs if value.name in used],
        [helper.make_tensor_value_info(*end, _axes(shape, free_batch)) for *end, shape in zip(ends, types, sizes)],
        [tensor for tensor in stored if tensor.name in used],
    )


def _convert_node(
    node: dict, weights: Mapping[str, np.ndarray], values: list[list[_Value]], stored: list[TensorProto], index: int
) -> tuple[list[NodeProto], list[_Value]]:
    """Convert one node and return (ONNX's nodes, its outputs); constants are added to those stored."""
    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    converted, types = MXNetGraph.convert_layer(
        node, is_input=False, weights=weights, initializer=stored, outputs_lookup=values, idx=index, opset_version=OPSET
    )
    nodes = [one for one in converted if isinstance(one, import_onnx().NodeProto)]  # the others describe constants
    written = {output for one in nodes for output in one.output}
    possible = [node["name"], *(f"{node['name']}{number}" for number in range(100))]
    names = [name for name in possible if name in written] or [converted[-1].name]
    if types is None:  # that of the first input
        source, output, *_ = node["inputs"][0]
        types = [values[source][output].dtype] * len(names)
    return nodes, [_Value(name, np.dtype(dtype)) for name, dtype in zip(names, types, strict=True)]


def _axes(shape: Sequence[int], free_batch: bool) -> list[int | str | None]:
    """Return a shape for one image as ONNX writes it; None is any size."""
    return [("N" if size == 1 else None) if free_batch and axis == 0 else size for axis, size in enumerate(shape)]
