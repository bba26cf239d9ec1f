"""What the service does when it is overloaded, stopped, reloaded, or loses the process that computes."""

import http.client
import json
import shutil
import signal
import threading
import time

import psutil
import pytest

pytest.importorskip("httptools")
pytest.importorskip("uvloop")
pytest.importorskip("multipart")

from serving import Serving, png, write_model

TOKEN = "secret-of-the-test"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return [write_model(root / f"small{seed}", seed) for seed in (0, 1)]


@pytest.fixture
def start(models, tmp_path):
    """Start a service on a copy of the model; it is stopped at the end, and nothing may be left of it."""
    started = []

    def begin(*options, token=None):
        shutil.copytree(models[0], tmp_path / "model")
        started.append(Serving(tmp_path / "model", tmp_path / "log", *options, token=token))
        return started[-1]

    yield begin
    for serving in started:
        everybody = [psutil.Process(serving.process.pid), serving.engine()] if serving.process.poll() is None else []
        for process in everybody:
            process.resume()
        assert not everybody or serving.stop() == 0
        assert not psutil.wait_procs(everybody, 10)[1]


@pytest.fixture(scope="module")
def shared(models, tmp_path_factory):
    """A service of small bounds."""
    serving = Serving(
        models[0],
        tmp_path_factory.mktemp("log") / "log",
        "--waiting",
        8,
        "--pictures",
        4,
        "--seconds",
        4,
        "--access-log",
    )
    yield serving
    assert serving.stop() == 0


class Crowd:
    """Requests sent at once from threads; `statuses` in the order of their answers."""

    def __init__(self, serving, number):
        self.statuses, self.headers = [], []
        self.threads = [threading.Thread(target=self._ask, args=(serving,)) for _ in range(number)]
        for thread in self.threads:
            thread.start()

    def _ask(self, serving):
        status, headers, _ = serving.ask("POST", "/v1/predict", png(), {"Content-Type": "image/png"})
        self.statuses.append(status)
        self.headers.append(headers)

    def wait_for(self, number, seconds=10):
        until = time.monotonic() + seconds
        while len(self.statuses) < number and time.monotonic() < until:
            time.sleep(0.01)
        return list(self.statuses)

    def join(self):
        for thread in self.threads:
            thread.join(20)
        return sorted(self.statuses)


def waiting(serving):
    body = serving.ask("GET", "/metrics")[2].decode()
    return int(float(body.split("\nd2lcls_waiting_pictures ")[1].split("\n")[0]))


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come true in time"
        time.sleep(0.01)


def test_overload_is_refused_at_once_and_the_queue_is_bounded(shared):
    serving = shared
    serving.engine().suspend()  # as if each batch took very long
    crowd = Crowd(serving, 20)
    assert crowd.wait_for(12) == [503] * 12
    assert all(1 <= int(headers["Retry-After"]) <= 60 for headers in crowd.headers)
    assert waiting(serving) == 8 and serving.ask("GET", "/healthz")[0] == 200
    serving.engine().resume()
    assert crowd.join() == [200] * 8 + [503] * 12
    assert waiting(serving) == 0 and serving.predict(png())[0] == 200


def test_what_takes_too_long_is_504(shared):
    serving = shared
    serving.engine().suspend()
    assert Crowd(serving, 3).join() == [504] * 3
    serving.engine().resume()
    until(lambda: waiting(serving) == 0)  # the places are given back when the batch comes after all
    assert serving.predict(png())[0] == 200


def test_stop_finishes_what_was_accepted(start):
    serving = start()
    engine = serving.engine()
    engine.suspend()
    crowd = Crowd(serving, 5)
    until(lambda: waiting(serving) == 5)
    serving.process.send_signal(signal.SIGTERM)
    serving.wait_for("stopping")
    with pytest.raises(OSError):
        serving.ask("GET", "/healthz")
    engine.resume()
    assert crowd.join() == [200] * 5
    assert serving.stop() == 0 and not engine.is_running()


def test_kill_leaves_nothing_behind(start):
    serving = start()
    engine = serving.engine()
    serving.stop(signal.SIGKILL)
    assert not psutil.wait_procs([engine], 10)[1]


def test_engine_that_dies_is_replaced(shared):
    serving = shared
    engine = serving.engine()
    engine.suspend()
    crowd = Crowd(serving, 1)
    until(lambda: waiting(serving) == 1)
    engine.kill()
    assert crowd.join() == [500]
    until(lambda: serving.lines("engine ended"))
    assert serving.lines("engine ended")[0]["level"] == "error"
    status, headers, _ = serving.ask("POST", "/v1/predict", png())
    assert status == 503 and headers["Retry-After"] and serving.ask("GET", "/healthz")[0] == 503
    serving.wait_for("engine restarted")
    assert serving.predict(png())[0] == 200


def test_reload_under_load_loses_no_request(start, models):
    serving = start(token=TOKEN)
    folder = serving.log.parent / "model"
    names, failed, stop = [], [], threading.Event()

    def ask():
        while not stop.is_set():
            status, content = serving.predict(png(), **BEARER)
            if status == 200:
                names.append(content["model"])
            else:
                failed.append((status, content))
            time.sleep(0.005)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        swap(folder, models[1])
        status, _, body = serving.ask("POST", "/v1/reload", headers=BEARER)
        assert status == 200 and json.loads(body)["model"] == "small1"
        reloaded = len(names)
        (folder / "model-0000.params").write_bytes(b"broken")
        status, _, body = serving.ask("POST", "/v1/reload", headers=BEARER)
        assert status == 422 and "The old model stays" in json.loads(body)["detail"]
        swap(folder, models[0])
        serving.process.send_signal(signal.SIGHUP)
        until(lambda: len(serving.lines("reloaded")) == 2, 30)
        until(lambda: names[-1] == "small0")
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert not failed and names[0] == "small0" and "small1" in names[reloaded:]
    until(lambda: len(serving.workers()) == 1)  # the old processes are gone


def swap(folder, model):
    for file in model.iterdir():
        shutil.copy(file, folder / file.name)


def test_reload_needs_a_token(shared):
    serving = shared
    status, _, body = serving.ask("POST", "/v1/reload")
    assert status == 403 and "signal HUP" in json.loads(body)["detail"]


def test_model_that_cannot_be_loaded(tmp_path):
    from d2lcls.deploy.serve.limits import Limits
    from d2lcls.deploy.serve.server import run

    with pytest.raises(FileNotFoundError, match="holds no manifest.json"):
        run(tmp_path, Limits(), port=0)


def test_access_log_has_no_contents(shared):
    serving = shared
    assert serving.predict(png(), query="?top=1")[0] == 200
    assert serving.ask("GET", "/healthz?secret")[0] == 200
    until(lambda: serving.lines("request")[-1]["path"] == "/healthz")  # a thread writes the log
    events = serving.lines("request")[-2:]
    assert [(event["method"], event["path"], event["status"]) for event in events] == [
        ("POST", "/v1/predict", 200),
        ("GET", "/healthz", 200),
    ]
    assert "secret" not in serving.log.read_text() and "PNG" not in serving.log.read_text()


def test_stop_answers_what_had_been_sent(start):
    serving = start()
    connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=20)
    connection.request("POST", "/v1/predict", png())
    assert connection.getresponse().read()
    service = psutil.Process(serving.process.pid)
    service.suspend()  # so that both are there when it wakes
    serving.process.send_signal(signal.SIGTERM)
    connection.request("POST", "/v1/predict", png())
    new = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=20)  # which was not even accepted yet
    new.request("POST", "/v1/predict", png())
    service.resume()
    answer, other = connection.getresponse(), new.getresponse()
    assert (answer.status, other.status) == (200, 200) and answer.read() and other.read()
    connection.close()
    new.close()
    assert serving.stop() == 0
