"""Hyper-parameter search with Optuna, and its results."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from d2lcls.training.search.space import Parameter

if TYPE_CHECKING:
    from d2lcls.data.batches import Batches
    from d2lcls.models.features import FeatureBatches
    from d2lcls.training.loop import Epoch
    from d2lcls.training.recipe import Recipe

    import mxnet as mx
    import optuna


@dataclass(frozen=True)
class TrialRecord:
    """One trial; `value` is None if nothing was reported, and the last reported value of a pruned trial.

    With several objectives, `value` is the first of them and `others` the rest; nothing is reported before the end.
    """

    number: int
    state: str  # complete, pruned, fail, running or waiting
    value: float | None
    parameters: dict[str, Any]
    epochs: int  # number of reports
    others: tuple[float, ...] = ()

    def __str__(self) -> str:
        value = "-" if self.value is None else f"{self.value:.4f}"
        parameters = "  ".join(
            f"{name} {part:.3g}" if isinstance(part, float) else f"{name} {part}"
            for name, part in self.parameters.items()
        )
        others = "".join(f"  {other:>9.4g}" for other in self.others)
        return f"trial {self.number:3d}  {self.state:<8}  {value:>7}{others}  {parameters}"


def tune(
    objective: Callable[..., Any],
    space: Mapping[str, Parameter],
    *,
    trials: int,
    storage: str | None = "sqlite:///tune.db",
    study: str = "search",
    seed: int = 0,
    timeout: float | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
    objectives: Mapping[str, str] | None = None,
    at_random: bool = False,
    verbose: bool = True,
) -> optuna.Study:
    """Try hyper-parameters until a study has `trials` finished trials.

    The first ten trials are drawn at random, the others by the tree-structured Parzen estimator (Bergstra et al.,
    "Algorithms for Hyper-Parameter Optimization", 2011) from the results so far. Call it again with the same study
    to continue it, and from several processes or machines to share the work. A trial interrupted by Ctrl-C or a
    killed process is tried once more with the same values: on the same machine (Linux) when a process joins
    the study, elsewhere after two minutes without a heartbeat. In one process, the same seed gives the same
    draws, interrupted or not. An exception in the objective ends the search; that trial is not repeated.

    Args:
        objective: function of an Optuna trial and, by name, the parameters of `space`, that returns a number to
            maximise, such as a validation accuracy. See `fit_trial`. It may raise `Rejected` instead.
        space: dict from names to `uniform`, `log_uniform`, `integer` or `choice`.
        trials: number of finished trials (complete or pruned), including earlier ones of the study.
        storage: URL of a database that SQLAlchemy knows; None keeps the study in memory. SQLite serves several
            processes on one machine; several machines need a server, such as "postgresql://user@host/name".
        study: its name in the database.
        seed: seed of the draws.
        timeout: seconds after which no further trial is started.
        pruner: an Optuna pruner; None stops a trial that is below the median of the earlier ones after as many
            epochs, from the second epoch and the sixth trial on.
        objectives: for several, dict from their names to "maximize" or "minimize"; the objective then returns a
            sequence of as many numbers. Optuna prunes no trials of such a study.
        at_random: draw all trials at random, as a search that learns is to be compared with.
        verbose: print a line per trial.

    Returns:
        Optuna's study; see `trials_table`, `best_trial`, `pareto_front` and `importance`.

    Raises:
        ValueError: an argument does not fit, the study was begun with another space or other objectives, or the
            objective returned something else than finite numbers.
        OSError: the database cannot be opened.
        ImportError: Optuna or the driver of the database is missing.
    """
    from d2lcls.training.search import studies

    _check(objective, space, trials, timeout)
    with studies.quiet():
        opened = studies.open_study(storage, study, pruner, objectives)
    with studies.quiet(), studies.readable_errors(storage):
        studies.check_study(opened, space, objectives)
        studies.search(
            opened,
            objective,
            space,
            trials,
            seed,
            timeout,
            at_random,
            report=lambda trial: verbose and not studies.is_rejected(trial) and print(_record(trial), flush=True),
        )
    return opened


def _check(objective: Callable[..., Any], space: Mapping[str, Any], trials: int, timeout: float | None) -> None:
    wrong = [f"{name!r} is {value!r}" for name, value in space.items() if not isinstance(value, Parameter)]
    if wrong or not space:
        raise ValueError(
            "space must be a dict from names to uniform, log_uniform, integer or choice, but "
            f"{wrong[0] if wrong else 'it is empty'}: write such as {{'lr': log_uniform(1e-3, 1)}}."
        )
    try:
        inspect.signature(objective).bind(None, **space)
    except TypeError as error:
        raise ValueError(f"objective must take a trial and, by name, {', '.join(space)}: {error}.") from None
    if trials < 1 or timeout is not None and timeout <= 0:
        raise ValueError(f"trials must be 1 or more and timeout above 0 seconds, not {trials} and {timeout}.")


def fit_trial(
    trial: optuna.Trial,
    net: mx.gluon.HybridBlock,
    train: Batches | FeatureBatches,
    valid: Batches | FeatureBatches | None,
    recipe: Recipe | None = None,
    *,
    ctx: mx.Context | list[mx.Context] | None = None,
) -> float:
    """Call `fit` for a trial, reporting every epoch, and return the best validation accuracy.

    The trial is pruned if its accuracy falls behind the others', or if training diverges. In a study with several
    objectives, Optuna allows neither reports nor pruning, and only diverged trials end early.

    Args:
        trial: what `tune` passes to the objective.
        net, train, valid, recipe, ctx: as for `fit`; `valid` is needed.
    """
    from d2lcls.training.loop import fit
    from d2lcls.training.recipe import Recipe
    from d2lcls.training.session import TrainingDiverged

    from optuna import TrialPruned

    recipe = recipe or Recipe()
    study = getattr(trial, "study", None)  # which Optuna's FixedTrial does not have
    several = study is not None and len(study.directions) > 1

    def report(record: Epoch) -> None:
        if several:
            return
        trial.report(record.valid_accuracy or 0.0, record.epoch)
        if record.epoch < recipe.num_epochs and trial.should_prune():
            raise TrialPruned

    if valid is None:
        raise ValueError("fit_trial needs a validation set: without one no trial is better than another.")
    try:
        records = fit(net, train, valid, recipe, ctx=ctx, on_epoch=report)
    except TrainingDiverged as error:
        raise TrialPruned(str(error)) from error
    return max(record.valid_accuracy or 0.0 for record in records)


def trials_table(study: optuna.Study) -> list[TrialRecord]:
    """Return all trials of a study as `TrialRecord`, in the order in which they were started, without rejected ones."""
    from d2lcls.training.search.studies import is_rejected

    return [_record(trial) for trial in study.get_trials(deepcopy=False) if not is_rejected(trial)]


def _record(trial: optuna.trial.FrozenTrial) -> TrialRecord:
    value, *others = trial.values or [None]
    return TrialRecord(
        trial.number, trial.state.name.lower(), value, dict(trial.params), len(trial.intermediate_values), tuple(others)
    )


def best_trial(study: optuna.Study) -> TrialRecord:
    """Return the complete trial with the greatest (first) value, the earliest of equals, as `TrialRecord`."""
    complete = [record for record in trials_table(study) if record.state == "complete"]
    if not complete:
        raise ValueError(f"Study {study.study_name!r} has no complete trial yet. Run more trials.")
    return max(complete, key=lambda record: record.value or 0.0)


def pareto_front(study: optuna.Study) -> list[TrialRecord]:
    """Return the complete trials that no other one beats in all objectives, those with the greatest value first."""
    return sorted(map(_record, study.best_trials), key=lambda record: -(record.value or 0.0))


def importance(study: optuna.Study, seed: int = 0) -> dict[str, float]:
    """Return each parameter's share in what made the complete trials differ, greatest first.

    The share is of the variance over the whole space, each parameter on its own, as a random forest fitted to the
    trials sees it; shares are scaled to a sum of 1. With fewer than some 20 trials they are rough. Of several
    objectives, the first is looked at.
    Source: Hutter et al., "An Efficient Approach for Assessing Hyperparameter Importance" (2014), fANOVA.

    Returns:
        dict from names to shares.

    Raises:
        ValueError: there are fewer than 4 complete trials, or all came to the same value.
    """
    from d2lcls.training.search.studies import TrialState, optuna, quiet

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < 4:
        raise ValueError(
            "Importance needs 4 complete trials or more, and better 20; "
            f"study {study.study_name!r} has {len(complete)}. Run more trials."
        )
    if len({trial.values[0] for trial in complete}) == 1:
        raise ValueError(
            f"All trials of study {study.study_name!r} came to {complete[0].values[0]}: no parameter made "
            "a difference. Widen the space, or train longer."
        )
    with quiet():
        even = optuna.create_study(direction="maximize")
        even.add_trials([_with_logarithms(optuna, trial) for trial in complete])
        try:
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
        except ImportError as error:
            raise ImportError('Importance needs scikit-learn: pip install "d2lcls[tune]".') from error
        return optuna.importance.get_param_importances(even, evaluator=evaluator)


def _with_logarithms(optuna: Any, trial: optuna.trial.FrozenTrial) -> optuna.trial.FrozenTrial:
    """A copy of a trial for fANOVA, which would weigh a learning rate's highest power of ten nine times the rest."""
    parameters, distributions = dict(trial.params), dict(trial.distributions)
    for name, kind in trial.distributions.items():
        if isinstance(kind, optuna.distributions.FloatDistribution) and kind.log:
            parameters[name] = math.log(parameters[name])
            distributions[name] = optuna.distributions.FloatDistribution(math.log(kind.low), math.log(kind.high))
    return optuna.trial.create_trial(params=parameters, distributions=distributions, value=trial.values[0])
