"""Graphs written so that MXNet 1.9.1 fuses and quantises them rightly.

Its fusion for oneDNN (`src/operator/subgraph/mkldnn`) replaces a layer and what follows it by one operator, and in some
graphs gives others that read the layer something else than the layer's output. The functions here change graphs in
MXNet's JSON; what they compute stays the same.
"""

import json

import mxnet as mx
import numpy as np
from mxnet import nd

INT8 = "MKLDNN_QUANTIZE"  # the backend that fuses a graph for int8
_ACTIVATIONS = {"Activation", "LeakyReLU", "clip"}
_FOLLOWERS = {  # layer -> what reads its output and may be fused with it
    "Convolution": {"BatchNorm", "elemwise_add", *_ACTIVATIONS},
    "BatchNorm": {"elemwise_add", *_ACTIVATIONS},
    "elemwise_add": _ACTIVATIONS,
    "FullyConnected": {"abs", "exp", "sqrt", "square", *_ACTIVATIONS},
}


def prepare(symbol, backend="MKLDNN", all_apart=False):
    """Return a symbol in which a backend finds only what it fuses rightly.

    MXNet means to fuse a layer with a reader of its output only if there is no other reader. But its search overlooks
    some: a sum that is fused with another layer already or would close a loop, the outputs of the graph, and after a
    dense layer all but the first. They are then given the output of the fused operator instead. Where that may happen,
    a sum of one operand, which MXNet fuses with nothing, is put between the layer and all its readers.

    Args:
        symbol: `mx.sym.Symbol`.
        backend: "MKLDNN", or `INT8`.
        all_apart: True lets nothing be fused at all.
    """
    graph = json.loads(symbol.tojson())
    _pool_again(graph)
    _drop_copies(graph)
    readers = [[] for _ in graph["nodes"]]
    for node in graph["nodes"]:
        for place, *_ in node["inputs"]:
            readers[place].append(node)
    for place, *_ in graph["heads"]:
        readers[place].append(None)
    nodes, places, apart = [], [], {}

    def moved(edges):
        return [
            [places[place] if output else apart.get(place, places[place]), output, *rest]
            for place, output, *rest in edges
        ]

    for place, (node, mine) in enumerate(zip(graph["nodes"], readers)):
        source = graph["nodes"][node["inputs"][0][0]]["op"] if node["inputs"] else None
        places.append(len(nodes))
        nodes.append({**node, "inputs": moved(node["inputs"])})
        if (
            _is_wrong(node["op"], mine)
            or backend == INT8
            and _is_wrong_in_int8(node["op"], source, mine)
            or all_apart
            and _followers(node["op"], mine)
        ):
            apart[place] = len(nodes)
            nodes.append(
                {
                    "op": "add_n",
                    "name": f"{node['name']}_apart",
                    "attrs": {"num_args": "1"},
                    "inputs": [[places[place], 0, 0]],
                }
            )
    return _symbol(
        {
            "nodes": nodes,
            "heads": moved(graph["heads"]),
            "attrs": graph["attrs"],
            "arg_nodes": [place for place, node in enumerate(nodes) if node["op"] == "null"],
        }
    )


def _symbol(graph):
    return mx.sym.load_json(json.dumps(graph, ensure_ascii=False))  # MXNet reads no \u


def _pool_again(graph):
    """Let oneDNN compute the mean of each map, in int8 too; `replace_global_pooling` is for training."""
    for node in graph["nodes"]:
        if node["op"] == "mean" and node.get("attrs") == {"axis": "(2, 3)", "keepdims": "True"}:
            node.update(op="Pooling", attrs={"global_pool": "True", "pool_type": "avg", "kernel": "(1, 1)"})


def _drop_copies(graph):
    """Take out what only copies at prediction, as MXNet does: who reads the copy is a reader of what is copied."""
    copied = {}  # place -> edge to what it copies

    def moved(edges):
        return [copied.get(edge[0], edge) for edge in edges]

    for place, node in enumerate(graph["nodes"]):
        node["inputs"] = moved(node["inputs"])
        drops = node["op"] == "Dropout" and node.get("attrs", {}).get("mode", "training") == "training"
        if (node["op"] == "_copy" or drops) and graph["nodes"][node["inputs"][0][0]]["op"] != "null":
            copied[place] = node["inputs"][0]
            node.update(op="null", inputs=[])  # nothing leads to it any more
    graph["heads"] = moved(graph["heads"])


def _followers(op, readers):
    """Return the places of those readers, nodes or None for an output of the graph, that may be fused with a layer."""
    return {place for place, reader in enumerate(readers) if reader and reader["op"] in _FOLLOWERS.get(op, ())}


def _is_wrong(op, readers):
    """Whether MXNet may fuse a layer with one of its readers and overlook another, or fuses an unusual BatchNorm."""
    followers = _followers(op, readers)
    overlooked = {
        place
        for place, reader in enumerate(readers)
        if reader is None or reader["op"] == "elemwise_add" or op == "FullyConnected"
    }
    unusual = any(readers[place]["op"] == "BatchNorm" and not is_plain_norm(readers[place]) for place in followers)
    return unusual or bool(followers and overlooked) and len(followers | overlooked) > 1


def _is_wrong_in_int8(op, source, readers):
    """The same for what is only wrong in int8; `source` is the operator of the layer's first input.

    Of several readers of a dense layer or of an output of the graph, some take integers and some take floats, and MXNet
    gives all of them the same. GELU after a convolution gets scaled numbers; the leaky ReLU after a dense layer loses
    what is negative.
    """
    dense = "FullyConnected" in (op, source if op in _FOLLOWERS["FullyConnected"] else None)
    kinds = [
        reader.get("attrs", {}).get("act_type", "leaky") for reader in readers if reader and reader["op"] == "LeakyReLU"
    ]
    wrong = op in _FOLLOWERS and ("leaky" if op == "FullyConnected" else "gelu") in kinds
    return wrong or len(readers) > 1 and (dense or None in readers)


def is_plain_norm(node):
    """Whether a BatchNorm node is over the channels, as fusion takes it to be, and returns only one array."""
    settings = node.get("attrs", {})
    return settings.get("axis", "1") == "1" and settings.get("output_mean_var", "False") not in ("True", "1")


def fixed_gammas(symbol, arguments):
    """Return ones for each gamma that BatchNorm does not read because of `fix_gamma`; in int8 MXNet reads it.

    Args:
        symbol: `mx.sym.Symbol`.
        arguments: dict from name to NDArray.

    Returns:
        dict from name to NDArray.
    """
    nodes = json.loads(symbol.tojson())["nodes"]
    gammas = [
        nodes[node["inputs"][1][0]]["name"]
        for node in nodes
        if node["op"] == "BatchNorm" and node.get("attrs", {}).get("fix_gamma", "True") in ("True", "1")
    ]
    return {name: nd.ones_like(arguments[name]) for name in gammas if name in arguments}


def mend_int8(symbol):
    """Mend a quantised graph where MXNet writes signed numbers and takes them for unsigned, or the other way round.

    It computes a convolution and the sum after it in the type of the other summand. Where that is signed and the result
    is not, as in the blocks of a ResNet that change the size, the upper half of the range would be cut off, so the
    range is made twice as wide. A ReLU that is not fused takes unsigned numbers for signed ones.

    Args:
        symbol: what MXNet's quantisation returns.

    Returns:
        (symbol, widened, wrong): the graph, the names of the nodes whose ranges were made wider, and those of the layers
            that cannot be mended and have to stay in float, as they were called before quantisation.
    """
    graph, internals = json.loads(symbol.tojson()), symbol.get_internals()
    widened, wrong = [], []
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
