"""A network's graph in MXNet's JSON, of any version: checked before MXNet reads it, and brought up to date.

Only the operators of image classifiers are allowed, see `d2lcls.models.allowed`.

Formats: `param` (2015), `param` and `attr` (2016), `attr` (2017), `attrs` (since 1.0); edges and heads of two or three
numbers; with and without `node_row_ptr` and `backward_source_id`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from d2lcls.deploy.graph.operators import RENAMED, upgrade_attributes
from d2lcls.models.allowed import FUSED, MAX_NODES, check_operator, create

if TYPE_CHECKING:
    import mxnet as mx

MAX_BYTES = 256 << 20
VERSION = 10901


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
            {
                "op": node.op,
                "name": node.name,
                "inputs": [[*edge, 0] for edge in node.inputs],
                **({"attrs": node.attributes} if node.attributes else {}),
            }
            for node in self.nodes
        ]
        return json.dumps(
            {
                "nodes": nodes,
                "heads": [[*head, 0] for head in self.heads],
                "arg_nodes": [index for index, node in enumerate(self.nodes) if node.op == "null"],
                "attrs": {"mxnet_version": ["int", VERSION]},
            },
            ensure_ascii=False,  # MXNet does not read \u
        )

    def load(self) -> mx.sym.Symbol:
        """Return it as MXNet's symbol; only safe for what `complete` returned.

        Raises:
            SymbolError: MXNet refuses it.
        """
        import mxnet as mx

        try:
            return mx.sym.load_json(self.json())
        except (mx.MXNetError, UnicodeError) as error:
            raise SymbolError(f"MXNet cannot build the graph ({reason_of(error)}).") from error

    def complete(self) -> Graph:
        """Return it with the variables that old files leave out, such as running statistics, and all edges checked.

        Raises:
            SymbolError: MXNet cannot build an operator; or a node has too many inputs, or reads an output that does not
                exist.
        """
        signatures: dict[Any, _Signature] = {}
        nodes: list[Node] = []
        indices: list[int] = []  # of this graph's nodes in the completed one
        counts: list[int] = []  # of their outputs
        for node in self.nodes:
            names, outputs = _signature(node, signatures)
            if names is None:
                names = tuple(map(str, range(len(node.inputs))))
            if len(node.inputs) > len(names):
                raise SymbolError(f"{node.name!r} has {len(node.inputs)} inputs, and {node.op} takes {len(names)}.")
            edges = []
            for before, output in node.inputs:
                if output >= counts[before]:
                    raise SymbolError(
                        f"{node.name!r} reads output {output} of {self.nodes[before].name!r}, which has "
                        f"{counts[before]}."
                    )
                edges.append((indices[before], output))
            for name in names[len(edges) :]:
                edges.append((len(nodes), 0))
                nodes.append(Node("null", f"{node.name}_{name}", {}, (), "null"))
            indices.append(len(nodes))
            nodes.append(node._replace(inputs=tuple(edges)))
            counts.append(outputs)
        for before, output in self.heads:
            if output >= counts[before]:
                raise SymbolError(
                    f"The graph returns output {output} of {self.nodes[before].name!r}, which has {counts[before]}."
                )
        return self._replace(
            nodes=tuple(nodes), heads=tuple((indices[before], output) for before, output in self.heads)
        )


def read_symbol(path: str | Path) -> Graph:
    """Read a `-symbol.json` file of any version.

    Returns:
        the graph, checked: edges lead backwards, names are strings, sizes in attributes are possible.

    Raises:
        FileNotFoundError: there is no such file.
        SymbolError: it is damaged or not MXNet's.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such graph file.")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _Invalid(f"it is {path.stat().st_size >> 20} MB long: is it the file of parameters?")
        return parse_symbol(path.read_bytes())
    except _Invalid as error:
        raise SymbolError(
            f"{path}: cannot be read as MXNet's graph ({error}). Expected a -symbol.json file "
            "written by save_checkpoint or export."
        ) from error


def parse_symbol(content: str | bytes) -> Graph:
    """As `read_symbol`, from its content; raises a ValueError with the reason alone."""
    try:
        stored = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _Invalid(f"it is not JSON: {error}") from error
    if not isinstance(stored, dict) or not isinstance(stored.get("nodes"), list) or not stored["nodes"]:
        raise _Invalid("it has no list of nodes: is it a Keras, Caffe or other model?")
    if len(stored["nodes"]) > MAX_NODES:
        raise _Invalid(f"it has {len(stored['nodes'])} nodes, more than {MAX_NODES}")
    nodes: list[Node] = []
    changes: list[str] = []
    forms: set[str] = set()
    for index, raw in enumerate(stored["nodes"]):
        try:
            nodes.append(_node(raw, index, changes, forms))
        except _Invalid:
            raise
        except (ValueError, TypeError, KeyError) as error:
            name = raw.get("name") if isinstance(raw, dict) else None
            raise _Invalid(f"node {index}{f' ({name!r})' if name else ''} is invalid: {error}") from error
    version = _version(stored, forms)
    if version[0] not in "123456789" and not version.startswith("0"):
        nodes = [_before_0_9_5(node, changes) for node in nodes]
    heads = _edges(stored.get("heads"), len(nodes), "the list of heads")
    if not heads:
        raise _Invalid("it has no outputs")
    return Graph(tuple(nodes), tuple(dict.fromkeys(heads)), version, tuple(dict.fromkeys(changes)))


class _Invalid(ValueError):
    """Why a graph cannot be read, without the file's name."""


def _node(raw: Any, index: int, changes: list[str], forms: set[str]) -> Node:
    if not isinstance(raw, dict):
        raise _Invalid(f"node {index} is not an object")
    op, name = raw.get("op"), raw.get("name")
    if type(op) is not str or type(name) is not str or not op or "\0" in op + name:
        raise _Invalid(f"node {index} has no operator or no name")
    attributes: dict[str, str] = {}
    for form in ("param", "attr", "attrs"):  # files of 2016 have the first two: settings, and what users added
        more = raw.get(form, {})
        if not isinstance(more, dict) or any(
            type(value) is not str or "\0" in key + value for key, value in more.items()
        ):
            raise _Invalid(f"node {index} ({name!r}) has {form} that are not strings")
        if more:
            forms.add(form)
        if form != "attrs" and form in raw:
            forms.add(form)
        hidden = form == "attr" and "param" in raw or op == "null"
        attributes.update(
            {f"__{key}__" if hidden and not key.startswith("__") else key: value for key, value in more.items()}
        )
    if op in FUSED or raw.get("subgraphs"):
        raise ValueError(
            f"{op} holds a graph of its own, as after fusing or quantising for one kind of processor. "
            "Use the network as it was before that"
        )
    inputs = _edges(raw.get("inputs", []), index, f"node {index} ({name!r})")
    new = RENAMED.get(op, op)
    if new != op:
        changes.append(f"{op} is now {new}")
    upgraded = upgrade_attributes(new, attributes)
    check_operator(new, upgraded)
    if "target_shape" in attributes and "target_shape" not in upgraded:
        changes.append("Reshape's target_shape is now shape")
    if op == "null" and inputs:
        raise ValueError("it is a variable with inputs")
    return Node(new, name, upgraded, inputs, op)


def _before_0_9_5(node: Node, changes: list[str]) -> Node:
    """Adapt an operator that had another meaning before MXNet 0.9.5, as MXNet's own reader does."""
    if node.op in ("argmax", "argmin") and node.attributes.get("axis") == "-1":
        changes.append(f"{node.op} with axis -1 is over all axes, as it was in that version")
        return node._replace(attributes={key: value for key, value in node.attributes.items() if key != "axis"})
    return node


def _edges(raw: Any, count: int, what: str) -> tuple[tuple[int, int], ...]:
    if not isinstance(raw, list):
        raise _Invalid(f"{what} should be a list of edges")
    for edge in raw:
        if not isinstance(edge, list) or len(edge) not in (2, 3) or any(type(n) is not int for n in edge):
            raise _Invalid(f"{what} has an edge {json.dumps(edge)[:60]}, expected two or three numbers")
        if not 0 <= edge[0] < count or not 0 <= edge[1] < 4096:
            raise _Invalid(f"{what} refers to output {edge[1]} of node {edge[0]}, which is not before it")
    return tuple((edge[0], edge[1]) for edge in raw)


def _version(stored: Any, forms: set[str]) -> str:
    try:
        number = int(stored["attrs"]["mxnet_version"][1])
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    except (KeyError, TypeError, ValueError, IndexError):
        if "param" in forms:
            return "before 0.9 (2015 or 2016)"
        return "of 0.9 to 0.11 (2017)" if "attr" in forms else "unknown"


_Signature = tuple[tuple[str, ...] | None, int]


def _signature(node: Node, known: dict[Any, _Signature]) -> _Signature:
    """Return the names of a node's inputs (None: any number) and the number of its outputs, by building it alone."""
    import mxnet as mx

    if node.op == "null":
        return (), 1
    key = node.op, tuple(sorted(node.attributes.items()))
    if key not in known:
        try:
            symbol = create(node.op, node.attributes, "it")
        except (mx.MXNetError, UnicodeError) as error:
            raise SymbolError(f"MXNet cannot build {node.name!r} ({reason_of(error)}).") from error
        inputs = symbol.list_inputs()
        outputs = len(symbol.get_internals().list_outputs()) - len(inputs)
        known[key] = tuple(name[len("it_") :] for name in inputs) or _documented_inputs(node.op), outputs
    return known[key]


def _documented_inputs(op: str) -> tuple[str, ...] | None:
    """Return the names of the inputs of an operator that does not name them in graphs; None for any number."""
    import mxnet as mx

    arguments = mx.operator.get_operator_arguments(op)
    inputs = [(name, kind) for name, kind in zip(arguments.names, arguments.types) if "Symbol" in kind]
    return None if any("[]" in kind for _, kind in inputs) else tuple(name for name, _ in inputs)


def reason_of(error: BaseException) -> str:
    """Return the line of MXNet's error message that states the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = next(
        (line for line in lines if "Check failed" in line or "rror" in line), lines[0] if lines else "no reason"
    )
    return line.split("MXNetError: ")[-1][:300]
