"""Graphs rewritten so that MXNet 1.9.1 fuses and quantises them correctly.

Its fusion for oneDNN (`src/operator/subgraph/mkldnn`) replaces a layer and the operators after it by one operator. In
some graphs, other readers of the layer then get something else than the layer's output. These functions change graphs
in MXNet's JSON; the graphs' outputs stay the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import nd

INT8 = "MKLDNN_QUANTIZE"  # the backend that fuses a graph for int8
_ACTIVATIONS = {"Activation", "LeakyReLU", "clip"}
_FOLLOWERS: dict[str, set[str]] = {  # layer -> readers of its output that may be fused with it
    "Convolution": {"BatchNorm", "elemwise_add", *_ACTIVATIONS},
    "BatchNorm": {"elemwise_add", *_ACTIVATIONS},
    "elemwise_add": _ACTIVATIONS,
    "FullyConnected": {"abs", "exp", "sqrt", "square", *_ACTIVATIONS},
}


def prepare(symbol: mx.sym.Symbol, backend: str = "MKLDNN", all_apart: bool = False) -> mx.sym.Symbol:
    """Return a symbol that a backend fuses correctly.

    MXNet is meant to fuse a layer with a reader of its output only if there is no other reader. But its search
    overlooks some: a sum that is already fused with another layer or would close a loop, the outputs of the graph, and
    after a dense layer all but the first. These then get the output of the fused operator instead. Where that may
    happen, a sum of one operand, which MXNet never fuses, is put between the layer and all its readers.

    Args:
        symbol: the graph.
        backend: "MKLDNN", or `INT8`.
        all_apart: True prevents every fusion.
    """
    graph = json.loads(symbol.tojson())
    _pool_again(graph)
    _drop_copies(graph)
    readers: list[list[dict[str, Any] | None]] = [[] for _ in graph["nodes"]]
    for node in graph["nodes"]:
        for index, *_ in node["inputs"]:
            readers[index].append(node)
    for index, *_ in graph["heads"]:
        readers[index].append(None)
    nodes: list[dict[str, Any]] = []
    indices: list[int] = []  # old -> new
    apart: dict[int, int] = {}  # index of a layer -> of the sum behind it

    def moved(edges):
        return [
            [indices[index] if output else apart.get(index, indices[index]), output, *rest]
            for index, output, *rest in edges
        ]

    for index, (node, own_readers) in enumerate(zip(graph["nodes"], readers)):
        source = graph["nodes"][node["inputs"][0][0]]["op"] if node["inputs"] else None
        indices.append(len(nodes))
        nodes.append({**node, "inputs": moved(node["inputs"])})
        if (
            _is_wrong(node["op"], own_readers)
            or backend == INT8
            and _is_wrong_in_int8(node["op"], source, own_readers)
            or all_apart
            and _followers(node["op"], own_readers)
        ):
            apart[index] = len(nodes)
            nodes.append(
                {
                    "op": "add_n",
                    "name": f"{node['name']}_apart",
                    "attrs": {"num_args": "1"},
                    "inputs": [[indices[index], 0, 0]],
                }
            )
    return _symbol(
        {
            "nodes": nodes,
            "heads": moved(graph["heads"]),
            "attrs": graph["attrs"],
            "arg_nodes": [index for index, node in enumerate(nodes) if node["op"] == "null"],
        }
    )


def relu6_as_clip(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """Replace each ReLU followed by a minimum with a number by one `clip`, which can fuse with the layer before it."""
    graph = json.loads(symbol.tojson())
    for node in graph["nodes"]:
        relu = graph["nodes"][node["inputs"][0][0]] if node["op"] == "_minimum_scalar" else {}
        if relu.get("attrs", {}).get("act_type") == "relu":
            node.update(op="clip", inputs=relu["inputs"], attrs={"a_min": "0", "a_max": node["attrs"]["scalar"]})
    return _symbol(graph)


def _symbol(graph):
    return mx.sym.load_json(json.dumps(graph, ensure_ascii=False))  # MXNet cannot read \u


def _pool_again(graph):
    """Let oneDNN compute the mean of each map, in int8 too; `replace_global_pooling` is for training."""
    for node in graph["nodes"]:
        if node["op"] == "mean" and node.get("attrs") == {"axis": "(2, 3)", "keepdims": "True"}:
            node.update(op="Pooling", attrs={"global_pool": "True", "pool_type": "avg", "kernel": "(1, 1)"})


def _drop_copies(graph):
    """Remove the operators that only copy at prediction, as MXNet does, so that their readers read the original."""
    copied: dict[int, list[int]] = {}  # index -> edge to the original

    def moved(edges):
        return [copied.get(edge[0], edge) for edge in edges]

    for index, node in enumerate(graph["nodes"]):
        node["inputs"] = moved(node["inputs"])
        drops = node["op"] == "Dropout" and node.get("attrs", {}).get("mode", "training") == "training"
        if (node["op"] == "_copy" or drops) and graph["nodes"][node["inputs"][0][0]]["op"] != "null":
            copied[index] = node["inputs"][0]
            node.update(op="null", inputs=[])  # nothing reads it any more
    graph["heads"] = moved(graph["heads"])


def _followers(op, readers):
    """Return the indices of the readers (nodes, or None for an output of the graph) that may be fused with a layer."""
    return {index for index, reader in enumerate(readers) if reader and reader["op"] in _FOLLOWERS.get(op, ())}


def _is_wrong(op, readers):
    """Whether MXNet may fuse a layer with one of its readers and overlook another, or fuse an unusual BatchNorm."""
    followers = _followers(op, readers)
    overlooked = {
        index
        for index, reader in enumerate(readers)
        if reader is None or reader["op"] == "elemwise_add" or op == "FullyConnected"
    }
    unusual = any(readers[index]["op"] == "BatchNorm" and not is_plain_norm(readers[index]) for index in followers)
    return unusual or bool(followers and overlooked) and len(followers | overlooked) > 1


def _is_wrong_in_int8(op, source, readers):
    """The same for fusions that are only wrong in int8; `source` is the operator of the layer's first input.

    Of several readers of a dense layer or of an output of the graph, some take integers and some take floats, but MXNet
    gives all of them the same. GELU after a convolution gets scaled numbers; a leaky ReLU after a dense layer loses
    negative numbers.
    """
    dense = "FullyConnected" in (op, source if op in _FOLLOWERS["FullyConnected"] else None)
    kinds = [
        reader.get("attrs", {}).get("act_type", "leaky") for reader in readers if reader and reader["op"] == "LeakyReLU"
    ]
    wrong = op in _FOLLOWERS and ("leaky" if op == "FullyConnected" else "gelu") in kinds
    return wrong or len(readers) > 1 and (dense or None in readers)


def is_plain_norm(node: dict[str, Any]) -> bool:
    """Whether a BatchNorm node normalises channels, as fusion assumes, and returns only one array."""
    settings = node.get("attrs", {})
    return settings.get("axis", "1") == "1" and settings.get("output_mean_var", "False") not in ("True", "1")


def fixed_gammas(symbol: mx.sym.Symbol, arguments: Mapping[str, nd.NDArray]) -> dict[str, nd.NDArray]:
    """Return ones, by name, for each gamma that BatchNorm ignores because of `fix_gamma`; in int8, MXNet reads it."""
    nodes = json.loads(symbol.tojson())["nodes"]
    gammas = [
        nodes[node["inputs"][1][0]]["name"]
        for node in nodes
        if node["op"] == "BatchNorm" and node.get("attrs", {}).get("fix_gamma", "True") in ("True", "1")
    ]
    return {name: nd.ones_like(arguments[name]) for name in gammas if name in arguments}


def mend_int8(symbol: mx.sym.Symbol) -> tuple[mx.sym.Symbol, list[str], list[str]]:
    """Mend a quantised graph where MXNet writes signed numbers and reads them as unsigned, or the other way round.

    It computes a convolution and the sum after it in the type of the other summand. If that is signed and the result
    is not, as in the blocks of a ResNet that change the size, the upper half of the range would be cut off, so the
    range is doubled. A ReLU that is not fused reads unsigned numbers as signed ones.

    Args:
        symbol: the graph that MXNet's quantisation returns.

    Returns:
        (symbol, widened, wrong): the graph, the names of the nodes whose ranges were doubled, and the names (before
            quantisation) of the layers that cannot be mended and have to stay in float.
    """
    graph, internals = json.loads(symbol.tojson()), symbol.get_internals()
    widened: list[str] = []
    wrong: list[str] = []
    types = dict(zip(internals.list_outputs(), internals.infer_type(data=np.float32)[1]))

    def type_of(node):
        return types.get(f"{node['name']}_output", types.get(f"{node['name']}_output0"))

    def type_read(node, slot):
        return type_of(graph["nodes"][node["inputs"][slot][0]])

    for node in graph["nodes"]:
        if node["op"] == "_contrib_quantized_act" and type_read(node, 0) == np.uint8:
            wrong.append(node["name"].replace("quantized_", "", 1))
        if node["op"] == "_sg_mkldnn_conv" and {"quantized", "with_sum"} <= node["attrs"].keys():
            summand, result = type_read(node, -5), type_of(node)  # the last four inputs are ranges
            if summand == np.uint8 and result == np.int8:
                wrong += [inner["name"] for inner in node["subgraphs"][0]["nodes"] if inner["op"] == "elemwise_add"]
            elif summand == np.int8 and result == np.uint8:
                node["attrs"]["max_calib_range"] = repr(float(node["attrs"]["max_calib_range"]) * 255 / 127)
                widened.append(node["name"])
    return _symbol(graph), widened, wrong
