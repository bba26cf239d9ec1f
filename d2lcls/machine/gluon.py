"""Everything the package takes from Gluon's private attributes, in one place: a wheel that renames one breaks here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mxnet as mx


def parameters_by_path(net: mx.gluon.Block) -> dict[str, mx.gluon.Parameter]:
    """Return a network's parameters by their path in it, such as "features.0.weight".

    Unlike the names that `collect_params` uses, paths are the same for every instance of a class.
    """
    return net._collect_params_with_prefix()


def is_learnable(parameter: mx.gluon.Parameter) -> bool:
    """Whether a parameter can be trained, frozen now or not; BatchNorm's running statistics cannot."""
    return parameter._differentiable


def has_data(parameter: mx.gluon.Parameter) -> bool:
    """Whether a parameter's array exists, so that its shape is known."""
    return parameter._data is not None


def is_deferred(parameter: mx.gluon.Parameter) -> bool:
    """Whether a parameter was initialised but waits for the first input to learn its shape."""
    return bool(parameter._deferred_init)


def finish_initialization(parameter: mx.gluon.Parameter) -> None:
    """Create the array of a parameter whose shape has been set since it was initialised."""
    parameter._finish_deferred_init()


def children(block: mx.gluon.Block) -> dict[str, mx.gluon.Block]:
    """Return a block's children by name; the dict is the block's own."""
    return block._children


def layer_options(layer: mx.gluon.Block) -> dict[str, Any]:
    """Return the attributes that a layer passes to its operator, such as "kernel"; the dict is the layer's own."""
    return layer._kwargs


def clear_cache(block: mx.gluon.HybridBlock) -> None:
    """Let a hybridized block trace its graph anew at the next call."""
    block._clear_cached_op()


def is_hybridized(block: mx.gluon.Block) -> bool:
    """Whether a block runs as a compiled graph."""
    return getattr(block, "_active", False)


def trainer_parameters(trainer: mx.gluon.Trainer) -> list[mx.gluon.Parameter]:
    """Return a trainer's parameters in the order in which its optimizer numbers them."""
    return trainer._params


def updaters(trainer: mx.gluon.Trainer) -> list[Any]:
    """Return a trainer's updaters, one per device; each holds the optimizer's state of its device."""
    return trainer._updaters


def update_counts(optimizer: mx.optimizer.Optimizer) -> dict[int, int]:
    """Return how often each parameter, by number, has been updated."""
    return optimizer._index_update_count


def set_update_counts(optimizer: mx.optimizer.Optimizer, counts: dict[int, int], devices: int) -> None:
    """Set how often each parameter has been updated, on each of so many devices."""
    for device in range(devices):
        optimizer._all_index_update_counts[device] = dict(counts)
    optimizer._index_update_count = optimizer._all_index_update_counts[0]
    optimizer.num_update = max(counts.values(), default=0)
