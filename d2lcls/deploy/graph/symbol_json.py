"""A network's graph in MXNet's JSON, of any version: checked before MXNet reads it, and brought up to date.

`d2lcls.models.symbols.allowed` checks it: only the operators of image classifiers are allowed.

Formats: `param` (2015), `param` and `attr` (2016), `attr` (2017), `attrs` (since 1.0); edges and heads of two or three
numbers; with and without `node_row_ptr` and `backward_source_id`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from d2lcls.deploy.graph.operators import RENAMED, upgrade_attributes
from d2lcls.models.symbols.allowed import check_graph, check_texts, load_symbol, parse_json, signature
from d2lcls.models.symbols.attributes import FUSED, NotAllowed

if TYPE_CHECKING:
    import mxnet as mx

MAX_BYTES = 256 << 20
# What users set for training or devices, which files of 2017 have among the settings of an operator.
_HIDDEN = re.compile(r"(ctx_group|lr_mult|wd_mult|force_mirroring|mirror_stage)$")


class SymbolError(ValueError):
    """A graph that cannot be read or is invalid; the message names the file and the reason."""


class Node(NamedTuple):
    """One operator, or a variable, whose `op` is "null"."""

    op: str
    name: str
    attributes: Mapping[str, str]
    inputs: tuple[tuple[int, int], ...]  # (index of a node, index of its output)
    original: str  # `op` as it was in the file


class Graph(NamedTuple):
    """A checked and upgraded graph.

    Args:
        nodes: each after those that it reads.
        heads: (node, output) of each output.
        version: of the MXNet that wrote it, such as "1.5.0", or a guess from its format.
        changes: what was upgraded.
    """

    nodes: tuple[Node, ...]
    heads: tuple[tuple[int, int], ...]
    version: str
    changes: tuple[str, ...]

    def json(self) -> str:
        """Return it as MXNet 1.9 reads it."""
        nodes = [
            {"op": node.op, "name": node.name, "inputs": node.inputs, "attrs": node.attributes} for node in self.nodes
        ]
        return json.dumps({"nodes": nodes, "heads": self.heads})

    def load(self) -> mx.sym.Symbol:
        """Return it as MXNet's symbol.

        Raises:
            SymbolError: it is not allowed, or not complete, or MXNet refuses it.
        """
        try:
            return load_symbol(self.json())
        except NotAllowed as error:
            raise SymbolError(f"The graph cannot be used: {error}.") from error

    def complete(self) -> Graph:
        """Return it with the variables that old files leave out, such as running statistics."""
        nodes: list[Node] = []
        indices: list[int] = []  # of this graph's nodes in the completed one
        for node in self.nodes:
            names = () if node.op == "null" else signature(node.op, node.attributes)[0] or ()
            edges = [(indices[before], output) for before, output in node.inputs]
            for name in names[len(edges) :]:
                edges.append((len(nodes), 0))
                nodes.append(Node("null", f"{node.name}_{name}", {}, (), "null"))
            indices.append(len(nodes))
            nodes.append(node._replace(inputs=tuple(edges)))
        return self._replace(
            nodes=tuple(nodes), heads=tuple((indices[before], output) for before, output in self.heads)
        )


def read_symbol(path: str | Path) -> Graph:
    """Read a `-symbol.json` file of any version.

    Returns:
        the graph, upgraded and then checked by `d2lcls.models.symbols.allowed.check_graph`.

    Raises:
        FileNotFoundError: there is no such file.
        SymbolError: it is damaged or not MXNet's, or has parts that are not allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such graph file.")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise NotAllowed(f"it is {path.stat().st_size >> 20} MB long: is it the file of parameters?")
        return parse_symbol(path.read_bytes())
    except NotAllowed as error:
        raise SymbolError(
            f"{path}: cannot be read as MXNet's graph ({error}). Expected a -symbol.json file "
            "written by save_checkpoint or export."
        ) from error


def parse_symbol(content: str | bytes) -> Graph:
    """As `read_symbol`, from its content; raises NotAllowed with the reason alone."""
    stored = parse_json(content)
    original: list[str] = []
    changes: list[str] = []
    forms: set[str] = set()

    def upgrade(raw: dict[str, Any]) -> dict[str, Any]:
        original.append(raw["op"])
        return _upgraded(raw, changes, forms)

    checked = check_graph(stored, upgrade=upgrade)
    nodes = [
        Node(node["op"], node["name"], node.get("attrs", {}), tuple((edge[0], edge[1]) for edge in node["inputs"]), op)
        for node, op in zip(checked["nodes"], original)
    ]
    version = _version(stored, forms)
    if version[0] not in "123456789" and not version.startswith("0"):
        nodes = [_before_0_9_5(node, changes) for node in nodes]
    heads = dict.fromkeys((edge[0], edge[1]) for edge in checked["heads"])
    return Graph(tuple(nodes), tuple(heads), version, tuple(dict.fromkeys(changes)))


def _upgraded(raw: dict[str, Any], changes: list[str], forms: set[str]) -> dict[str, Any]:
    """Return a node as MXNet 1.9 writes it, and add what that changes and the form it had."""
    op = raw["op"]
    attributes: dict[str, str] = {}
    for form in ("param", "attr", "attrs"):  # files of 2016 have the first two: settings, and what users added
        more = raw.get(form, {})
        check_texts(more, form)
        if more or form != "attrs" and form in raw:
            forms.add(form)
        hidden = form == "attr" and "param" in raw or op == "null"
        attributes.update(
            {
                f"__{key}__" if not key.startswith("__") and (hidden or _HIDDEN.search(key)) else key: value
                for key, value in more.items()
            }
        )
    if op in FUSED or raw.get("subgraphs"):
        raise NotAllowed(
            f"{op} holds a graph of its own, as after fusing or quantising for one kind of processor. "
            "Use the network as it was before that"
        )
    new = RENAMED.get(op, op)
    if new != op:
        changes.append(f"{op} is now {new}")
    upgraded = upgrade_attributes(new, attributes)
    if "target_shape" in attributes and "target_shape" not in upgraded:
        changes.append("Reshape's target_shape is now shape")
    return {"op": new, "name": raw["name"], "inputs": raw.get("inputs", []), "attrs": upgraded}


def _before_0_9_5(node: Node, changes: list[str]) -> Node:
    """Adapt an operator that had another meaning before MXNet 0.9.5, as MXNet's own reader does."""
    if node.op in ("argmax", "argmin") and node.attributes.get("axis") == "-1":
        changes.append(f"{node.op} with axis -1 is over all axes, as it was in that version")
        return node._replace(attributes={key: value for key, value in node.attributes.items() if key != "axis"})
    return node


def _version(stored: Any, forms: set[str]) -> str:
    try:
        number = int(stored["attrs"]["mxnet_version"][1])
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    except (KeyError, TypeError, ValueError, IndexError):
        if "param" in forms:
            return "before 0.9 (2015 or 2016)"
        return "of 0.9 to 0.11 (2017)" if "attr" in forms else "unknown"
