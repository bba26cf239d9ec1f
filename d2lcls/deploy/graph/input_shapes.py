"""Which variables of an old graph are its inputs, and what shapes they had: neither is written in the files."""

import math

from d2lcls.deploy.graph.operators import LABEL_SLOT, LEARNED, is_true, whole_numbers

# Sides of images that networks were made for, in pixels.
SIZES = (
    12,
    24,
    28,
    32,
    40,
    48,
    56,
    60,
    64,
    72,
    80,
    96,
    100,
    108,
    112,
    120,
    128,
    144,
    150,
    160,
    176,
    192,
    200,
    224,
    227,
    230,
    240,
    256,
    260,
    288,
    299,
    300,
    320,
    331,
    336,
    352,
    384,
    416,
    448,
    456,
    480,
    512,
    528,
    600,
)
LEARNED_NAMES = ("weight", "bias", "gamma", "beta", "moving_mean", "moving_var", "running_mean", "running_var", "alpha")


def infer_shapes(symbol, known, outputs=False):
    """Return all shapes that follow from some.

    Args:
        symbol: `mx.sym.Symbol`.
        known: dict from variables to shapes; those of other names are ignored.
        outputs: True returns the list of the outputs' shapes instead.

    Returns:
        dict from variables to shapes, in which 0 is an unknown size and () an unknown shape.

    Raises:
        MXNetError: they contradict each other.
    """
    names, statistics = symbol.list_arguments(), symbol.list_auxiliary_states()
    variables = {*names, *statistics}
    # Not infer_shape_partial, which prints what it raises.
    found = symbol._infer_shape_impl(True, **{name: tuple(shape) for name, shape in known.items() if name in variables})
    if outputs:
        return found[1] or []
    if found[0] is None:
        return {}
    return {**dict(zip(names, found[0])), **dict(zip(statistics, found[2]))}


def find_inputs(graph, symbol, arrays):
    """Tell inputs and labels from parameters that are missing.

    Args:
        graph, symbol: `Graph` and the `mx.sym.Symbol` of it.
        arrays: the names that the file of parameters holds.

    Returns:
        (list of inputs, list of labels): names.
    """
    uses = {}
    for node in graph.nodes:
        for slot, (place, _) in enumerate(node.inputs):
            uses.setdefault(place, []).append((node, slot))
    places = {node.name: place for place, node in enumerate(graph.nodes) if node.op == "null"}
    inputs, labels = [], []
    for name in symbol.list_arguments():
        if name in arrays:
            continue
        of = uses.get(places.get(name), [])
        if (
            of
            and all(LABEL_SLOT.get(node.op) == slot for node, slot in of)
            or not of
            and name.endswith("label")
            and name not in places
        ):
            labels.append(name)
        elif not name.endswith(LEARNED_NAMES) and not any(
            slot >= LEARNED.get(node.op, len(node.inputs)) for node, slot in of
        ):
            inputs.append(name)
    return inputs, labels


def guess_shape(graph, symbol, name, parameters):
    """Find the shape of the only input from the graph, or from the sizes of the weights.

    Args:
        graph, symbol: `Graph` and the `mx.sym.Symbol` of it.
        name: of the input.
        parameters: dict from names to shapes.

    Returns:
        (shape without the batch axis or None, a note for the user or None).
    """
    place = next(place for place, node in enumerate(graph.nodes) if node.name == name)
    written = whole_numbers(graph.nodes[place].attributes.get("__shape__", ""))
    if len(written) > 1 and min(written[1:]) > 0:
        return tuple(written[1:]), None
    channels, flat = _channels(graph, place, parameters)
    if flat:
        return (channels,), None
    if channels is None:
        return None, None
    if all(_fits(symbol, name, (1, channels, size, size), parameters) for size in (224, SIZES[-1])):
        return None, None  # it takes any size
    fits = [size for size in SIZES if _fits(symbol, name, (1, channels, size, size), parameters)]
    if fits and len(fits) < len(SIZES) / 4:
        best = next((size for size in (224, 299, 227, 32, 28, 24, 48) if size in fits), fits[0])
        others = f", as do {_listed(fits, best)}" if len(fits) > 1 else ""
        return (channels, best, best), f"images of {best} x {best} fit the sizes of the weights{others}"
    return None, None


def _channels(graph, place, parameters):
    """Follow a variable to the first layer with weights: (what it takes, whether as a flat row of numbers)."""
    for after, node in enumerate(graph.nodes):
        if place not in [edge[0] for edge in node.inputs]:
            continue
        shape = parameters.get(graph.nodes[node.inputs[1][0]].name) if len(node.inputs) > 1 else None
        if node.op == "Convolution" and shape and len(shape) == 4 and node.inputs[0][0] == place:
            return shape[1] * int(node.attributes.get("num_group", 1)), False
        if node.op == "FullyConnected" and shape and node.inputs[0][0] == place:
            return shape[1], is_true(node.attributes, "flatten", True)
        if node.op in ("Flatten", "Reshape", "flatten", "reshape"):
            break
        place = after  # nodes come after what they take, so the search goes on from here
    return None, False


def _fits(symbol, name, shape, parameters):
    import mxnet as mx

    try:
        outputs = infer_shapes(symbol, {**parameters, name: shape}, outputs=True)
    except mx.MXNetError:
        return False
    return all(outputs) and all(math.prod(output) > 0 for output in outputs)


def _listed(sizes, best):
    return ", ".join(str(size) for size in sizes if size != best)
