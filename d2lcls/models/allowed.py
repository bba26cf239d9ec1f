"""Which operators a graph from a file may use, and the bounds of their attributes.

MXNet runs whatever a graph names: `_Native` calls a pointer that is in the file, image decoders and backward operators
end the process when their inputs are not what they expect. So only the operators of image classifiers are allowed.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import mxnet as mx

MAX_NODES = 100_000
MAX_TEXT = 1 << 16

# Layers, and the losses that old files end with.
_LAYERS = """
    Activation BatchNorm BatchNorm_v1 CuDNNBatchNorm BlockGrad Concat concat Convolution Convolution_v1 Crop
    Deconvolution Dropout Embedding Flatten flatten FullyConnected GroupNorm InstanceNorm L2Normalization LRN
    LayerNorm LeakyReLU LinearRegressionOutput LogisticRegressionOutput MAERegressionOutput MakeLoss make_loss Pad pad
    Pooling Pooling_v1 Reshape reshape SVMOutput SliceChannel split Softmax SoftmaxActivation SoftmaxOutput
    SoftmaxOutput_v1 SwapAxis swapaxes UpSampling softmax log_softmax softmin stop_gradient IdentityAttachKLSparseReg
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
    round rsqrt sigmoid sign sin sinh smooth_l1 _smooth_l1 softsign sqrt square tan tanh trunc
"""
_SHAPES = """
    Cast cast amp_cast broadcast_axes broadcast_axis broadcast_like broadcast_to crop _crop depth_to_space
    space_to_depth expand_dims flip reverse repeat reshape_like shape_array size_array slice slice_axis slice_like
    squeeze stack tile transpose _split_v2 ones_like zeros_like _zeros _ones
"""
_REDUCTIONS = """
    argmax argmax_channel argmin max max_axis mean min min_axis moments nanprod nansum norm prod sum sum_axis argsort
    sort topk batch_dot dot one_hot pick choose_element_0index element_0index take where linalg_gemm2 _linalg_gemm2
"""
_QUANTISED = """
    _contrib_quantize _contrib_quantize_v2 _contrib_dequantize _contrib_requantize _contrib_quantized_act
    _contrib_quantized_batch_norm _contrib_quantized_concat _contrib_quantized_conv _contrib_quantized_elemwise_add
    _contrib_quantized_elemwise_mul _contrib_quantized_flatten _contrib_quantized_fully_connected
    _contrib_quantized_pooling
"""
_CONTRIBUTED = "AdaptiveAvgPooling2D BilinearResize2D SyncBatchNorm"  # names of forks, before `_contrib_`
# Layers fused for oneDNN hold a graph of their own: the one layer that they are made of, and what follows it.
FUSED = {"_sg_mkldnn_conv": "Convolution", "_sg_mkldnn_fully_connected": "FullyConnected"}
_IN_FUSED = frozenset(
    ("null", "BatchNorm", "Activation", "LeakyReLU", "clip", "elemwise_add", "_Plus", "_plus", "relu", "abs", "sqrt")
    + ("square", "exp")
)

ALLOWED = frozenset(
    f"null {_LAYERS} {_ARITHMETIC} {_FUNCTIONS} {_SHAPES} {_REDUCTIONS} {_QUANTISED} {_CONTRIBUTED}".split()
) | frozenset(FUSED)

# Smallest and largest whole number of an attribute, of each number in a tuple.
_BOUNDS = {
    **dict.fromkeys(("kernel", "stride", "dilate"), (1, 4096)),
    **dict.fromkeys(("pad", "adj", "pad_width"), (0, 4096)),
    **dict.fromkeys(("target_shape", "output_size", "h_w", "height", "width"), (-1, 1 << 14)),
    **dict.fromkeys(("num_filter", "num_hidden", "num_group", "input_dim", "output_dim", "depth"), (1, 1 << 24)),
    **dict.fromkeys(("num_outputs", "num_args", "sections"), (0, 4096)),
    **dict.fromkeys(("axis", "axis1", "axis2", "axes", "dim1", "dim2", "lhs_axes", "rhs_axes"), (-8, 8)),
    **dict.fromkeys(("lhs_begin", "lhs_end", "rhs_begin", "rhs_end"), (-8, 8)),
    **dict.fromkeys(("repeats", "reps"), (1, 4096)),
    **dict.fromkeys(("nsize", "block_size"), (1, 256)),
    "p_value": (1, 64),
    "workspace": (0, 1 << 20),
    "k": (0, 1 << 24),
    "size": (1, 1 << 24),
    "dim": (-8, 8),
}
_NAMES = {"ctx": re.compile(r"cpu(_pinned|_shared)?(\(\d\))?|")}
_HIDDEN = {"__dtype__": re.compile(r"-1|[0-7]|12"), "__storage_type__": re.compile(r"-1|0")}
_NUMBER = re.compile(r"[-+]?\d+")
_LONG_SHAPE = 1 << 31


class NotAllowed(ValueError):
    """A graph with an operator, an attribute or a structure that is not allowed; the message names the node."""


def check_operator(op: str, attributes: Mapping[str, str]) -> None:
    """Check that a graph may use an operator, and that the numbers in its attributes are within bounds.

    Raises:
        NotAllowed: it may not; the message is a reason without the node's name.
    """
    if op not in ALLOWED:
        raise NotAllowed(
            f"the operator {op} is not allowed, as it is none that image classifiers use. "
            "Use files from a source that you trust, and cut the network off before it"
        )
    for key, value in attributes.items():
        if len(value) > MAX_TEXT:
            raise NotAllowed(f"its {key[:60]} has {len(value)} characters, more than {MAX_TEXT}")
        expected = _NAMES.get(key) or _HIDDEN.get(key)
        if expected and not expected.fullmatch(value):
            raise NotAllowed(f"its {key} is {value[:60]!r}, which is not allowed")
        numbers = [int(number) for number in _NUMBER.findall(value)] if len(value) < 1000 else []
        if key in ("shape", "__shape__", "target_shape"):
            size = math.prod(abs(number) or 1 for number in numbers)
            if len(numbers) > 8 or size >= _LONG_SHAPE:
                raise NotAllowed(f"its {key} is {value[:60]}, more than MXNet's arrays can hold")
        if key in _BOUNDS and not re.search(r"[.eE]", value):
            low, high = _BOUNDS[key]
            if any(not low <= number <= high for number in numbers):
                raise NotAllowed(f"its {key} is {value[:60]}, expected {low} to {high}")
            if len(numbers) > 16:
                raise NotAllowed(f"its {key} has {len(numbers)} numbers, more than any network has")


def check_graph(stored: Any, fused: str | None = None) -> None:
    """Check a graph in the JSON of MXNet 1.9, before MXNet builds it.

    Args:
        stored: the parsed JSON.
        fused: the operator whose inner graph this is; None for a whole graph.

    Raises:
        NotAllowed: an operator or attribute is not allowed, or an edge leads to a node that is not before it.
    """
    if not isinstance(stored, dict) or not isinstance(stored.get("nodes"), list) or not stored["nodes"]:
        raise NotAllowed("it has no list of nodes")
    nodes = stored["nodes"]
    if len(nodes) > MAX_NODES:
        raise NotAllowed(f"it has {len(nodes)} nodes, more than {MAX_NODES}")
    outputs: list[int] = []
    for index, node in enumerate(nodes):
        if not isinstance(node, dict) or any(type(node.get(key)) is not str for key in ("op", "name")):
            raise NotAllowed(f"node {index} has no operator or no name")
        op, attributes = node["op"], node.get("attrs", {})
        where = f"node {index} ({node['name'][:60]!r})"
        if not isinstance(attributes, dict) or any(type(value) is not str for value in attributes.values()):
            raise NotAllowed(f"{where} has attrs that are not strings")
        if fused and op not in (*_IN_FUSED, FUSED[fused]):
            raise NotAllowed(f"{where}: the operator {op} is not allowed inside {fused}")
        try:
            check_operator(op, attributes)
        except NotAllowed as error:
            raise NotAllowed(f"{where}: {error}") from error
        edges = node.get("inputs", [])
        _check_edges(edges, outputs, where)
        _check_inner(node, where)
        outputs.append(_outputs(op, attributes, len(edges), where))
    _check_edges(stored.get("heads"), outputs, "the list of heads")
    if not stored["heads"]:
        raise NotAllowed("it has no outputs")
    places = stored.get("arg_nodes", [])
    if not isinstance(places, list) or any(type(place) is not int or not 0 <= place < len(nodes) for place in places):
        raise NotAllowed("its arg_nodes are not places of nodes")
    variables = {index for index, node in enumerate(nodes) if node["op"] == "null"}
    if "arg_nodes" in stored and set(places) != variables:
        raise NotAllowed("its arg_nodes are not its variables")
    if fused and [node["op"] for node in nodes].count(FUSED[fused]) != 1:
        raise NotAllowed(f"the graph inside {fused} must have one {FUSED[fused]}")


def load_symbol(content: str | bytes) -> mx.sym.Symbol:
    """Return the symbol of a graph in the JSON of MXNet 1.9, after `check_graph`.

    Raises:
        NotAllowed: it is not JSON, or not allowed, or MXNet cannot build it; the reason does not name the file.
    """
    try:
        stored = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NotAllowed(f"it is not JSON: {error}") from error
    check_graph(stored)
    try:
        return mx.sym.load_json(json.dumps(stored, ensure_ascii=False))  # MXNet cannot read \u
    except (mx.MXNetError, UnicodeError) as error:
        raise NotAllowed(f"MXNet cannot build it ({str(error).strip().splitlines()[-1][:300]})") from error


def create(op: str, attributes: Mapping[str, str], name: str) -> mx.sym.Symbol:
    """Return the symbol of a single operator, with a variable called NAME_INPUT for each of its inputs.

    It is not made from JSON, because MXNet prints two lines for each file that leaves such variables out.

    Raises:
        MXNetError: there is no such operator, or it does not take these attributes.
    """
    import ctypes

    from mxnet.base import _LIB, OpHandle, c_str, check_call
    from mxnet.symbol._internal import _symbol_creator

    handle = OpHandle()
    check_call(_LIB.NNGetOpHandle(c_str(op), ctypes.byref(handle)))
    return _symbol_creator(handle.value, None, None, list(attributes), list(attributes.values()), name, False)


def _check_edges(edges: Any, outputs: list[int], what: str) -> None:
    if not isinstance(edges, list):
        raise NotAllowed(f"{what} should be a list of edges")
    for edge in edges:
        if not isinstance(edge, list) or len(edge) not in (2, 3) or any(type(n) is not int for n in edge):
            raise NotAllowed(f"{what} has an edge {json.dumps(edge)[:60]}, expected two or three numbers")
        if not 0 <= edge[0] < len(outputs) or not 0 <= edge[1] < outputs[edge[0]]:
            raise NotAllowed(f"{what} refers to output {edge[1]} of node {edge[0]}, which is not before it")


def _check_inner(node: Mapping[str, Any], where: str) -> None:
    inner = node.get("subgraphs", [])
    if not isinstance(inner, list) or len(inner) != (node["op"] in FUSED):
        raise NotAllowed(f"{where}: {node['op']} has {len(inner) if isinstance(inner, list) else inner} inner graphs")
    for graph in inner:
        try:
            check_graph(graph, node["op"])
        except NotAllowed as error:
            raise NotAllowed(f"{where}: its inner graph cannot be used, as {error}") from error


def _outputs(op: str, attributes: Mapping[str, str], inputs: int, where: str) -> int:
    """Return how many outputs a node has, after checking that it has all of its inputs."""
    if op == "null":
        if inputs:
            raise NotAllowed(f"{where} is a variable with inputs")
        return 1
    if op in FUSED:
        return 3 if attributes.get("quantized", "").lower() in ("true", "1") else 1
    try:
        symbol = create(op, {key: value for key, value in attributes.items() if not key.startswith("__")}, "it")
    except (mx.MXNetError, UnicodeError) as error:
        reason = str(error).strip().splitlines()[-1][:300]
        raise NotAllowed(f"{where}: MXNet cannot build {op} ({reason})") from error
    names = symbol.list_inputs()
    if names and inputs != len(names):
        raise NotAllowed(f"{where} has {inputs} inputs, and {op} takes {len(names)}")
    return len(symbol.get_internals().list_outputs()) - len(names)
