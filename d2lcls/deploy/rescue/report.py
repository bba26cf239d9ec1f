"""What an old model is: its inputs, layers, parameters and multiply-adds, and what of it is deprecated."""

import math
from dataclasses import dataclass

from d2lcls.deploy.graph.input_shapes import infer_shapes
from d2lcls.deploy.graph.operators import DEPRECATED, is_true
from d2lcls.models.summary import Layer, Summary


@dataclass(frozen=True)
class Report:
    """Facts about an `OldModel`; printed as a page of text.

    Args:
        version: of the MXNet that wrote the graph, as far as it tells.
        inputs: (name, shape of one image or None) of each input.
        outputs: (name, shape for one image or None) of each output.
        layers: `Summary` of the layers, None if the input's shape is not known.
        parameters, statistics: how many numbers are learned, and how many are running statistics.
        deprecated: texts: an operator, how often, and what to use today.
        warnings: texts on what may compute something else than it once did.
        notes: what was done to make it load.
    """

    version: str
    inputs: tuple
    outputs: tuple
    layers: Summary
    parameters: int
    statistics: int
    deprecated: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self):
        def places(pairs):
            return ", ".join(
                f"{name} ({', '.join(['N', *map(str, shape)])})"
                if shape is not None
                else f"{name} (of many sizes: give --shape)"
                for name, shape in pairs
            )

        lines = [
            f"written by MXNet {self.version}",
            f"inputs: {places(self.inputs)}",
            f"outputs: {places(self.outputs)}",
            f"parameters: {self.parameters:,}, and {self.statistics:,} running statistics",
        ]
        if self.layers:
            lines += [f"multiply-adds: {self.layers.multiply_adds:,} an image", "", str(self.layers), ""]
        lines += [f"deprecated: {text}" for text in self.deprecated]
        lines += [f"warning: {text}" for text in self.warnings]
        lines += [f"note: {text}" for text in self.notes]
        return "\n".join(lines).rstrip()


def describe(model):
    """Return the `Report` of an `OldModel`.

    Multiply-adds are counted in convolutions and dense layers, for one image; the layers are those of the graph.
    """
    known = all(shape is not None for shape in model.shapes.values())
    shapes = _all_shapes(model) if known else {}
    counts = {}
    for node in model.graph.nodes:
        if node.original in DEPRECATED:
            counts[node.original] = counts.get(node.original, 0) + 1
    outputs = model.symbol.list_outputs()
    ends = shapes.get(None) or [None] * len(outputs)
    return Report(
        model.graph.version,
        tuple(model.shapes.items()),
        tuple((name, None if shape is None else tuple(shape[1:])) for name, shape in zip(outputs, ends)),
        _layers(model, shapes) if known else None,
        sum(array.size for array in model.arguments.values()),
        sum(array.size for array in model.statistics.values()),
        tuple(f"{name} ({count}); today: {DEPRECATED[name]}" for name, count in counts.items()),
        tuple(_warnings(model, shapes)),
        model.notes,
    )


def _all_shapes(model):
    """Return the shapes of all nodes' first outputs by name, and under None those of the network's outputs."""
    sizes = {**model.input_shapes(), **{name: array.shape for name, array in model.parameters.items()}}
    internals = model.symbol.get_internals()
    shapes = {None: infer_shapes(model.symbol, sizes, outputs=True)}
    for place, shape in enumerate(infer_shapes(internals, sizes, outputs=True)):
        shapes.setdefault(internals[place].name, tuple(shape))
    return shapes


def _layers(model, shapes):
    layers, counted, nodes = [], set(), model.graph.nodes
    for node in nodes:
        if node.op == "null":
            continue
        mine = {nodes[place].name for place, _ in node.inputs if nodes[place].name in model.arguments} - counted
        counted |= mine  # what two layers share counts once
        layers.append(
            Layer(
                node.name,
                node.op,
                shapes.get(node.name, ())[1:],
                sum(model.arguments[name].size for name in mine),
                _multiply_adds(node, nodes, shapes),
            )
        )
    return Summary(tuple(layers))


def _multiply_adds(node, nodes, shapes):
    if node.op not in ("Convolution", "Deconvolution", "FullyConnected") or len(node.inputs) < 2:
        return 0
    data, weight = (shapes.get(nodes[place].name, ()) for place, _ in node.inputs[:2])
    if node.op == "FullyConnected":
        out = shapes.get(node.name, ())
        return math.prod(weight) * (1 if is_true(node.attributes, "flatten", True) else math.prod(out[1:-1]))
    return math.prod(weight) * math.prod((data if node.op == "Deconvolution" else shapes.get(node.name, ()))[2:])


def _warnings(model, shapes):
    for node in model.graph.nodes:
        if (
            node.op in ("SoftmaxOutput", "Softmax")
            and len(shapes.get(node.name, ())) > 2
            and not is_true(node.attributes, "multi_output")
            and not is_true(node.attributes, "preserve_shape")
        ):
            yield (
                f"{node.name} is a softmax over the last axis of {len(shapes[node.name])} here; MXNet without oneDNN "
                "took all values of an image together"
            )
        if (
            node.op == "Pooling"
            and "pooling_convention" not in node.attributes
            and model.graph.version.startswith("before")
            and not is_true(node.attributes, "global_pool")
        ):
            yield f"{node.name} does not say how it rounds; MXNet of 2015 rounded up, this one rounds down"
        if node.op == "Dropout" and node.attributes.get("mode") == "always":
            yield f"{node.name} drops values in prediction too: no two runs are the same"
