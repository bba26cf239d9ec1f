"""A log that cannot be written, or that nobody reads, stops nothing and does not change the exit code."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

pytest.importorskip("uvloop")

from d2lcls.deploy.serve import logs

from serving import png, write_model

CHILD = """
import os
from d2lcls.deploy.serve.logs import json_log, log
with json_log():
    for _ in range(int(os.environ["LINES"])):
        log.info("event", {"text": "x" * 100})
    os.write(2, b"printed by a library\\n")
print("stopped")
"""
REQUESTS = 600  # of about 150 bytes in the log: more than a pipe holds


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which is part of Linux")
@pytest.mark.parametrize("lines", ["0", "1", "1000"])
def test_a_full_disk_under_the_log_is_no_failure(lines):
    with open("/dev/full", "wb") as full:
        child = subprocess.run(
            [sys.executable, "-c", CHILD],
            env={**os.environ, "LINES": lines},
            stderr=full,
            stdout=subprocess.PIPE,
            text=True,
        )
    assert (child.stdout, child.returncode) == ("stopped\n", 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "small")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ask(port, method, path, body=None):
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {"Content-Type": "image/png"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def serve_into(model, output):
    """Start the service with its log and output in a file, ask it, and stop it; return the exit code."""
    port = free_port()
    command = [sys.executable, "-m", "d2lcls", "serve", model, "--port", str(port), "--engines", "1", "--access-log"]
    with subprocess.Popen(command, stdout=output, stderr=output) as service:
        try:
            until = time.monotonic() + 60
            while True:
                assert service.poll() is None and time.monotonic() < until
                try:
                    assert ask(port, "GET", "/healthz") == 200
                    break
                except OSError:
                    time.sleep(0.1)
            for number in range(REQUESTS):
                assert ask(port, "GET", f"/nothing/{number}/{'x' * 100}") == 404
            assert ask(port, "POST", "/v1/predict", png()) == 200
            assert ask(port, "GET", "/metrics") == 200
            service.send_signal(signal.SIGTERM)
            return service.wait(20)
        finally:
            service.kill()


def test_the_service_on_a_full_disk(model, small_disk):
    with open(small_disk(4096) / "log", "wb") as log:
        assert serve_into(model, log) == 0
        assert log.seek(0, os.SEEK_END) == 4096


@pytest.mark.parametrize("closed", [True, False])
def test_a_service_whose_log_nobody_reads(model, closed):
    reading, writing = os.pipe()
    if closed:
        os.close(reading)
    with open(writing, "wb") as pipe:
        assert serve_into(model, pipe) == 0
    if not closed:
        os.close(reading)


def test_lines_are_whole_again_when_there_is_room(small_disk):
    disk = small_disk(4096)
    with open(disk / "log", "wb") as file:
        handler = logs._Handler(os.dup(file.fileno()))
        handler.setFormatter(logs.JsonFormatter())
        for number in range(60):
            handler.emit(logs.log.makeRecord("", 20, "", 0, "event", ({"number": number},), None))
        until = time.monotonic() + 10
        while not handler.lines.empty() and time.monotonic() < until:
            time.sleep(0.01)
        small_disk(1 << 20)
        handler.emit(logs.log.makeRecord("", 20, "", 0, "after", ({},), None))
        handler.close()
    *_, torn, last = (disk / "log").read_text().splitlines()
    assert json.loads(last)["event"] == "after"
    with pytest.raises(json.JSONDecodeError):
        json.loads(torn)
