"""The registry of converters to ONNX, and what each converter is given: one layer of a network.

To add an operator, write a function in `d2lcls.deploy.onnx.converters` and decorate it with `@converts("Operator")`.
"""

import json

from d2lcls.deploy.graph.operators import is_true, whole_numbers

import numpy as np

OPSET = 13  # for which MXNet's converters were written; its exporter would stamp the newest that onnx knows
CONVERTERS = {}


def converts(*operators):
    """Register a function from a `Layer` to its ONNX nodes as the converter of some MXNet operators.

    Raises:
        ValueError: one of them has a converter already.
    """

    def register(function):
        for operator in operators:
            if operator in CONVERTERS:
                raise ValueError(f"{operator} has a converter already: {CONVERTERS[operator].__name__}.")
            CONVERTERS[operator] = function
        return function

    return register


class Layer:
    """One layer on its way to ONNX: its attributes, what it takes, and the nodes made for it so far."""

    def __init__(self, node, context, theirs=None):
        self.name, self.attributes, self.context = node["name"], node.get("attrs", {}), context
        self.node, self.theirs, self.nodes = node, theirs, []
        if not context.get("is_input"):
            known = context["outputs_lookup"]  # without the label of the last layer, which the exporter leaves out
            found = [known[place][output] for place, output, *_ in node["inputs"] if place < len(known)]
            self.inputs, self.types = [one.name for one in found], [one.dtype for one in found]
        shapes = json.loads(self.attributes.get("__shapes__", "{}"))
        self.shapes, self.output = shapes.get("inputs"), shapes.get("output")
        self.larger = shapes.get("larger")  # the output's shape for one more image

    def numbers(self, key, default=()):
        """Return whole numbers of an attribute."""
        return whole_numbers(self.attributes[key]) if key in self.attributes else list(default)

    def true(self, key, default=False):
        """Return a truth value of an attribute."""
        return is_true(self.attributes, key, default) or self.attributes.get(key) == "1"

    def constant(self, values, dtype=np.int64):
        """Store a constant and return its name."""
        from onnx import numpy_helper

        stored = self.context["initializer"]
        name = f"{self.name}__constant_{len(stored)}"
        stored.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def op(self, kind, *inputs, outputs=None, **attributes):
        """Add a node and return the name of its first output."""
        from onnx import helper

        outputs = outputs or [f"{self.name}__{kind.lower()}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name=outputs[0], **attributes))
        return outputs[0]

    def done(self, kind, *inputs, **attributes):
        """Add the node that gives the layer's output, and return all nodes."""
        self.op(kind, *inputs, outputs=[self.name], **attributes)
        return self.nodes

    def shape_of(self, name):
        """Return the name of the shape of something."""
        return self.op("Shape", name)

    def original(self):
        """Convert as MXNet's exporter does."""
        if self.theirs is None:
            raise NotImplementedError(f"{self.node['op']} {self.name!r}: not without the shapes of the network.")
        return self.theirs(self.node, **self.context)
