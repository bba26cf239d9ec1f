"""What can be known of an ONNX graph before it is written as PyTorch: shapes, and what follows from constants alone."""

from d2lcls.deploy.onnx_runtime import import_onnx
from d2lcls.deploy.torch.operators import NoForm

import numpy as np

_EVALUATED = (
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Cast",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Gather",
    "Identity",
    "Range",
    "ReduceProd",
    "Reshape",
    "Shape",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
    "Floor",
    "Ceil",
    "Equal",
    "Where",
    "Expand",
    "Pad",
    "ScatterND",
    "Tile",
    "Mod",
    "Neg",
    "Less",
    "Greater",
    "Not",
)


class Facts:
    """Facts about a graph.

    Args:
        model: checked `onnx.ModelProto` of opset 13.

    shapes: for 1 and for 2 images, a dict from names to tuples; what is not known is left out.
    known: dict from names to two arrays: what weights and constants are, and what follows from shapes, for 1 and for 2.
    """

    def __init__(self, model):
        onnx = import_onnx()
        self.shapes = [_shapes(onnx, model, images) for images in (1, 2)]
        self.known = {
            tensor.name: (array, array)
            for tensor in model.graph.initializer
            for array in [onnx.numpy_helper.to_array(tensor)]
        }
        self.alias = {}
        self._evaluate(onnx, model.graph)

    def _evaluate(self, onnx, graph):
        """Compute what depends on constants and shapes alone, for one image and for two."""
        from onnx.reference import ReferenceEvaluator

        for node in graph.node:
            if node.op_type == "Identity" and node.input[0] not in self.known:
                self.alias[node.output[0]] = self.root(node.input[0])
            shape_is_known = node.op_type == "Shape" and all(node.input[0] in shapes for shapes in self.shapes)
            inputs_are_known = all(name in self.known for name in node.input if name)
            if node.op_type not in _EVALUATED or not (shape_is_known or inputs_are_known):
                continue
            if shape_is_known:
                values = [np.array(shapes[node.input[0]], np.int64) for shapes in self.shapes]
            else:
                names = [name for name in dict.fromkeys(node.input) if name]
                run = ReferenceEvaluator(
                    onnx.helper.make_model(
                        onnx.helper.make_graph(
                            [node],
                            "one",
                            [onnx.helper.make_value_info(name, onnx.TypeProto()) for name in names],
                            [onnx.helper.make_value_info(node.output[0], onnx.TypeProto())],
                        ),
                        opset_imports=[onnx.helper.make_opsetid("", 13)],
                    )
                ).run
                values = [run(None, {name: self.known[name][images] for name in names})[0] for images in (0, 1)]
            self.known[node.output[0]] = tuple(map(np.asarray, values))

    def root(self, name):
        """Return the name of what a name stands for, past operators that change nothing."""
        return self.alias.get(name, name)


class Step:
    """One operator of the graph on its way to PyTorch: its attributes, what it takes and what is known of it."""

    def __init__(self, writer, node):
        from onnx import helper

        self.writer, self.node, self.kind = writer, node, node.op_type
        self.inputs, self.outputs = list(node.input), [name for name in node.output if name]
        while self.inputs and not self.inputs[-1]:
            self.inputs.pop()
        self.attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}

    def get(self, key, default=None):
        """Return an attribute: a number, a list of numbers or a text."""
        value = self.attributes.get(key, default)
        return value.decode() if isinstance(value, bytes) else value

    def value(self, place, *default):
        """Return what an input is, a weight or a constant, as an array; the default if the operator is without it."""
        if default and (place >= len(self.inputs) or not self.inputs[place]):
            return default[0]
        if not self.is_known(place):
            raise NoForm(f"its input {place} is computed")
        return self.writer.facts.known[self.inputs[place]][0]

    def is_known(self, place):
        """Return whether an input is a weight or a constant."""
        return place < len(self.inputs) and self.inputs[place] in self.writer.facts.known

    def numbers(self, place, *default):
        """Return an input as a list of whole numbers."""
        value = self.value(place, *default)
        return [int(number) for number in np.ravel(value)] if isinstance(value, np.ndarray) else value

    def sizes(self, place):
        """Return an input as a list of whole numbers, those that depend on the number of images as texts with "n"."""
        if not self.is_known(place):
            raise NoForm("its shape is computed")
        one, two = (list(map(int, np.ravel(value))) for value in self.writer.facts.known[self.inputs[place]])
        if any(b not in (a, 2 * a) for a, b in zip(one, two)):
            raise NoForm("its shape depends on the number of images in another way than by a factor")
        self.writer.counts_images |= one != two
        return [a if a == b else "n" if a == 1 else f"{a} * n" for a, b in zip(one, two)]

    def shape(self, place, images=1):
        """Return the shape of an input for 1 or 2 images, None if it is not known."""
        return self.writer.facts.shapes[images - 1].get(self.inputs[place])

    def known_shape(self, place):
        """Return the shape of an input for 1 image, or raise NoForm."""
        if self.shape(place) is None:
            raise NoForm("the shape of its input is not known")
        return self.shape(place)

    def output_shape(self):
        """Return the shape of the output for 1 image, or raise NoForm."""
        if self.outputs[0] not in self.writer.facts.shapes[0]:
            raise NoForm("the shape of its output is not known")
        return self.writer.facts.shapes[0][self.outputs[0]]

    def operand(self, place):
        """Return an input as it stands in an expression: a variable, a number, or a stored array."""
        return self.writer.operand(self.inputs[place])

    def layer(self, kind, arguments, **weights):
        """Make a layer `nn.KIND(arguments)` with these weights and return its name in expressions."""
        return self.writer.layer(self, kind, arguments, weights)


def _shapes(onnx, model, images):
    """Return the shapes that follow from the inputs' for so many images: dict from name to tuple."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for value in copy.graph.input:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_value = images
    for value in copy.graph.output:
        for dimension in value.type.tensor_type.shape.dim:
            dimension.Clear()  # to be found
    found = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    shapes = {}
    for value in (*found.input, *found.value_info, *found.output):
        sizes = [
            dimension.dim_value if dimension.HasField("dim_value") else None
            for dimension in value.type.tensor_type.shape.dim
        ]
        if None not in sizes and value.type.tensor_type.HasField("shape"):
            shapes[value.name] = tuple(sizes)
    return shapes
