"""Graphs of strangers, each in a process of its own: MXNet would call a pointer in the file, or end the process."""

import json
import resource
import subprocess
import sys

from d2lcls.models.symbols.allowed import ALLOWED, NotAllowed, check_graph, load_symbol

import pytest

# Operators that ended the process, or never returned, when they were run with hostile attributes.
KILLERS = [
    "_Native",
    "_NDArray",
    "_imdecode",
    "where",
    "_cvimdecode",
    "_backward_Activation",
    "_backward_Custom",
    "Custom",
]
HOSTILE = [
    {},
    {"info": "0x10"},
    {
        "kernel": "(3, 3)", "num_filter": "4", "num_hidden": "4", "pool_type": "max", "act_type": "relu",
        "num_outputs": "2", "num_args": "1", "shape": "(-4, -4)", "axis": "1", "scalar": "0", "a_min": "0",
        "a_max": "1", "reps": "(2, 2)", "repeats": "2", "begin": "(0,)", "end": "(9,)", "block_size": "2",
        "depth": "4", "dim1": "0", "dim2": "1", "scale": "2", "sample_type": "nearest", "input_dim": "2",
        "output_dim": "2", "mode": "constant", "pad_width": "(0, 0, 0, 0, 1, 1, 1, 1)", "dtype": "float32",
    },
    {"kernel": "(9, 9)", "num_filter": "1", "pool_type": "avg", "axis": "-8", "size": "(7, 0)", "stride": "(0, 0)"},
    {"num_args": "0", "num_outputs": "0", "shape": "()", "axis": "()", "k": "0", "block_size": "0", "depth": "0"},
    {"shape": "(2147483647, 2147483647)", "reps": "(2147483647,)", "repeats": "2147483647", "num_group": "0"},
]  # fmt: skip
RUN = """
import json, sys
from d2lcls.deploy.graph.input_shapes import check_sizes, infer_shapes
from d2lcls.models.symbols.allowed import load_symbol
import mxnet as mx
for content in json.load(sys.stdin):
    op = content["nodes"][-1]["op"]
    print("start", op, flush=True)
    try:
        symbol = load_symbol(json.dumps(content))
    except ValueError as error:
        print("refused", op, " ".join(str(error).split()), flush=True)
        continue
    try:
        names = symbol.list_inputs()
        check_sizes(symbol, infer_shapes(symbol, {name: (2, 4, 4, 4) for name in names[:1]}))
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", **{name: (2, 4, 4, 4) for name in names[:1]})
        for output in executor.forward(is_train=False):
            output.wait_to_read()
        print("computed", op, flush=True)
    except Exception as error:
        print("failed", op, type(error).__name__, flush=True)
"""


def graph_of(op, inputs=1, **attributes):
    nodes = [{"op": "null", "name": f"in{index}", "inputs": []} for index in range(inputs)]
    edges = [[index, 0, 0] for index in range(inputs)]
    nodes.append({"op": op, "name": "layer", "attrs": attributes, "inputs": edges})
    return {"nodes": nodes, "arg_nodes": list(range(inputs)), "heads": [[inputs, 0, 0]]}


def run(contents, seconds=5):
    """Run graphs one after another in a process of its own, and return its output lines and its exit code."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    command = [sys.executable, "-W", "ignore", "-c", RUN]
    try:
        done = subprocess.run(
            command, input=json.dumps(contents), text=True, capture_output=True, timeout=seconds + 10, preexec_fn=limit
        )
    except subprocess.TimeoutExpired as expired:
        return (expired.stdout or b"").decode().splitlines(), "hung"
    return done.stdout.splitlines(), done.returncode


@pytest.mark.parametrize("op", KILLERS)
def test_operators_that_end_the_process_are_refused(op):
    with pytest.raises(NotAllowed, match=f"the operator {op} is not allowed"):
        load_symbol(json.dumps(graph_of(op, info="0x10")))


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"heads": [[7, 0, 0]]}, "the list of heads refers to output 0 of node 7"),
        ({"heads": [[1, 5, 0]]}, "the list of heads refers to output 5 of node 1"),
        ({"heads": []}, "it has no outputs"),
        ({"nodes": []}, "no list of nodes"),
        ({"nodes": [{"op": "relu", "name": "a", "inputs": [[0, 0, 0]]}]}, "refers to output 0 of node 0"),
        ({"nodes": [{"op": "null", "name": "a", "attrs": {"x": 1}}]}, "its attrs are not strings"),
    ],
)
def test_malformed_graphs_are_refused(change, reason):
    with pytest.raises(NotAllowed, match=reason):
        check_graph({**graph_of("relu"), **change})


@pytest.mark.parametrize("place", ["param", "attr"])
def test_attributes_under_older_names_do_not_reach_mxnet(place):
    graph = graph_of("Convolution", 2, kernel="(1, 1)", num_filter="2", no_bias="True")
    graph["nodes"][-1][place] = {**graph["nodes"][-1]["attrs"], "num_group": "0"}
    assert "num_group" not in load_symbol(json.dumps(graph)).tojson()
    lines, code = run([graph])  # MXNet would divide by the number of groups
    assert code == 0, lines[-1]


def test_parts_that_are_not_needed_do_not_reach_mxnet():
    graph = graph_of("relu")
    graph["nodes"][-1].update(control_deps=[99], backward_source_id=99)
    symbol = load_symbol(json.dumps({**graph, "arg_nodes": [99], "node_row_ptr": [-1], "attrs": {"x": ["int", 1]}}))
    assert symbol.list_arguments() == ["in0"] and symbol.list_outputs() == ["layer_output"]


def test_inner_graphs_are_checked_too():
    fused = graph_of("_sg_mkldnn_conv")
    with pytest.raises(NotAllowed, match="should have 1 inner graphs"):
        check_graph(fused)
    for inner, reason in ((graph_of("_Native"), "_Native is not allowed"), (graph_of("relu"), "must have one Conv")):
        fused["nodes"][-1]["subgraphs"] = [inner]
        with pytest.raises(NotAllowed, match=reason):
            check_graph(fused)


@pytest.mark.parametrize("inputs", [0, 1, 20])
def test_fused_layers_have_the_inputs_of_their_inner_graph(inputs):
    fused = graph_of("_sg_mkldnn_conv", inputs)
    fused["nodes"][-1]["subgraphs"] = [graph_of("Convolution", 3, kernel="(3, 3)", num_filter="4")]
    with pytest.raises(NotAllowed, match=f"it has {inputs} inputs, and its inner graph has 3"):
        check_graph(fused)


@pytest.mark.parametrize("flag", ["with_bn", "with_sum"])
def test_fused_layers_hold_what_they_say(flag):
    fused = graph_of("_sg_mkldnn_conv", 3, **{flag: "true"})
    fused["nodes"][-1]["subgraphs"] = [graph_of("Convolution", 3, kernel="(3, 3)", num_filter="4")]
    with pytest.raises(NotAllowed, match=f"its {flag} does not fit its inner graph"):
        check_graph(fused)


def test_deep_nesting_is_refused():
    with pytest.raises(NotAllowed, match="it is not JSON"):
        load_symbol('{"nodes": ' + "[" * 100_000)


def test_a_sample_of_allowed_operators_neither_ends_the_process_nor_hangs():
    ops = ["Convolution", "Pooling", "FullyConnected", "Reshape", "tile", "topk", "SliceChannel", "BatchNorm"]
    lines, code = run([graph_of(op, inputs, **hostile) for op in ops for inputs in (1, 3) for hostile in HOSTILE], 60)
    assert code == 0, lines[-1]


@pytest.mark.slow
def test_no_registered_operator_ends_the_process_or_hangs():
    import mxnet as mx

    registered = sorted(mx.operator.get_all_registered_operators())
    bad, counts = [], {"refused": 0, "computed": 0, "failed": 0}
    refused = [op for op in registered if op not in ALLOWED]
    for op in refused:
        for hostile in HOSTILE:
            with pytest.raises(NotAllowed, match="is not allowed"):
                check_graph(graph_of(op, **hostile))
            counts["refused"] += 1
    rest = [
        graph_of(op, inputs, **hostile)
        for op in registered
        if op in ALLOWED
        for hostile in ({key: value for key, value in one.items() if _takes(op, key)} for one in HOSTILE)
        for inputs in (0, 1, 2, 3, 5)
    ]
    while rest:
        lines, code = run(rest, 120)
        started = sum(line.startswith("start ") for line in lines)
        for line in lines:
            if line.split()[0] in counts:
                counts[line.split()[0]] += 1
        if code == 0:
            break
        assert started, "the process did not start"
        bad.append((rest[started - 1]["nodes"][-1], code))
        rest = rest[started:]
    print(len(registered), "operators,", counts, "killed or hung:", bad)
    assert not bad


def _takes(op, key):
    import mxnet as mx

    return key in mx.operator.get_operator_arguments(op).names
