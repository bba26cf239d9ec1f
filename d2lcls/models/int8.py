"""What makes a graph in int8 compute the same on every processor.

Without the VNNI instructions, oneDNN adds the products of an unsigned and a signed byte in pairs, in 16 bits that
saturate, and 255 * 127 + 255 * 127 is more than 32,767.
"""

import json

import mxnet as mx
import numpy as np

_DENSE = "_sg_mkldnn_fully_connected"


def wrong_in_int8(symbol, vnni):
    """Return the layers of a quantised graph that would compute something else than in float.

    MXNet 1.9.1 writes a fused sum in the type of the sum's other operand: where that is unsigned and the result is
    signed, negative numbers become 0. To a dense layer's signed input, oneDNN 2.4.4 adds 128, and subtracts from the
    sums what that adds to them; without VNNI, they have saturated by then. (A convolution's weights it halves first.)

    Args:
        symbol: `mxnet.symbol.Symbol`, quantised.
        vnni: whether all its processors have VNNI.

    Returns:
        list of the layers' names, as they were called before quantisation.
    """
    found, graph = [], json.loads(symbol.tojson())["nodes"]
    types = _types(symbol, graph)
    for node, result in zip(graph, types):
        operands = [types[place] for place, output, *_ in node["inputs"] if output == 0]  # the others are ranges
        signed_dense = node["op"] == _DENSE and operands[0] == np.int8
        cut_sum = node.get("attrs", {}).get("with_sum") == "true" and (operands[-1], result) == (np.uint8, np.int8)
        if cut_sum or signed_dense and not vnni:
            found.append(node["name"].removeprefix("quantized_"))
    return found


def in_seven_bits(symbol, arguments):
    """Return a quantised graph whose sums do not saturate, with or without VNNI.

    The range of the unsigned activations that convolutions and dense layers read is doubled, so that all that was seen
    in calibration is a number from 0 to 128, and 128 * 127 + 128 * 127 is below 32,767. Depthwise convolutions add in
    32 bits anyway.

    Args:
        symbol: `mxnet.symbol.Symbol`, quantised.
        arguments: dict from name to NDArray, its parameters.
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
        if reduced[place] and types[place] == np.uint8 and "max_calib_range" in node.get("attrs", {}):
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
