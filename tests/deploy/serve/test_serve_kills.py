"""kill -9 of a worker and of the whole service at random moments of a reload."""

import random
import shutil
import signal
import time

import psutil
import pytest

pytest.importorskip("httptools")
pytest.importorskip("uvloop")
pytest.importorskip("multipart")

from serving import Serving, png, write_model


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model")


@pytest.fixture
def start(model, tmp_path):
    """Start a service with a log of its own; it does not outlive the test."""
    started = []

    def start(name="log"):
        started.append(Serving(model, tmp_path / name))
        return started[-1]

    yield start
    for serving in started:
        if serving.process.poll() is None:
            serving.stop(signal.SIGKILL)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def reloads(serving):
    return len(serving.lines("reloaded")) + len(serving.lines("reload refused"))


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.02)


def reload_time(serving):
    """Load the model again and return the seconds that this takes."""
    begun, before = time.monotonic(), reloads(serving)
    serving.process.send_signal(signal.SIGHUP)
    until(lambda: reloads(serving) > before)
    return time.monotonic() - begun


@pytest.mark.parametrize("moments", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_a_worker_killed_during_a_reload_is_replaced(model, start, moments):
    serving, expected, draw = start(), contents(model), random.Random(22)
    answer = serving.predict(png())
    duration = reload_time(serving)
    for _ in range(moments):
        until(lambda: len(serving.workers()) == 1)
        old, before = serving.engine(), reloads(serving)
        serving.process.send_signal(signal.SIGHUP)
        time.sleep(draw.uniform(0, duration))
        for worker in serving.workers():
            if worker != old:
                worker.kill()
        until(lambda: reloads(serving) > before)
        until(lambda: serving.predict(png()) == answer)  # 500 or 503 if the killed one was in use already
    print(f"{len(serving.lines('reload refused'))} of {moments} reloads were refused")
    assert serving.lines("reload refused") and contents(model) == expected
    assert serving.stop() == 0


@pytest.mark.slow
def test_a_service_killed_during_a_reload_leaves_nothing_and_starts_again(model, start, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    expected, draw, answers = contents(model), random.Random(23), []
    for moment in range(30):
        serving = start(f"log{moment}")
        answers.append(serving.predict(png()))
        serving.process.send_signal(signal.SIGHUP)
        time.sleep(draw.uniform(0, 3))
        children = psutil.Process(serving.process.pid).children(recursive=True)
        serving.stop(signal.SIGKILL)
        assert not psutil.wait_procs(children, 30)[1]
        assert contents(model) == expected
    assert all(answer == answers[0] for answer in answers) and answers[0][0] == 200
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("moments", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_a_model_that_is_replaced_while_the_service_loads_it_is_one_of_both(model, start, tmp_path, moments):
    other = write_model(tmp_path / "other", 1)
    serving, draw = start(), random.Random(24)
    names = {"small0", "small1"}
    for moment in range(moments):
        before = reloads(serving)
        shutil.copytree(other if moment % 2 == 0 else model, tmp_path / "next", dirs_exist_ok=True)
        serving.process.send_signal(signal.SIGHUP)
        time.sleep(draw.uniform(0, 0.5))
        model.rename(tmp_path / "previous")
        (tmp_path / "next").rename(model)
        until(lambda: reloads(serving) > before)
        status, content = serving.predict(png())
        assert status == 200 and content["model"] in names
        shutil.rmtree(tmp_path / "previous")
    assert serving.stop() == 0
