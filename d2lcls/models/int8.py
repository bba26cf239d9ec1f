"""What makes a graph in int8 compute the same on every processor.

Without the VNNI instructions, oneDNN adds the products of an unsigned and a signed byte in pairs, in 16 bits that
saturate, and 255 * 127 + 255 * 127 is more than 32,767.
"""

import json

import mxnet as mx
import numpy as np

_DENSE = "_sg_mkldnn_fully_connected"


def saturating(symbol):
    """Return the layers of a quantised graph whose sums saturate without VNNI, whatever the ranges are.

    oneDNN 2.4.4 adds 128 to the signed input of a dense layer, and later subtracts from the sums what that has added;
    without VNNI they have saturated by then. (It halves the weights of a convolution first.)

    Args:
        symbol: `mxnet.symbol.Symbol`, quantised.

    Returns:
        list of the layers' names, as they were called before quantisation.
    """
    graph = json.loads(symbol.tojson())["nodes"]
    types = _types(symbol, graph)
    return [node["name"].removeprefix("quantized_") for node in graph
            if node["op"] == _DENSE and types[node["inputs"][0][0]] == np.int8]


def in_seven_bits(symbol, arguments, widened=()):
    """Return a quantised graph whose sums do not saturate, with or without VNNI.

    The range of the unsigned activations that convolutions and dense layers read is doubled, so that all that was seen
    in calibration is a number from 0 to 128, and 128 * 127 + 128 * 127 is below 32,767. Depthwise convolutions add in
    32 bits anyway.

    Args:
        symbol: `mxnet.symbol.Symbol`, quantised.
        arguments: dict from name to NDArray, its parameters.
        widened: names of nodes whose ranges have been doubled already.
    """
    content = json.loads(symbol.tojson())
    graph = content["nodes"]
    types = _types(symbol, graph)
    reduced = [False] * len(graph)
    for place in reversed(range(len(graph))):  # readers come after what they read
        node = graph[place]
        sums = node["op"] == _DENSE or node["op"] == "_sg_mkldnn_conv" and not _depthwise(node, graph, arguments)
        operands = [operand for operand, output, *_ in node["inputs"] if output == 0]
        if sums:
            reduced[operands[0]] = True
        elif reduced[place] and "max_calib_range" not in node.get("attrs", {}):  # passes its operands' ranges on
            for operand in operands:
                reduced[operand] = True
        if reduced[place] and types[place] == np.uint8 and "max_calib_range" in node.get("attrs", {}) \
                and node["name"] not in widened:
            node["attrs"]["max_calib_range"] = str(2 * float(node["attrs"]["max_calib_range"]))
    return mx.sym.load_json(json.dumps(content, ensure_ascii=False))


def _depthwise(node, graph, arguments):
    source = graph[node["inputs"][1][0]]
    while source["op"] != "null":  # a weight that is padded, as in EfficientNet-Lite
        source = graph[source["inputs"][0][0]]
    convolution = next(inner["attrs"] for inner in node["subgraphs"][0]["nodes"] if inner["op"] == "Convolution")
    outputs, inputs_per_group = arguments[source["name"]].shape[:2]
    return inputs_per_group == 1 and int(convolution.get("num_group", 1)) == outputs


def _types(symbol, graph):
    """Return the type of each node's first output, None where it is not known."""
    inner = symbol.get_internals()
    types = dict(zip(inner.list_outputs(), inner.infer_type(data=np.float32)[1]))
    return [types.get(f"{node['name']}_output", types.get(f"{node['name']}_output0")) for node in graph]
