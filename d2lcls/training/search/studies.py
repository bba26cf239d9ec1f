"""What `tune` adds to Optuna's studies: they survive killed processes, and their draws depend on the seed alone.

Importing this module needs Optuna; `d2lcls.training.search.tuning` imports it when it is called.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from d2lcls.training.search.space import Rejected

import numpy as np
import psutil

try:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's word on a notebook without widgets
        import optuna
    import sqlalchemy
except ImportError as error:
    raise ImportError('Hyper-parameter search needs Optuna: pip install "d2lcls[tune]".') from error
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.trial import TrialState

MOST_REJECTED = 50  # trials for each one that is wanted, before the search gives up
HEARTBEAT, SILENCE = 20, 120  # seconds between signs of life of a trial, and after which it counts as dead


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna, which logs what is raised or printed here anyway and warns that heartbeats are experimental."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def open_study(
    storage: str | None,
    name: str,
    pruner: optuna.pruners.BasePruner | None = None,
    objectives: Mapping[str, str] | None = None,
) -> optuna.Study:
    """Open or create a study; an error of a driver or database becomes one sentence."""
    settings: dict[str, Any] = {
        "study_name": name,
        "directions": list(objectives.values()) if objectives else ["maximize"],
        "load_if_exists": True,
        "pruner": pruner or optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
    }
    if storage is None:
        return optuna.create_study(**settings)
    attempt = 0
    while True:
        attempt += 1
        try:
            return optuna.create_study(storage=connect(storage), **settings)
        except sqlalchemy.exc.ArgumentError as error:
            raise ValueError(
                f"storage must be the URL of a database, such as sqlite:///tune.db, not {storage!r} ({error})."
            ) from error
        except ImportError as error:
            raise ImportError(
                f"The Python driver of {storage.partition(':')[0]} is missing "
                f"({error.__cause__ or error}). Install it, or use sqlite:///tune.db."
            ) from error
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
            if attempt == 6:
                raise OSError(_unusable(storage, error)) from error
            time.sleep(0.3)  # processes that begin at once stumble over each other as they make the tables


@contextmanager
def readable_errors(storage: str | None) -> Iterator[None]:
    """Turn an error of the database during the block of a `with` statement into an OSError of one sentence."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
        raise OSError(_unusable(str(storage), error)) from error
    except (AssertionError, UnboundLocalError) as error:  # Optuna's own, after the database's
        if not isinstance(error.__context__, (sqlalchemy.exc.SQLAlchemyError, StorageInternalError)):
            raise
        raise OSError(_unusable(str(storage), error.__context__)) from error


def _unusable(storage: str, error: Exception) -> str:
    shown = sqlalchemy.engine.make_url(storage).render_as_string()  # without the password
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    return (
        f"The database {shown} cannot be used ({getattr(cause, 'orig', cause)}). Look whether its folder or server is "
        "there, has free space, and may be written to."
    )


class _Storage(optuna.storages.RDBStorage):
    def record_heartbeat(self, trial_id: int) -> None:
        """Send a sign of life; after one that fails, as on a full disk, the next ones are still sent."""
        with suppress(sqlalchemy.exc.SQLAlchemyError, StorageInternalError):
            super().record_heartbeat(trial_id)


def connect(storage: str) -> optuna.storages.RDBStorage:
    """Return Optuna's storage, in which running trials send heartbeats and are repeated when these stop."""
    url = sqlalchemy.engine.make_url(storage)
    local = url.get_backend_name() == "sqlite"
    if local and url.database in (None, "", ":memory:"):
        raise ValueError(f"{storage} is a new database for every thread. storage=None keeps a study in memory.")
    # Without a pool, no connection stays open in a study that nobody uses any more.
    options = {"connect_args": {"timeout": 60}, "poolclass": sqlalchemy.pool.NullPool} if local else None
    return _Storage(
        storage, options, heartbeat_interval=HEARTBEAT, grace_period=SILENCE, heartbeat_stale_trial_callback=_retry
    )


def check_study(study: optuna.Study, space: Mapping[str, Any], objectives: Mapping[str, str] | None = None) -> None:
    """Store space and objectives in a new study; refuse one with others, whose trials cannot be compared."""
    wanted = ", ".join(f"{name}={space[name]}" for name in sorted(space))
    stored = study.user_attrs.get("space")
    new = stored is None and not study.get_trials(deepcopy=False)
    if not new and stored != wanted:
        raise ValueError(
            f"Study {study.study_name!r} was started with another space: {stored}. "
            "Continue with that one, or give the new study another name."
        )
    names = list(objectives) if objectives else None
    if len(study.directions) != len(objectives or [0]) or not new and study.metric_names != names:
        before = ", ".join(study.metric_names or ["one"])
        raise ValueError(
            f"Study {study.study_name!r} was started with other objectives: {before}. "
            "Continue with those, or give the new study another name."
        )
    if new:
        if names:
            study.set_metric_names(names)
        study.set_user_attr("space", wanted)


def search(
    study: optuna.Study,
    objective: Callable[..., Any],
    space: Mapping[str, Any],
    trials: int,
    seed: int,
    timeout: float | None,
    at_random: bool,
    report: Callable[[optuna.trial.FrozenTrial], Any],
) -> None:
    """Run trials until the study has `trials` finished ones; `report` is called with each one of this process."""
    until = time.monotonic() + (math.inf if timeout is None else timeout)
    lost: list[int] = []  # the trial that another process took over meanwhile

    def run(trial: optuna.Trial) -> list[float]:
        trial.set_user_attr("worker", [_process_namespace(), os.getpid()])
        study.sampler = _sampler(study, trial, seed, at_random)
        try:
            value = objective(trial, **{name: parameter.suggest(trial, name) for name, parameter in space.items()})
        except Rejected:
            trial.set_user_attr("rejected", True)
            raise optuna.TrialPruned from None
        except KeyboardInterrupt:
            _retry(study, study.get_trials()[trial.number])
            raise
        finally:
            if study.get_trials(deepcopy=False)[trial.number].state != TrialState.RUNNING:
                lost.append(trial.number)
        return _finite(value, len(study.directions))

    while time.monotonic() < until:
        _fail_killed(study)
        known = study.get_trials(deepcopy=False)
        states = Counter(trial.state for trial in known if not is_rejected(trial))
        finished = states[TrialState.COMPLETE] + states[TrialState.PRUNED]
        running = sum(trial.state == TrialState.RUNNING and "worker" in trial.user_attrs for trial in known)
        if finished >= trials:
            return
        rejected = sum(map(is_rejected, known))
        if rejected > MOST_REJECTED * (trials + 1):
            raise ValueError(f"Study {study.study_name!r}: {rejected} of {len(known)} trials were rejected.")
        if finished + running >= trials:
            time.sleep(1)  # others run the last trials; if one of them dies, this process takes over its trial
            continue
        try:
            study.optimize(run, n_trials=1, callbacks=[lambda _, trial: report(trial)])
        except (AssertionError, ValueError):  # Optuna's: it cannot store the result of a trial that was given up
            if not lost:
                raise
            print(f"trial {lost.pop():3d}  sent no heartbeat for so long that another process took it over", flush=True)


def is_rejected(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether the objective rejected the values of a trial, so that it does not count."""
    return "rejected" in trial.user_attrs


def _finite(value: Any, objectives: int) -> list[float]:
    """Return what an objective returned as a list, if it is as many finite numbers as there are objectives."""
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    if len(values) != objectives or not all(
        isinstance(v, (int, float, np.number)) and math.isfinite(v) for v in values
    ):
        wanted = "a finite number" if objectives == 1 else f"{objectives} finite numbers"
        raise ValueError(f"objective must return {wanted}, not {value!r}.")
    return [float(v) for v in values]


def _sampler(study: optuna.Study, trial: optuna.Trial, seed: int, at_random: bool) -> optuna.samplers.BaseSampler:
    """Return a sampler for one trial, so that draws depend on the seed and the study, not on the process."""
    origin = trial.user_attrs.get("retry_of", trial.number)
    index = sum("retry_of" not in earlier.user_attrs for earlier in study.get_trials(deepcopy=False)[:origin])
    sampler = optuna.samplers.RandomSampler if at_random else optuna.samplers.TPESampler
    return sampler(seed=int(np.random.SeedSequence([seed, index]).generate_state(1)[0]))


def _fail_killed(study: optuna.Study) -> None:
    """Mark trials whose process is gone as failed. On another machine only a missing heartbeat shows that."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        namespace, process = trial.user_attrs.get("worker", (None, None))
        if namespace and namespace == _process_namespace() and not psutil.pid_exists(process):
            try:
                study.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, UpdateFinishedTrialError):
                continue  # another process was faster
            _retry(study, trial)
    optuna.storages.fail_stale_trials(study)


def _retry(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Queue a trial that was interrupted once more, and no more often: it may be what kills its process.

    Not Optuna's RetryHeartbeatStaleTrialCallback: it copies the process id of the killed process into the new trial,
    which other processes would then take for killed as well.
    """
    if "retry_of" not in trial.user_attrs:
        study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number})


def _process_namespace() -> str:
    """Identify where process ids mean the same as here: this machine since its last start, container and user."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():  # not Linux: heartbeats decide
        return ""
    return f"{boot.read_text().strip()} {os.stat('/proc/self/ns/pid').st_ino} {os.getuid()}"
