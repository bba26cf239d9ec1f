"""The registry of converters to ONNX, and what a converter gets: one layer of a network.

To convert one more of MXNet's operators, write a function in `d2lcls.deploy.onnx.converters`, decorated with the
operator's name, that takes a `Layer` and returns the ONNX nodes (opset 13) which compute it::

    @converts("rsqrt")
    def reciprocal_root(layer: Layer) -> Converted:
        return layer.done("Reciprocal", layer.op("Sqrt", layer.inputs[0]))
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from d2lcls.deploy.graph.operators import is_true, whole_numbers

import numpy as np

if TYPE_CHECKING:
    import onnx

    # Nodes; with the types of their outputs where these are not the type of the first input.
    Converted = list[onnx.NodeProto] | tuple[list[onnx.NodeProto], tuple[np.dtype, ...]]
    Converter = Callable[["Layer"], Converted]

OPSET = 13  # for which MXNet's converters were written; its exporter would state the newest version of the package onnx
CONVERTERS: dict[str, Converter] = {}


def converts(*operators: str) -> Callable[[Converter], Converter]:
    """Register the decorated function as the converter of some of MXNet's operators.

    Raises:
        ValueError: one of them has a converter already.
    """

    def register(function: Converter) -> Converter:
        for operator in operators:
            if operator in CONVERTERS:
                raise ValueError(f"{operator} has a converter already: {CONVERTERS[operator].__name__}.")
        CONVERTERS.update(dict.fromkeys(operators, function))
        return function

    return register


class Layer:
    """One layer to convert: its attributes, its inputs, and the ONNX nodes made for it so far.

    Args:
        node: of the graph's JSON.
        context: arguments that MXNet's exporter passes to a converter.
        exporter: MXNet's converter of the operator, None if there is none.

    Attributes:
        name, attributes: of the node, as in the graph's JSON.
        inputs, types: names and `np.dtype` of its inputs.
        weights: arrays of parameters by name.
        shapes, output: shapes of its inputs and of its output for one image; None if they are not known.
        larger: the output's shape for two images.
        nodes: of ONNX.
    """

    def __init__(
        self, node: Mapping[str, Any], context: dict[str, Any], exporter: Callable[..., Converted] | None = None
    ) -> None:
        self.name: str = node["name"]
        self.attributes: Mapping[str, str] = node.get("attrs", {})
        self.node = node
        self.nodes: list[onnx.NodeProto] = []
        self.weights: Mapping[str, np.ndarray] = context["weights"]
        self._context, self._exporter = context, exporter
        known = context["outputs_lookup"]  # without the label of the last layer, which MXNet's exporter leaves out
        values = [known[source][output] for source, output, *_ in node["inputs"] if source < len(known)]
        self.inputs: list[str] = [value.name for value in values]
        self.types: list[np.dtype] = [value.dtype for value in values]
        shapes = json.loads(self.attributes.get("__shapes__", "{}"))
        self.shapes: list[list[int]] | None = shapes.get("inputs")
        self.output: list[int] | None = shapes.get("output")
        self.larger: list[int] | None = shapes.get("larger")

    def numbers(self, key: str, default: Iterable[int] = ()) -> list[int]:
        """Return whole numbers of an attribute."""
        return whole_numbers(self.attributes[key]) if key in self.attributes else list(default)

    def true(self, key: str, default: bool = False) -> bool:
        """Return a truth value of an attribute."""
        return is_true(self.attributes, key, default) or self.attributes.get(key) == "1"

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """Store a constant and return its name."""
        from onnx import numpy_helper

        stored = self._context["initializer"]
        name = f"{self.name}__constant_{len(stored)}"
        stored.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, outputs: list[str] | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its first output."""
        from onnx import helper

        outputs = outputs or [f"{self.name}__{kind.lower()}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name=outputs[0], **attributes))
        return outputs[0]

    def done(self, kind: str, *inputs: str, **attributes: Any) -> Converted:
        """Add the node that computes the layer's output, and return all nodes."""
        self.op(kind, *inputs, outputs=[self.name], **attributes)
        return self.nodes

    def shape_of(self, name: str) -> str:
        """Add a node that computes the shape of an array, and return the name of the shape."""
        return self.op("Shape", name)

    def original(self) -> Converted:
        """Convert as MXNet's exporter does."""
        if self._exporter is None:
            raise NotImplementedError(f"{self.node['op']} {self.name!r}: not without the shapes of the network.")
        return self._exporter(self.node, **self._context)
