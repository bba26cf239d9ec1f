"""Graphs in every form that MXNet has written, and graphs that would end the process if MXNet read them."""

import json

from d2lcls.deploy.graph.symbol_json import SymbolError, parse_symbol, read_symbol
from d2lcls.deploy.rescue.load import build_old_model

import mxnet as mx
import numpy as np
import pytest

sym = mx.sym


def network():
    data = sym.var("data")
    x = sym.Convolution(data, kernel=(3, 3), num_filter=4, name="conv")
    x = sym.LeakyReLU(sym.BatchNorm(x, name="bn"), act_type="prelu", name="prelu")
    x = sym.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type="max", name="pool")
    return sym.SoftmaxOutput(sym.FullyConnected(x, num_hidden=3, name="fc"), name="softmax")


def in_form(symbol, form):
    """Write a symbol as MXNet of 2015 ("param"), 2016 ("param attr"), 2017 ("attr") or since ("attrs") did."""
    found = json.loads(symbol.tojson())
    nodes, arg_nodes, places = [], [], {}
    if form == "attrs":
        return found
    statistics = set(symbol.list_auxiliary_states())
    for place, node in enumerate(found["nodes"]):
        if node["name"] in statistics and "param" in form:
            continue  # running statistics were no nodes yet
        places[place] = len(nodes)
        made = {
            "op": node["op"],
            "name": node["name"],
            "inputs": [
                [places[edge[0]], edge[1]] + ([0] if form == "attr" else [])
                for edge in node["inputs"]
                if edge[0] in places
            ],
        }
        settings = {key: value.replace(" ", "") for key, value in node.get("attrs", {}).items()}
        if form == "attr":
            made["attr"] = settings
        else:
            made.update(param=settings, backward_source_id=-1)
            if form == "param attr":
                made["attr"] = {"lr_mult": "2"}
        if node["op"] == "null":
            arg_nodes.append(len(nodes))
        nodes.append(made)
    heads = [[places[edge[0]], edge[1]] + ([0] if form == "attr" else []) for edge in found["heads"]]
    return {"nodes": nodes, "arg_nodes": arg_nodes, "heads": heads}


def values(symbol, seed=0):
    rng = np.random.default_rng(seed)
    shapes, _, statistics = symbol.infer_shape(data=(1, 3, 8, 8))
    return {
        name: rng.uniform(0.5, 1.5, shape).astype(np.float32)
        for name, shape in [*zip(symbol.list_arguments(), shapes), *zip(symbol.list_auxiliary_states(), statistics)]
        if name not in ("data", "softmax_label")
    }


@pytest.mark.parametrize(
    "form, version", [("param", "before 0.9"), ("param attr", "before 0.9"), ("attr", "of 0.9 to"), ("attrs", "1.9.1")]
)
def test_every_form_computes_the_same(form, version, tmp_path):
    symbol = network()
    path = tmp_path / "net-symbol.json"
    path.write_text(json.dumps(in_form(symbol, form), indent=2))
    graph = read_symbol(path)
    assert graph.version.startswith(version)
    arrays, x = values(symbol), np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
    model = build_old_model(graph, arrays, (3, 8, 8))
    executor = symbol.bind(
        mx.cpu(),
        {
            "data": mx.nd.array(x),
            "softmax_label": mx.nd.zeros(2),
            **{name: mx.nd.array(arrays[name]) for name in symbol.list_arguments() if name in arrays},
        },
        grad_req="null",
        aux_states={name: mx.nd.array(arrays[name]) for name in symbol.list_auxiliary_states()},
    )
    expected = executor.forward(is_train=False)[0].asnumpy()
    np.testing.assert_allclose(model.run(x)["softmax_output"], expected, rtol=1e-4, atol=1e-7)
    assert len(np.unique(expected.round(4))) > 2
    again = parse_symbol(model.symbol.tojson())
    assert [node.op for node in again.nodes] == [
        json.loads(model.symbol.tojson())["nodes"][i]["op"] for i in range(len(again.nodes))
    ]


def graph_of(*nodes, heads=None):
    nodes = [{"op": "null", "name": "data", "inputs": []}, *nodes]
    return {"nodes": nodes, "arg_nodes": [0], "heads": heads or [[len(nodes) - 1, 0]]}


def node(op, inputs=((0, 0),), name="layer", **attributes):
    return {"op": op, "name": name, "attrs": attributes, "inputs": [list(edge) for edge in inputs]}


def test_what_is_upgraded():
    graph = parse_symbol(
        json.dumps(
            graph_of(
                node("Reshape", target_shape="(0,27)", keep_highest="1"),
                node("Convolution_v1", ((0, 0),), "conv", kernel="[3L, 3L]", num_filter="2", no_bias="1"),
            )
        )
    )
    assert graph.nodes[1].attributes == {"shape": "(0, 27)"}
    assert graph.nodes[2].op == "Convolution" and graph.nodes[2].original == "Convolution_v1"
    assert graph.nodes[2].attributes == {"kernel": "(3, 3)", "num_filter": "2", "no_bias": "True"}
    assert graph.changes == ("Reshape's target_shape is now shape", "Convolution_v1 is now Convolution")
    graph = parse_symbol(json.dumps(graph_of(node("Reshape", target_shape="(2,0)"))))
    assert graph.nodes[1].attributes == {"shape": "(2, -1)"}
    model = build_old_model(
        parse_symbol(json.dumps(graph_of(node("CuDNNBatchNorm")))),
        {f"layer_{name}": np.ones(3, np.float32) for name in ("gamma", "beta", "moving_mean", "moving_var")},
        (3, 2, 2),
    )
    np.testing.assert_allclose(model.run(np.full((1, 3, 2, 2), 3, np.float32))["layer_output"], 1 + 2 / 1.001**0.5)


UNSOUND = [
    ("{", "it is not JSON"),
    ("[" * 100000, "it is not JSON"),
    ("[]", "no list of nodes"),
    ('{"nodes": []}', "no list of nodes"),
    (graph_of(7), "node 1 is not an object"),
    (graph_of({"op": 1, "name": "a"}), "no operator or no name"),
    (graph_of({"op": "relu", "name": "a\0b", "inputs": []}), "no operator or no name"),
    (graph_of({"op": "relu", "name": "a", "param": {"x": 1}, "inputs": []}), "its param are not strings"),
    (graph_of(node("relu", ((1, 0),))), "refers to output 0 of node 1, which is not before it"),
    (graph_of(node("relu", ((-1, 0),))), "refers to output 0 of node -1"),
    (graph_of(node("relu", ((0, 99999),))), "refers to output 99999 of node 0, which has 1"),
    (graph_of(node("relu", ((0, 0, 0, 0),))), "expected two or three numbers"),
    (graph_of(node("relu"), heads=[[5, 0]]), "the list of heads refers to output 0 of node 5"),
    (graph_of(heads=[]) | {"heads": []}, "no outputs"),
    (
        graph_of(node("Convolution", kernel="(3, 3)", num_filter="4", num_group="0")),
        "'layer'.*num_group is '0', expected whole",
    ),
    (graph_of(node("Pooling", kernel="(2, 2)", stride="(0, 0)")), "stride is '0, 0', expected whole numbers from 1 to"),
    (graph_of(node("SliceChannel", num_outputs="1000000000")), "num_outputs is '1000000000', expected"),
    (graph_of(node("FullyConnected", num_hidden="99999999999999")), "num_hidden is '99999999999999', expected"),
    (graph_of({**node("_sg_mkldnn_conv"), "subgraphs": [{}]}), "holds a graph of its own"),
    (graph_of(node("WarpCTC")), "'layer'.*the operator WarpCTC is not allowed"),
    (graph_of(node("Custom", op_type="of_somebody")), "the operator Custom is not allowed"),
    (graph_of(node("_Native", info="0x1234")), "the operator _Native is not allowed"),
    (graph_of(node("_NDArray", info="0x1234")), "the operator _NDArray is not allowed"),
    (graph_of(node("_imdecode", ((0, 0),) * 2)), "the operator _imdecode is not allowed"),
    (graph_of(node("_cvimread", (), filename="/etc/passwd")), "the operator _cvimread is not allowed"),
    (graph_of(node("_backward_Activation")), "the operator _backward_Activation is not allowed"),
    (graph_of(node("_zeros", (), shape="(100000, 100000)")), "its shape is .100000, 100000., more than"),
    (graph_of(node("tile", reps="(1000000,)")), "its reps is '1000000', expected whole numbers from 1 to 4096"),
    (graph_of(node("relu", __storage_type__="1")), "its __storage_type__ is '1', which is not allowed"),
    (graph_of({**node("null"), "name": "v"}), "variable with inputs"),
    (graph_of(node("relu", ((0, 1),))), "refers to output 1 of node 0, which has 1"),
    (
        graph_of(node("SliceChannel", num_outputs="3"), node("relu", ((1, 3),), "next")),
        "output 3 of node 1, which has 3",
    ),
    (graph_of(node("relu"), heads=[[1, 1]]), "the list of heads refers to output 1 of node 1, which has 1"),
    (graph_of(node("relu", ((0, 0), (0, 0)))), "it has 2 inputs, and relu takes 1"),
    (graph_of(node("Activation")), "MXNet cannot build"),
    (graph_of(node("Pooling", kernel="many", pool_type="max")), "its kernel is 'many', expected whole numbers"),
    (graph_of(node("Pooling", kernel="(" + "9" * 5000 + ",)")), "its kernel is"),
    (graph_of(node("Pooling", kernel="(" + " " * 10**6)), "its attrs have a string of 1000001 characters"),
]


@pytest.mark.parametrize("content, reason", UNSOUND)
def test_what_is_not_sound_never_reaches_mxnet(content, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(mx.sym, "load_json", None)
    path = tmp_path / "net-symbol.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(SymbolError, match=f"net-symbol.json: cannot be read as MXNet's graph .*{reason}"):
        read_symbol(path)


def test_an_output_that_is_there():
    graph = parse_symbol(json.dumps(graph_of(node("SliceChannel", num_outputs="3"), node("relu", ((1, 2),), "next"))))
    assert graph.complete().load().list_outputs() == ["next_output"]


def test_flipped_bits_give_an_error_or_a_network():
    rng, outcomes = np.random.default_rng(0), {True: 0, False: 0}
    symbol = network()
    arrays, x = values(symbol), np.zeros((1, 3, 8, 8), np.float32)
    contents = [json.dumps(in_form(symbol, form)).encode() for form in ("param", "attr", "attrs")]
    for turn in range(300):
        content = bytearray(contents[turn % 3])
        if turn % 10 == 0:
            del content[rng.integers(len(content)) :]
        for place in rng.integers(len(content), size=rng.integers(1, 3)):
            content[place] ^= 1 << rng.integers(7)
        try:
            outputs = build_old_model(parse_symbol(bytes(content)), arrays, (3, 8, 8)).run(x)
        except ValueError as error:
            outcomes[False] += 1
            assert str(error) and "Stack trace" not in str(error)
        else:
            outcomes[True] += 1
            assert outputs
    assert min(outcomes.values()) > 10


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such graph file"):
        read_symbol(tmp_path / "net-symbol.json")
