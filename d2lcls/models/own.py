"""Networks of one's own: a class in an importable module, named as "package.module:Class".

Making such a network runs the module's code. The name must therefore come from the user, never from a file: a trained
run is loaded from the graph in its folder, which needs no class.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from d2lcls.models.symbols.allowed import load_symbol
from d2lcls.models.symbols.attributes import NotAllowed

import mxnet as mx
from mxnet import gluon

OF_GLUON = ("prefix", "params")  # the arguments of every block, which are not a number of classes


def is_own(name: str) -> bool:
    """Whether a name is that of a class in a module, "package.module:Class"."""
    return ":" in name


def make_own(name: str, classes: int, **kwargs: Any) -> gluon.HybridBlock:
    """Import a class and make its network; this runs the module's code.

    Args:
        name: "package.module:Class", a class or a function in a module in the current folder or on Python's path. It is
            called with `classes=` if it has a parameter of that name, and otherwise with the number of classes alone.
        classes: number of logits.
        kwargs: further arguments of the class.

    Returns:
        `gluon.HybridBlock`, not initialised.

    Raises:
        ValueError: there is no such module or class, it cannot be called in these ways, its code fails, it makes
            something other than a `HybridBlock` with one output, or the network uses an operator that could not be
            loaded from the run's folder afterwards.
    """
    make = _imported(name)
    arguments = _arguments(name, make, classes)
    try:
        net = make(*arguments.args, **arguments.kwargs, **kwargs)
    except Exception as error:  # of the user's own code
        raise _failure(name, "making the network failed", error) from error
    if not isinstance(net, gluon.HybridBlock):
        raise ValueError(f"{name}: expected a gluon.HybridBlock, but it made an object of type {type(net).__name__}.")
    _check_graph(name, net)
    return net


def check_logits(net: gluon.HybridBlock, name: str, shape: tuple[int, ...], classes: int) -> None:
    """Raise ValueError if a network does not map a batch of this shape (N, C, H, W) to logits (N, classes)."""
    try:
        _, outputs, _ = net(mx.sym.var("data")).infer_shape(data=shape)
    except mx.MXNetError:  # the images do not fit the network, which `fit` says better
        return
    expected = (shape[0], classes)
    if outputs and tuple(outputs[0]) != expected:
        raise ValueError(
            f"{name}: expected logits of shape {expected} for images of shape {shape}, got {tuple(outputs[0])}. The "
            "class must make a network with as many outputs as its argument says."
        )


def _imported(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise ValueError(f"{name!r} is not of the form package.module:Class.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does; the command `d2lcls` does not
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # of the user's own code
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise ValueError(
                f"{name}: there is no module {missing} in the current folder or on Python's path (PYTHONPATH)."
            ) from error
        raise _failure(name, "importing the module failed", error) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        raise ValueError(f"{name}: the module {module_name} has no class {attribute}.")
    return found


def _arguments(name: str, make: Callable[..., Any], classes: int) -> inspect.BoundArguments:
    """Return the arguments that say how many classes there are."""
    signature = inspect.signature(make)
    first = next(iter(signature.parameters.values()), None)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if "classes" not in signature.parameters and (
        first is None or first.kind not in positional or first.name in OF_GLUON
    ):
        raise ValueError(
            f"{name}: its parameters are {signature}; expected one called classes, or the number of classes as the "
            "first one."
        )
    try:
        return signature.bind(classes=classes) if "classes" in signature.parameters else signature.bind(classes)
    except TypeError as error:
        raise ValueError(f"{name}: its parameters {signature} need more than the number of classes: {error}.") from None


def _check_graph(name: str, net: gluon.HybridBlock) -> None:
    """Check that a network can be written as a graph, from which the trained run will be loaded."""
    try:
        graph = net(mx.sym.var("data"))
    except Exception as error:  # of the user's own code
        raise _failure(name, "the network cannot be traced as a graph, as every HybridBlock must", error) from error
    if not isinstance(graph, mx.sym.Symbol) or len(graph.list_outputs()) != 1:
        raise ValueError(f"{name}: expected a network with one output, the logits (N, classes).")
    try:
        load_symbol(graph.tojson())
    except NotAllowed as error:
        raise ValueError(f"{name}: a trained run of this network could not be loaded: {error}.") from error


def _failure(name: str, what: str, error: Exception) -> ValueError:
    """Return an error of one line that names the place in the user's code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())[:300]
    return ValueError(f"{name}: {what}: {type(error).__name__}: {text}{place}.")


def _is_users(filename: str) -> bool:
    return (
        not filename.startswith("<")
        and "site-packages" not in filename
        and filename != __file__
        and (filename != importlib.__file__)
    )
