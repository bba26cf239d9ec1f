"""PyTorch for ONNX's operators (opset 13): for each a layer with weights, or an expression.

To write one more operator, write a function here, decorated with its name, that takes a `Step` and returns the text of
an expression::

    @written_as("Acos")
    def arccosine(step: Step) -> str:
        return f"torch.acos({step.operand(0)})"
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from d2lcls.deploy.torch.graph import NoForm, Step

import numpy as np

Expression = Callable[[Step], str]

EXPRESSIONS: dict[str, Expression] = {}
TUPLES: set[str] = set()  # operators whose expression is a tuple of their outputs
_TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}


def written_as(*operators: str, several: bool = False) -> Callable[[Expression], Expression]:
    """Register the decorated function as the writer of some of ONNX's operators.

    Args:
        operators: their names.
        several: the expression is a tuple of all the operator's outputs instead of its first.

    Raises:
        ValueError: one of them is registered already.
    """

    def register(function: Expression) -> Expression:
        for operator in operators:
            if operator in EXPRESSIONS:
                raise ValueError(f"{operator} is registered already: {EXPRESSIONS[operator].__name__}.")
        EXPRESSIONS.update(dict.fromkeys(operators, function))
        TUPLES.update(operators if several else ())
        return function

    return register


def arguments(*values: Any, **named: Any) -> str:
    """Write arguments: a tuple of equal numbers as one number, and no named argument that is None."""
    return ", ".join(
        [*map(_short, values), *(f"{key}={_short(value)}" for key, value in named.items() if value is not None)]
    )


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return str(value[0]) if len(set(value)) == 1 else f"({', '.join(map(str, value))})"
    return str(value) if isinstance(value, (str, bool, int)) else number(value)


def number(value: float) -> str:
    """Write a float32 with no more digits than it has."""
    short = float(str(np.float32(value)))
    return repr(short if abs(short) < np.finfo(np.float32).max else float(value))


def _rank(step: Step) -> int:
    """Return the number of axes of the first input, 4 if it is not known."""
    return len(step.shape(0) or (0,) * 4)


def _window(step: Step, dimensions: int) -> tuple[list[int], list[int], list[int] | None, list[int] | None]:
    """Return (padding before, padding after, stride, dilation) of a window; None for a stride or dilation of 1."""
    ones = [1] * dimensions
    if step.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise NoForm(f"auto_pad={step.get('auto_pad')}")
    pads = step.get("pads", [0] * 2 * dimensions)
    first, last = pads[:dimensions], pads[dimensions:]
    stride, dilation = step.get("strides", ones), step.get("dilations", ones)
    return first, last, stride if stride != ones else None, dilation if dilation != ones else None


def _padded(x: str, first: Sequence[int], last: Sequence[int], value: str = "") -> str:
    pairs = [number for pair in zip(first[::-1], last[::-1]) for number in pair]
    return f"F.pad({x}, ({', '.join(map(str, pairs))}){value})"


@written_as("Conv")
def convolution(step: Step) -> str:
    """`nn.Conv2d`; before it `F.pad`, if the padding differs between both sides."""
    weight, bias, x = step.value(1), step.value(2, None), step.operand(0)
    first, last, stride, dilation = _window(step, weight.ndim - 2)
    groups = step.get("group", 1)
    if first != last:
        x, first = _padded(x, first, last), [0]
    layer = step.layer(
        f"Conv{weight.ndim - 2}d",
        arguments(
            weight.shape[1] * groups,
            weight.shape[0],
            weight.shape[2:],
            stride=stride,
            padding=first if any(first) else None,
            dilation=dilation,
            groups=groups if groups > 1 else None,
            bias=None if bias is not None else False,
        ),
        weight=weight,
        bias=bias,
    )
    return f"{layer}({x})"


@written_as("ConvTranspose")
def transposed_convolution(step: Step) -> str:
    """`nn.ConvTranspose2d`."""
    weight, bias = step.value(1), step.value(2, None)
    first, last, stride, dilation = _window(step, weight.ndim - 2)
    groups, more = step.get("group", 1), step.get("output_padding", [0])
    if first != last or step.get("output_shape"):
        raise NoForm("padding that differs between both sides")
    layer = step.layer(
        f"ConvTranspose{weight.ndim - 2}d",
        arguments(
            weight.shape[0],
            weight.shape[1] * groups,
            weight.shape[2:],
            stride=stride,
            padding=first if any(first) else None,
            output_padding=more if any(more) else None,
            groups=groups if groups > 1 else None,
            bias=None if bias is not None else False,
            dilation=dilation,
        ),
        weight=weight,
        bias=bias,
    )
    return f"{layer}({step.operand(0)})"


@written_as("Gemm")
def dense(step: Step) -> str:
    """`nn.Linear`."""
    weight, bias = step.value(1), step.value(2, None)
    if step.get("transA", 0) or step.get("alpha", 1.0) != 1 or step.get("beta", 1.0) != 1 or weight.ndim != 2:
        raise NoForm("transA, alpha or beta")
    weight = weight if step.get("transB", 0) else weight.T
    if bias is not None:
        bias = np.broadcast_to(np.ravel(bias), len(weight))
    return _linear(step, weight, bias)


@written_as("MatMul")
def product(step: Step) -> str:
    """`nn.Linear` without a bias if the second input is a matrix of weights, otherwise a product."""
    if step.is_known(1) and step.value(1).ndim == 2:
        return _linear(step, step.value(1).T, None)
    return f"{step.operand(0)} @ {step.operand(1)}"


def _linear(step: Step, weight: np.ndarray, bias: np.ndarray | None) -> str:
    layer = step.layer(
        "Linear",
        arguments(weight.shape[1], weight.shape[0], bias=None if bias is not None else False),
        weight=weight,
        bias=bias,
    )
    return f"{layer}({step.operand(0)})"


@written_as("BatchNormalization")
def batch_norm(step: Step) -> str:
    """`nn.BatchNorm2d`; PyTorch's momentum is the share of the new value, ONNX's and MXNet's that of the old one."""
    scale, shift, mean, variance = (step.value(index) for index in range(1, 5))
    rank = _rank(step)
    layer = step.layer(
        f"BatchNorm{max(1, rank - 2)}d",
        arguments(len(scale), eps=step.get("epsilon", 1e-5), momentum=round(1 - step.get("momentum", 0.9), 6)),
        weight=scale,
        bias=shift,
        running_mean=mean,
        running_var=variance,
    )
    return f"{layer}({step.operand(0)})"


@written_as("InstanceNormalization")
def instance_norm(step: Step) -> str:
    """`nn.InstanceNorm2d`."""
    scale, shift = step.value(1), step.value(2)
    rank = _rank(step)
    layer = step.layer(
        f"InstanceNorm{max(1, rank - 2)}d",
        arguments(len(scale), eps=step.get("epsilon", 1e-5), affine=True),
        weight=scale,
        bias=shift,
    )
    return f"{layer}({step.operand(0)})"


@written_as("PRelu")
def prelu(step: Step) -> str:
    """`nn.PReLU`."""
    slope, rank = step.value(1), _rank(step)
    if slope.size > 1 and slope.shape[-(rank - 1) :] != (slope.size, *[1] * (rank - 2)):
        raise NoForm("its slopes are not along the channels")
    layer = step.layer("PReLU", arguments(slope.size) if slope.size > 1 else "", weight=slope.ravel())
    return f"{layer}({step.operand(0)})"


@written_as("Dropout")
def dropout(step: Step) -> str:
    """`nn.Dropout`, which has no effect in prediction."""
    share = step.value(1, None)
    return f"{step.layer('Dropout', arguments(0.5 if share is None else float(share)))}({step.operand(0)})"


@written_as("MaxPool", "AveragePool")
def pooling(step: Step) -> str:
    """`F.max_pool2d` or `F.avg_pool2d`; before it `F.pad`, if they do not support the padding."""
    kernel, x = step.get("kernel_shape"), step.operand(0)
    first, last, stride, dilation = _window(step, len(kernel))
    largest, counted = step.kind == "MaxPool", step.get("count_include_pad", 0)
    if first != last or any(2 * pad > size for pad, size in zip(first, kernel)):
        if not largest and not counted:
            raise NoForm("a mean that excludes its padding, which differs between both sides")
        x, first = _padded(x, first, last, ', value=float("-inf")' if largest else ""), [0]
    return (
        f"F.{'max' if largest else 'avg'}_pool{len(kernel)}d({x}, "
        + arguments(
            kernel,
            stride=stride or [1],
            padding=first if any(first) else None,
            dilation=dilation if largest else None,
            ceil_mode=True if step.get("ceil_mode", 0) else None,
            count_include_pad=False if not largest and any(first) and not counted else None,
        )
        + ")"
    )


@written_as("GlobalAveragePool", "GlobalMaxPool")
def global_pooling(step: Step) -> str:
    """The mean or maximum over all rows and columns."""
    axes = ", ".join(str(axis) for axis in range(2, _rank(step)))
    return f"{step.operand(0)}.{'mean' if step.kind == 'GlobalAveragePool' else 'amax'}(({axes}), keepdim=True)"


@written_as("Softmax", "LogSoftmax")
def softmax(step: Step) -> str:
    """`F.softmax`, or its logarithm."""
    return f"F.{'softmax' if step.kind == 'Softmax' else 'log_softmax'}({step.operand(0)}, {step.get('axis', -1)})"


_FUNCTIONS = {
    "Relu": "F.relu",
    "Sigmoid": "torch.sigmoid",
    "Tanh": "torch.tanh",
    "Softplus": "F.softplus",
    "Exp": "torch.exp",
    "Softsign": "F.softsign",
    "Log": "torch.log",
    "Sqrt": "torch.sqrt",
    "Abs": "torch.abs",
    "Erf": "torch.erf",
    "Floor": "torch.floor",
    "Ceil": "torch.ceil",
    "Round": "torch.round",
    "Reciprocal": "torch.reciprocal",
    "Sign": "torch.sign",
    "Sin": "torch.sin",
    "Cos": "torch.cos",
    "Where": "torch.where",
    "Not": "torch.logical_not",
    "And": "torch.logical_and",
    "Or": "torch.logical_or",
}


@written_as(*_FUNCTIONS)
def function(step: Step) -> str:
    """A function of the inputs that PyTorch has under nearly the same name."""
    return f"{_FUNCTIONS[step.kind]}({', '.join(map(step.operand, range(len(step.inputs))))})"


@written_as("Max", "Min")
def extreme(step: Step) -> str:
    """The maximum or minimum of several inputs; `torch.clamp` for numbers."""
    expression, *others = map(step.operand, sorted(range(len(step.inputs)), key=step.is_known))
    for other in others:
        expression = (
            f"torch.{'maximum' if step.kind == 'Max' else 'minimum'}({expression}, {other})"
            if other.isidentifier()
            else f"torch.clamp({expression}, {step.kind.lower()}={other})"
        )
    return expression


_SIGNS = {
    "Add": "+",
    "Sub": "-",
    "Mul": "*",
    "Div": "/",
    "Pow": "**",
    "Sum": "+",
    "Greater": ">",
    "Less": "<",
    "Equal": "==",
    "GreaterOrEqual": ">=",
    "LessOrEqual": "<=",
}


@written_as(*_SIGNS)
def arithmetic(step: Step) -> str:
    """Arithmetic on arrays."""
    return f" {_SIGNS[step.kind]} ".join(map(step.operand, range(len(step.inputs))))


@written_as("Neg")
def negative(step: Step) -> str:
    """The negative."""
    return f"-{step.operand(0)}"


@written_as("LeakyRelu", "Elu", "Selu", "HardSigmoid")
def rectifier(step: Step) -> str:
    """Activations with parameters that are not learned."""
    x = step.operand(0)
    if step.kind == "HardSigmoid":
        return f"torch.clamp({arguments(step.get('alpha', 0.2))} * {x} + {arguments(step.get('beta', 0.5))}, 0, 1)"
    if step.kind == "Selu":
        return f"F.selu({x})"
    return (
        f"F.{'leaky_relu' if step.kind == 'LeakyRelu' else 'elu'}({x}, "
        + arguments(step.get("alpha", 0.01 if step.kind == "LeakyRelu" else 1.0))
        + ")"
    )


@written_as("Clip")
def clip(step: Step) -> str:
    """`torch.clamp`."""
    ends = [None if step.value(index, None) is None else float(step.value(index)) for index in (1, 2)]
    return f"torch.clamp({step.operand(0)}, {arguments(min=ends[0], max=ends[1])})"


@written_as("LRN")
def local_response(step: Step) -> str:
    """`F.local_response_norm`."""
    return (
        f"F.local_response_norm({step.operand(0)}, "
        + arguments(
            step.get("size"), alpha=step.get("alpha", 1e-4), beta=step.get("beta", 0.75), k=step.get("bias", 1.0)
        )
        + ")"
    )


@written_as("Cast")
def cast(step: Step) -> str:
    """Conversion to another type."""
    if step.get("to") not in _TYPES:
        raise NoForm(f"type {step.get('to')}")
    return f"{step.operand(0)}.to(torch.{_TYPES[step.get('to')]})"
