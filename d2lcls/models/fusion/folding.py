"""Folds the constant parts of an MXNet graph, such as batch normalisation, into its parameters."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from d2lcls.models.fusion.fusible import is_plain_norm
from d2lcls.models.fusion.unfused import run

import mxnet as mx
import numpy as np


def nodes(symbol: mx.sym.Symbol) -> list[dict[str, Any]]:
    """Return a graph's nodes as a list of dicts with "op" ("null" for inputs and parameters), "name", "inputs"."""
    return json.loads(symbol.tojson())["nodes"]


def fold_constants(
    symbol: mx.sym.Symbol, arguments: Mapping[str, mx.nd.NDArray]
) -> tuple[mx.sym.Symbol, Mapping[str, mx.nd.NDArray]]:
    """Compute once what depends on parameters alone, such as weights that are padded before they are used.

    Args:
        symbol: the graph.
        arguments: its parameters by name.

    Returns:
        (symbol, arguments): the graph without these operators; their outputs are parameters with their names.
    """
    graph = json.loads(symbol.tojson())
    constant: list[bool] = []
    folded = []
    for node in graph["nodes"]:
        inputs = [index for index, *_ in node["inputs"]]
        known = node["name"] in arguments if node["op"] == "null" else bool(inputs) and all(constant[i] for i in inputs)
        constant.append(known)
        if known and node["op"] != "null":
            folded.append(node)
    if not folded:
        return symbol, arguments
    internals, arguments = symbol.get_internals(), dict(arguments)
    for node in folded:
        value = internals[f"{node['name']}_output"]
        needed = {name: arguments[name] for name in value.list_arguments()}
        arguments[node["name"]] = mx.nd.array(run(value, needed)[0])
    for node in folded:
        node.update(op="null", inputs=[], attrs={})
    symbol = rebuilt(graph)
    return symbol, {name: arguments[name] for name in symbol.list_arguments() if name in arguments}


def fold_batch_norm(
    symbol: mx.sym.Symbol, arguments: Mapping[str, mx.nd.NDArray], statistics: Mapping[str, mx.nd.NDArray]
) -> tuple[mx.sym.Symbol, dict[str, mx.nd.NDArray], dict[str, mx.nd.NDArray]]:
    """Fold each batch normalisation that follows a convolution into its weights, which is right for prediction only.

    So is one that follows max-pooling after a convolution, if it changes no sign; a ReLU after it moves before the
    pooling, as neither changes which number is the largest, so that the ReLU fuses with the convolution.

    Args:
        symbol, arguments, statistics: as `d2lcls.models.fusion.fused.trace` returns them.

    Returns:
        (symbol, arguments, statistics): the same function to within rounding, with fewer layers and parameters.
    """
    graph, values = json.loads(symbol.tojson()), {**arguments, **statistics}
    uses = Counter(index for node in graph["nodes"] for index, *_ in node["inputs"])
    uses.update(index for index, *_ in graph["heads"])
    replaced: dict[int, int] = {}  # index of a batch normalisation -> of its convolution
    for index, node in enumerate(graph["nodes"]):
        node["inputs"] = [[replaced.get(source, source), *rest] for source, *rest in node["inputs"]]
        settings = node.get("attrs", {})
        if node["op"] != "BatchNorm" or not is_plain_norm(node):
            continue
        before = graph["nodes"][node["inputs"][0][0]]
        pooled = _is_max_pooling(before) and uses[node["inputs"][0][0]] == 1
        source = before["inputs"][0][0] if pooled else node["inputs"][0][0]
        convolution = graph["nodes"][source]
        if convolution["op"] != "Convolution" or uses[source] > 1:
            continue
        own = [graph["nodes"][source] for source, *_ in node["inputs"][1:]]
        if not all(graph["nodes"][source]["name"] in values for source, *_ in convolution["inputs"][1:]):
            continue  # its weight is no parameter: see `fold_constants`
        if any(uses[source] > 1 for source, *_ in [*convolution["inputs"][1:], node["inputs"][2]]):
            continue  # another layer reads these parameters too
        gamma, beta, mean, variance = (values[parameter["name"]].asnumpy().astype(np.float64) for parameter in own)
        if settings.get("fix_gamma", "True") in ("True", "1"):
            gamma = np.ones_like(gamma)
        factor = gamma / np.sqrt(variance + float(settings.get("eps", 1e-3)))
        if pooled and (factor <= 0).any():
            continue
        parameters = [graph["nodes"][source] for source, *_ in convolution["inputs"][1:]]
        weight = values[parameters[0]["name"]].asnumpy()
        bias = values[parameters[1]["name"]].asnumpy() if len(parameters) > 1 else 0.0
        values[parameters[0]["name"]] = mx.nd.array(weight * factor[(slice(None),) + (None,) * (weight.ndim - 1)])
        if len(parameters) == 1:  # beta's node becomes the convolution's bias; it comes after the convolution
            convolution["attrs"]["no_bias"] = "False"
            convolution["inputs"].append([node["inputs"][2][0], 0, 0])
        target = parameters[1] if len(parameters) > 1 else own[1]
        values[target["name"]] = mx.nd.array(beta + (bias - mean) * factor)
        replaced[index] = node["inputs"][0][0]
        uses[replaced[index]] = uses[index]
        node.update(op="null", inputs=[])  # nothing reads it any more
    graph["heads"] = [[replaced.get(index, index), *rest] for index, *rest in graph["heads"]]
    _put_relu_first(graph)
    symbol = rebuilt(sorted_nodes(graph))
    return (
        symbol,
        {name: values[name] for name in symbol.list_arguments() if name in values},
        {name: values[name] for name in symbol.list_auxiliary_states()},
    )


def _is_max_pooling(node):
    return node["op"] == "Pooling" and node["attrs"].get("pool_type", "max") == "max"


def _put_relu_first(graph):
    """Exchange max-pooling and a ReLU that alone reads its output; padding counts as minus infinity."""
    nodes_, uses = graph["nodes"], Counter(index for node in graph["nodes"] for index, *_ in node["inputs"])
    uses.update(index for index, *_ in graph["heads"])
    for node in nodes_:
        if node["op"] == "Activation" and node["attrs"]["act_type"] == "relu":
            pooling = nodes_[node["inputs"][0][0]]
            if _is_max_pooling(pooling) and uses[node["inputs"][0][0]] == 1:
                kept = {key: node[key] for key in ("op", "name", "attrs")}
                node.update({key: pooling[key] for key in kept})  # the later node becomes the pooling
                pooling.update(kept)


def sorted_nodes(graph: dict[str, Any]) -> dict[str, Any]:
    """Move parameters to the front, so that every node comes after its inputs again."""
    old = graph["nodes"]
    order = sorted(range(len(old)), key=lambda index: (old[index]["op"] != "null", index))
    new = {index: rank for rank, index in enumerate(order)}
    for node in old:
        node["inputs"] = [[new[index], *rest] for index, *rest in node["inputs"]]
    return {
        **graph,
        "nodes": [old[index] for index in order],
        "heads": [[new[index], *rest] for index, *rest in graph["heads"]],
    }


def rebuilt(graph: dict[str, Any]) -> mx.sym.Symbol:
    """Return the symbol of a changed graph, without the nodes that nothing reads any more."""
    graph["arg_nodes"] = [index for index, node in enumerate(graph["nodes"]) if node["op"] == "null"]
    graph.pop("node_row_ptr", None)
    return mx.sym.load_json(json.dumps(graph, ensure_ascii=False))  # MXNet cannot read \u
