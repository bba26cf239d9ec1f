"""A training run in memory: what `fit` sets up before the first step, and what a checkpoint stores and restores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any

from d2lcls.data.batches import Batches
from d2lcls.machine.files import check_held, check_writable
from d2lcls.machine.gluon import is_learnable, parameters_by_path
from d2lcls.models.efficientnet import set_image_size
from d2lcls.models.features import FeatureBatches
from d2lcls.models.surgery import gradual, layer_groups, set_bias_multiplier, set_lr_multipliers, train_last
from d2lcls.training.checkpoints import (
    CheckpointError,
    load_checkpoint,
    parameters_from_arrays,
    parameters_to_arrays,
    read_progress,
    save_checkpoint,
)
from d2lcls.training.evaluation import check_labels
from d2lcls.training.optimizers.ema import MovingAverage
from d2lcls.training.optimizers.lookahead import Lookahead
from d2lcls.training.precision import check_precision, choose, lower
from d2lcls.training.recipe import COMPARED, Recipe
from d2lcls.training.runs import NETWORK, RUN, Run, save_run
from d2lcls.training.steps import (
    LossScale,
    Tally,
    average_running_statistics,
    check_training_memory,
    is_finite,
    make_trainer,
    settle_shapes,
    step_seed,
    train_step,
)
from d2lcls.training.transfer.front import FrozenFront, split_front

import mxnet as mx
import numpy as np

OF_BATCHES = {"batch_size", "mixup", "cutmix", "balanced", "small_first"}  # decided by the batches, see `_fingerprint`


class TrainingDiverged(ArithmeticError):
    """The loss or a parameter became NaN or infinite."""


@dataclass
class State:
    """How far a run has come: everything in a checkpoint besides arrays."""

    recipe: dict[str, Any]  # all that decides the run's numbers, see `_fingerprint`
    step: int = 0
    sums: tuple[float, ...] = ()  # of the current epoch, see `Tally`
    records: list[dict[str, Any]] = field(default_factory=list)
    best_accuracy: float = -1.0
    best_epoch: int = 0
    precision: str = "float32"  # what "auto" chose
    loss_scale: tuple[float, ...] = ()  # of float16: the scale, and the good steps since it changed


class Session:
    """A training run in memory, ready for its next step; `fit` is the loop around it.

    The constructor checks everything before it changes the network, puts the network on its devices, freezes what the
    recipe freezes, makes the optimizer, and restores the last checkpoint of a resumed run.

    Args:
        net, train, valid, recipe, checkpoint_dir, resume: as for `fit`.
        ctx: list of contexts.

    Raises:
        As `fit`.
    """

    def __init__(
        self,
        net: mx.gluon.HybridBlock,
        train: Batches | FeatureBatches,
        valid: Batches | FeatureBatches | None,
        recipe: Recipe,
        ctx: list[mx.Context],
        checkpoint_dir: str | Path | None,
        resume: bool,
    ) -> None:
        self.net, self.recipe, self.ctx = net, recipe, ctx
        self.last = Path(checkpoint_dir, "last.npz") if checkpoint_dir else None
        self.steps_per_epoch, self.total_steps = len(train), recipe.num_epochs * len(train)
        self._check(valid, resume)
        self.rate = recipe.learning_rate(len(train))
        self.loss = recipe.make_loss(train.data.counts)
        self._settle(train)
        self.plan = self._unfreezing_plan()
        self._set_multipliers()
        self.trainer = make_trainer(net, recipe.optimizer, recipe.optimizer_arguments(), recipe.decay_biases)
        self.trained_groups: int | None = None
        if self.plan:
            self._train_groups(0)
        if all(parameter.grad_req == "null" for parameter in net.collect_params().values()):
            raise ValueError("Every parameter is frozen. Call d2lcls.models.train_last(net, 1), or set unfreeze.")
        self.average: Lookahead | MovingAverage | None = None
        if recipe.lookahead:
            self.average = Lookahead(net, self.total_steps, recipe.lookahead)
        elif recipe.ema:
            self.average = MovingAverage(net, self.total_steps, recipe.ema)
        self.state = State(_fingerprint(net, train, recipe, len(ctx)))
        self.best: dict[str, np.ndarray] | None = None
        self.described = False  # whether the folder holds what this run has written into it
        self.run = Run.of(recipe, train, valid, net) if isinstance(train, Batches) else None
        if self.last and self.last.exists():
            self._restore(self.last)
            self.described = (self.last.with_name(NETWORK)).exists()
        else:
            self.state.precision = recipe.precision
            if recipe.precision == "auto":
                x, y = next(train.epoch(0))
                self.state.precision = choose(net, x, y, ctx, self.loss)
        check_precision(self.state.precision, ctx)  # another machine may have measured it
        self.model: mx.gluon.Block | None = None  # what is trained in the network's place, see `_model_for`
        self.traced: tuple[int, ...] | None = None  # the size of the images that it is for
        self.scored: mx.gluon.HybridBlock = net
        self.loss_scale = LossScale(*self.state.loss_scale) if self.state.precision == "float16" else None
        self.tally = Tally(*self.state.sums)

    @property
    def epoch(self) -> int:
        """The current epoch, from 0."""
        return self.state.step // self.steps_per_epoch

    @property
    def step_in_epoch(self) -> int:
        """The next step of the current epoch, from 0."""
        return self.state.step % self.steps_per_epoch

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or validation has not improved for `patience` epochs."""
        waited = len(self.state.records) - self.state.best_epoch
        patience = self.recipe.patience
        return self.state.step >= self.total_steps or (patience is not None and waited >= patience)

    def begin_epoch(self) -> None:
        """Unfreeze the groups of layers that are planned for the current epoch."""
        if self.plan and self.trained_groups != _groups_at(self.plan, self.epoch):
            self._train_groups(self.epoch)
            self.model = None

    def train_on(self, x: np.ndarray, y: np.ndarray) -> int:
        """Make one step on a batch and return how many steps have results that are not read yet."""
        step, recipe = self.state.step, self.recipe
        mx.random.seed(step_seed(recipe.seed, step))
        self.trainer.set_learning_rate(self.rate(step))
        sums = train_step(
            self._model_for(x), self.trainer, x, y, self.ctx, self.loss, recipe.clip_norm, recipe.l1, self.loss_scale
        )
        unread = self.tally.add(step, len(x), *sums)
        self.state.step += 1
        if self.average:
            self.average.after(self.state.step)
        return unread

    def train_tail(self, tail: mx.gluon.HybridBlock) -> None:
        """From now on, train and score the last layers alone, on batches of the features that come before them."""
        self.model, self.scored = None, tail

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the network have the moving average of its weights for a `with` statement, if the recipe has one."""
        if not isinstance(self.average, MovingAverage):  # lookahead's weights are in the network already
            yield
            return
        with self.average.in_network():
            average_running_statistics(self.net)
            yield

    def read_results(self) -> None:
        """Wait for the steps so far and add up their results; raise TrainingDiverged if a loss is not finite."""
        bad = self.tally.settle()
        if bad is not None:
            raise self._diverged(f"The loss of step {bad + 1} is not a finite number", bad)

    def check_finite(self) -> None:
        """Raise TrainingDiverged if a loss or a parameter is not a finite number."""
        self.read_results()
        if not is_finite(self.net):
            step = self.state.step
            raise self._diverged(f"A parameter is not a finite number after step {step}", step - 1)

    def save(self) -> None:
        """Write `last.npz`, if the run has a folder."""
        if self.last:
            self.state.sums = (self.tally.loss, self.tally.hits, self.tally.images)
            self.state.loss_scale = (self.loss_scale.scale, self.loss_scale.good) if self.loss_scale else ()
            slow = self.average.slow if self.average else None
            self._save_run(self.last.parent)
            save_checkpoint(self.last, self.net, self.trainer, asdict(self.state), slow)

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Keep the record of an epoch and, if it is the best so far, the parameters; write the checkpoints."""
        self.state.records.append(record)
        accuracy = record["valid_accuracy"]
        if accuracy is not None and accuracy > self.state.best_accuracy:
            self.state.best_accuracy, self.state.best_epoch = accuracy, record["epoch"]
            with self.averaged():
                self.best = parameters_to_arrays(self.net)
                if self.last:
                    self._save_run(self.last.parent)
                    save_checkpoint(self.last.with_name("best.npz"), self.net, progress=asdict(self.state))
        self.tally = Tally()
        self.save()

    def restore_best(self) -> None:
        """Give the network the parameters of the epoch that was best in validation, if there was validation."""
        if self.best is not None:
            parameters_from_arrays(self.net, self.best)

    def _check(self, valid: Any, resume: bool) -> None:
        recipe = self.recipe
        if recipe.patience is not None and valid is None:
            raise ValueError("patience needs a validation set, valid=...")
        if self.last is None and (resume or recipe.checkpoint_steps):
            raise ValueError("resume and checkpoint_steps need a folder, checkpoint_dir=...")
        if recipe.optimizer == "nadam" and len(self.ctx) > 1:
            raise ValueError(
                "MXNet's nadam keeps one schedule for all devices, so that their copies of the network "
                "drift apart. Use adam, or one device."
            )
        check_precision(recipe.precision, self.ctx)
        mx.optimizer.create(recipe.optimizer, **recipe.optimizer_arguments())  # refuses unknown names and arguments
        if self.last and self.last.exists() and not resume:
            raise FileExistsError(
                f"{self.last.parent} already holds a training run. Pass resume=True to continue it, or choose another "
                "folder."
            )
        if self.last:
            check_writable(self.last)
        if self.last and self.last.exists():
            fields = {name: value for name, value in recipe.to_json().items() if name in COMPARED - OF_BATCHES}
            self._check_same(self.last, fields)

    def _model_for(self, x: np.ndarray) -> mx.gluon.Block:
        """Return what is trained in the network's place on images of this size; its graph holds the padding for it."""
        size = x.shape[2:]
        if self.model is None or size != self.traced:
            self.model, self.traced = self._trace(size), size
        return self.model

    def _trace(self, size: tuple[int, ...]) -> mx.gluon.Block:
        net = self.scored
        if len(size) != 2:  # features
            return lower(net, self.state.precision)
        set_image_size(net, *size)
        if self.trained_groups and net is self.net and self.state.precision == "float32" and self.ctx == [mx.cpu()]:
            parts = split_front(net, self.trained_groups, size)
            if parts:
                return FrozenFront(parts[0], lower(parts[1], "float32"))
        return lower(net, self.state.precision)

    def _settle(self, train: Any) -> None:
        """Put the network on its devices, with all shapes known."""
        net, example = self.net, train.example()
        if isinstance(self.recipe.unfreeze, Mapping):
            _check_plan(net, self.recipe.unfreeze)
        if self.ctx[0].device_type == "cpu":
            check_training_memory(net, (min(train.batch_size, len(train.data)), *example.shape[1:]))
        outputs = settle_shapes(net, example, self.ctx, self.recipe.seed)
        if train.small_first:
            side, _ = train.small_first
            settle_shapes(net, example[:, :, :side, :side], self.ctx, self.recipe.seed)  # fails now rather than later
        check_labels(train.data, outputs)
        if (train.mixup or train.cutmix) and outputs != len(train.data.classes):
            raise ValueError(
                f"mixup and cutmix need a network with one output per class: {len(train.data.classes)}, not {outputs}."
            )

    def _unfreezing_plan(self) -> Mapping[int, int] | None:
        recipe = self.recipe
        if recipe.unfreeze == "gradual":
            return gradual(self.net, recipe.num_epochs, recipe.train_last or 1)
        if isinstance(recipe.unfreeze, Mapping):
            return recipe.unfreeze
        return {0: recipe.train_last} if recipe.train_last else None

    def _set_multipliers(self) -> None:
        """Set the learning-rate multipliers that the recipe asks for; those set by hand stay if it asks for none."""
        if self.recipe.layer_lr_decay == self.recipe.bias_lr == 1:
            return
        for parameter in self.net.collect_params().values():
            if parameter.lr_mult:  # 0 is frozen
                parameter.lr_mult = 1.0
        if self.recipe.layer_lr_decay != 1:
            set_lr_multipliers(self.net, self.recipe.layer_lr_decay)
        set_bias_multiplier(self.net, self.recipe.bias_lr)

    def _train_groups(self, epoch: int) -> None:
        assert self.plan is not None
        self.trained_groups = _groups_at(self.plan, epoch)
        train_last(self.net, self.trained_groups)

    def _restore(self, last: Path) -> None:
        """Read the last checkpoint, if it belongs to the same recipe, and the parameters of the best epoch."""
        self._check_same(last, self.state.recipe)
        if self.run:
            self.run.check_same(last.parent)
        slow = self.average.slow if self.average else None
        progress = load_checkpoint(last, self.net, self.trainer, slow)
        try:
            self.state = State(**progress)
            Tally(*self.state.sums)
        except TypeError as error:
            raise CheckpointError(f"{last}: damaged ({error}). Delete it and start the run again.") from error
        if self.state.best_epoch:
            current = parameters_to_arrays(self.net)
            load_checkpoint(last.with_name("best.npz"), self.net)
            self.best = parameters_to_arrays(self.net)
            parameters_from_arrays(self.net, current)

    def _check_same(self, last: Path, recipe: dict[str, Any]) -> None:
        """Raise CheckpointError if a checkpoint has another recipe; where it lacks a field, that had its default."""
        before = {**Recipe().to_json(), **read_progress(last).get("recipe", {})}
        for name, value in recipe.items():
            if before.get(name) != value:
                raise CheckpointError(
                    f"{last}: belongs to another recipe: {name} is {_shown(before.get(name))} there and "
                    f"{_shown(value)} here."
                )

    def _save_run(self, folder: Path) -> None:
        """Describe the run in its folder, before its first checkpoint; raise OSError if that is no longer its own."""
        check_held(folder)
        if self.described and not (folder / RUN if self.run else folder).exists():
            raise FileNotFoundError(
                f"{folder}: was removed during training, with the best parameters. Train again, in a folder that stays."
            )
        if self.run and not self.described:
            set_image_size(self.net, *(self.run.size or self.run.image_shape[:2]))
            save_run(self.run, folder, self.net)
        self.described = True

    def _diverged(self, problem: str, step: int) -> TrainingDiverged:
        saved = self.last and self.last.exists()
        return TrainingDiverged(
            f"{problem}, at a learning rate of {self.rate(step):.3g}. "
            f"{f'The last good checkpoint is {self.last}.' if saved else 'No checkpoint was written.'} Start again in "
            "another folder with a lower lr, a longer warm-up or clip_norm=1.0: a run can only be continued with its "
            "own recipe."
        )


def _check_plan(net: mx.gluon.Block, plan: Mapping[int, int]) -> None:
    """Refuse a plan of unfreezing before training, not at its third epoch."""
    most = len(layer_groups(net))
    epochs_fit = 0 in plan and all(isinstance(epoch, Integral) and epoch >= 0 for epoch in plan)
    if not epochs_fit or not all(isinstance(n, Integral) and 1 <= n <= most for n in plan.values()):
        raise ValueError(
            f"unfreeze must map epochs, among them 0, to numbers of groups from 1 to {most}, not {dict(plan)}."
        )


def _groups_at(plan: Mapping[int, int], epoch: int) -> int:
    """Return how many groups a plan of unfreezing trains in an epoch."""
    return plan[max(begin for begin in plan if begin <= epoch)]


def _fingerprint(net: mx.gluon.Block, train: Any, recipe: Recipe, devices: int) -> dict[str, Any]:
    """Describe all that decides a run's numbers, as JSON returns it: the recipe, and what it does not contain."""
    parameters = parameters_by_path(net).items()
    facts = replace(
        recipe, batch_size=train.batch_size, mixup=train.mixup, cutmix=train.cutmix, balanced=train.balanced
    ).to_json()
    facts = {name: facts[name] for name in facts if name in COMPARED}
    return {
        **facts,
        "images": len(train.data),
        "data_seed": train.seed,
        "image_size": list(train.size) if train.size else None,
        "decoded_size": list(train.decode) if train.decode else None,
        "alternating_flip": train.alternating_flip,
        "small_first": list(train.small_first) if train.small_first else None,
        "frozen": [name for name, p in parameters if is_learnable(p) and p.grad_req == "null"],
        "lr_multipliers": {name: p.lr_mult for name, p in parameters if p.lr_mult != 1},
        "devices": devices,
    }


def _shown(value: Any) -> str:
    return "not set" if value is None else repr(value)
