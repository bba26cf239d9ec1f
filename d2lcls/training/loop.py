"""`fit`, the training loop of the book."""

import time
from contextlib import closing
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path

from d2lcls.data.prefetch import prefetch
from d2lcls.machine.files import check_writable
from d2lcls.machine.interrupts import StopAfterStep
from d2lcls.machine.progress import Progress, Stopwatch
from d2lcls.models.surgery import layer_groups, train_last
from d2lcls.training.checkpoints import parameters_from_arrays, parameters_to_arrays, save_checkpoint
from d2lcls.training.evaluation import as_contexts, check_labels, evaluate
from d2lcls.training.lookahead import Lookahead
from d2lcls.training.metrics import Tally
from d2lcls.training.precision import LossScale, check_precision, choose, lower
from d2lcls.training.schedules import SCHEDULES
from d2lcls.training.standing import Standing, read_standing, recipe_of
from d2lcls.training.steps import (
    average_running_statistics,
    check_training_memory,
    is_finite,
    make_trainer,
    settle_shapes,
    train_step,
)
from d2lcls.training.tensorboard import Curves

import mxnet as mx


class TrainingDiverged(ArithmeticError):
    """The loss or a parameter became NaN or infinite."""


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training set came to; losses are means an image, accuracies and `waiting` shares of 1.

    `waiting` is the share of the training time in which there was no batch ready.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    valid_loss: float
    valid_accuracy: float
    images_per_second: float
    seconds: float
    waiting: float = 0.0

    def __str__(self):
        text = f"epoch {self.epoch:3d}  lr {self.lr:.4f}  train {self.train_loss:.3f} {self.train_accuracy:6.2%}"
        if self.valid_loss is not None:
            text += f"  valid {self.valid_loss:.3f} {self.valid_accuracy:6.2%}"
        return text + f"  {self.images_per_second:,.0f} images/s, {self.waiting:.1%} waiting for data"


def fit(
    net,
    train,
    valid=None,
    *,
    num_epochs=10,
    lr=0.1,
    schedule="cosine",
    warmup_epochs=1.0,
    optimizer="sgd",
    optimizer_params=None,
    wd=5e-4,
    l1=0.0,
    clip_norm=None,
    loss=None,
    unfreeze=None,
    decay_biases=False,
    precision="float32",
    lookahead=0,
    ctx=None,
    seed=0,
    patience=None,
    checkpoint_dir=None,
    checkpoint_steps=None,
    resume=False,
    tensorboard=None,
    on_begin=None,
    on_epoch=None,
    verbose=True,
):
    """Train a network and return what every epoch came to.

    With `valid`, the network ends with the parameters of the epoch that was best on it; without, with those
    of the last step. The same seed, data and machine give the same numbers, interrupted or not.

    Args:
        net: initialised `gluon.HybridBlock` that maps (N, C, H, W) to logits (N, K).
        train, valid: `Batches`, or `FeatureBatches` for the tail of a network; `valid` may be None.
        num_epochs: passes over the training set.
        lr: highest learning rate, for a loss that is the mean over the batch.
        schedule: "constant", "cosine", "exponential", "linear", "step", or a function from the step to the rate.
        warmup_epochs: length of the linear warm-up; unused when `schedule` is a function.
        optimizer, optimizer_params: MXNet's name and arguments; momentum is 0.9 for "sgd" and "nag".
        wd: weight decay, of weights only: biases and normalisation parameters are spared, unless `decay_biases`.
        decay_biases: see `make_trainer`.
        l1: factor of the sum of all weights' absolute values, added to the loss; `wd` is the L2 penalty.
        clip_norm: largest allowed norm of the mean gradient over all parameters; None never clips.
        loss: function of (logits, labels) that returns one loss an image, shape (N,); None is cross-entropy.
        unfreeze: dict from an epoch, counted from 0, to the number of last groups trained from then on, as
            `gradual` plans it; None leaves frozen what is frozen.
        precision: "float32"; "bfloat16", for CPUs that have instructions for it; "float16", for GPUs; or "auto", which
            measures before the first step. Parameters and validation stay float32; see `lower`.
        lookahead: average the parameters with their past every so many steps, see `Lookahead`; 0 is off.
        ctx: context or list of contexts, each of which gets an equal share of every batch; None is the CPU.
        seed: decides initial parameters not yet drawn, and dropout. (`Batches` has its own.)
        patience: stop after so many epochs without a better validation accuracy.
        checkpoint_dir: folder for `last.npz` and `best.npz`. A run is resumed only with the recipe it was begun
            with; augmentation, loss and validation set cannot be compared and are yours to keep.
        checkpoint_steps: write `last.npz` every so many steps, besides after every epoch.
        resume: go on from `last.npz` in `checkpoint_dir`, if it is there.
        tensorboard: folder for TensorBoard's event files.
        on_begin: function called without arguments before the first step, when everything else has been checked.
        on_epoch: function called with the `Epoch` after each; what it raises ends the run.
        verbose: print a line an epoch and show progress.

    Returns:
        list of `Epoch`, those before a resume included.

    Raises:
        TrainingDiverged: the loss or a parameter became NaN or infinite; names step, rate and checkpoint.
        KeyboardInterrupt: Ctrl-C; the step was finished and, with `checkpoint_dir`, saved first.
        FileExistsError: `checkpoint_dir` holds a run and `resume` is False.
        CheckpointError: the checkpoint is damaged, or of another network or recipe.
        ValueError: an argument does not fit; says which.
        MemoryError: a batch cannot fit into memory; says how much it needs.
        OSError: a folder cannot be written.
    """
    if patience is not None and valid is None:
        raise ValueError("patience needs a validation set, valid=...")
    if checkpoint_dir is None and (resume or checkpoint_steps):
        raise ValueError("resume and checkpoint_steps need a folder, checkpoint_dir=...")
    ctx, steps = as_contexts(ctx), len(train)
    if optimizer == "nadam" and len(ctx) > 1:
        raise ValueError(
            "MXNet's nadam keeps one schedule for all devices, so that their copies of the network "
            "drift apart. Use adam, or one device."
        )
    rate = (
        schedule
        if callable(schedule)
        else _named_schedule(schedule)(lr, num_epochs * steps, round(warmup_epochs * steps))
    )
    check_precision(precision, ctx)
    if min(wd, l1) < 0:
        raise ValueError(f"wd and l1 must be 0 (off) or above, not {wd} and {l1}.")
    if unfreeze:
        _check_plan(net, unfreeze)
    if optimizer_params is None:
        optimizer_params = {"momentum": 0.9} if optimizer in ("sgd", "nag") else {}
    settings = {"learning_rate": lr, "wd": wd, **optimizer_params}
    mx.optimizer.create(optimizer, **settings)  # refuses an unknown one before the network is changed
    last = checkpoint_dir and Path(checkpoint_dir, "last.npz")
    _check_folders(last, resume, tensorboard)
    example = train.example()
    if ctx[0].device_type == "cpu":
        check_training_memory(net, (min(train.batch_size, len(train.data)), *example.shape[1:]))
    outputs = settle_shapes(net, example, ctx, seed)
    if train.small_first:
        side, _ = train.small_first
        settle_shapes(net, example[:, :, :side, :side], ctx, seed)  # refuses now what a batch would later
    check_labels(train.data, outputs)
    if train.mixup and outputs != len(train.data.classes):
        raise ValueError(f"mixup needs a network with one output a class: {len(train.data.classes)}, not {outputs}.")
    trainer = make_trainer(net, optimizer, settings, decay_biases)
    if unfreeze:
        train_last(net, trained := unfreeze[0])
    if all(parameter.grad_req == "null" for parameter in net.collect_params().values()):
        raise ValueError("Every parameter is frozen. Call d2lcls.models.train_last(net, 1), or pass unfreeze=.")
    optional = {
        "l1": l1,
        "unfreeze": unfreeze,
        "lookahead": lookahead,
        "decay_biases": decay_biases,
        "precision": None if precision == "float32" else precision,
    }
    at = Standing(
        recipe_of(
            net,
            train,
            optional,
            num_epochs=num_epochs,
            lr=lr,
            warmup_epochs=warmup_epochs,
            optimizer=optimizer,
            schedule=schedule if isinstance(schedule, str) else "a function",
            optimizer_params=optimizer_params,
            wd=wd,
            clip_norm=clip_norm,
            seed=seed,
            devices=len(ctx),
        )
    )
    slow = Lookahead(net, num_epochs * steps, lookahead) if lookahead else None
    best = None  # parameters of the best epoch, as arrays
    if last and last.exists():
        at, best = read_standing(last, net, trainer, at, slow and slow.slow)
    else:
        at.precision = choose(net, *next(train.epoch(0)), ctx, loss) if precision == "auto" else precision
    check_precision(at.precision, ctx)  # another machine may have measured it
    model = lower(net, at.precision)
    loss_scale = LossScale(*at.loss_scale) if at.precision == "float16" else None

    def settle(tally):
        bad = tally.settle()
        if bad is not None:
            raise _diverged(f"The loss of step {bad + 1} is not a finite number", rate(bad), last)

    def check(tally):
        settle(tally)
        if not is_finite(net):
            raise _diverged(f"A parameter is not a finite number after step {at.step}", rate(at.step - 1), last)

    def save(tally):
        if last:
            at.sums = (tally.loss, tally.hits, tally.images)
            at.loss_scale = (loss_scale.scale, loss_scale.good) if loss_scale else ()
            save_checkpoint(last, net, trainer, asdict(at), slow and slow.slow)

    if on_begin:
        on_begin()
    curves = Curves(tensorboard) if tensorboard else None
    with Progress(num_epochs * steps, at.step, verbose) as progress, StopAfterStep() as stop:
        while at.step < num_epochs * steps and (patience is None or len(at.records) - at.best_epoch < patience):
            if unfreeze and trained != _groups_at(unfreeze, at.step // steps):
                trained = _groups_at(unfreeze, at.step // steps)
                train_last(net, trained)
                model = lower(net, at.precision)
            tally, begun, images, waited = Tally(*at.sums), time.perf_counter(), 0, Stopwatch()
            batches = waited.over(prefetch(train.epoch(at.step // steps, start=at.step % steps)))
            with closing(batches):
                for x, y in batches:
                    mx.random.seed((seed * 1_000_003 + at.step) % 2**31)  # dropout depends on seed and step alone
                    trainer.set_learning_rate(rate(at.step))
                    sums = train_step(model, trainer, x, y, ctx, loss, clip_norm, l1, loss_scale)
                    waiting = tally.add(at.step, len(x), *sums)
                    at.step, images = at.step + 1, images + len(x)
                    if slow:
                        slow.after(at.step)
                    if waiting == 8:
                        settle(tally)
                        speed = images / (time.perf_counter() - begun)
                        progress.update(at.step, f"loss {tally.mean_loss:.3f}, {speed:,.0f} images/s")
                    if at.step % steps and (stop.wanted or checkpoint_steps and at.step % checkpoint_steps == 0):
                        check(tally)
                        save(tally)
                        stop.check(at.step, last)
            check(tally)
            seconds = time.perf_counter() - begun
            average_running_statistics(net)
            score = evaluate(net, valid, ctx) if valid is not None else None
            record = Epoch(
                at.step // steps,
                float(rate(at.step - 1)),
                tally.mean_loss,
                tally.accuracy,
                score and score.loss,
                score and score.accuracy,
                images / seconds,
                seconds,
                waited.seconds / seconds,
            )
            at.records.append(asdict(record))
            if score and score.accuracy > at.best_accuracy:
                at.best_accuracy, at.best_epoch, best = score.accuracy, record.epoch, parameters_to_arrays(net)
                if last:
                    save_checkpoint(last.with_name("best.npz"), net, progress=asdict(at))
            if curves:
                curves.write(record)
            save(Tally())
            progress.line(record)
            if on_epoch:
                on_epoch(record)
            stop.check(at.step, last)
    if curves:
        curves.close()
    if best is not None:
        parameters_from_arrays(net, best)
    return [Epoch(**record) for record in at.records]


def _check_folders(last, resume, tensorboard):
    """Refuse folders that hold another run or cannot be written."""
    if last and last.exists() and not resume:
        raise FileExistsError(
            f"{last.parent} holds a training run already. Pass resume=True to go on with it, or name another folder."
        )
    for file in filter(None, (last, tensorboard and Path(tensorboard, "events"))):
        check_writable(file)


def _check_plan(net, plan):
    """Refuse a plan of unfreezing before a run that would fail at its third epoch."""
    most = len(layer_groups(net))
    if (
        0 not in plan
        or not all(isinstance(n, Integral) and n >= 0 for n in plan)
        or not all(isinstance(n, Integral) and 1 <= n <= most for n in plan.values())
    ):
        raise ValueError(f"unfreeze must map epochs, 0 among them, to numbers of groups from 1 to {most}, not {plan}.")


def _groups_at(plan, epoch):
    """How many groups a plan of unfreezing trains in an epoch."""
    return plan[max(begin for begin in plan if begin <= epoch)]


def _named_schedule(name):
    if name not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)} or a function, not {name!r}.")
    return SCHEDULES[name]


def _diverged(what, lr, last):
    saved = f"The last good checkpoint is {last}." if last and last.exists() else "No checkpoint was written."
    return TrainingDiverged(
        f"{what}, at a learning rate of {lr:.3g}. {saved} Start again in another folder with a "
        "lower lr, a longer warm-up or clip_norm=1.0: a run goes on with its own recipe only."
    )
