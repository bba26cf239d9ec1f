"""What `tune` adds to Optuna's studies: they survive a kill, and their draws depend on the seed alone.

Importing this module needs Optuna; `d2lcls.training.search.tuning` imports it when it is called.
"""

import math
import os
import time
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

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

HEARTBEAT, SILENCE = 20, 120  # seconds between signs of life of a trial, and after which it counts as dead


@contextmanager
def quiet():
    """Silence Optuna, which logs in red what is raised or printed here anyway, and calls heartbeats experimental."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def open_study(storage, name, pruner=None):
    """Open or begin a study; a driver's or a database's own error becomes one sentence."""
    settings = {
        "study_name": name,
        "direction": "maximize",
        "load_if_exists": True,
        "pruner": pruner or optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
    }
    if storage is None:
        return optuna.create_study(**settings)
    for attempt in range(6):
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
            if attempt == 5:
                shown = sqlalchemy.engine.make_url(storage).render_as_string()  # without the password
                raise OSError(
                    f"The database {shown} cannot be opened ({getattr(error, 'orig', error)}). Look "
                    "whether its folder or server is there, and may be written to."
                ) from error
            time.sleep(0.3)  # processes that begin at once stumble over each other as they make the tables


def connect(storage):
    """Return Optuna's storage, in which trials give signs of life and are repeated when these stop."""
    url = sqlalchemy.engine.make_url(storage)
    local = url.get_backend_name() == "sqlite"
    if local and url.database in (None, "", ":memory:"):
        raise ValueError(f"{storage} is a new database for every thread. storage=None keeps a study in memory.")
    # Without a pool, no connection stays open in a study that nobody uses any more.
    options = {"connect_args": {"timeout": 60}, "poolclass": sqlalchemy.pool.NullPool} if local else None
    return optuna.storages.RDBStorage(
        storage, options, heartbeat_interval=HEARTBEAT, grace_period=SILENCE, heartbeat_stale_trial_callback=_once_more
    )


def agree(study, space):
    """Write the space into a new study; refuse one that was begun with another, whose trials do not compare."""
    wanted = ", ".join(f"{name}={space[name]}" for name in sorted(space))
    begun = study.user_attrs.get("space")
    if begun is None and not study.get_trials(deepcopy=False):
        study.set_user_attr("space", wanted)
    elif begun != wanted:
        raise ValueError(
            f"Study {study.study_name!r} was begun with another space: {begun}. "
            "Go on with that one, or give the new study another name."
        )


def search(study, objective, space, trials, seed, timeout, report):
    """Run trials until the study holds so many finished ones; `report` is called with each of this process."""
    until = time.monotonic() + (math.inf if timeout is None else timeout)
    lost = []  # the trial that another process took over meanwhile

    def run(trial):
        trial.set_user_attr("worker", [_place(), os.getpid()])
        study.sampler = _sampler(study, trial, seed)
        try:
            value = objective(trial, **{name: parameter.suggest(trial, name) for name, parameter in space.items()})
        except KeyboardInterrupt:
            _once_more(study, study.get_trials()[trial.number])
            raise
        finally:
            if study.get_trials(deepcopy=False)[trial.number].state != TrialState.RUNNING:
                lost.append(trial.number)
        if not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
            raise ValueError(f"objective must return a finite number, not {value!r}.")
        return float(value)

    while time.monotonic() < until:
        _give_up_killed(study)
        found = study.get_trials(deepcopy=False)
        states = Counter(trial.state for trial in found)
        finished = states[TrialState.COMPLETE] + states[TrialState.PRUNED]
        running = sum(trial.state == TrialState.RUNNING and "worker" in trial.user_attrs for trial in found)
        if finished >= trials:
            return
        if finished + running >= trials:
            time.sleep(1)  # others are at the last trials; should one of them die, its trial is for this process
            continue
        try:
            study.optimize(run, n_trials=1, callbacks=[lambda _, trial: report(trial)])
        except (AssertionError, ValueError):  # Optuna's, which cannot enter the result of a trial given up
            if not lost:
                raise
            print(f"trial {lost.pop():3d}  was silent for so long that another process took it over", flush=True)


def _sampler(study, trial, seed):
    """A sampler for one trial, so that draws depend on the seed and the study, not on the process."""
    origin = trial.user_attrs.get("retry_of", trial.number)
    place = sum("retry_of" not in earlier.user_attrs for earlier in study.get_trials(deepcopy=False)[:origin])
    return optuna.samplers.TPESampler(seed=int(np.random.SeedSequence([seed, place]).generate_state(1)[0]))


def _give_up_killed(study):
    """Give up trials whose process is gone. Another machine's is only known by its silence."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        place, process = trial.user_attrs.get("worker", (None, None))
        if place and place == _place() and not psutil.pid_exists(process):
            try:
                study.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, UpdateFinishedTrialError):
                continue  # another process was quicker
            _once_more(study, trial)
    optuna.storages.fail_stale_trials(study)


def _once_more(study, trial):
    """Queue a trial that was cut short; only once, for it may be what kills its process."""
    if "retry_of" not in trial.user_attrs:
        study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number})


def _place():
    """Where the numbers of processes mean the same as here: this machine since its start, container and user."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():  # no Linux: silence decides
        return ""
    return f"{boot.read_text().strip()} {os.stat('/proc/self/ns/pid').st_ino} {os.getuid()}"
