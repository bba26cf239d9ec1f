"""An ONNX graph written as the source of a PyTorch module, for people to read and to train on.

Layers with weights become attributes of the module, named as in the graph; every other operator is a line of `forward`.
Names in a file are text of unknown origin: only letters, digits and underscores of them get into the source.
"""

import keyword
import os
import re
from collections import Counter

import d2lcls.deploy.torch.shapes  # noqa: F401  notes its forms
from d2lcls.deploy.manifest import ModelError
from d2lcls.deploy.torch.graph import Facts, Step
from d2lcls.deploy.torch.operators import EXPRESSIONS, NoForm, number

import numpy as np

_VARIABLES = tuple("xyzwvutsrqpomlkjhgfedcba")
_TAKEN = {
    "training",
    "dump_patches",
    "call_super_init",
    "T_destination",
    "forward",
    "add_module",
    "apply",
    "bfloat16",
    "buffers",
    "children",
    "compile",
    "cpu",
    "cuda",
    "double",
    "eval",
    "extra_repr",
    "float",
    "get_buffer",
    "get_extra_state",
    "get_parameter",
    "get_submodule",
    "half",
    "ipu",
    "load_state_dict",
    "modules",
    "mtia",
    "named_buffers",
    "named_children",
    "named_modules",
    "named_parameters",
    "parameters",
    "register_buffer",
    "register_module",
    "register_parameter",
    "requires_grad_",
    "set_extra_state",
    "set_submodule",
    "share_memory",
    "state_dict",
    "to",
    "to_empty",
    "train",
    "type",
    "xpu",
    "zero_grad",
}  # attributes of nn.Module
_CONSTANT = "__constant_"  # in the names that `onnx_converters` gives to what nobody learned
_GLOBAL = {"F", "nn", "torch", "self", "n", "len", "float"}  # what lines of `forward` use besides variables
_ENDINGS = re.compile(r"_(weight|bias|gamma|beta|alpha|fwd|output)\d*$")


def to_code(model, title):
    """Write an ONNX model as PyTorch.

    Args:
        model: checked `onnx.ModelProto` of opset 13.
        title: first line of the module's docstring.

    Returns:
        (source, weights, inputs): the module's text, with the class `Network` and the function `load`; dict from the
        names in its `state_dict` to arrays; the names of its inputs in the graph, in the order of `forward`.

    Raises:
        ModelError: for an operator no PyTorch is known; names it.
    """
    writer = _Writer(model)
    for node in model.graph.node:
        writer.add(node)
    return writer.source(title), writer.weights, [value.name for value in model.graph.input]


class _Writer:
    def __init__(self, model):
        self.graph, self.facts = model.graph, Facts(model)
        self.layers, self.lines, self.weights, self.stored = [], [], {}, {}
        self.counts_images = False
        self.uses = Counter(
            self.facts.root(name)
            for node in self.graph.node
            if node.output[0] not in self.facts.known and node.op_type != "Identity"
            for name in node.input
        )
        self.uses.update(self.facts.root(value.name) for value in self.graph.output)
        self.prefix = _common_prefix(self._layer_names())
        inputs = [value.name for value in self.graph.input]
        self.inputs = ["x"] if len(inputs) == 1 else _unique(map(_plain, inputs))
        self.variables = dict(zip(inputs, self.inputs))

    def _layer_names(self):
        return [
            _plain(node.input[1])
            for node in self.graph.node
            if node.op_type in ("Conv", "ConvTranspose", "Gemm", "BatchNormalization", "PRelu")
            and node.input[1] in self.facts.known
        ]

    def add(self, node):
        """Write one operator."""
        if node.output[0] in self.facts.known or node.output[0] in self.facts.alias:
            return
        step = Step(self, node)
        try:
            if node.op_type not in EXPRESSIONS:
                raise NoForm("no such operator is known here")
            expression = EXPRESSIONS[node.op_type](step)
        except NoForm as reason:
            raise ModelError(
                f"The operator {node.op_type} of the layer {_plain(node.name)} cannot be written as "
                f"PyTorch: {reason}. As ONNX the model runs all the same, with ONNX Runtime."
            ) from reason
        free = []
        for name in {self.facts.root(name) for name in node.input if self.facts.root(name) in self.variables}:
            self.uses[name] -= sum(self.facts.root(one) == name for one in node.input)
            if self.uses[name] <= 0:
                free.append(self.variables.pop(name))
        targets = []
        several = node.op_type in ("Split", "TopK")
        for output in step.outputs if several else step.outputs[:1]:
            if not self.uses[output]:
                targets.append("_")
                continue
            taken = {*self.variables.values(), *self.inputs[1:], "n"}
            self.variables[output] = next(
                name
                for name in (*sorted(free, key=_rank), *_VARIABLES, *(f"x{place}" for place in range(2, 9999)))
                if name not in taken
            )
            targets.append(self.variables[output])
        left = f"{', '.join(targets)}{',' if several and len(targets) == 1 else ''}"
        self.lines.append(f"{left} = {expression}{'' if several else self._comment(step.outputs[0])}")

    def _comment(self, name):
        one, two = (shapes.get(name) for shapes in self.facts.shapes)
        if not one or not two:
            return ""
        sizes = [str(a) if a == b else "N" if a == 1 else f"{a}N" for a, b in zip(one, two)]
        return f"  # ({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"

    def operand(self, name):
        """Return a variable, a number or a stored array."""
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
            learned = array.dtype.kind == "f" and _CONSTANT not in name
            self.layers.append(
                f"self.{own} = nn.Parameter({zeros}))"
                if learned
                else f'self.register_buffer("{own}", {zeros}, dtype=torch.{array.dtype}))'
            )
        return f"self.{self.stored[name]}"

    def layer(self, step, kind, arguments, weights):
        """See `Step.layer`; a layer that is used twice is made once."""
        learned = (name for name in step.inputs[1:] if name and _CONSTANT not in name)
        source = next(learned, step.node.name) if weights else step.node.name
        key = (kind, arguments, *step.inputs[1:]) if weights else (kind, step.node.name)
        if key not in self.stored:
            self.stored[key] = own = self._own_name(source)
            self.layers.append(f"self.{own} = nn.{kind}({arguments})")
            self.weights.update({f"{own}.{name}": array for name, array in weights.items() if array is not None})
        return f"self.{self.stored[key]}"

    def _own_name(self, name):
        bare = _plain(name)
        bare = _ENDINGS.sub("", bare[len(self.prefix) :] if bare.startswith(self.prefix) else bare).strip("_")
        bare = bare if bare[:1].isalpha() else f"layer_{bare}".rstrip("_")
        bare = f"{bare}_" if bare in _TAKEN or keyword.iskeyword(bare) else bare
        taken = {*self.stored.values()}
        return next(one for one in (bare, *(f"{bare}_{place}" for place in range(2, 99999))) if one not in taken)

    def source(self, title):
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

Written from an MXNet model by d2lcls. It needs PyTorch only; `python check.py` shows that it computes the same.
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
        first, last = (begin + place for place in entry["data_offsets"])
        numbers = torch.frombuffer(content[first:last], dtype=types[entry["dtype"]])
        tensors[name] = numbers.reshape(entry["shape"])
    return tensors
'''


def _rank(name):
    return _VARIABLES.index(name) if name in _VARIABLES else len(_VARIABLES)


def _common_prefix(names):
    found = os.path.commonprefix(names) if len(names) > 1 else ""
    return found[: found.rfind("_") + 1]


def _plain(name):
    """Return what of a name may stand in source."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)[:80] or "layer"


def _text(title):
    """Return what of a title may stand in a docstring."""
    return re.sub(r"[^\w .,:;()/+-]", "_", title)[:300]


def _unique(names):
    made = []
    for name in names:
        name = name if name[:1].isalpha() and not keyword.iskeyword(name) and name not in _GLOBAL else f"input_{name}"
        made.append(next(one for one in (name, *(f"{name}_{place}" for place in range(2, 999))) if one not in made))
    return made
