"""Graphs rewritten to train faster on CPUs: the same outputs and gradients, from kernels that oneDNN has.

What is slow in MXNet 1.9.1 on x86, and what takes its place:

- The gradient of a depthwise filter with more than three columns. oneDNN's fast kernel takes one to three
  (`kw <= 3` in `jit_uni_dw_conv_bwd_weights_kernel`), and the general one takes half of a training step of
  EfficientNet-Lite0. The sum of two convolutions with up to three columns each is the same.
- ReLU6. `clip` and `minimum` do not work on oneDNN's blocked arrays, so each is surrounded by reorders. With y the
  output of a BatchNorm, min(max(y, 0), 6) = relu(6 - relu(6 - y)). The BatchNorm can return 6 - y itself, and a
  second one with constant parameters subtracts from 6.
- `Pad`, which puts zeros around filters for TensorFlow's padding: its gradient takes milliseconds for any filter.
  `Concat` with zeros does not.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Collection
from typing import Any

from d2lcls.models.fusion.folding import rebuilt, sorted_nodes
from d2lcls.models.fusion.fusible import is_plain_norm

import mxnet as mx

TRUE = ("True", "1")
CONSTANT = "training_constant"  # how the names of added parameters begin
COLUMNS = 3  # of a depthwise filter, up to which oneDNN has a fast kernel for its gradient
BOUND = 6  # of ReLU6

Node = dict[str, Any]


def faster_training(symbol: mx.sym.Symbol, learned: Collection[str]) -> mx.sym.Symbol:
    """Return a graph with the same outputs and gradients, to within rounding, that trains faster on a CPU.

    Args:
        symbol: the graph of a network, in float32.
        learned: names of the parameters that are trained.

    Returns:
        the symbol itself if there is nothing to change; otherwise another graph, with the same parameters and some
        constant ones besides, see `constants`.
    """
    graph = _Graph(symbol)
    for index, node in enumerate(graph.old):
        groups = _column_groups(graph, node, learned)
        norm = _bounded_norm(graph, node)
        if groups:
            graph.place[index] = _split(graph, node, groups)
        elif _is_padded_filter(graph, node):
            graph.place[index] = _pad(graph, node)
        elif norm is not None:
            graph.place[index] = _bound(graph, node, norm)
        else:
            graph.keep(index, node)
    return graph.symbol() if graph.changed else symbol


def constants(symbol: mx.sym.Symbol) -> dict[str, tuple[float, int]]:
    """Return (value, length) of each constant parameter that `faster_training` added, by name."""
    found = {}
    for name in symbol.list_inputs():
        if name.startswith(CONSTANT):
            *_, value, length = name.split("_")
            found[name] = float(value), int(length)
    return found


class _Graph:
    """A graph being rewritten: its old nodes, the new ones, and which new one takes the place of an old one."""

    def __init__(self, symbol: mx.sym.Symbol) -> None:
        self.whole = json.loads(symbol.tojson())
        self.old: list[Node] = self.whole["nodes"]
        self.new: list[Node] = []
        self.place: dict[int, int] = {}
        self.changed = False
        self._constants: dict[str, int] = {}
        self._uses = Counter(index for node in self.old for index, *_ in node["inputs"])
        self._uses.update(index for index, *_ in self.whole["heads"])

    def before(self, node: Node, place: int = 0) -> Node:
        """Return the old node that an input of an old node comes from."""
        return self.old[node["inputs"][place][0]]

    def alone_before(self, node: Node, op: str) -> Node | None:
        """Return the old node before another one if it is of this kind and nothing else reads it."""
        index = node["inputs"][0][0]
        return self.old[index] if self.old[index]["op"] == op and self._uses[index] == 1 else None

    def inputs(self, node: Node) -> list[int]:
        """Return the new nodes in the place of an old node's inputs."""
        return [self.place[index] for index, *_ in node["inputs"]]

    def keep(self, index: int, node: Node) -> None:
        """Copy a node."""
        self.new.append({**node, "inputs": [[self.place[i], *rest] for i, *rest in node["inputs"]]})
        self.place[index] = len(self.new) - 1

    def add(self, op: str, name: str, inputs: list[int], **attrs: Any) -> int:
        """Add a node; return its index."""
        self.changed = True
        values = {key: str(value) for key, value in attrs.items()}
        self.new.append({"op": op, "name": name, "attrs": values, "inputs": [[index, 0, 0] for index in inputs]})
        return len(self.new) - 1

    def constant(self, kind: str, value: int, length: int) -> int:
        """Return a parameter that holds a value so many times; a `kind` is either trained or a running statistic."""
        name = f"{CONSTANT}_{kind}_{value}_{length}"
        if name not in self._constants:
            self._constants[name] = self.add("null", name, [])
        return self._constants[name]

    def symbol(self) -> mx.sym.Symbol:
        """Return the new graph."""
        heads = [[self.place[index], *rest] for index, *rest in self.whole["heads"]]
        return rebuilt(sorted_nodes({**self.whole, "nodes": self.new, "heads": heads}))


def _column_groups(graph: _Graph, node: Node, learned: Collection[str]) -> list[tuple[int, int]]:
    """Return the first column, and that after the last, of each part of a wide depthwise filter; none if it is not."""
    if node["op"] != "Convolution":
        return []
    attrs, weight = node["attrs"], graph.before(node, 1)
    kernel = _pair(attrs, "kernel")
    if len(kernel) != 2:  # of sequences or volumes
        return []
    columns = kernel[1]
    zeros = ast.literal_eval(weight["attrs"]["pad_width"])[6] if weight["op"] == "Pad" else 0
    parameter = graph.before(weight) if weight["op"] == "Pad" else weight
    depthwise = attrs["num_filter"] == attrs.get("num_group", "1") != "1"
    if not depthwise or columns <= COLUMNS or columns - zeros > 2 * COLUMNS or len(node["inputs"]) > 2:
        return []
    if parameter["name"] not in learned or _pair(attrs, "dilate", 1) != (1, 1):
        return []
    middle = zeros + COLUMNS
    groups = [(zeros, min(middle, columns))] + ([(middle, columns)] if middle < columns else [])
    across, stride = _pair(attrs, "pad", 0)[1], _pair(attrs, "stride", 1)[1]
    for first, last in groups:
        left, right = across - first, across - (columns - last)
        if right < 0 or not (left >= 0 or last - first - left <= COLUMNS or -left % stride == 0):
            return []  # only images without some of their columns would do
    return groups


def _is_padded_filter(graph: _Graph, node: Node) -> bool:
    """Whether a node puts zeros above and on the left of a parameter, as `efficientnet.Conv` does."""
    if node["op"] != "Pad" or graph.before(node)["op"] != "null" or node["attrs"].get("mode") != "constant":
        return False
    widths = ast.literal_eval(node["attrs"]["pad_width"])
    return not any(width for place, width in enumerate(widths) if place not in (4, 6))


def _pad(graph: _Graph, node: Node) -> int:
    """Add the concatenation of a filter with zeros."""
    *_, down, _, right, _ = ast.literal_eval(node["attrs"]["pad_width"])
    (filters,) = graph.inputs(node)
    for axis, shape in ((2, (0, 0, down, 0)), (3, (0, 0, 0, right))):
        if max(shape):
            zeros = graph.add("_zeros", f"{node['name']}_zeros{axis}", [], shape=shape)
            filters = graph.add("Concat", f"{node['name']}_{axis}", [zeros, filters], dim=axis, num_args=2)
    return filters


def _split(graph: _Graph, node: Node, groups: list[tuple[int, int]]) -> int:
    """Add convolutions with some of the columns of a depthwise filter each, and their sum."""
    parts = [_part(graph, node, first, last, f"{node['name']}_{first}") for first, last in groups]
    return parts[0] if len(parts) == 1 else graph.add("elemwise_add", f"{node['name']}_sum", parts)


def _part(graph: _Graph, node: Node, first: int, last: int, name: str) -> int:
    """Add the convolution with columns `first` to `last` of a filter.

    Its output w begins to read the images at column stride * w + first - padding. So it needs other padding than the
    whole filter, on the left or on the right only.
    """
    attrs = node["attrs"]
    images, weight = graph.inputs(node)
    (rows, columns), (down, across), (step, stride) = (
        _pair(attrs, "kernel"),
        _pair(attrs, "pad", 0),
        _pair(attrs, "stride", 1),
    )
    left, right = across - first, across - (columns - last)
    weight = graph.add("slice_axis", f"{name}_columns", [weight], axis=3, begin=first, end=last)
    skipped = 0  # columns of the output
    if left < 0 and last - first - left <= COLUMNS:  # columns of zeros in front make it begin at the first pixel
        zeros = graph.add("_zeros", f"{name}_zeros", [], shape=(int(attrs["num_filter"]), 1, rows, -left))
        weight = graph.add("Concat", f"{name}_filter", [zeros, weight], dim=3, num_args=2)
        first, left = first + left, 0
    elif left < 0:
        skipped, left = -left // stride, 0
    for place, width in (("left", left), ("right", right)):
        if width > 0:
            border = graph.add("_zeros", f"{name}_{place}", [], shape=(0, 0, 0, width))
            both = [border, images] if place == "left" else [images, border]
            images = graph.add("Concat", f"{name}_{place}_padded", both, dim=3, num_args=2)
    output = graph.add(
        "Convolution",
        name,
        [images, weight],
        **{**attrs, "kernel": (rows, last - first), "pad": (down, 0), "stride": (step, stride)},
    )
    return graph.add("slice_axis", f"{name}_skipped", [output], axis=3, begin=skipped, end=None) if skipped else output


def _bounded_norm(graph: _Graph, node: Node) -> Node | None:
    """Return the BatchNorm after a convolution of which a node computes the ReLU6; None if it computes none."""
    attrs = node.get("attrs", {})
    if node["op"] == "clip" and (float(attrs["a_min"]), float(attrs["a_max"])) == (0, BOUND):
        norm = graph.alone_before(node, "BatchNorm")
    elif node["op"] == "_minimum_scalar" and float(attrs["scalar"]) == BOUND:
        relu = graph.alone_before(node, "Activation")
        norm = graph.alone_before(relu, "BatchNorm") if relu and relu["attrs"]["act_type"] == "relu" else None
    else:
        return None
    return norm if norm and is_plain_norm(norm) and graph.before(norm)["op"] == "Convolution" else None


def _bound(graph: _Graph, node: Node, norm: Node) -> int:
    """Add the ReLU6 of a BatchNorm, computed by BatchNorms and ReLUs."""
    name, attrs, length = norm["name"], norm["attrs"], int(graph.before(norm)["attrs"]["num_filter"])
    images, gamma, beta, *statistics = graph.inputs(norm)
    minus = graph.constant("scale", -1, length)
    if attrs.get("fix_gamma", "True") not in TRUE:
        minus = graph.add("negative", f"{name}_minus_gamma", [gamma])
    beta = graph.add("_rminus_scalar", f"{name}_from_bound", [beta], scalar=BOUND)
    distance = graph.add("BatchNorm", name, [images, minus, beta, *statistics], **{**attrs, "fix_gamma": False})
    distance = graph.add("Activation", f"{name}_distance", [distance], act_type="relu")
    fixed = [
        graph.constant(kind, value, length)
        for kind, value in (("scale", -1), ("shift", BOUND), ("mean", 0), ("var", 1))
    ]
    bounded = graph.add(
        "BatchNorm", f"{name}_bounded", [distance, *fixed], use_global_stats=True, fix_gamma=False, eps=1e-12
    )
    return graph.add("Activation", node["name"], [bounded], act_type="relu")


def _pair(attrs: dict[str, str], name: str, default: int = 0) -> tuple[int, ...]:
    found = ast.literal_eval(attrs.get(name, "()"))
    return found if found else (default, default)
