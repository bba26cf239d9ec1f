"""Saving a training run so that it can be killed at any moment and go on as if nothing had happened.

A checkpoint is one `.npz` file of plain arrays, without pickles: loading one runs no code. It is written beside
its place and moved there when it is whole. Parameters are named by their place in the network
("features.0.weight"), so that a second instance of the same class can load them.
"""

import json
from pathlib import Path

from d2lcls.machine.files import DAMAGED_NPZ, write_atomically

import numpy as np
from mxnet import nd


class CheckpointError(ValueError):
    """A checkpoint that is damaged or belongs to another network or run."""


def save_checkpoint(path, net, trainer=None, progress=None, slow=None):
    """Write the state of a run to one file, atomically.

    Args:
        path: file to write, ending in `.npz`.
        net: `gluon.Block`; every device's copy of the running statistics is kept.
        trainer: `gluon.Trainer` whose optimizer state is kept; None keeps the parameters only.
        progress: dict that JSON can hold: where the run stands.
        slow: the slow weights of `Lookahead`, dict from name to a list of NDArrays, one a device; None is without.

    Raises:
        OSError: the file cannot be written; an older one of that name is left as it was.
    """
    path = Path(path)
    arrays = {"progress": np.array(json.dumps(progress or {}))}
    names = {id(parameter): name for name, parameter in net._collect_params_with_prefix().items()}
    arrays.update(parameters_to_arrays(net))
    if trainer is not None:
        # Gluon's own save_states writes a pickle; the same state as arrays is as short and safe to load.
        counts = trainer.optimizer._index_update_count
        if hasattr(trainer.optimizer, "m_schedule"):  # Nadam's, the only state that is not in arrays
            arrays["m_schedule"] = np.array(trainer.optimizer.m_schedule)
        for index, parameter in enumerate(trainer._params):
            for slot, state in enumerate(_flat(trainer._updaters[0].states.get(index))):
                arrays[f"state/{names[id(parameter)]}/{slot}"] = state.asnumpy()
            if index in counts:
                arrays[f"count/{names[id(parameter)]}"] = np.array(counts[index])
    for name, copies in (slow or {}).items():
        arrays.update({f"slow/{name}/{device}": copy.asnumpy() for device, copy in enumerate(copies)})
    write_atomically(path, lambda file: np.savez(file, **arrays))


def load_checkpoint(path, net, trainer=None, slow=None):
    """Read a run's state back into a network and a trainer.

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
    parameters = net._collect_params_with_prefix()
    _check_same_network(path, parameters, arrays)
    parameters_from_arrays(net, arrays)
    if trainer is not None:
        _load_trainer(path, trainer, {id(p): name for name, p in parameters.items()}, arrays)
    for name, copies in (slow or {}).items():
        for device, copy in enumerate(copies):
            if f"slow/{name}/{device}" not in arrays:
                raise CheckpointError(f"{path}: was written without lookahead, or on fewer devices.")
            copy[:] = arrays[f"slow/{name}/{device}"]
    return progress


def read_progress(path):
    """Return the `progress` that was saved in a checkpoint, a dict; errors as `load_checkpoint`."""
    return _read(Path(path), ("progress",))["progress"]


def _read(path, names=None):
    """Return a dict from names in a checkpoint, None for all, to arrays, and from "progress" to what it holds."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            found = {name: file[name] for name in names or file.files}
        return {**found, "progress": json.loads(str(found["progress"]))}
    except (*DAMAGED_NPZ, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # missing, not permitted, a failing disk: the file itself may be whole
        raise CheckpointError(
            f"{path}: damaged, or not a checkpoint ({error}). Delete it and start the run again."
        ) from error


def parameters_to_arrays(net):
    """Copy a network's parameters out, as a dict of numpy arrays; BatchNorm's statistics from every device."""
    nd.waitall()  # reading BatchNorm's running statistics does not wait for the step that updates them
    arrays = {}
    for name, parameter in net._collect_params_with_prefix().items():
        copies = parameter.list_data()
        for device, copy in enumerate(copies if parameter.grad_req == "null" else copies[:1]):
            arrays[f"param/{name}/{device}"] = copy.asnumpy()
    return arrays


def parameters_from_arrays(net, arrays):
    """Copy parameters that `parameters_to_arrays` returned into a network of the same structure."""
    for name, parameter in net._collect_params_with_prefix().items():
        for device, copy in enumerate(parameter.list_data()):
            value = arrays.get(f"param/{name}/{device}", arrays[f"param/{name}/0"])
            # Not copy[:] = value: that refuses a weight which oneDNN keeps in a layout of its own.
            nd.array(value, ctx=copy.context, dtype=value.dtype).copyto(copy)


def _check_same_network(path, parameters, arrays):
    saved = {name.split("/")[1]: value.shape for name, value in arrays.items() if name.startswith("param/")}
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


def _load_trainer(path, trainer, names, arrays):
    optimizer, counts = trainer.optimizer, {}
    for index, parameter in enumerate(trainer._params):
        name = names[id(parameter)]
        if f"count/{name}" not in arrays:
            continue  # saved before its first update
        counts[index] = int(arrays[f"count/{name}"])
        for updater, weight in zip(trainer._updaters, parameter.list_data()):
            state = optimizer.create_state_multi_precision(index, weight)
            slots = _flat(state)
            for slot, array in enumerate(slots):
                if f"state/{name}/{slot}" not in arrays:
                    raise CheckpointError(
                        f"{path}: was written with another optimizer than {type(optimizer).__name__.lower()!r}."
                    )
                array[:] = arrays[f"state/{name}/{slot}"]
            updater.states[index], updater.states_synced[index] = state, True
    for device in range(len(trainer._updaters)):
        optimizer._all_index_update_counts[device] = dict(counts)
    optimizer._index_update_count = optimizer._all_index_update_counts[0]
    if "m_schedule" in arrays:
        optimizer.m_schedule = float(arrays["m_schedule"])
    optimizer.num_update = max(counts.values(), default=0)


def _flat(state):
    """The arrays of an optimizer state, which is None, an array, or a tuple of states."""
    if state is None:
        return []
    if isinstance(state, nd.NDArray):
        return [state]
    return [array for part in state for array in _flat(part)]
