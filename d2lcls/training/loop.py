"""`fit`, the training loop of the book."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from d2lcls.data.batches import Batches
from d2lcls.data.prefetch import prefetch
from d2lcls.machine.files import hold_folder
from d2lcls.machine.interrupts import StopAfterStep
from d2lcls.machine.progress import Progress, Stopwatch
from d2lcls.models.features import FeatureBatches
from d2lcls.training.evaluation import as_contexts, evaluate
from d2lcls.training.recipe import Recipe
from d2lcls.training.session import Session
from d2lcls.training.steps import average_running_statistics
from d2lcls.training.transfer.frozen import find_frozen

import mxnet as mx

NOTICEABLE = 0.05  # share of the time waiting for data that is worth printing
READ_EVERY = 8  # steps between two readings of the loss: reading waits for the devices


@dataclass(frozen=True)
class Epoch:
    """The results of one pass over the training set; losses are means per image, accuracies and `waiting` shares of 1.

    `waiting` is the share of the training time in which no batch was ready. `valid_loss` and `valid_accuracy` are None
    without validation.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    valid_loss: float | None
    valid_accuracy: float | None
    images_per_second: float
    seconds: float
    waiting: float = 0.0

    def __str__(self) -> str:
        text = f"epoch {self.epoch:3d}  lr {self.lr:.4f}  train {self.train_loss:.3f} {self.train_accuracy:6.2%}"
        if self.valid_loss is not None:
            text += f"  valid {self.valid_loss:.3f} {self.valid_accuracy:6.2%}"
        text += f"  {self.images_per_second:,.0f} images/s"
        return text + (f", {self.waiting:.0%} of the time waiting for data" if self.waiting >= NOTICEABLE else "")


def print_epoch(record: Epoch) -> None:
    """Print the line of an epoch at once, also into a pipe."""
    print(record, flush=True)


def fit(
    net: mx.gluon.HybridBlock,
    train: Batches | FeatureBatches,
    valid: Batches | FeatureBatches | None = None,
    recipe: Recipe | None = None,
    *,
    ctx: mx.Context | list[mx.Context] | None = None,
    checkpoint_dir: str | Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[Epoch], Any] | None = print_epoch,
) -> list[Epoch]:
    """Train a network and return the results of every epoch.

    With `valid`, the network ends with the parameters of the epoch with the best validation accuracy; without it, with
    those of the last step. The same seed, data and machine give the same numbers, interrupted or not. All arguments are
    checked before the network is changed or anything is written.

    If the last layer alone is trained, and the outputs of the layers in front of it never change, these are computed
    once for each image; see `d2lcls.training.transfer.find_frozen`.

    Args:
        net: initialised `gluon.HybridBlock` that maps (N, C, H, W) to logits (N, K).
        train, valid: `Batches`, or `FeatureBatches` for the last layers of a network.
        recipe: `Recipe`; None is the default one. The batches have been cut already, so that its fields about data,
            such as `batch_size` and `augment`, have no effect here; `d2lcls.training.train` uses these as well.
        ctx: context or list of contexts, each of which gets an equal share of every batch; None is the CPU.
        checkpoint_dir: folder for `last.npz`, `best.npz` and `run.json`, which `load_run` and the commands `evaluate`,
            `predict` and `export` read. A run can only be resumed with its own recipe; transforms and functions
            cannot be compared, so keeping these the same is up to you.
        resume: continue from `last.npz` in `checkpoint_dir`, if it exists.
        on_epoch: function called with the `Epoch` after each; what it raises ends the run. None shows nothing at all.

    Returns:
        list of `Epoch`, including those before a resume.

    Raises:
        TrainingDiverged: the loss or a parameter became NaN or infinite; names step, rate and checkpoint.
        KeyboardInterrupt: Ctrl-C; the step was finished and, with `checkpoint_dir`, saved first.
        FileExistsError: `checkpoint_dir` holds a run and `resume` is False.
        CheckpointError: the checkpoint is damaged, or of another network or recipe.
        ValueError: an argument does not fit; says which.
        MemoryError: a batch cannot fit into memory; says how much it needs.
        FolderInUse: another process trains into `checkpoint_dir`.
        OSError: the folder cannot be written.
    """
    with hold_folder(checkpoint_dir) if checkpoint_dir else nullcontext():
        run = Session(net, train, valid, recipe or Recipe(), as_contexts(ctx), checkpoint_dir, resume)
        once = None if run.finished else find_frozen(net, run.recipe, train, valid)
        if once:
            if on_epoch:
                print(once, flush=True)
            train, valid = once.features(run.ctx, verbose=on_epoch is not None)
            run.train_tail(once.tail)
        return _train(run, train, valid, on_epoch)


def _train(
    run: Session,
    train: Batches | FeatureBatches,
    valid: Batches | FeatureBatches | None,
    on_epoch: Callable[[Epoch], Any] | None,
) -> list[Epoch]:
    with Progress(run.total_steps, run.state.step, on_epoch is not None) as progress, StopAfterStep() as stop:
        while not run.finished:
            images, seconds, waiting = train_epoch(run, train, progress, stop)
            average_running_statistics(run.net)
            with run.averaged():
                score = evaluate(run.scored, valid, run.ctx) if valid is not None else None
            record = Epoch(
                run.epoch,
                float(run.rate(run.state.step - 1)),
                run.tally.mean_loss,
                run.tally.accuracy,
                score.loss if score else None,
                score.accuracy if score else None,
                images / seconds,
                seconds,
                waiting / seconds,
            )
            run.end_epoch(asdict(record))
            progress.clear()
            if on_epoch:
                on_epoch(record)
            stop.check(run.state.step, run.last)
    run.restore_best()
    return [Epoch(**record) for record in run.state.records]


def train_epoch(
    run: Session, train: Batches | FeatureBatches, progress: Progress, stop: StopAfterStep
) -> tuple[int, float, float]:
    """Train to the end of the current epoch, from the step that the run has reached.

    Returns:
        (images, seconds, waiting): number of images, seconds they took, and those in which no batch was ready.

    Raises:
        TrainingDiverged, KeyboardInterrupt, OSError: as `fit`.
    """
    run.begin_epoch()
    images, clock, begun = 0, Stopwatch(), time.perf_counter()
    with closing(clock.over(prefetch(train.epoch(run.epoch, start=run.step_in_epoch)))) as batches:
        for x, y in batches:
            unread = run.train_on(x, y)
            images += len(x)
            if unread == READ_EVERY:
                run.read_results()
                speed = images / (time.perf_counter() - begun)
                progress.update(run.state.step, f"loss {run.tally.mean_loss:.3f}, {speed:,.0f} images/s")
            every = run.recipe.checkpoint_steps
            if run.step_in_epoch and (stop.wanted or (every and run.state.step % every == 0)):
                run.check_finite()
                run.save()
                stop.check(run.state.step, run.last)
    run.check_finite()
    return images, time.perf_counter() - begun, clock.seconds
