"""Which operators a graph from a file may use, and how its nodes may be connected.

MXNet runs whatever a graph names: `_Native` calls a pointer that is in the file, image decoders and backward operators
end the process when their inputs are not what they expect. So only the operators of image classifiers are allowed.
"""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from d2lcls.models.symbols.attributes import FUSED, NotAllowed, check_attributes

import mxnet as mx

MAX_NODES = 100_000
MAX_TEXT = 1 << 16
VERSION = 10901

# Layers, and the losses that old files end with.
_LAYERS = """
    Activation BatchNorm BlockGrad Concat concat Convolution Crop
    Deconvolution Dropout Embedding Flatten flatten FullyConnected GroupNorm InstanceNorm L2Normalization LRN
    LayerNorm LeakyReLU LinearRegressionOutput LogisticRegressionOutput MAERegressionOutput MakeLoss make_loss Pad pad
    Pooling Reshape reshape SVMOutput SliceChannel split Softmax SoftmaxActivation SoftmaxOutput
    SwapAxis swapaxes UpSampling softmax log_softmax softmin stop_gradient IdentityAttachKLSparseReg
    _contrib_AdaptiveAvgPooling2D _contrib_BilinearResize2D _contrib_SyncBatchNorm _contrib_BatchNormWithReLU
    _contrib_div_sqrt_dim _random_uniform_like _random_normal_like
"""
# Arithmetic on arrays of the same or of broadcast shapes, under all of its names since 2015.
_ARITHMETIC = """
    _add _plus _Plus _sub _minus _Minus _mul _Mul _div _Div _mod _Mod _power _Power _maximum _Maximum _minimum
    _Minimum _hypot _Hypot _grad_add elemwise_add elemwise_sub elemwise_mul elemwise_div add_n ElementWiseSum _equal
    _Equal _not_equal _Not_Equal _greater _Greater _greater_equal _Greater_Equal _lesser _Lesser _lesser_equal
    _Lesser_Equal _logical_and _Logical_And _logical_or _Logical_Or _logical_xor _Logical_Xor _plus_scalar _PlusScalar
    _minus_scalar _MinusScalar _rminus_scalar _RMinusScalar _mul_scalar _MulScalar _div_scalar _DivScalar _rdiv_scalar
    _RDivScalar _mod_scalar _ModScalar _rmod_scalar _RModScalar _power_scalar _PowerScalar _rpower_scalar
    _RPowerScalar _maximum_scalar _MaximumScalar _minimum_scalar _MinimumScalar _hypot_scalar _HypotScalar
    _equal_scalar _EqualScalar _not_equal_scalar _NotEqualScalar _greater_scalar _GreaterScalar _greater_equal_scalar
    _GreaterEqualScalar _lesser_scalar _LesserScalar _lesser_equal_scalar _LesserEqualScalar _logical_and_scalar
    _LogicalAndScalar _logical_or_scalar _LogicalOrScalar _logical_xor_scalar _LogicalXorScalar broadcast_add
    broadcast_plus broadcast_sub broadcast_minus broadcast_mul broadcast_div broadcast_mod broadcast_power
    broadcast_maximum broadcast_minimum broadcast_hypot broadcast_equal broadcast_not_equal broadcast_greater
    broadcast_greater_equal broadcast_lesser broadcast_lesser_equal broadcast_logical_and broadcast_logical_or
    broadcast_logical_xor
"""
_FUNCTIONS = """
    abs arccos arccosh arcsin arcsinh arctan arctanh cbrt ceil clip cos cosh degrees erf exp expm1 fix floor gamma
    gammaln hard_sigmoid identity _copy log log10 log1p log2 logical_not negative radians rcbrt reciprocal relu rint
    round rsqrt sigmoid sign sin sinh smooth_l1 softsign sqrt square tan tanh trunc
"""
_SHAPES = """
    Cast cast amp_cast broadcast_axes broadcast_axis broadcast_like broadcast_to crop depth_to_space
    space_to_depth expand_dims flip reverse repeat reshape_like shape_array size_array slice slice_axis slice_like
    squeeze stack tile transpose _split_v2 ones_like zeros_like _zeros _ones
"""
_REDUCTIONS = """
    argmax argmax_channel argmin max max_axis mean min min_axis moments nanprod nansum norm prod sum sum_axis argsort
    sort topk batch_dot dot one_hot pick choose_element_0index take linalg_gemm2 _linalg_gemm2
"""
_QUANTISED = """
    _contrib_quantize _contrib_quantize_v2 _contrib_dequantize _contrib_requantize _contrib_quantized_act
    _contrib_quantized_batch_norm _contrib_quantized_concat _contrib_quantized_conv _contrib_quantized_elemwise_add
    _contrib_quantized_elemwise_mul _contrib_quantized_flatten _contrib_quantized_fully_connected
    _contrib_quantized_pooling
"""
# What layers fused for oneDNN may hold, besides the layer that they are made of.
_IN_FUSED = frozenset(
    ("null", "BatchNorm", "Activation", "LeakyReLU", "clip", "elemwise_add", "_Plus", "_plus", "relu", "abs", "sqrt")
    + ("square", "exp")
)
# What a fused layer says that it holds, and which operators that is.
_FLAGS = {"with_bn": ("BatchNorm",), "with_sum": ("elemwise_add", "_Plus", "_plus")}

ALLOWED = frozenset(
    f"null {_LAYERS} {_ARITHMETIC} {_FUNCTIONS} {_SHAPES} {_REDUCTIONS} {_QUANTISED}".split()
) | frozenset(FUSED)


def check_graph(
    stored: Any, fused: str | None = None, upgrade: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Check a graph before MXNet builds it.

    Args:
        stored: the parsed JSON of a graph.
        fused: the operator whose inner graph this is; None for a whole graph.
        upgrade: function from a node in an older form to one as MXNet 1.9 writes it; such graphs may leave out the last
            inputs of a node.

    Returns:
        the graph in the form of MXNet 1.9, with nothing but what was checked: MXNet also reads attributes under other
        names.

    Raises:
        NotAllowed: an operator or attribute is not allowed, or an edge leads to a node that is not before it.
    """
    if not isinstance(stored, dict) or not isinstance(stored.get("nodes"), list) or not stored["nodes"]:
        raise NotAllowed("it has no list of nodes: is it a Keras, Caffe or other model?")
    if len(stored["nodes"]) > MAX_NODES:
        raise NotAllowed(f"it has {len(stored['nodes'])} nodes, more than {MAX_NODES}")
    nodes: list[dict[str, Any]] = []
    outputs: list[int] = []
    for index, raw in enumerate(stored["nodes"]):
        if not isinstance(raw, dict):
            raise NotAllowed(f"node {index} is not an object")
        if any(type(raw.get(key)) is not str or "\0" in raw[key] for key in ("op", "name")):
            raise NotAllowed(f"node {index} has no operator or no name")
        try:
            node = _checked(upgrade(raw) if upgrade else raw, outputs, fused)
            outputs.append(_outputs(node, partial=upgrade is not None))
        except NotAllowed as error:
            raise NotAllowed(f"node {index} ({raw['name'][:60]!r}): {error}") from error
        nodes.append(node)
    heads = _edges(stored.get("heads"), outputs, "the list of heads")
    if not heads:
        raise NotAllowed("it has no outputs")
    if fused and [node["op"] for node in nodes].count(FUSED[fused]) != 1:
        raise NotAllowed(f"the graph inside {fused} must have one {FUSED[fused]}")
    return {
        "nodes": nodes,
        "arg_nodes": [index for index, node in enumerate(nodes) if node["op"] == "null"],
        "heads": heads,
        "attrs": {"mxnet_version": ["int", VERSION]},
    }


def load_symbol(content: str | bytes) -> mx.sym.Symbol:
    """Return the symbol of a graph in the JSON of MXNet 1.9, after `check_graph`.

    Raises:
        NotAllowed: it is not JSON, or not allowed, or MXNet cannot build it; the reason does not name the file.
    """
    checked = check_graph(parse_json(content))
    try:
        return mx.sym.load_json(json.dumps(checked, ensure_ascii=False))  # MXNet cannot read \u
    except (mx.MXNetError, UnicodeError) as error:
        raise NotAllowed(f"MXNet cannot build it ({reason_of(error)})") from error


def parse_json(content: str | bytes) -> Any:
    """Parse JSON.

    Raises:
        NotAllowed: it is none.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NotAllowed(f"it is not JSON: {error}") from error


def check_texts(attributes: Any, what: str) -> None:
    """Check that attributes are a dict of strings of bounded length; `what` is their name in the file.

    Raises:
        NotAllowed: they are not.
    """
    if not isinstance(attributes, dict) or any(
        type(value) is not str or "\0" in key + value for key, value in attributes.items()
    ):
        raise NotAllowed(f"its {what} are not strings")
    longest = max(map(len, (*attributes, *attributes.values())), default=0)
    if longest > MAX_TEXT:
        raise NotAllowed(f"its {what} have a string of {longest} characters, more than {MAX_TEXT}")


def signature(op: str, attributes: Mapping[str, str]) -> tuple[tuple[str, ...] | None, int]:
    """Return the names of an operator's inputs (None: any number), and the number of its outputs.

    Raises:
        NotAllowed: MXNet cannot build it with these attributes.
    """
    return _signature(op, tuple(sorted(attributes.items())))


def reason_of(error: BaseException) -> str:
    """Return the line of MXNet's error message that states the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = next(
        (line for line in lines if "Check failed" in line or "rror" in line), lines[0] if lines else "no reason"
    )
    return line.split("MXNetError: ")[-1][:300]


@lru_cache(maxsize=4096)
def _signature(op: str, attributes: tuple[tuple[str, str], ...]) -> tuple[tuple[str, ...] | None, int]:
    try:
        symbol = _create(op, dict(attributes))
    except (mx.MXNetError, UnicodeError) as error:
        raise NotAllowed(f"MXNet cannot build {op} ({reason_of(error)})") from error
    names = symbol.list_inputs()
    outputs = len(symbol.get_internals().list_outputs()) - len(names)
    return tuple(name[len("it_") :] for name in names) or _documented_inputs(op), outputs


def _create(op: str, attributes: Mapping[str, str]) -> mx.sym.Symbol:
    """Return the symbol "it" of a single operator, with a variable it_INPUT for each of its inputs.

    It is not made from JSON, because MXNet prints two lines for each file that leaves such variables out.
    """
    import ctypes

    from mxnet.base import _LIB, OpHandle, c_str, check_call
    from mxnet.symbol._internal import _symbol_creator

    handle = OpHandle()
    check_call(_LIB.NNGetOpHandle(c_str(op), ctypes.byref(handle)))
    shown = {key: value for key, value in attributes.items() if not key.startswith("__")}
    return _symbol_creator(handle.value, None, None, list(shown), list(shown.values()), "it", False)


def _documented_inputs(op: str) -> tuple[str, ...] | None:
    """Return the names of the inputs of an operator that does not name them in graphs; None for any number."""
    arguments = mx.operator.get_operator_arguments(op)
    inputs = [(name, kind) for name, kind in zip(arguments.names, arguments.types) if "Symbol" in kind]
    return None if any("[]" in kind for _, kind in inputs) else tuple(name for name, _ in inputs)


def _checked(raw: Mapping[str, Any], outputs: list[int], fused: str | None) -> dict[str, Any]:
    """Return the parts of a node that MXNet 1.9 needs, checked."""
    op, attributes = raw["op"], raw.get("attrs", {})
    check_texts(attributes, "attrs")
    if fused and op not in (*_IN_FUSED, FUSED[fused]):
        raise NotAllowed(f"the operator {op[:60]} is not allowed inside {fused}")
    if op not in ALLOWED:
        raise NotAllowed(
            f"the operator {op[:60]} is not allowed, as it is none that image classifiers use. "
            "Use files from a source that you trust, and cut the network off before it"
        )
    check_attributes(op, attributes)
    node = {"op": op, "name": raw["name"], "inputs": _edges(raw.get("inputs", []), outputs, "its list of inputs")}
    if attributes:
        node["attrs"] = attributes
    inner = raw.get("subgraphs", [])
    if not isinstance(inner, list) or len(inner) != (op in FUSED):
        raise NotAllowed(f"{op} should have {int(op in FUSED)} inner graphs")
    if inner:
        try:
            node["subgraphs"] = [check_graph(inner[0], fused=op)]
        except NotAllowed as error:
            raise NotAllowed(f"its inner graph cannot be used, as {error}") from error
        for flag, ops in _FLAGS.items():
            found = [part["op"] for part in node["subgraphs"][0]["nodes"] if part["op"] in ops]
            if len(found) != (attributes.get(flag, "").lower() in ("true", "1")):  # MXNet reads what is not there
                raise NotAllowed(f"its {flag} does not fit its inner graph")
    return node


def _edges(edges: Any, outputs: list[int], what: str) -> list[list[int]]:
    """Return edges as three numbers, checked: the node, which of its outputs, and the version that MXNet counts."""
    if not isinstance(edges, list):
        raise NotAllowed(f"{what} should be a list of edges")
    for edge in edges:
        if not isinstance(edge, list) or len(edge) not in (2, 3) or any(type(n) is not int for n in edge):
            raise NotAllowed(f"{what} has an edge {json.dumps(edge)[:60]}, expected two or three numbers")
        if not 0 <= edge[0] < len(outputs):
            raise NotAllowed(f"{what} refers to output {edge[1]} of node {edge[0]}, which is not before it")
        if not 0 <= edge[1] < outputs[edge[0]]:
            raise NotAllowed(f"{what} refers to output {edge[1]} of node {edge[0]}, which has {outputs[edge[0]]}")
        if not 0 <= edge[-1] < 1 << 31:
            raise NotAllowed(f"{what} has an edge {json.dumps(edge)[:60]}, whose version is out of range")
    return [[*edge, 0][:3] for edge in edges]


def _outputs(node: Mapping[str, Any], partial: bool) -> int:
    """Return how many outputs a node has, after checking that it has all of its inputs, or with `partial` the first."""
    op, attributes, inputs = node["op"], node.get("attrs", {}), len(node["inputs"])
    if op == "null":
        if inputs:
            raise NotAllowed("it is a variable with inputs")
        return 1
    if op in FUSED:
        variables = len(node["subgraphs"][0]["arg_nodes"])
        if not variables <= inputs <= variables + 8:  # with ranges if it is quantised; MXNet reads beyond the end
            raise NotAllowed(f"it has {inputs} inputs, and its inner graph has {variables}")
        return 3 if attributes.get("quantized", "").lower() in ("true", "1") else 1
    names, outputs = signature(op, attributes)
    if names is not None and (inputs > len(names) or inputs < len(names) and not partial):
        raise NotAllowed(f"it has {inputs} inputs, and {op} takes {len(names)}")
    return outputs
