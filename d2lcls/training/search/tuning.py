"""Hyper-parameter search with Optuna: trying values with `fit`, and what came of it."""

import inspect
import math
from dataclasses import dataclass

from d2lcls.training.search.space import Parameter, choice, integer, log_uniform, uniform

__all__ = [
    "TrialRecord",
    "best_trial",
    "choice",
    "fit_trial",
    "importance",
    "integer",
    "log_uniform",
    "trials_table",
    "tune",
    "uniform",
]


@dataclass(frozen=True)
class TrialRecord:
    """One trial: `value` is None if nothing was reported, for a pruned trial it is what was reported last."""

    number: int
    state: str  # complete, pruned, fail, running or waiting
    value: float
    parameters: dict
    epochs: int  # reports made

    def __str__(self):
        value = "-" if self.value is None else f"{self.value:.4f}"
        parameters = "  ".join(
            f"{name} {part:.3g}" if isinstance(part, float) else f"{name} {part}"
            for name, part in self.parameters.items()
        )
        return f"trial {self.number:3d}  {self.state:<8}  {value:>7}  {parameters}"


def tune(
    objective,
    space,
    *,
    trials,
    storage="sqlite:///tune.db",
    study="search",
    seed=0,
    timeout=None,
    pruner=None,
    verbose=True,
):
    """Try hyper-parameters until a study holds so many finished trials.

    The first ten trials are drawn at random, the others by the tree-structured Parzen estimator (Bergstra et al.,
    "Algorithms for Hyper-Parameter Optimization", 2011) from what came before. Call it again with the same study
    to go on with it, and from several processes or machines to share the work. A trial cut short by Ctrl-C or a
    killed process is tried once more with the same values: on the same machine (Linux) when a process joins in
    the study, elsewhere after two minutes without a sign of life. In one process, the same seed makes the same
    draws, interrupted or not. What the objective raises ends the search; that trial is not repeated.

    Args:
        objective: function of an Optuna trial and, by name, the parameters of `space`, that returns a number to
            be made large, such as a validation accuracy. See `fit_trial`.
        space: dict from names to `uniform`, `log_uniform`, `integer` or `choice`.
        trials: finished trials (complete or pruned) that the study is to hold, earlier ones included.
        storage: URL of a database that SQLAlchemy knows; None keeps the study in memory. SQLite serves several
            processes of one machine; several machines need a server, such as "postgresql://user@host/name".
        study: its name in the database.
        seed: of the draws.
        timeout: seconds after which no further trial is begun.
        pruner: an Optuna pruner; None stops a trial that is below the median of the earlier ones after as many
            epochs, from the second epoch and the sixth trial on.
        verbose: print a line a trial.

    Returns:
        Optuna's study; see `trials_table`, `best_trial` and `importance`.

    Raises:
        ValueError: an argument does not fit, the study was begun with another space, or the objective returned
            something else than a finite number.
        OSError: the database cannot be opened.
        ImportError: Optuna or the driver of the database is missing.
    """
    from d2lcls.training.search import studies

    _check(objective, space, trials, timeout)
    with studies.quiet():
        found = studies.open_study(storage, study, pruner)
        studies.agree(found, space)
        studies.search(
            found,
            objective,
            space,
            trials,
            seed,
            timeout,
            report=lambda trial: verbose and print(_record(trial), flush=True),
        )
    return found


def _check(objective, space, trials, timeout):
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


def fit_trial(trial, net, train, valid, *, num_epochs, **arguments):
    """Call `fit` for a trial, reporting every epoch, and return the validation accuracy of the best one.

    The trial is pruned if its accuracy falls behind the others', or if the training diverges.

    Args:
        trial: what `tune` hands to the objective.
        net, train, valid, num_epochs, arguments: as for `fit`; `valid` is needed.
    """
    from d2lcls.training.loop import TrainingDiverged, fit

    from optuna import TrialPruned

    def report(record):
        trial.report(record.valid_accuracy, record.epoch)
        if record.epoch < num_epochs and trial.should_prune():
            raise TrialPruned

    if valid is None:
        raise ValueError("fit_trial needs a validation set: without one no trial is better than another.")
    try:
        records = fit(net, train, valid, num_epochs=num_epochs, on_epoch=report, **{"verbose": False, **arguments})
    except TrainingDiverged as error:
        raise TrialPruned(str(error)) from error
    return max(record.valid_accuracy for record in records)


def trials_table(study):
    """Return all trials of a study as `TrialRecord`, in the order in which they were begun."""
    return [_record(trial) for trial in study.get_trials(deepcopy=False)]


def _record(trial):
    return TrialRecord(
        trial.number, trial.state.name.lower(), trial.value, dict(trial.params), len(trial.intermediate_values)
    )


def best_trial(study):
    """Return the complete trial with the greatest value, the earliest of equals, as `TrialRecord`."""
    complete = [record for record in trials_table(study) if record.state == "complete"]
    if not complete:
        raise ValueError(f"Study {study.study_name!r} has no complete trial yet. Run more trials.")
    return max(complete, key=lambda record: record.value)


def importance(study, seed=0):
    """Return each parameter's share in what made the complete trials differ, greatest first.

    The share is of the variance over the whole space, each parameter on its own, as a random forest fitted to the
    trials sees it; shares are scaled to a sum of 1. With fewer than some 20 trials they are rough.
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
    if len({trial.value for trial in complete}) == 1:
        raise ValueError(
            f"All trials of study {study.study_name!r} came to {complete[0].value}: no parameter made "
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


def _with_logarithms(optuna, trial):
    """A copy of a trial for fANOVA, which would weigh a learning rate's highest power of ten nine times the rest."""
    parameters, distributions = dict(trial.params), dict(trial.distributions)
    for name, found in trial.distributions.items():
        if getattr(found, "log", False):
            parameters[name] = math.log(parameters[name])
            distributions[name] = optuna.distributions.FloatDistribution(math.log(found.low), math.log(found.high))
    return optuna.trial.create_trial(params=parameters, distributions=distributions, value=trial.value)
