import multiprocessing
import os
import re
import subprocess
import sys
import time

from d2lcls.data import STANDARD, Batches, channel_statistics
from d2lcls.data.transforms import randaugment
from d2lcls.models import SmallCNN
from d2lcls.training.recipe import Recipe
from d2lcls.training.search import (
    best_trial,
    choice,
    fit_trial,
    importance,
    integer,
    log_uniform,
    trials_table,
    tune,
    uniform,
)

import mxnet as mx
import numpy as np
import pytest

optuna = pytest.importorskip("optuna")
from d2lcls.training.search import studies  # noqa: E402  only where Optuna is installed

LINE = {"x": uniform(0, 1), "y": uniform(0, 1)}


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path}/tune.db"


def hill(trial, x, y):
    return 1 - (x - 0.7) ** 2 - 0.1 * (y - 0.2) ** 2


def draws(study):
    return [record.parameters for record in trials_table(study) if record.state in ("complete", "pruned")]


def search(objective=hill, space=LINE, trials=15, storage=None, **arguments):
    return tune(objective, space, trials=trials, storage=storage, **{"verbose": False, **arguments})


def test_search_finds_the_top_of_a_hill():
    study = search(trials=50)
    best = best_trial(study)
    assert best.value > 0.998 and abs(best.parameters["x"] - 0.7) < 0.05
    assert best.value == max(record.value for record in trials_table(study))
    by_chance = np.random.default_rng(0).random((50, 2))
    late = [record.value for record in trials_table(study)[25:]]
    assert np.mean(late) > 0.9 > np.mean([hill(None, *point) for point in by_chance])


def test_the_space_is_kept_to():
    space = {
        "rate": log_uniform(1e-4, 1),
        "depth": integer(1, 3),
        "share": uniform(-1, 1),
        "augment": choice(["none", "flip"]),
        "wd": choice([0, 0.5, None]),
    }
    drawn = draws(search(lambda trial, **values: 0.0, space, trials=60))
    rates = np.array([values["rate"] for values in drawn])
    assert rates.min() >= 1e-4 and rates.max() <= 1 and 0.2 < (rates < 0.01).mean() < 0.8  # evenly in log
    assert {values["depth"] for values in drawn} == {1, 2, 3}
    assert {values["augment"] for values in drawn} == {"none", "flip"}
    assert {values["wd"] for values in drawn} == {0, 0.5, None}
    assert all(-1 <= values["share"] <= 1 for values in drawn)


def test_same_seed_same_draws():
    first, again, other = (draws(search(seed=seed)) for seed in (1, 1, 2))
    assert first == again and not any(a == b for a, b in zip(first, other))


def test_continuing_makes_the_draws_of_one_go(storage):
    search(trials=4, storage=storage)
    search(trials=12, storage=storage)
    assert draws(search(storage=storage)) == draws(search())
    assert len(draws(search(trials=3, storage=storage))) == 15  # nothing left to do, nothing lost


def test_interrupted_trial_is_repeated_and_the_rest_unchanged(storage):
    calls = []

    def interrupted(trial, x, y):
        calls.append(x)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return hill(trial, x, y)

    with pytest.raises(KeyboardInterrupt):
        search(interrupted, storage=storage)
    study = search(storage=storage)
    assert [record.state for record in trials_table(study)] == ["complete"] * 12 + ["fail"] + ["complete"] * 3
    assert draws(study) == draws(search())


def test_error_of_the_objective_ends_the_search_and_is_not_repeated(storage):
    def broken(trial, x, y):
        raise RuntimeError("no such layer")

    with pytest.raises(RuntimeError, match="no such layer"):
        search(broken, storage=storage)
    table = trials_table(search(trials=2, storage=storage))
    assert [record.state for record in table] == ["fail", "complete", "complete"]
    assert table[0].parameters not in [record.parameters for record in table[1:]]


processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["d2lcls.training.search.studies"])  # importing MXNet takes seconds: once for all


def start(objective, storage, trials=15):
    process = processes.Process(target=search, args=(objective, LINE, trials, storage), daemon=True)
    process.start()
    return process


def sleepy(trial, x, y):
    if trial.number == 3:
        trial.set_user_attr("asleep", True)
        time.sleep(60)
    return hill(trial, x, y)


def test_killed_trial_is_repeated_once(storage):
    study = search(trials=1, storage=storage)
    process = start(sleepy, storage)
    while not any("asleep" in trial.user_attrs for trial in study.get_trials()):
        assert process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    study = search(storage=storage)
    assert [record.state for record in trials_table(study)] == ["complete"] * 3 + ["fail"] + ["complete"] * 12
    assert draws(study) == draws(search())  # as if nothing had happened


def deadly(trial, x, y):
    if trial.number in (2, 3):
        os._exit(9)
    return hill(trial, x, y)


def test_trial_that_kills_its_process_is_given_up_after_the_second_time(storage):
    for _ in range(2):
        process = start(deadly, storage)
        process.join()
        assert process.exitcode == 9
    table = trials_table(search(trials=4, storage=storage))
    assert [record.state for record in table] == ["complete"] * 2 + ["fail"] * 2 + ["complete"] * 2
    assert table[2].parameters == table[3].parameters != table[4].parameters


def slow_hill(trial, x, y):
    time.sleep(0.05)
    return hill(trial, x, y)


def test_two_processes_share_a_study(storage):
    both = [start(slow_hill, storage, trials=20) for _ in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    study = search(trials=1, storage=storage)
    assert {record.state for record in trials_table(study)} == {"complete"}
    assert 20 <= len(draws(study)) <= 21  # both may ask for the last one at once
    assert len({values["x"] for values in draws(study)}) == len(draws(study))
    assert {trial.user_attrs["worker"][1] for trial in study.get_trials()} == {process.pid for process in both}


def running_elsewhere(storage, silent_for=0):
    """Leave a trial that another machine has in hand, or seems to have."""
    search(trials=1, storage=storage)
    without_pool = {"poolclass": studies.sqlalchemy.pool.NullPool}
    study = optuna.load_study(study_name="search", storage=optuna.storages.RDBStorage(storage, without_pool))
    trial = study.ask()
    trial.set_user_attr("worker", ["another machine", os.getpid()])
    parameters = {name: parameter.suggest(trial, name) for name, parameter in LINE.items()}
    with studies.quiet():
        studies.connect(storage).record_heartbeat(trial._trial_id)
    time.sleep(silent_for)
    return study, trial, parameters


def test_another_machines_trial_is_left_alone(storage):
    study, trial, _ = running_elsewhere(storage)
    search(trials=3, storage=storage, timeout=1)  # waits for the third, which is under way elsewhere
    assert [record.state for record in trials_table(study)] == ["complete", "running", "complete"]
    study.tell(trial, 0.5)
    assert len(draws(search(trials=3, storage=storage))) == 3


def test_silent_machines_trial_is_taken_over(storage, monkeypatch):
    monkeypatch.setattr("d2lcls.training.search.studies.SILENCE", 1)
    study, trial, parameters = running_elsewhere(storage, silent_for=2.1)  # the database counts whole seconds
    table = trials_table(search(trials=3, storage=storage))
    assert [record.state for record in table] == ["complete", "fail", "complete", "complete"]
    assert table[2].parameters == parameters


def test_process_that_lost_its_trial_goes_on(storage, capsys):
    def slow(trial, x, y):
        if trial.number == 1:
            trial.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # as another process would
        return hill(trial, x, y)

    study = search(slow, trials=3, storage=storage)
    assert [record.state for record in trials_table(study)] == ["complete", "fail", "complete", "complete"]
    assert "trial   1  sent no heartbeat" in capsys.readouterr().out


def test_poor_trials_are_pruned():
    calls = []

    def slow(trial, x, y):
        for epoch in range(1, 11):
            calls.append(trial.number)
            trial.report(x, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return x

    table = trials_table(search(slow, trials=20))
    pruned = [record for record in table if record.state == "pruned"]
    assert len(pruned) >= 4 and len(calls) < 20 * 10
    assert all(
        record.number >= 5 and 2 <= record.epochs < 10 and record.value == record.parameters["x"] for record in pruned
    )
    calls.clear()
    search(slow, trials=20, pruner=optuna.pruners.NopPruner())
    assert len(calls) == 200


def test_timeout_begins_no_further_trial():
    study = search(lambda trial, x, y: time.sleep(0.2) or x, trials=1000, timeout=0.5)
    assert 1 <= len(draws(study)) <= 3


def test_lines_are_printed_and_optuna_is_quiet(storage, capsys):
    level = optuna.logging.get_verbosity()
    search(trials=2, storage=storage, verbose=True)
    printed = capsys.readouterr()
    assert printed.err == "" and optuna.logging.get_verbosity() == level
    assert re.fullmatch(r"(trial   \d  complete  +0\.\d{4}  x 0\.\d+  y 0\.\d+\n){2}", printed.out)


def test_importance_of_a_known_function():
    # Variances of a sum of even draws add up, each in proportion to its factor squared: 16, 1 and 0 of 17. The
    # logarithm of `rate` is drawn evenly from -4 to 0, so it is log10(rate) / 4 that has the range 1.
    space = {"rate": log_uniform(1e-4, 1), "y": uniform(0, 1), "z": choice(["a", "b"])}
    study = search(lambda trial, rate, y, z: 4 * (1 + np.log10(rate) / 4) + y, space, trials=40)
    shares = importance(study)
    assert list(shares)[0] == "rate" and abs(shares["rate"] - 16 / 17) < 0.06
    assert shares["z"] < 0.05 and sum(shares.values()) == pytest.approx(1) and shares == importance(study)


def test_importance_needs_trials_that_differ():
    with pytest.raises(ValueError, match="needs 4 complete trials or more.* has 1"):
        importance(search(trials=1))
    with pytest.raises(ValueError, match="came to 1.0: no parameter made a difference"):
        importance(search(lambda trial, x, y: 1, trials=5))


def test_best_needs_a_complete_trial():
    def prune(trial, x, y):
        raise optuna.TrialPruned

    with pytest.raises(ValueError, match="'search' has no complete trial"):
        best_trial(search(prune, trials=2))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: log_uniform(0, 1), "begin above 0, not at 0"),
        (lambda: uniform(2, 1), "not from 2.0 to 1.0"),
        (lambda: uniform(0, float("inf")), "not from 0.0 to inf"),
        (lambda: integer(1, 2.5), "whole number to another, not from 1 to 2.5"),
        (lambda: choice(["a"]), "two or more different values, not"),
        (lambda: choice([1, True]), "two or more different values, not"),
        (lambda: choice([STANDARD, "none"]), "look the thing up in the objective"),
    ],
)
def test_bad_parameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"space": {"x": (0, 1), "y": uniform(0, 1)}}, r"'x' is \(0, 1\): write such as"),
        ({"space": {}}, "it is empty"),
        (
            {"space": {"x": uniform(0, 1), "lr": uniform(0, 1)}},
            "objective must take a trial and, by name, x, lr: .*'y'",
        ),
        ({"trials": 0}, "trials must be 1 or more"),
        ({"timeout": 0}, "timeout above 0 seconds"),
        ({"storage": "tune.db"}, "URL of a database, such as sqlite:///tune.db, not 'tune.db'"),
        ({"storage": "oracel://x/y"}, "URL of a database, such as .*, not 'oracel://x/y'"),
        ({"storage": "sqlite://"}, "storage=None keeps a study in memory"),
        ({"objective": lambda trial, x, y: None}, "finite number, not None"),
        ({"objective": lambda trial, x, y: float("nan")}, "finite number, not nan"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        search(**arguments)


def test_another_space_is_refused(storage):
    search(trials=1, storage=storage)
    with pytest.raises(ValueError, match=r"started with another space: x=uniform\(0.0, 1.0\), y=.*another name"):
        search(space={"x": uniform(0, 2), "y": uniform(0, 1)}, storage=storage)
    search(space={"x": uniform(0, 2), "y": uniform(0, 1)}, trials=1, storage=storage, study="second")


def test_database_that_cannot_be_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # no patience with it here
    with pytest.raises(OSError, match="nowhere/tune.db cannot be used .*unable to open"):
        search(storage=f"sqlite:///{tmp_path}/nowhere/tune.db")
    (tmp_path / "notes.txt").write_text("no database " * 100)
    with pytest.raises(OSError, match="not a database"):
        search(storage=f"sqlite:///{tmp_path}/notes.txt")


def test_extras_are_named(monkeypatch, storage):
    with pytest.raises(ImportError, match="driver of mssql.pymssql is missing"):
        search(storage="mssql+pymssql://user:secret@host/name")
    code = (
        "import sys; sys.modules['sklearn'] = None; from d2lcls.training.search import *; importance(tune("
        "lambda trial, x: x, {'x': uniform(0, 1)}, trials=4, storage=None))"
    )
    without = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert without.stderr.endswith('ImportError: Importance needs scikit-learn: pip install "d2lcls[tune]".\n')
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "d2lcls.training.search.studies")
    monkeypatch.delattr("d2lcls.training.search.studies")
    with pytest.raises(ImportError, match=r'needs Optuna: pip install "d2lcls\[tune\]"'):
        search()


@pytest.fixture(scope="module")
def sample():
    from d2lcls.data import DATASETS, Images
    from d2lcls.data.download.sample import SAMPLE_NAME, read_sample

    images, labels = read_sample("train", (28, 28, 1))
    data = Images(images, labels, DATASETS["fashion_mnist"].classes, SAMPLE_NAME)
    return data.subset(slice(200)), data.subset(slice(200, 300))


def batches(part, augment=(), **arguments):
    return Batches(part, 50, *channel_statistics(part.images), augment=augment, **arguments)


def test_search_over_real_training(sample, storage):
    augments = {"none": (), "standard": STANDARD, "randaugment": (randaugment(), *STANDARD)}
    train, valid = sample

    def objective(trial, lr, wd, augment):
        mx.random.seed(0)
        net = SmallCNN(10, (8, 16))
        net.initialize(mx.init.MSRAPrelu(slope=0))
        return fit_trial(
            trial,
            net,
            batches(train, augments[augment], shuffle=True),
            batches(valid),
            recipe=Recipe(num_epochs=3, lr=lr, wd=wd),
        )

    space = {"lr": log_uniform(1e-6, 0.3), "wd": log_uniform(1e-5, 1e-2), "augment": choice(augments)}
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1)
    table = trials_table(search(objective, space, trials=8, storage=storage, pruner=pruner))
    complete = [record for record in table if record.state == "complete"]
    assert len(table) == 8 and all(record.epochs == 3 for record in complete)
    assert {record.state for record in table} == {"complete", "pruned"}
    rates = [record.parameters["lr"] for record in sorted(complete, key=lambda record: record.value)]
    assert rates[-1] > 1e-3 > rates[0] and complete[0].value == objective_again(table[0], objective)


def objective_again(record, objective):
    return objective(optuna.trial.FixedTrial(record.parameters), **record.parameters)


def test_diverging_training_counts_as_pruned(sample):
    def objective(trial, lr):
        net = SmallCNN(10, (8, 16))
        net.initialize(mx.init.MSRAPrelu(slope=0))
        return fit_trial(
            trial,
            net,
            batches(sample[0]),
            batches(sample[1]),
            recipe=Recipe(num_epochs=2, lr=lr, loss=lambda logits, _: logits.sum(axis=1) * float("nan")),
        )

    table = trials_table(search(objective, {"lr": uniform(1, 2)}, trials=2))
    assert [record.state for record in table] == ["pruned", "pruned"]


def test_trial_without_validation_is_refused(sample):
    with pytest.raises(ValueError, match="fit_trial needs a validation set"):
        search(
            lambda trial, x: fit_trial(trial, None, batches(sample[0]), None, recipe=Recipe(num_epochs=1)),
            {"x": uniform(0, 1)},
        )
