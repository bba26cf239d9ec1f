"""Which variables of an old graph are its inputs, and which shapes they had: the files state neither."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING

from d2lcls.deploy.graph.names import listed
from d2lcls.deploy.graph.operators import LABEL_SLOT, LEARNED, is_true, whole_numbers
from d2lcls.deploy.graph.symbol_json import Graph, Node

if TYPE_CHECKING:
    import mxnet as mx

Shape = Sequence[int]
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
