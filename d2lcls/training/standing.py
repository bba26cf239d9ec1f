"""Where a training run stands, and whether one that stopped may go on."""

import json
from dataclasses import dataclass, field

from d2lcls.training.checkpoints import (
    CheckpointError,
    load_checkpoint,
    parameters_from_arrays,
    parameters_to_arrays,
    read_progress,
)


@dataclass
class Standing:
    """Where a run stands: all that a checkpoint holds besides arrays."""

    recipe: dict
    step: int = 0
    sums: tuple = ()  # of the epoch under way: see Tally
    records: list = field(default_factory=list)
    best_accuracy: float = -1.0
    best_epoch: int = 0
    precision: str = "float32"  # what "auto" came to
    loss_scale: tuple = ()  # of float16: the scale, and the good steps since it changed


def recipe_of(net, train, optional, **options):
    """Describe a run by all that decides its numbers, as JSON gives it back.

    Args:
        net: `gluon.Block`; what is frozen in it and which parameters have a rate of their own is part of the recipe.
        train: `Batches`.
        optional: dict of options that are left out where they are off, so that a run of before they existed can go on.
        options: all others.
    """
    parameters = net._collect_params_with_prefix().items()
    optional = {
        **optional,
        "size": train.size,
        "balanced": train.balanced,
        "alternating_flip": train.alternating_flip,
        "small_first": train.small_first,
        "frozen": [name for name, p in parameters if p._differentiable and p.grad_req == "null"],
        "lr_multipliers": {name: p.lr_mult for name, p in parameters if p.lr_mult != 1},
    }
    recipe = {
        "images": len(train.data),
        "batch_size": train.batch_size,
        "mixup": train.mixup,
        "data_seed": train.seed,
        **options,
        **{name: value for name, value in optional.items() if value},
    }
    # Numpy's numbers become Python's, anything else its description.
    return json.loads(json.dumps(recipe, default=lambda value: value.item() if hasattr(value, "item") else repr(value)))


def read_standing(last, net, trainer, at, slow=None):
    """Read a run's last checkpoint, if it is of the same recipe.

    Args:
        last: Path of `last.npz`, beside which `best.npz` lies once an epoch was best.
        net, trainer: what the checkpoint is read into.
        at: `Standing` with the recipe of the run that wants to go on.
        slow: the slow weights of `Lookahead`, to be filled; None is without.

    Returns:
        (`Standing`, the parameters of the best epoch as arrays or None).

    Raises:
        CheckpointError: the checkpoint is damaged, or of another network or recipe; says in what they differ.
    """
    begun = read_progress(last).get("recipe", {})
    for name in {**begun, **at.recipe}:
        if begun.get(name) != at.recipe.get(name):
            raise CheckpointError(
                f"{last}: belongs to another recipe: {name} is "
                f"{begun.get(name)!r} there and {at.recipe.get(name)!r} here."
            )
    found = load_checkpoint(last, net, trainer, slow)
    best = None
    if found["best_epoch"]:
        current = parameters_to_arrays(net)
        load_checkpoint(last.with_name("best.npz"), net)
        best = parameters_to_arrays(net)
        parameters_from_arrays(net, current)
    return Standing(**found), best
