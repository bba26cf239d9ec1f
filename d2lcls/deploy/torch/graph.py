"""What is known of an ONNX graph before it is written as PyTorch: shapes, and values that depend on constants alone."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from d2lcls.deploy.onnx_file import import_onnx

import numpy as np

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

# Operators that are computed here if all their inputs are known.
_EVALUATED = frozenset(
    """
    Add Sub Mul Div Cast Concat Constant ConstantOfShape Gather Identity Range ReduceProd Reshape Shape Slice Squeeze
    Transpose Unsqueeze Floor Ceil Equal Where Expand Pad ScatterND Tile Mod Neg Less Greater Not
    """.split()  # noqa: SIM905  one name per line would be long
)


class NoForm(ValueError):
    """An operator, or its attributes, cannot be written as PyTorch; the message is the reason alone."""


class Facts:
    """Shapes and constants of a graph.

    Args:
        model: checked, of opset 13.

    Attributes:
        shapes: for 1 and for 2 images, the known shapes by name.
        known: by name, the values for 1 and for 2 images of weights, constants, and what depends on them and on shapes.
        alias: for each output of an Identity, the name of its input.
    """

    def __init__(self, model: ModelProto) -> None:
        onnx = import_onnx()
        self.shapes = [_shapes(onnx, model, images) for images in (1, 2)]
        self.known: dict[str, tuple[np.ndarray, np.ndarray]] = {
            tensor.name: (array, array)
            for tensor in model.graph.initializer
            for array in [onnx.numpy_helper.to_array(tensor)]
        }
        self.alias: dict[str, str] = {}
        self._evaluate(onnx, model.graph)

    def _evaluate(self, onnx: ModuleType, graph: GraphProto) -> None:
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
                run: Any = ReferenceEvaluator(
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
                values = [run(None, {name: self.known[name][i] for name in names})[0] for i in (0, 1)]
            self.known[node.output[0]] = np.asarray(values[0]), np.asarray(values[1])

    def root(self, name: str) -> str:
        """Return the name of an array before operators that do not change it."""
        return self.alias.get(name, name)


class Writer(Protocol):
    """What a step needs of the writer of the code."""

    facts: Facts
    counts_images: bool

    def operand(self, name: str) -> str:
        """Return the expression for a value of the graph."""

    def layer(self, step: Step, kind: str, arguments: str, weights: Mapping[str, np.ndarray | None]) -> str:
        """Add a layer with weights and return the expression that calls it."""


class Step:
    """One operator to write as PyTorch: its attributes, its inputs and what is known of them."""

    def __init__(self, writer: Writer, node: NodeProto) -> None:
        from onnx import helper

        self.writer, self.node, self.kind = writer, node, node.op_type
        self.inputs, self.outputs = list(node.input), [name for name in node.output if name]
        while self.inputs and not self.inputs[-1]:
            self.inputs.pop()
        self.attributes: dict[str, Any] = {one.name: helper.get_attribute_value(one) for one in node.attribute}

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute: a number, a list of numbers or a string."""
        value = self.attributes.get(key, default)
        if isinstance(value, bytes):
            value = value.decode("ascii", "replace")
            if not value.isidentifier():  # it may become part of the source
                raise NoForm(f"{key}={value[:80]!r}")
        elif isinstance(value, (list, tuple)) and any(isinstance(one, bytes) for one in value):
            raise NoForm(f"{key} holds text")
        return value

    def value(self, index: int, *default: Any) -> Any:
        """Return an input that is a weight or a constant, as an array; the default if the operator lacks that input."""
        if default and (index >= len(self.inputs) or not self.inputs[index]):
            return default[0]
        if not self.is_known(index):
            raise NoForm(f"its input {index} is computed")
        return self.writer.facts.known[self.inputs[index]][0]

    def is_known(self, index: int) -> bool:
        """Return whether an input is a weight or a constant."""
        return index < len(self.inputs) and self.inputs[index] in self.writer.facts.known

    def numbers(self, index: int, *default: Any) -> Any:
        """Return an input as a list of whole numbers, or the default if the operator lacks that input."""
        value = self.value(index, *default)
        return [int(number) for number in np.ravel(value)] if isinstance(value, np.ndarray) else value

    def sizes(self, index: int) -> list[int | str]:
        """Return an input as a list of whole numbers, or strings with "n" where they depend on the number of images."""
        if not self.is_known(index):
            raise NoForm("its shape is computed")
        one, two = (list(map(int, np.ravel(value))) for value in self.writer.facts.known[self.inputs[index]])
        if any(b not in (a, 2 * a) for a, b in zip(one, two)):
            raise NoForm("its shape is not proportional to the number of images")
        self.writer.counts_images |= one != two
        return [a if a == b else "n" if a == 1 else f"{a} * n" for a, b in zip(one, two)]

    def shape(self, index: int) -> tuple[int, ...] | None:
        """Return the shape of an input for 1 image, None if it is not known."""
        return self.writer.facts.shapes[0].get(self.inputs[index])

    def known_shape(self, index: int) -> tuple[int, ...]:
        """Return the shape of an input for 1 image, or raise NoForm."""
        shape = self.shape(index)
        if shape is None:
            raise NoForm("the shape of its input is not known")
        return shape

    def output_shape(self) -> tuple[int, ...]:
        """Return the shape of the output for 1 image, or raise NoForm."""
        if self.outputs[0] not in self.writer.facts.shapes[0]:
            raise NoForm("the shape of its output is not known")
        return self.writer.facts.shapes[0][self.outputs[0]]

    def operand(self, index: int) -> str:
        """Return an input as it is written in expressions: a variable, a number, or a stored array."""
        return self.writer.operand(self.inputs[index])

    def layer(self, kind: str, arguments: str, **weights: np.ndarray | None) -> str:
        """Make a layer `nn.KIND(arguments)` with these weights and return its name in expressions."""
        return self.writer.layer(self, kind, arguments, weights)


def _shapes(onnx: ModuleType, model: ModelProto, images: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes for a number of images, as far as they follow from those of the inputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for value in copy.graph.input:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_value = images
    for value in copy.graph.output:
        for dimension in value.type.tensor_type.shape.dim:
            dimension.Clear()  # it is inferred
    graph = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dimensions = value.type.tensor_type.shape.dim
        known = all(dimension.HasField("dim_value") for dimension in dimensions)
        if known and value.type.tensor_type.HasField("shape"):
            shapes[value.name] = tuple(dimension.dim_value for dimension in dimensions)
    return shapes
