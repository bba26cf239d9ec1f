"""Everything the package takes from Gluon's private attributes, in one place: a wheel that renames one breaks here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


def blocks_of(net: mx.gluon.Block, kind: type | None = None) -> list[Any]:
    """List a network's blocks, those of one kind or all, each after the blocks inside it and itself last."""
    found: list[Any] = []
    net.apply(lambda block: found.append(block) if kind is None or isinstance(block, kind) else None)
    return found


def clear_cache(net: mx.gluon.Block) -> None:
    """Let a hybridized network trace its graph anew at the next call, as it must after a change of its layers."""
    for block in blocks_of(net):
        if hasattr(block, "_clear_cached_op"):
            block._clear_cached_op()


def is_hybridized(block: mx.gluon.Block) -> bool:
    """Whether a block runs as a compiled graph."""
    return getattr(block, "_active", False)


@contextmanager
def uncompiled(net: mx.gluon.Block) -> Iterator[None]:
    """Run a network's blocks one by one, hooks and all, though it may be hybridized; its graphs are kept for later."""
    with _changed([(vars(block), "_active", False) for block in blocks_of(net) if is_hybridized(block)]):
        yield


@contextmanager
def no_training_behaviour(net: mx.gluon.Block) -> Iterator[None]:
    """Let BatchNorm use its running statistics, and Dropout drop nothing, in training mode too; not if compiled."""
    blocks = blocks_of(net)
    norms = [layer_options(block) for block in blocks if "use_global_stats" in getattr(block, "_kwargs", {})]
    rates = [vars(block) for block in blocks if hasattr(block, "_rate")]
    with _changed([(n, "use_global_stats", True) for n in norms] + [(r, "_rate", 0) for r in rates]):
        yield


@contextmanager
def _changed(settings: list[tuple[dict[str, Any], str, Any]]) -> Iterator[None]:
    before = [(attributes, name, attributes[name]) for attributes, name, _ in settings]
    try:
        for attributes, name, value in settings:
            attributes[name] = value
        yield
    finally:
        for attributes, name, value in before:
            attributes[name] = value


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
