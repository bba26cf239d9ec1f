"""Checkpoints: a training run can be killed at any moment and continued as if nothing had happened.

A checkpoint is one `.npz` file of plain arrays, without pickles: loading one runs no code. It is written under a
temporary name and renamed when it is complete. Parameters are named by their path in the network
("features.0.weight"), so that another instance of the same class can load them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2lcls.machine.files import write_atomically
from d2lcls.machine.gluon import parameters_by_path, set_update_counts, trainer_parameters, update_counts, updaters
from d2lcls.weights.npz import NpzError, npz_bytes, read_npz

import mxnet as mx
import numpy as np
from mxnet import gluon, nd


class CheckpointError(ValueError):
    """A checkpoint that is damaged or belongs to another network or run."""


Slow = Mapping[str, list["nd.NDArray"]]


def save_checkpoint(
    path: str | Path,
    net: gluon.Block,
    trainer: gluon.Trainer | None = None,
    progress: Mapping[str, Any] | None = None,
    slow: Slow | None = None,
) -> None:
    """Write the state of a run to one file, atomically.

    Args:
        path: file to write, ending in `.npz`.
        net: `gluon.Block`; the running statistics of every device are saved.
        trainer: `gluon.Trainer` whose optimizer state is saved; None saves the parameters only.
        progress: dict that JSON can hold: how far the run has come.
        slow: the weights that `Lookahead` or `MovingAverage` keeps, dict from name to a list of NDArrays, one per
            device, or None.

    Raises:
        OSError: the file cannot be written; an older file of that name is left as it was.
    """
    path = Path(path)
    arrays = {"progress": np.array(json.dumps(progress or {}))}
    names = {id(parameter): name for name, parameter in parameters_by_path(net).items()}
    arrays.update(parameters_to_arrays(net))
    if trainer is not None:
        # Gluon's own save_states writes a pickle; the same state as arrays is as short and safe to load.
        counts = update_counts(trainer.optimizer)
        if hasattr(trainer.optimizer, "m_schedule"):  # Nadam's, the only state that is not in arrays
            arrays["m_schedule"] = np.array(trainer.optimizer.m_schedule)
        for index, parameter in enumerate(trainer_parameters(trainer)):
            for slot, state in enumerate(_flat(updaters(trainer)[0].states.get(index))):
                arrays[f"state/{names[id(parameter)]}/{slot}"] = state.asnumpy()
            if index in counts:
                arrays[f"count/{names[id(parameter)]}"] = np.array(counts[index])
    for name, copies in (slow or {}).items():
        arrays.update({f"slow/{name}/{device}": copy.asnumpy() for device, copy in enumerate(copies)})
    write_atomically(path, npz_bytes(arrays))


def load_checkpoint(
    path: str | Path, net: gluon.Block, trainer: gluon.Trainer | None = None, slow: Slow | None = None
) -> dict[str, Any]:
    """Load a run's state into a network and a trainer.

    Args:
        path: file that `save_checkpoint` wrote.
        net: initialised `gluon.Block` of the same structure, whose shapes are known.
        trainer: `gluon.Trainer` over the network's parameters, or None.
        slow: slow weights to be filled, as `save_checkpoint` takes them, or None.

    Returns:
        dict, the `progress` that was saved.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged, or belongs to another network; says which parameter differs.
            The network is then unchanged.
    """
    path = Path(path)
    arrays = _read(path)
    progress = arrays.pop("progress")
    parameters = parameters_by_path(net)
    _check_same_network(path, parameters, arrays)
    parameters_from_arrays(net, arrays)
    if trainer is not None:
        _load_trainer(path, trainer, {id(p): name for name, p in parameters.items()}, arrays)
    for name, copies in (slow or {}).items():
        for device, copy in enumerate(copies):
            if f"slow/{name}/{device}" not in arrays:
                raise CheckpointError(f"{path}: was written without averaged weights, or on fewer devices.")
            copy[:] = _of_shape(path, arrays, f"slow/{name}/{device}", copy.shape)
    return progress


def load_parameters(path: str | Path, parameters: Mapping[str, gluon.Parameter], ctx: list[mx.Context]) -> None:
    """Initialise parameters, given by their path in the saved network, with the arrays of a checkpoint; errors as
    `load_checkpoint`."""
    path = Path(path)
    arrays = _read(path)
    if set(parameters) != set(_shapes(arrays)):
        raise CheckpointError(f"{path}: holds the parameters of another network.")
    for name, parameter in parameters.items():
        value = arrays[f"param/{name}/0"]
        parameter.shape = value.shape
        parameter.initialize(mx.init.Zero(), ctx)
        parameter.set_data(nd.array(value, dtype=value.dtype))


def read_progress(path: str | Path) -> dict[str, Any]:
    """Return the `progress` that was saved in a checkpoint, a dict; errors as `load_checkpoint`."""
    return _read(Path(path), ("progress",))["progress"]


def _read(path: Path, names: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return the arrays of a checkpoint by name, all for None, and its `progress`."""
    try:
        arrays: dict[str, Any] = read_npz(path, names)
        progress = json.loads(str(arrays.get("progress")))
        if not isinstance(progress, dict) or not isinstance(progress.get("recipe", {}), dict):
            raise NpzError("its progress is not an object")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: damaged, or not a checkpoint ({error}). Delete it and start the run again."
        ) from error
    return {**arrays, "progress": progress}


def parameters_to_arrays(net: gluon.Block) -> dict[str, np.ndarray]:
    """Copy a network's parameters to numpy arrays; BatchNorm's statistics from every device."""
    nd.waitall()  # reading BatchNorm's running statistics does not wait for the step that updates them
    arrays = {}
    for name, parameter in parameters_by_path(net).items():
        copies = parameter.list_data()
        for device, copy in enumerate(copies if parameter.grad_req == "null" else copies[:1]):
            arrays[f"param/{name}/{device}"] = copy.asnumpy()
    return arrays


def parameters_from_arrays(net: gluon.Block, arrays: Mapping[str, np.ndarray]) -> None:
    """Copy what `parameters_to_arrays` returned into a network of the same structure."""
    for name, parameter in parameters_by_path(net).items():
        for device, copy in enumerate(parameter.list_data()):
            value = arrays[f"param/{name}/{device}" if f"param/{name}/{device}" in arrays else f"param/{name}/0"]
            # Not copy[:] = value: that refuses a weight which oneDNN keeps in a layout of its own.
            nd.array(value, ctx=copy.context, dtype=value.dtype).copyto(copy)


def _shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {
        name.split("/")[1]: value.shape
        for name, value in arrays.items()
        if name.startswith("param/") and name.endswith("/0") and value.dtype.kind in "fiu"
    }


def _check_same_network(
    path: Path, parameters: Mapping[str, gluon.Parameter], arrays: Mapping[str, np.ndarray]
) -> None:
    saved = _shapes(arrays)
    for name in sorted(set(parameters) | set(saved)):
        if name not in saved:
            raise CheckpointError(f"{path}: holds another network: it has no parameter {name!r}.")
        if name not in parameters:
            raise CheckpointError(f"{path}: holds another network: its parameter {name!r} is not in this one.")
        if tuple(parameters[name].shape) != saved[name]:
            raise CheckpointError(
                f"{path}: holds another network: {name!r} has the shape {saved[name]} there "
                f"and {tuple(parameters[name].shape)} here."
            )
    for name, value in arrays.items():
        if name.startswith("param/"):
            _of_shape(path, arrays, name, saved.get(name.split("/")[1], value.shape))


def _load_trainer(
    path: Path, trainer: gluon.Trainer, names: Mapping[int, str], arrays: Mapping[str, np.ndarray]
) -> None:
    optimizer, counts = trainer.optimizer, {}
    for index, parameter in enumerate(trainer_parameters(trainer)):
        name = names[id(parameter)]
        if f"count/{name}" not in arrays:
            continue  # saved before its first update
        counts[index] = int(_of_shape(path, arrays, f"count/{name}", ()))
        for updater, weight in zip(updaters(trainer), parameter.list_data()):
            state = optimizer.create_state_multi_precision(index, weight)
            slots = _flat(state)
            for slot, array in enumerate(slots):
                if f"state/{name}/{slot}" not in arrays:
                    raise CheckpointError(
                        f"{path}: was written with another optimizer than {type(optimizer).__name__.lower()!r}."
                    )
                array[:] = _of_shape(path, arrays, f"state/{name}/{slot}", array.shape)
            updater.states[index], updater.states_synced[index] = state, True
    set_update_counts(optimizer, counts, len(updaters(trainer)))
    if "m_schedule" in arrays:
        optimizer.m_schedule = float(_of_shape(path, arrays, "m_schedule", ()))


def _of_shape(path: Path, arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    array = arrays[name]
    if array.shape != shape or array.dtype.kind not in "fiu":
        raise CheckpointError(
            f"{path}: damaged: {name} is {array.dtype} of shape {array.shape}, not numbers of shape {shape}. "
            "Delete it and start the run again."
        )
    return array


def _flat(state: Any) -> list[nd.NDArray]:
    """Return the arrays of an optimizer state, which is None, an array, or a tuple of states."""
    if state is None:
        return []
    if isinstance(state, nd.NDArray):
        return [state]
    return [array for part in state for array in _flat(part)]
