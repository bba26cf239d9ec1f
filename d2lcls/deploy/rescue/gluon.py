"""Parameters without a graph: the network comes from Python, and the names in the file may be of any age."""

import importlib
import os
import sys

from d2lcls.deploy.graph.params_file import read_params
from d2lcls.deploy.graph.symbol_json import parse_symbol
from d2lcls.deploy.rescue.load import RescueError, _some, assemble

import mxnet as mx
from mxnet import gluon


def load_gluon_parameters(params_path, network, shapes=None, classes=None):
    """Load what `save_parameters`, the older `save_params` or `export` wrote, into a network made anew.

    Args:
        params_path: the `.params` file.
        network: name of a network of `d2lcls.models.get_model`, or "module:Class" of a `gluon.HybridBlock` without
            arguments, or "module:function" of one that makes it. The module is imported, which runs its code.
        shapes: as for `load_old_model`.
        classes: number of logits of a network by name; None takes what the file's last weight has.

    Returns:
        `OldModel`.

    Raises:
        FileNotFoundError, ParamsError: as `read_params`.
        RescueError: there is no such class, or the parameters do not fit; all differences are listed.
        ValueError: no network has that name; the nearest are suggested.
    """
    arrays = read_params(params_path)
    net = make_network(network, classes or _classes(arrays))
    parameters = net._collect_params_with_prefix()
    if not parameters:
        raise RescueError(f"{network} has no parameters before it sees an image; make them in its constructor.")
    found, note = match_names(
        arrays, {name: (parameter.name, parameter.shape) for name, parameter in parameters.items()}, net.prefix
    )
    symbol = trace(net)
    graph = parse_symbol(symbol.tojson())
    used = set(symbol.list_inputs())
    return assemble(
        graph,
        {parameters[name].name: array for name, array in found.items() if parameters[name].name in used},
        shapes,
        [f"parameters {note}"] if note else [],
    )


def make_network(network, classes=None):
    """Return the `gluon.HybridBlock` that a name or "module:Class" stands for."""
    if ":" not in network:
        from d2lcls.models import get_model

        return get_model(network, classes=classes)
    module_name, _, name = network.partition(":")
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        made = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise RescueError(
            f"{network}: cannot be imported ({error}). Expected module:Class, found from here."
        ) from error
    finally:
        sys.path.pop(0)
    try:
        net = made()
    except TypeError as error:
        raise RescueError(
            f"{network}: cannot be made without arguments ({error}). Name a function without arguments that makes it."
        ) from error
    if not isinstance(net, gluon.HybridBlock):
        raise RescueError(f"{network}: makes a {type(net).__name__}, not a gluon.HybridBlock.")
    return net


def trace(net):
    """Return a network as one `mx.sym.Symbol` of its input "data"."""
    try:
        found = net(mx.sym.var("data"))
    except Exception as error:  # whatever a user's forward may raise
        raise RescueError(
            f"{type(net).__name__} cannot be written as a graph ({error}). Its forward must use F and no "
            "shapes or values of its inputs."
        ) from error
    return mx.sym.Group(list(found)) if isinstance(found, (list, tuple)) else found


def match_names(arrays, parameters, prefix):
    """Find out which array belongs to which parameter.

    Args:
        arrays: dict from the file's names to arrays.
        parameters: dict from a network's structural names ("features.0.weight") to (name with prefix, shape).
        prefix: of the network.

    Returns:
        (dict from structural names to arrays, a note on how they were found or None).

    Raises:
        RescueError: they do not fit; lists what is missing and what is left.
    """
    bare = {name[4:] if name[:4] in ("arg:", "aux:") else name: array for name, array in arrays.items()}
    if bare.keys() == parameters.keys():
        return {name: bare[name] for name in parameters}, None
    theirs = _common_prefix(bare)
    shared = _common_prefix([full for full, _ in parameters.values()])
    full = {name: both[0] for name, both in parameters.items()}
    before, dots = _common_prefix(bare, "."), len(_common_prefix(parameters, "."))
    ways = (
        ("names with a word before them, as in module.", {name: before + name[dots:] for name in parameters}),
        ("names with the network's prefix", {name: one for name, one in full.items()}),
        ("names without the network's prefix", {name: one[len(prefix) :] for name, one in full.items()}),
        ("names under another prefix", {name: theirs + one[len(shared) :] for name, one in full.items()}),
    )
    for note, names in ways:
        if set(names.values()) == bare.keys():
            return {name: bare[key] for name, key in names.items()}, f"found by {note}"
    kinds = [_kind(name) for name in parameters]
    if (
        len(bare) == len(parameters)
        and [_kind(name) for name in bare] == kinds
        and all(
            len(shape or ()) == array.ndim and all(n in (0, m) for n, m in zip(shape, array.shape))
            for (_, shape), array in zip(parameters.values(), bare.values())
        )
    ):
        return dict(
            zip(parameters, bare.values())
        ), "found by their order, as no names agree: compare an output with one that is known"
    names = min(
        ({name: name for name in parameters}, *(names for _, names in ways)),
        key=lambda names: len(set(names.values()) ^ bare.keys()),
    )
    missing = [name for name in names.values() if name not in bare]
    left = [name for name in bare if name not in set(names.values())]
    raise RescueError(
        f"The parameters do not fit the network: {len(missing)} of {len(names)} are missing"
        f"{': ' + _some(missing) if missing else ''}; {len(left)} in the file are unknown to it"
        f"{': ' + _some(left) if left else ''}. Is it another network, or another number of layers?"
    )


def _kind(name):
    """Return what sort of parameter a name stands for, the same in all ways of naming."""
    for ending in ("weight", "bias", "gamma", "beta", "mean", "var", "alpha"):
        if name.endswith(ending):
            return ending
    return "other"


def _common_prefix(names, end="_"):
    """Return what all names begin with, up to an underscore or a dot."""
    found = os.path.commonprefix(list(names))
    return found[: found.rfind(end) + 1]


def _classes(arrays):
    """Return the length of the last weight: the number of logits, in all networks that classify."""
    weights = [array for name, array in arrays.items() if name.endswith("weight") and array.ndim > 1]
    return int(weights[-1].shape[0]) if weights else None
