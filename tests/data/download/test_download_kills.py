"""kill -9 at random moments of a download: files get their names when they are whole, and the next try continues."""

import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile

from d2lcls.data.download.cache import fetch, verify
from d2lcls.machine.files import cache_folder

import pytest
from local_server import ARCHIVE, CONTENTS, holds, sha1
from test_fetch import start, wait_for

MOMENTS = [3, pytest.param(30, marks=pytest.mark.slow)]

# A network whose weights are in a store on this machine, without the time to import MXNet and GluonCV.
WEIGHTS = """
import sys, types
model_store = types.SimpleNamespace(apache_repo_url="", _model_sha1={"net": sys.argv[1]})
sys.modules["gluoncv"] = sys.modules["gluoncv.model_zoo"] = types.ModuleType("gluoncv.model_zoo")
sys.modules["gluoncv.model_zoo"].model_store = model_store
from d2lcls.weights.store import get_weights
print("ready", flush=True)
print(get_weights("net"))
"""


def zipped(name, content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
    return stream.getvalue()


def kill_after(child, seconds):
    """Kill a child so many seconds after it is ready, and say whether it was still at work."""
    assert child.stdout.readline() == "ready\n"
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    return child.returncode < 0


@pytest.mark.parametrize("moments", MOMENTS)
def test_a_data_set_is_whole_or_not_there(server, offer, moments):
    dataset = offer(server.source())
    server.pause = 0.02
    begun = time.monotonic()
    fetch("fake")
    duration, draw, killed = time.monotonic() - begun, random.Random(19), 0
    folder, staged = cache_folder() / "fake", cache_folder() / ".staging"
    for moment in range(moments):
        for file in folder.iterdir() if moment % 3 == 0 else ():
            file.unlink()
        server.log.clear()
        killed += kill_after(start(dataset), draw.uniform(0, duration))
        for file in folder.iterdir():
            assert file.read_bytes() == CONTENTS[file.name]
        kept = sum(path.stat().st_size for path in staged.rglob("*.part"))
        if moment % 3 == 2:
            missing, requests = verify("fake"), len(server.log)
            assert holds(fetch("fake"))
            if missing and 0 < kept < len(ARCHIVE):
                assert server.log[requests] == ("/good.tar.gz", f"bytes={kept}-")
            assert [path.name for path in staged.iterdir()] == ["fake.lock"]
    print(f"{killed} of {moments} were killed at work")
    assert killed >= moments // 3


@pytest.fixture
def begin(server, monkeypatch):
    """A function that starts to get weights of 1 MB, which the server sends in small steps."""
    content = random.Random(20).randbytes(1_000_000)
    server.pages[f"/gluon/models/net-{sha1(content)[:8]}.zip"] = zipped(f"net-{sha1(content)[:8]}.params", content)
    server.pause = 0.02
    monkeypatch.setenv("MXNET_GLUON_REPO", server.address)

    def begin():
        return subprocess.Popen(
            [sys.executable, "-c", WEIGHTS, sha1(content)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
        )

    begin.content = content
    return begin


@pytest.mark.parametrize("moments", MOMENTS)
def test_weights_are_whole_or_not_there(server, begin, moments):
    folder, staged = cache_folder() / "weights", cache_folder() / ".staging"
    draw, killed, duration = random.Random(21), 0, 0.7
    for moment in range(moments):
        for file in folder.iterdir() if moment and moment % 3 == 0 else ():
            file.unlink()
        killed += kill_after(begin(), draw.uniform(0, duration))
        assert all(file.read_bytes() == begin.content for file in folder.glob("*"))
        if moment % 3 == 2:
            kept = sum(path.stat().st_size for path in staged.rglob("*.part"))
            missing, requests = not any(folder.iterdir()), len(server.log)
            out, errors = begin().communicate(timeout=60)
            assert [f"ready\n{path}\n" for path in folder.iterdir()] == [out], errors
            assert next(folder.iterdir()).read_bytes() == begin.content
            if missing and 0 < kept < len(begin.content):
                assert server.log[requests][1] == f"bytes={kept}-"
            assert [path.name for path in staged.iterdir()] == ["weights-net.lock"]
    print(f"{killed} of {moments} were killed at work")
    assert killed >= moments // 3


def test_two_processes_get_weights_once(server, begin):
    server.hold = threading.Event()
    children = [begin(), begin()]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    wait_for(lambda: server.log)
    time.sleep(0.5)
    server.hold.set()
    outputs = [child.communicate(timeout=30)[0] for child in children]
    assert outputs[0] == outputs[1] and outputs[0].endswith(".params\n") and len(server.log) == 1


def test_what_was_left_after_the_last_file_was_in_place_is_removed(server, offer):
    offer(server.source())
    fetch("fake")
    leftover = cache_folder() / ".staging" / "fake" / "work-killed"
    leftover.mkdir(parents=True)
    (leftover / "file").touch()
    fetch("fake")
    assert [path.name for path in leftover.parent.parent.iterdir()] == ["fake.lock"]
