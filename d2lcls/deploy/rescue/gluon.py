"""Parameters without a graph: the network is made in Python, and the file may name them in any of Gluon's ways."""

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from d2lcls.deploy.graph.input_shapes import Shape
from d2lcls.deploy.graph.names import common_prefix, listed, without_kind
from d2lcls.deploy.graph.symbol_json import parse_symbol
from d2lcls.deploy.rescue.load import OldModel, RescueError, build_old_model
from d2lcls.machine.gluon import parameters_by_path
from d2lcls.weights.params_file import read_params

import mxnet as mx
import numpy as np
from mxnet import gluon


def load_gluon_parameters(
    params_path: str | Path, network: str, shapes: Shape | Mapping[str, Shape] | None = None, classes: int | None = None
) -> OldModel:
    """Load a file written by `save_parameters`, the older `save_params` or `export` into a newly made network.

    Args:
        params_path: the `.params` file.
        network: name of a network of `d2lcls.models.get_model`, or "module:Class" of a `gluon.HybridBlock` without
            arguments, or "module:function" that returns one. The module is imported, which runs its code.
        shapes: as for `load_old_model`.
        classes: number of logits of a network by name; None is the length of the file's last weight.

    Raises:
        FileNotFoundError, ParamsError: as `read_params`.
        RescueError: there is no such class, or the parameters do not fit; all differences are listed.
        ValueError: no network has that name; the nearest are suggested.
    """
    arrays = read_params(params_path)
    net = make_network(network, classes or _classes(arrays))
    parameters = parameters_by_path(net)
    if not parameters:
        raise RescueError(f"{network} has no parameters before its first call; make them in its constructor.")
    matched, note = match_names(
        arrays, {name: (parameter.name, parameter.shape or ()) for name, parameter in parameters.items()}, net.prefix
    )
    symbol = _symbol_of(net)
    used = set(symbol.list_inputs())
    return build_old_model(
        parse_symbol(symbol.tojson()),
        {parameters[name].name: array for name, array in matched.items() if parameters[name].name in used},
        shapes,
        [f"parameters {note}"] if note else [],
    )


def make_network(network: str, classes: int | None = None) -> gluon.HybridBlock:
    """Make the network that a name or "module:Class" stands for."""
    if ":" not in network:
        from d2lcls.models import get_model

        return get_model(network, classes=classes)
    module_name, _, name = network.partition(":")
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        make = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise RescueError(
            f"{network}: cannot be imported ({error}). Expected module:Class, importable from this folder."
        ) from error
    finally:
        sys.path.pop(0)
    try:
        net = make()
    except TypeError as error:
        raise RescueError(
            f"{network}: cannot be called without arguments ({error}). "
            "Name a function without arguments that returns the network."
        ) from error
    if not isinstance(net, gluon.HybridBlock):
        raise RescueError(f"{network}: returns a {type(net).__name__}, not a gluon.HybridBlock.")
    return net


def _symbol_of(net: gluon.HybridBlock) -> mx.sym.Symbol:
    """Return a network, which need not be initialised, as a symbol of its input "data"."""
    try:
        outputs = net(mx.sym.var("data"))
    except Exception as error:  # whatever a user's forward may raise
        raise RescueError(
            f"{type(net).__name__} cannot be written as a graph ({error}). Its forward must use F, and neither "
            "shapes nor values of its inputs."
        ) from error
    return mx.sym.Group(list(outputs)) if isinstance(outputs, (list, tuple)) else outputs


def match_names(
    arrays: Mapping[str, np.ndarray], parameters: Mapping[str, tuple[str, Shape]], prefix: str
) -> tuple[dict[str, np.ndarray], str | None]:
    """Find out which array belongs to which parameter.

    Args:
        arrays: by the file's names.
        parameters: (name with prefix, shape) by the path in the network, such as "features.0.weight".
        prefix: of the network.

    Returns:
        (arrays by path, a note on how they were found or None).

    Raises:
        RescueError: they do not fit; lists missing and unused names.
    """
    bare = {without_kind(name): array for name, array in arrays.items()}
    if bare.keys() == parameters.keys():
        return {name: bare[name] for name in parameters}, None
    full = {name: with_prefix for name, (with_prefix, _) in parameters.items()}
    file_prefix, net_prefix = common_prefix(bare), common_prefix(full.values())
    before, dots = common_prefix(bare, "."), len(common_prefix(parameters, "."))
    schemes = (
        ("names with a word before them, as in module.", {name: before + name[dots:] for name in parameters}),
        ("names with the network's prefix", full),
        ("names without the network's prefix", {name: one[len(prefix) :] for name, one in full.items()}),
        ("names under another prefix", {name: file_prefix + one[len(net_prefix) :] for name, one in full.items()}),
    )
    for note, names in schemes:
        if set(names.values()) == bare.keys():
            return {name: bare[key] for name, key in names.items()}, f"found by {note}"
    kinds = [_kind(name) for name in parameters]
    if (
        len(bare) == len(parameters)
        and [_kind(name) for name in bare] == kinds
        and all(
            len(shape) == array.ndim and all(n in (0, m) for n, m in zip(shape, array.shape))
            for (_, shape), array in zip(parameters.values(), bare.values())
        )
    ):
        return dict(
            zip(parameters, bare.values())
        ), "found by their order, because no names agree: compare an output with a known one"
    names = min(
        ({name: name for name in parameters}, *(names for _, names in schemes)),
        key=lambda names: len(set(names.values()) ^ bare.keys()),
    )
    missing = [name for name in names.values() if name not in bare]
    left = [name for name in bare if name not in set(names.values())]
    raise RescueError(
        f"The parameters do not fit the network: {len(missing)} of {len(names)} are missing"
        f"{': ' + listed(missing) if missing else ''}; {len(left)} in the file are not in it"
        f"{': ' + listed(left) if left else ''}. Is it another network, or another number of layers?"
    )


def _kind(name: str) -> str:
    """Return which parameter of a layer a name stands for, the same in all naming schemes."""
    for ending in ("weight", "bias", "gamma", "beta", "mean", "var", "alpha"):
        if name.endswith(ending):
            return ending
    return "other"


def _classes(arrays: Mapping[str, np.ndarray]) -> int | None:
    """Return the length of the last weight: the number of logits, in all networks that classify."""
    weights = [array for name, array in arrays.items() if name.endswith("weight") and array.ndim > 1]
    return int(weights[-1].shape[0]) if weights else None
