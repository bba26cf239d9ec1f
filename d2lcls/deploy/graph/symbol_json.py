"""The graph of a network in MXNet's JSON, of any age: checked before MXNet sees it, and brought up to date.

MXNet's own reader trusts the numbers in it: an edge to an output that a layer does not have, or a convolution in no
groups, ends the process. Forms seen: `param` (2015), `param` and `attr` (2016), `attr` (2017), `attrs` (since 1.0);
edges and heads of two or three numbers; with and without `node_row_ptr` and `backward_source_id`.
"""

import json
from pathlib import Path
from typing import NamedTuple

from d2lcls.deploy.graph.operators import RENAMED, upgrade_attributes

MAX_BYTES = 256 << 20
VERSION = 10901


class SymbolError(ValueError):
    """A graph that cannot be read or is not sound; the message names the file and the reason."""


class Node(NamedTuple):
    """One operator, or a variable (`op` is "null"). `inputs` are (node, output) places; `original` its old name."""

    op: str
    name: str
    attributes: dict
    inputs: tuple[tuple[int, int], ...]
    original: str


class Graph(NamedTuple):
    """A checked and upgraded graph.

    Args:
        nodes: list of `Node`, each after those it takes from.
        heads: (node, output) of each output.
        version: of the MXNet that wrote it, such as "1.5.0", or how old the form looks.
        changes: texts: what was upgraded.
    """

    nodes: tuple[Node, ...]
    heads: tuple[tuple[int, int], ...]
    version: str
    changes: tuple[str, ...]

    def json(self):
        """Return the text that MXNet 1.9 reads."""
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
                "arg_nodes": [place for place, node in enumerate(self.nodes) if node.op == "null"],
                "attrs": {"mxnet_version": ["int", VERSION]},
            },
            ensure_ascii=False,
        )  # MXNet reads no \u

    def load(self):
        """Return it as an `mx.sym.Symbol`; only what `complete` has checked is safe.

        Raises:
            SymbolError: MXNet refuses it.
        """
        import mxnet as mx

        try:
            return mx.sym.load_json(self.json())
        except (mx.MXNetError, UnicodeError) as error:
            raise SymbolError(f"MXNet cannot build the graph ({reason_of(error)}).") from error

    def complete(self):
        """Return it with the variables that old files leave out, such as running statistics, and all edges checked.

        Raises:
            SymbolError: MXNet does not know an operator, a node takes too many inputs, or an output that another does not have.
        """
        import mxnet as mx

        unknown = [node for node in self.nodes if node.op != "null" and node.op not in _operators()]
        if unknown:
            raise SymbolError(
                f"{_listed(unknown)}: MXNet {mx.__version__} has no such operator. It was part of a "
                "fork or a plugin: build that one, or cut the network off before it."
            )
        known, nodes, places, counts = {}, [], {}, []
        for place, node in enumerate(self.nodes):
            names, outputs = _signature(node, known)
            names = [str(number) for number in range(len(node.inputs))] if names is None else names
            if len(node.inputs) > len(names):
                raise SymbolError(f"{node.name!r} takes {len(node.inputs)} inputs, and {node.op} has {len(names)}.")
            edges = []
            for before, output in node.inputs:
                if output >= counts[before]:
                    raise SymbolError(
                        f"{node.name!r} takes output {output} of {self.nodes[before].name!r}, which has "
                        f"{counts[before]}."
                    )
                edges.append((places[before], output))
            for name in names[len(edges) :]:
                edges.append((len(nodes), 0))
                nodes.append(Node("null", f"{node.name}_{name}", {}, (), "null"))
            places[place] = len(nodes)
            nodes.append(node._replace(inputs=tuple(edges)))
            counts.append(outputs)
        for before, output in self.heads:
            if output >= counts[before]:
                raise SymbolError(
                    f"The graph gives out output {output} of {self.nodes[before].name!r}, which has {counts[before]}."
                )
        return self._replace(nodes=tuple(nodes), heads=tuple((places[before], output) for before, output in self.heads))


def read_symbol(path):
    """Read a `-symbol.json` file of any age.

    Returns:
        `Graph`, checked: edges lead backwards, names are texts, sizes in attributes make sense.

    Raises:
        FileNotFoundError: there is no such file.
        SymbolError: it is damaged or no graph of MXNet.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of a graph.")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _Unsound(f"it is {path.stat().st_size >> 20} MB long: is it the file of parameters?")
        return parse_symbol(path.read_bytes())
    except _Unsound as error:
        raise SymbolError(
            f"{path}: cannot be read as MXNet's graph ({error}). Expected the -symbol.json that "
            "save_checkpoint or export writes."
        ) from error


def parse_symbol(content):
    """As `read_symbol`, from bytes or a text; raises a ValueError with the bare reason."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _Unsound(f"it is no JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("nodes"), list) or not found["nodes"]:
        raise _Unsound("it has no list of nodes: is it a Keras, Caffe or other model?")
    nodes, changes, forms = [], [], set()
    for place, raw in enumerate(found["nodes"]):
        try:
            nodes.append(_node(raw, place, changes, forms))
        except _Unsound:
            raise
        except (ValueError, TypeError, KeyError) as error:
            name = raw.get("name") if isinstance(raw, dict) else None
            raise _Unsound(f"node {place}{f' ({name!r})' if name else ''} is not sound: {error}") from error
    version = _version(found, forms)
    if version[0] not in "123456789" and not version.startswith("0"):
        nodes = [_of_before(node, changes) for node in nodes]
    heads = _edges(found.get("heads"), len(nodes), "the heads")
    if not heads:
        raise _Unsound("it has no outputs")
    return Graph(tuple(nodes), tuple(dict.fromkeys(heads)), version, tuple(dict.fromkeys(changes)))


class _Unsound(ValueError):
    """The bare reason why a graph cannot be read."""


def _node(raw, place, changes, forms):
    if not isinstance(raw, dict):
        raise _Unsound(f"node {place} is no object")
    op, name = raw.get("op"), raw.get("name")
    if type(op) is not str or type(name) is not str or not op or "\0" in op + name:
        raise _Unsound(f"node {place} has no operator or no name")
    attributes = {}
    for form in ("param", "attr", "attrs"):  # some files of 2016 have the first two: settings, and what a user added
        more = raw.get(form, {})
        if not isinstance(more, dict) or any(
            type(value) is not str or "\0" in key + value for key, value in more.items()
        ):
            raise _Unsound(f"node {place} ({name!r}) has {form} that are no texts")
        if more:
            forms.add(form)
        if form != "attrs" and form in raw:
            forms.add(form)
        hidden = form == "attr" and "param" in raw or op == "null"
        attributes.update(
            {f"__{key}__" if hidden and not key.startswith("__") else key: value for key, value in more.items()}
        )
    if raw.get("subgraphs"):
        raise ValueError(
            f"{op} holds a graph of its own, as after fusing or quantising for one kind of processor. "
            "Take the network as it was before"
        )
    inputs = _edges(raw.get("inputs", []), place, f"node {place} ({name!r})")
    new = RENAMED.get(op, op)
    if new != op:
        changes.append(f"{op} is now {new}")
    made = upgrade_attributes(new, attributes)
    if "target_shape" in attributes and "target_shape" not in made:
        changes.append("Reshape's target_shape is now shape")
    if op == "null" and inputs:
        raise ValueError("it is a variable with inputs")
    return Node(new, name, made, inputs, op)


def _of_before(node, changes):
    """Mend what had another meaning in MXNet before 0.9.5, as its own reader does."""
    if node.op in ("argmax", "argmin") and node.attributes.get("axis") == "-1":
        changes.append(f"{node.op} with axis -1 is one over all axes, as it was then")
        return node._replace(attributes={key: value for key, value in node.attributes.items() if key != "axis"})
    return node


def _edges(raw, count, what):
    if not isinstance(raw, list):
        raise _Unsound(f"{what} should be a list of edges")
    for edge in raw:
        if not isinstance(edge, list) or len(edge) not in (2, 3) or any(type(n) is not int for n in edge):
            raise _Unsound(f"{what} has an edge {json.dumps(edge)[:60]}, expected two or three numbers")
        if not 0 <= edge[0] < count or not 0 <= edge[1] < 4096:
            raise _Unsound(f"{what} takes output {edge[1]} of node {edge[0]}, which is not before it")
    return tuple((edge[0], edge[1]) for edge in raw)


def _version(found, forms):
    try:
        number = int(found["attrs"]["mxnet_version"][1])
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    except (KeyError, TypeError, ValueError, IndexError):
        if "param" in forms:
            return "before 0.9 (2015 or 2016)"
        return "of 0.9 to 0.11 (2017)" if "attr" in forms else "unknown"


def create(op, attributes, name):
    """Return an operator alone as an `mx.sym.Symbol`, with a variable called NAME_INPUT for each of its inputs.

    Without JSON, as MXNet prints two lines for each file that leaves such variables out.

    Raises:
        MXNetError: there is no such operator, or it does not take these attributes.
    """
    import ctypes

    from mxnet.base import _LIB, OpHandle, c_str, check_call
    from mxnet.symbol._internal import _symbol_creator

    handle = OpHandle()
    check_call(_LIB.NNGetOpHandle(c_str(op), ctypes.byref(handle)))
    return _symbol_creator(handle.value, None, None, list(attributes), list(attributes.values()), name, False)


def _signature(node, known):
    """Ask MXNet for the names of a node's inputs (None: any number) and the number of its outputs, by building it alone."""
    import mxnet as mx

    if node.op == "null":
        return (), 1
    key = node.op, tuple(sorted(node.attributes.items()))
    if key not in known:
        try:
            symbol = create(node.op, node.attributes, "it")
        except (mx.MXNetError, UnicodeError) as error:
            if node.op == "Custom" and "custom operator" in str(error):
                raise SymbolError(
                    f"{_listed([node])}: written in Python as {node.attributes.get('op_type')!r}, which is "
                    "not in the file. Import the module that registers it first."
                ) from error
            raise SymbolError(f"MXNet cannot build {node.name!r} ({reason_of(error)}).") from error
        inputs = symbol.list_inputs()
        outputs = len(symbol.get_internals().list_outputs()) - len(inputs)
        known[key] = tuple(name[len("it_") :] for name in inputs) or _documented_inputs(node.op), outputs
    return known[key]


def _documented_inputs(op):
    """Return the names of inputs of an operator that does not name them in graphs; None for any number."""
    import mxnet as mx

    arguments = mx.operator.get_operator_arguments(op)
    inputs = [(name, kind) for name, kind in zip(arguments.names, arguments.types) if "Symbol" in kind]
    return None if any("[]" in kind for _, kind in inputs) else tuple(name for name, _ in inputs)


def _operators():
    import mxnet as mx

    return set(mx.operator.get_all_registered_operators())


def _listed(nodes):
    names = sorted({f"{node.original} ({node.name!r})" for node in nodes})
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def reason_of(error):
    """Return the telling line of what MXNet says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = next(
        (line for line in lines if "Check failed" in line or "rror" in line), lines[0] if lines else "no reason"
    )
    return line.split("MXNetError: ")[-1][:300]
