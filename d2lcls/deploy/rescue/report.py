"""A description of an old model: its inputs, layers, parameters, multiply-adds and deprecated operators."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from d2lcls.deploy.graph.input_shapes import Shape, infer_outputs
from d2lcls.deploy.graph.operators import DEPRECATED, is_true
from d2lcls.deploy.graph.symbol_json import Node
from d2lcls.deploy.rescue.load import OldModel
from d2lcls.models.summary import Layer, Summary


@dataclass(frozen=True)
class Report:
    """Facts about an `OldModel`; printed as a page of text.

    Args:
        version: of the MXNet that wrote the graph, or a guess.
        inputs: (name, shape of one image or None) of each input.
        outputs: (name, shape for one image or None) of each output.
        layers: None if the input's shape is not known.
        parameters, statistics: the number of learned numbers, and of running statistics.
        deprecated: an operator, how often it occurs, and what to use today.
        warnings: operators that may compute something else than in the version that wrote the graph.
        notes: what was done to load it.
    """

    version: str
    inputs: tuple[tuple[str, Shape | None], ...]
    outputs: tuple[tuple[str, Shape | None], ...]
    layers: Summary | None
    parameters: int
    statistics: int
    deprecated: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        def described(pairs: Sequence[tuple[str, Shape | None]]) -> str:
            return ", ".join(
                f"{name} ({', '.join(['N', *map(str, shape)])})"
                if shape is not None
                else f"{name} (of many sizes: give --shape)"
                for name, shape in pairs
            )

        lines = [
            f"written by MXNet {self.version}",
            f"inputs: {described(self.inputs)}",
            f"outputs: {described(self.outputs)}",
            f"parameters: {self.parameters:,}, and {self.statistics:,} running statistics",
        ]
        if self.layers:
            lines += [f"multiply-adds: {self.layers.multiply_adds:,} per image", "", str(self.layers), ""]
        lines += [f"deprecated: {text}" for text in self.deprecated]
        lines += [f"warning: {text}" for text in self.warnings]
        lines += [f"note: {text}" for text in self.notes]
        return "\n".join(lines).rstrip()


def describe(model: OldModel) -> Report:
    """Describe a model.

    Multiply-adds are counted in convolutions and dense layers, for one image; the layers are those of the graph.
    """
    known = all(shape is not None for shape in model.shapes.values())
    shapes = {name: outputs[0] for name, outputs in model.node_shapes().items()} if known else {}
    counts = Counter(node.original for node in model.graph.nodes if node.original in DEPRECATED)
    names = model.symbol.list_outputs()
    ends = infer_outputs(model.symbol, model.variable_shapes()) if known else []
    return Report(
        model.graph.version,
        tuple(model.shapes.items()),
        tuple((name, shape and shape[1:]) for name, shape in zip_longest(names, ends)),
        _layers(model, shapes) if known else None,
        sum(array.size for array in model.arguments.values()),
        sum(array.size for array in model.statistics.values()),
        tuple(f"{name} ({count}); today: {DEPRECATED[name]}" for name, count in counts.items()),
        tuple(_warnings(model, shapes)),
        model.notes,
    )


def _layers(model: OldModel, shapes: Mapping[str, Shape]) -> Summary:
    layers, nodes = [], model.graph.nodes
    counted: set[str] = set()
    for node in nodes:
        if node.op == "null":
            continue
        own = {nodes[source].name for source, _ in node.inputs if nodes[source].name in model.arguments} - counted
        counted |= own  # parameters that layers share count once
        layers.append(
            Layer(
                node.name,
                node.op,
                tuple(shapes.get(node.name, ())[1:]),
                sum(model.arguments[name].size for name in own),
                _multiply_adds(node, nodes, shapes),
            )
        )
    return Summary(tuple(layers))


def _multiply_adds(node: Node, nodes: Sequence[Node], shapes: Mapping[str, Shape]) -> int:
    if node.op not in ("Convolution", "Deconvolution", "FullyConnected") or len(node.inputs) < 2:
        return 0
    data, weight = (shapes.get(nodes[source].name, ()) for source, _ in node.inputs[:2])
    if node.op == "FullyConnected":
        out = shapes.get(node.name, ())
        return math.prod(weight) * (1 if is_true(node.attributes, "flatten", True) else math.prod(out[1:-1]))
    return math.prod(weight) * math.prod((data if node.op == "Deconvolution" else shapes.get(node.name, ()))[2:])


def _warnings(model: OldModel, shapes: Mapping[str, Shape]) -> Iterator[str]:
    for node in model.graph.nodes:
        if (
            node.op in ("SoftmaxOutput", "Softmax")
            and len(shapes.get(node.name, ())) > 2
            and not is_true(node.attributes, "multi_output")
            and not is_true(node.attributes, "preserve_shape")
        ):
            yield (
                f"{node.name} is a softmax over the last of {len(shapes[node.name])} axes; MXNet without oneDNN "
                "computed it over all values of an image"
            )
        if (
            node.op == "Pooling"
            and "pooling_convention" not in node.attributes
            and model.graph.version.startswith("before")
            and not is_true(node.attributes, "global_pool")
        ):
            yield f"{node.name} does not specify how it rounds; MXNet of 2015 rounded up, this version rounds down"
        if node.op == "Dropout" and node.attributes.get("mode") == "always":
            yield f"{node.name} also drops values in prediction: no two runs give the same outputs"
