"""Which variables of an old graph are its inputs, and which shapes they had: the files state neither."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING

from d2lcls.deploy.graph.names import listed
from d2lcls.deploy.graph.operators import LABEL_SLOT, LEARNED, is_true, whole_numbers
from d2lcls.deploy.graph.symbol_json import Graph, Node
from d2lcls.models.symbols.allowed import ALLOWED

import numpy as np

if TYPE_CHECKING:
    import mxnet as mx

Shape = Sequence[int]
MAX_AXES = 8
RESHAPES = ("Reshape", "reshape", "reshape_like")
DIVISIONS = frozenset(op for op in ALLOWED if "div" in op.lower() or "mod" in op.lower()) | {"norm"}
FLOATS = (np.float16, np.float32, np.float64)
# Sides of the images that networks were made for, in pixels.
# fmt: off
SIZES = (
    12, 24, 28, 32, 40, 48, 56, 60, 64, 72, 80, 96, 100, 108, 112, 120, 128, 144, 150, 160, 176, 192, 200, 224,
    227, 230, 240, 256, 260, 288, 299, 300, 320, 331, 336, 352, 384, 416, 448, 456, 480, 512, 528, 600
)
# fmt: on
LEARNED_NAMES = ("weight", "bias", "gamma", "beta", "moving_mean", "moving_var", "running_mean", "running_var", "alpha")


def infer_shapes(symbol: mx.sym.Symbol, known: Mapping[str, Shape]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all variables, as far as they follow from those of some.

    Args:
        symbol: the graph.
        known: shapes by variable; other names are ignored.

    Returns:
        shapes by variable, in which 0 is an unknown size and () an unknown shape.

    Raises:
        MXNetError: they contradict each other.
    """
    arguments, _, statistics = _infer(symbol, known)
    if arguments is None:
        return {}
    return {**dict(zip(symbol.list_arguments(), arguments)), **dict(zip(symbol.list_auxiliary_states(), statistics))}


class GraphError(ValueError):
    """A graph that cannot be computed with the arrays given for it; the message states the reason, without a file."""


def check_sizes(symbol: mx.sym.Symbol, known: Mapping[str, Shape], types: Mapping[str, type] | None = None) -> int:
    """Check what MXNet does not: empty arrays, reshaping to another size, division, and layers too large for memory.

    MXNet divides by the size of empty arrays, and reads and writes beyond the end of arrays that are reshaped.

    Args:
        symbol: the graph.
        known: shapes of all of its variables.
        types: numpy types of variables that are not float32.

    Returns:
        the bytes of all layers' outputs, if they are float32.

    Raises:
        GraphError: an array is empty or too large, a shape does not follow, or whole numbers are divided.
        MXNetError: the shapes contradict each other.
    """
    import psutil

    for name, shape in known.items():
        if not shape or min(shape) < 1 or len(shape) > MAX_AXES:
            raise GraphError(f"{name!r} has the shape {tuple(shape)}, expected 1 to {MAX_AXES} sizes of 1 or more")
    layers = symbol.get_internals()
    sizes = []
    for name, shape in zip(layers.list_outputs(), infer_outputs(layers, known)):
        if not shape or min(shape) < 1 or len(shape) > MAX_AXES:
            raise GraphError(f"{name!r} would have the shape {shape}, expected 1 to {MAX_AXES} sizes of 1 or more")
        sizes.append(math.prod(shape))
        if sizes[-1] >= 2**31:
            raise GraphError(f"{name!r} would have {sizes[-1]:,} numbers; MXNet's arrays hold less than 2 ** 31")
    reshaped = _around(symbol, RESHAPES)
    shapes = infer_outputs(reshaped, known) if reshaped is not None else []
    for before, after in zip(shapes[::2], shapes[1::2]):
        if math.prod(before) != math.prod(after):
            raise GraphError(f"it reshapes {before} to {after}, which have different numbers of elements")
    divided = _around(symbol, DIVISIONS)
    if divided is not None:
        kinds = {name: (types or {}).get(name, np.float32) for name in divided.list_inputs()}
        if any(kind not in FLOATS for kind in divided._infer_type_impl(True, **kinds)[1] or [None]):
            raise GraphError("it divides whole numbers, and dividing them by 0 would end the process")
    free = psutil.virtual_memory().available
    if 4 * max(sizes, default=0) > free:
        raise GraphError(f"a layer needs {4 * max(sizes) / 2**30:,.1f} GB, and {free / 2**30:,.1f} GB are free")
    return 4 * sum(sizes)


def _around(symbol: mx.sym.Symbol, ops: Container[str]) -> mx.sym.Symbol | None:
    """Return a graph with two outputs for each layer of these operators: its first input and its output; or None."""
    import mxnet as mx

    graph = json.loads(symbol.tojson())
    found = [(node["inputs"][0], [index, 0, 0]) for index, node in enumerate(graph["nodes"]) if node["op"] in ops]
    if not found:
        return None
    graph["heads"] = [edge for pair in found for edge in pair]
    return mx.sym.load_json(json.dumps(graph, ensure_ascii=False))


def infer_outputs(symbol: mx.sym.Symbol, known: Mapping[str, Shape]) -> list[tuple[int, ...]]:
    """Return the shapes of all outputs, as far as they follow; arguments and errors as for `infer_shapes`."""
    return _infer(symbol, known)[1] or []


def _infer(symbol, known):
    variables = {*symbol.list_arguments(), *symbol.list_auxiliary_states()}
    # Not infer_shape_partial, which prints what it raises.
    return symbol._infer_shape_impl(True, **{name: tuple(shape) for name, shape in known.items() if name in variables})


def find_inputs(graph: Graph, symbol: mx.sym.Symbol, arrays: Container[str]) -> tuple[list[str], list[str]]:
    """Tell inputs and labels from parameters that are missing.

    Args:
        graph, symbol: the same graph in two forms.
        arrays: the names in the parameter file.

    Returns:
        (names of the inputs, names of the labels).
    """
    readers: dict[int, list[tuple[Node, int]]] = {}
    for node in graph.nodes:
        for slot, (source, _) in enumerate(node.inputs):
            readers.setdefault(source, []).append((node, slot))
    variables = {node.name: index for index, node in enumerate(graph.nodes) if node.op == "null"}
    inputs, labels = [], []
    for name in symbol.list_arguments():
        if name in arrays:
            continue
        uses = readers.get(variables[name], []) if name in variables else []
        read_as_label = uses and all(LABEL_SLOT.get(node.op) == slot for node, slot in uses)
        if read_as_label or (not uses and name.endswith("label") and name not in variables):
            labels.append(name)
        elif not name.endswith(LEARNED_NAMES) and not any(
            slot >= LEARNED.get(node.op, len(node.inputs)) for node, slot in uses
        ):
            inputs.append(name)
    return inputs, labels


def guess_shape(
    graph: Graph, symbol: mx.sym.Symbol, name: str, parameters: Mapping[str, Shape]
) -> tuple[tuple[int, ...] | None, str | None]:
    """Find the shape of the only input from the graph, or from the sizes of the weights.

    Args:
        graph, symbol: the same graph in two forms.
        name: of the input.
        parameters: shapes by name.

    Returns:
        (shape without the batch axis or None, a note for the user or None).
    """
    index = next(index for index, node in enumerate(graph.nodes) if node.name == name)
    written = whole_numbers(graph.nodes[index].attributes.get("__shape__", ""))
    if len(written) > 1 and min(written[1:]) > 0:
        return tuple(written[1:]), None
    channels, flat = _channels(graph, index, parameters)
    if channels is None:
        return None, None
    if flat:
        return (channels,), None
    if all(_fits(symbol, name, (1, channels, size, size), parameters) for size in (224, SIZES[-1])):
        return None, None  # it takes any size
    fitting = [size for size in SIZES if _fits(symbol, name, (1, channels, size, size), parameters)]
    if fitting and len(fitting) < len(SIZES) / 4:
        best = next((size for size in (224, 299, 227, 32, 28, 24, 48) if size in fitting), fitting[0])
        fitting.remove(best)
        others = f", as do {listed(fitting)}" if fitting else ""
        return (channels, best, best), f"images of {best} x {best} fit the sizes of the weights{others}"
    return None, None


def _channels(graph: Graph, index: int, parameters: Mapping[str, Shape]) -> tuple[int | None, bool]:
    """Follow a variable to the first layer with weights: (number of channels it takes, whether as a flat vector)."""
    for reader, node in enumerate(graph.nodes):
        if index not in [source for source, _ in node.inputs]:
            continue
        shape = parameters.get(graph.nodes[node.inputs[1][0]].name) if len(node.inputs) > 1 else None
        if node.op == "Convolution" and shape and len(shape) == 4 and node.inputs[0][0] == index:
            return shape[1] * int(node.attributes.get("num_group", 1)), False
        if node.op == "FullyConnected" and shape and node.inputs[0][0] == index:
            return shape[1], is_true(node.attributes, "flatten", True)
        if node.op in ("Flatten", "Reshape", "flatten", "reshape"):
            break
        index = reader  # nodes come after their inputs, so the search goes on with this node's readers
    return None, False


def _fits(symbol: mx.sym.Symbol, name: str, shape: Shape, parameters: Mapping[str, Shape]) -> bool:
    import mxnet as mx

    try:
        outputs = infer_outputs(symbol, {**parameters, name: shape})
    except mx.MXNetError:
        return False
    return all(outputs) and all(math.prod(output) > 0 for output in outputs)
