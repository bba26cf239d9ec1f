"""A run's network as the layers that it was made of, as Grad-CAM needs it; `load_run` returns only their graph."""

from __future__ import annotations

import json
from pathlib import Path

from d2lcls.machine.gluon import parameters_by_path
from d2lcls.models import get_model
from d2lcls.training.runs import NETWORK, load_run

import mxnet as mx
import numpy as np


def rebuild_network(folder: str | Path) -> mx.gluon.HybridBlock:
    """Make a run's network again by its name, with the parameters that `load_run` loads.

    Args:
        folder: as for `load_run`.

    Returns:
        the network, on the CPU. That it computes the same as the graph in the folder has been checked.

    Raises:
        ValueError: it was not made by name, or is made differently now.
        Others: as `load_run`.
    """
    run, graph = load_run(folder)
    if ":" in (run.recipe.model or ""):  # a class of the caller, whose code a folder from elsewhere must not choose
        raise ValueError(f"{folder}: its network is {run.recipe.model}, whose code is not run.")
    net = get_model(run.recipe.model or "", len(run.classes))
    stored, parameters = _parameters_of(graph, folder), parameters_by_path(net)
    if set(stored) != set(parameters) or any(
        not _fits(parameter.shape, stored[path].shape) for path, parameter in parameters.items()
    ):
        raise _built_differently(folder, run.recipe.model)
    for path, parameter in parameters.items():
        parameter.shape = stored[path].shape
        parameter.initialize(mx.init.Zero(), mx.cpu())
        parameter.set_data(mx.nd.array(stored[path]))
    x = mx.nd.array(_noise(run.size or run.image_shape[:2], run.image_shape[2]))
    expected, found = graph(x).asnumpy(), net(x).asnumpy()
    if expected.shape != found.shape or not np.allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()):
        raise _built_differently(folder, run.recipe.model)
    return net


def _parameters_of(graph: mx.gluon.HybridBlock, folder: str | Path) -> dict[str, np.ndarray]:
    """Return copies of the arrays of a run's graph by their path in the network that was trained."""
    names, known = json.loads(Path(folder, NETWORK).read_text())["parameters"], graph.collect_params()
    return {path: known[name].data().asnumpy() for path, name in names.items()}


def _fits(shape: tuple[int, ...], stored: tuple[int, ...]) -> bool:
    """Whether a parameter's shape, in which unknown sizes are 0 or -1, can be that of a stored array."""
    return len(shape) == len(stored) and all(size in (0, -1, known) for size, known in zip(shape, stored))


def _noise(size: tuple[int, int], channels: int) -> np.ndarray:
    """Return a batch of one image, float32 (1, channels, H, W)."""
    return np.random.default_rng(0).normal(size=(1, channels, *size)).astype(np.float32)


def _built_differently(folder: str | Path, name: str | None) -> ValueError:
    return ValueError(f"{folder}: its network is built differently from get_model({name!r}).")
