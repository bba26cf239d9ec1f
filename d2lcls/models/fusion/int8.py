"""Changes an int8 graph so that it computes the same on every processor.

Without the VNNI instructions, oneDNN adds the products of an unsigned and a signed byte in pairs, in 16 bits that
saturate, and 255 * 127 + 255 * 127 is more than 32,767. With one bit less on either side it is not.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

import mxnet as mx
import numpy as np

_CONVOLUTION, _DENSE = "_sg_mkldnn_conv", "_sg_mkldnn_fully_connected"
_UNSIGNED, _SIGNED = 255.5, 127.5  # the integer, before rounding, for the end of a range


def saturating(symbol: mx.sym.Symbol) -> list[str]:
    """Return the layers of a quantised graph, by their names in float, whose sums always saturate without VNNI.

    oneDNN 2.4.4 adds 128 to the signed input of a dense layer, and corrects the sums later; without VNNI they have
    saturated by then. (In a convolution, it halves the weights first.)
    """
    graph = json.loads(symbol.tojson())["nodes"]
    types = _types(symbol, graph)
    return [
        node["name"].removeprefix("quantized_")
        for node in graph
        if node["op"] == _DENSE and types[node["inputs"][0][0]] == np.int8
    ]


def in_seven_bits(
    symbol: mx.sym.Symbol, arguments: Mapping[str, mx.nd.NDArray], widened: Collection[str] = ()
) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray]]:
    """Return a quantised graph, and its parameters, whose sums saturate neither with nor without VNNI.

    If a convolution without padding reads the output of another one, that becomes signed, and its own weights become
    even, so that nothing is lost when oneDNN halves the weights for signed inputs. Elsewhere, activations lose a bit.
    Depthwise convolutions add in 32 bits and need neither.

    Args:
        symbol: quantised graph.
        arguments: its parameters; not changed.
        widened: names of nodes whose ranges have been doubled already.

    Returns:
        (symbol, arguments).
    """
    content, new_arguments = json.loads(symbol.tojson()), dict(arguments)
    graph = content["nodes"]
    types = _types(symbol, graph)
    readers: list[list[int | None]] = [[] for _ in graph]
    for index, node in enumerate(graph):
        for operand in _operands(node):
            readers[operand].append(index)
    for index, *_ in content["heads"]:
        readers[index].append(None)
    signed = [
        index
        for index in range(len(graph))
        if types[index] == np.uint8 and _can_be_signed(graph, readers, new_arguments, index)
    ]
    for index in signed:
        _make_signed(graph, readers, new_arguments, index)
    _double_ranges(graph, types, new_arguments, {*(graph[index]["name"] for index in signed), *widened})
    return mx.sym.load_json(json.dumps(content, ensure_ascii=False)), new_arguments


def _can_be_signed(graph, readers, arguments, index):
    """Whether only convolutions without padding read the output of a convolution with ReLU or clip."""
    *_, last = _inside(graph[index]) or [{}]
    attributes = last.get("attrs", {})
    cuts_at_0 = attributes.get("act_type") == "relu" or float(attributes.get("a_min", 1)) == 0
    return (
        cuts_at_0
        and _own_bias(graph, readers, index)
        and all(
            reader is not None
            and _own_bias(graph, readers, reader)
            and _operands(graph[reader])[0] == index
            and _inside(graph[reader])[0]["attrs"].get("pad", "(0, 0)") == "(0, 0)"
            and not _depthwise(graph, arguments, reader)
            for reader in readers[index]
        )
    )


def _own_bias(graph, readers, index):
    """Whether a node is a fused convolution that alone reads its weight and bias, without normalisation or sum."""
    node = graph[index]
    parameters = _operands(node)[1:3]
    return (
        node["op"] == _CONVOLUTION
        and len(_operands(node)) == 3
        and "with_sum" not in node["attrs"]
        and all(graph[parameter]["op"] == "null" and readers[parameter] == [index] for parameter in parameters)
    )


def _make_signed(graph, readers, arguments, index):
    """Subtract 128 steps from a convolution's output, which saturation cuts as ReLU did, and add them in its readers.

    The steps keep their size, so this output loses no precision.
    """
    node = graph[index]
    step = float(node["attrs"]["max_calib_range"]) / _UNSIGNED
    del node["attrs"]["with_act"]
    node["attrs"].update(min_calib_range=str(-_SIGNED * step), max_calib_range=str(_SIGNED * step))
    fused = node["subgraphs"][0]
    fused["nodes"].pop()
    fused["node_row_ptr"].pop()
    fused["heads"] = [[len(fused["nodes"]) - 1, 0, 0]]
    bias = graph[_operands(node)[2]]["name"]
    arguments[bias] = arguments[bias] - 128 * step
    for reader in readers[index]:
        weight, bias = (graph[parameter]["name"] for parameter in _operands(graph[reader])[1:3])
        even = _even(arguments[weight].asnumpy())
        arguments[weight] = mx.nd.array(even)
        arguments[bias] = arguments[bias] + mx.nd.array(128 * step * _rounded(even).reshape(len(even), -1).sum(axis=1))


def _even(weight):
    """Round to even numbers of steps, each output channel's 1/127 of its largest weight, which stays as it is."""
    largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
    step = np.where(largest > 0, largest / 127, 1)
    even = 2 * np.rint(weight / step / 2).clip(-63, 63) * step
    return np.where(np.abs(weight) == largest, weight, even).astype(np.float32)


def _rounded(weight):
    """Return the weights that MXNet uses; it rounds the largest, 127.5, to -128 or 127."""
    largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
    scale = np.float32(_SIGNED) / np.maximum(largest, np.float32(1e-30))
    return np.trunc(weight * scale + np.copysign(np.float32(0.5), weight)).clip(-128, 127) / scale


def _double_ranges(graph, types, arguments, done):
    """Double the ranges of unsigned activations that saturating sums read, which makes them numbers from 0 to 128."""
    read = [False] * len(graph)
    for index in reversed(range(len(graph))):  # readers come after the nodes that they read
        node, attributes = graph[index], graph[index].get("attrs", {})
        if node["op"] == _DENSE or node["op"] == _CONVOLUTION and not _depthwise(graph, arguments, index):
            read[_operands(node)[0]] = True
        elif read[index] and "max_calib_range" not in attributes:  # it passes on the ranges of its operands
            for operand in _operands(node):
                read[operand] = True
        if read[index] and types[index] == np.uint8 and node["name"] not in done and "max_calib_range" in attributes:
            attributes["max_calib_range"] = str(2 * float(attributes["max_calib_range"]))


def _operands(node):
    """Return the indices of a node's inputs without ranges, which are other outputs than the first."""
    return [index for index, output, *_ in node["inputs"] if output == 0]


def _inside(node):
    """Return the operators fused in a node: a convolution and those after it."""
    return [inner for fused in node.get("subgraphs", []) for inner in fused["nodes"] if inner["op"] != "null"]


def _depthwise(graph, arguments, index):
    weight = graph[_operands(graph[index])[1]]
    while weight["op"] != "null":  # it is padded, as in EfficientNet-Lite
        weight = graph[weight["inputs"][0][0]]
    outputs, inputs_per_group = arguments[weight["name"]].shape[:2]
    return inputs_per_group == 1 and int(_inside(graph[index])[0]["attrs"].get("num_group", 1)) == outputs


def _types(symbol, graph):
    """Return the type of each node's first output, None where it is not known."""
    inner = symbol.get_internals()
    types = dict(zip(inner.list_outputs(), inner.infer_type(data=np.float32)[1]))
    return [types.get(f"{node['name']}_output", types.get(f"{node['name']}_output0")) for node in graph]
