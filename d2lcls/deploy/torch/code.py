"""An ONNX graph written as the source of a PyTorch module, to read and to train further.

Layers with weights become attributes of the module, named as in the graph; every other operator is a line of `forward`.
Names in a file are untrusted text: only their letters, digits and underscores become part of the source.
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Container, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING

import d2lcls.deploy.torch.shapes  # noqa: F401  registers its operators
from d2lcls.deploy.graph.names import common_prefix
from d2lcls.deploy.manifest import ModelError
from d2lcls.deploy.torch.graph import Facts, NoForm, Step
from d2lcls.deploy.torch.operators import EXPRESSIONS, TUPLES, number

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_VARIABLES = tuple("xyzwvutsrqpomlkjhgfedcba")
# Attributes of nn.Module.
_TAKEN = frozenset(
    """
    training dump_patches call_super_init T_destination forward add_module apply bfloat16 buffers children compile
    cpu cuda double eval extra_repr float get_buffer get_extra_state get_parameter get_submodule half ipu
    load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters
    register_buffer register_module register_parameter requires_grad_ set_extra_state set_submodule share_memory
    state_dict to to_empty train type xpu zero_grad
    """.split()  # noqa: SIM905  one name per line would be long
)
_CONSTANT = "__constant_"  # in the names of constants that converters to ONNX store
_GLOBAL = {"F", "nn", "torch", "self", "n", "len", "float"}  # names that lines of `forward` use besides variables
_ENDINGS = re.compile(r"_(weight|bias|gamma|beta|alpha|fwd|output)\d*$")


def to_code(model: ModelProto, title: str) -> tuple[str, dict[str, np.ndarray], list[str]]:
    """Write an ONNX model as PyTorch.

    Args:
        model: checked, of opset 13.
        title: first line of the module's docstring.

    Returns:
        (source, weights, inputs): the module's text, with the class `Network` and the function `load`; arrays by their
        names in its `state_dict`; the names of its inputs in the graph, in the order of `forward`.

    Raises:
        ModelError: an operator, named in the message, cannot be written as PyTorch.
    """
    writer = Writer(model)
    for node in model.graph.node:
        writer.add(node)
    return writer.source(title), writer.weights, [value.name for value in model.graph.input]


class Writer:
    """The source of a module in the making.

    Attributes:
        layers: lines of `__init__`.
        lines: lines of `forward`.
        weights: arrays by their names in the module's `state_dict`.
        stored: attributes of the module by the layer or array that they hold.
        variables: local variables of `forward` by the array that they hold.
        uses: how often each array will still be read.
        counts_images: whether `forward` needs the number of images.
    """

    def __init__(self, model: ModelProto) -> None:
        self.graph, self.facts = model.graph, Facts(model)
        self.layers: list[str] = []
        self.lines: list[str] = []
        self.weights: dict[str, np.ndarray] = {}
        self.stored: dict[Hashable, str] = {}
        self.counts_images = False
        self.uses = Counter(
            self.facts.root(name)
            for node in self.graph.node
            if node.output[0] not in self.facts.known and node.op_type != "Identity"
            for name in node.input
        )
        self.uses.update(self.facts.root(value.name) for value in self.graph.output)
        names = self._layer_names()
        self.prefix = common_prefix(names) if len(names) > 1 else ""
        inputs = [value.name for value in self.graph.input]
        self.inputs = ["x"] if len(inputs) == 1 else _unique(map(_plain, inputs))
        self.variables = dict(zip(inputs, self.inputs))

    def _layer_names(self) -> set[str]:
        """Return the names of layers with weights, from those of the arrays that are second inputs."""
        second = (node.input[1] for node in self.graph.node if len(node.input) > 1)
        arrays = ((name, self.facts.known[name][0]) for name in second if name in self.facts.known)
        return {_ENDINGS.sub("", _plain(name)) for name, array in arrays if array.size > 1 and _is_learned(name, array)}

    def add(self, node: NodeProto) -> None:
        """Write one operator."""
        if node.output[0] in self.facts.known or node.output[0] in self.facts.alias:
            return
        step = Step(self, node)
        try:
            if node.op_type not in EXPRESSIONS:
                raise NoForm("there is no code for it")
            expression = EXPRESSIONS[node.op_type](step)
        except NoForm as reason:
            raise ModelError(
                f"The operator {node.op_type} of the layer {_plain(node.name)} cannot be written as "
                f"PyTorch: {reason}. The ONNX model can be used instead, with ONNX Runtime."
            ) from reason
        free = []
        for name in {self.facts.root(name) for name in node.input if self.facts.root(name) in self.variables}:
            self.uses[name] -= sum(self.facts.root(source) == name for source in node.input)
            if self.uses[name] <= 0:
                free.append(self.variables.pop(name))
        targets = []
        several = node.op_type in TUPLES
        for output in step.outputs if several else step.outputs[:1]:
            if not self.uses[output]:
                targets.append("_")
                continue
            taken = {*self.variables.values(), *self.inputs[1:], "n"}
            self.variables[output] = next(
                name
                for name in (*sorted(free, key=_rank), *_VARIABLES, *(f"x{number}" for number in range(2, 9999)))
                if name not in taken
            )
            targets.append(self.variables[output])
        left = f"{', '.join(targets)}{',' if several and len(targets) == 1 else ''}"
        self.lines.append(f"{left} = {expression}{'' if several else self._comment(step.outputs[0])}")

    def _comment(self, name: str) -> str:
        """Return a comment on the shape of an array."""
        one, two = (shapes.get(name) for shapes in self.facts.shapes)
        if not one or not two:
            return ""
        sizes = [str(a) if a == b else "N" if a == 1 else f"{a}N" for a, b in zip(one, two)]
        return f"  # ({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"

    def operand(self, name: str) -> str:
        """Return an array as it is written in expressions: a variable, a number, or an attribute."""
        if name not in self.facts.known:
            return self.variables[self.facts.root(name)]
        array = self.facts.known[name][0]
        if array.size == 1:
            text = repr(array.item()) if array.dtype.kind in "iub" else number(array.item())
            text = text if np.isfinite(array).all() else f'float("{text}")'
            return f"({text})" if text.startswith("-") else text
        if name not in self.stored:
            own = self._own_name(name)
            self.stored[name], self.weights[own] = own, array
            zeros = f"torch.zeros({', '.join(map(str, array.shape))}"
            self.layers.append(
                f"self.{own} = nn.Parameter({zeros}))"
                if _is_learned(name, array)
                else f'self.register_buffer("{own}", {zeros}, dtype=torch.{array.dtype}))'
            )
        return f"self.{self.stored[name]}"

    def layer(self, step: Step, kind: str, arguments: str, weights: Mapping[str, np.ndarray | None]) -> str:
        """See `Step.layer`; a layer that is used twice is made once."""
        learned = (name for name in step.inputs[1:] if name and _CONSTANT not in name)
        source = next(learned, step.node.name) if weights else step.node.name
        key = (kind, arguments, *step.inputs[1:]) if weights else (kind, step.node.name)
        if key not in self.stored:
            self.stored[key] = own = self._own_name(source)
            self.layers.append(f"self.{own} = nn.{kind}({arguments})")
            self.weights.update({f"{own}.{name}": array for name, array in weights.items() if array is not None})
        return f"self.{self.stored[key]}"

    def _own_name(self, name: str) -> str:
        """Return an unused name for an attribute, from a name in the graph."""
        bare = _plain(name)
        bare = _ENDINGS.sub("", bare[len(self.prefix) :] if bare.startswith(self.prefix) else bare).strip("_")
        bare = bare if bare[:1].isalpha() else f"layer_{bare}".rstrip("_")
        bare = f"{bare}_" if bare in _TAKEN or keyword.iskeyword(bare) else bare
        taken = set(self.stored.values())
        return _unused(bare, taken)

    def source(self, title: str) -> str:
        """Return the module's text."""
        results = ", ".join(self.operand(self.facts.root(value.name)) for value in self.graph.output)
        first = [f"n = len({self.inputs[0]})"] if self.counts_images else []
        body = "\n".join(f"        {line}" for line in [*first, *self.lines, f"return {results}"])
        layers = "\n".join(f"        {line}" for line in ["super().__init__()", *self.layers])
        return _MODULE.format(
            title=_text(title),
            layers=layers,
            body=body,
            inputs=", ".join(self.inputs),
            functional="\nfrom torch.nn import functional as F" if "F." in body else "",
        )


_MODULE = '''"""{title}

Written from an MXNet model by d2lcls. It needs only PyTorch; `python check.py` shows that it computes the same.
"""

import json
from pathlib import Path

import torch
from torch import nn{functional}


class Network(nn.Module):
    def __init__(self):
{layers}

    def forward(self, {inputs}):
{body}


def load(path=Path(__file__).with_name("weights.safetensors")):
    """Return the network with its weights, ready to predict; call `.train()` on it to train it further."""
    network = Network()
    network.load_state_dict(read_tensors(path))
    return network.eval()


def read_tensors(path):
    """Read a .safetensors file: the length of a JSON header, the header, the numbers."""
    content = bytearray(Path(path).read_bytes())
    begin = 8 + int.from_bytes(content[:8], "little")
    types = {{"F32": torch.float32, "I64": torch.int64, "I32": torch.int32, "BOOL": torch.bool}}
    tensors = {{}}
    for name, entry in json.loads(content[8:begin]).items():
        first, last = (begin + offset for offset in entry["data_offsets"])
        numbers = torch.frombuffer(content[first:last], dtype=types[entry["dtype"]])
        tensors[name] = numbers.reshape(entry["shape"])
    return tensors
'''


def _is_learned(name: str, array: np.ndarray) -> bool:
    return array.dtype.kind == "f" and _CONSTANT not in name


def _rank(name: str) -> int:
    return _VARIABLES.index(name) if name in _VARIABLES else len(_VARIABLES)


def _plain(name: str) -> str:
    """Return a name with underscores for all characters that identifiers may not have."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)[:80] or "layer"


def _text(title: str) -> str:
    """Return a title with underscores for all characters that could end a docstring."""
    return re.sub(r"[^\w .,:;()/+-]", "_", title)[:300]


def _unique(names: Iterable[str]) -> list[str]:
    unique: list[str] = []
    for name in names:
        name = name if name[:1].isalpha() and not keyword.iskeyword(name) and name not in _GLOBAL else f"input_{name}"
        unique.append(_unused(name, unique))
    return unique


def _unused(name: str, taken: Container[str]) -> str:
    """Return a name, with a number after it if it is taken."""
    return next(unused for unused in (name, *(f"{name}_{number}" for number in range(2, 99999))) if unused not in taken)
