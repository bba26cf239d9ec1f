"""A decoder that runs foreign code can do nothing with it."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytest.importorskip("httptools")
pytest.importorskip("uvloop")
pytest.importorskip("multipart")

from d2lcls.deploy.serve import frames
from d2lcls.deploy.serve.decoders import confinement
from d2lcls.deploy.serve.decoders.decoder import LENGTH, START, TIME

from serving import Serving, png, write_model

# A decoder in which each picture starts code: expressions of Python, and system calls by their numbers.
CAPTURED = """
import ctypes, errno, json, os, platform, socket, subprocess, sys
from d2lcls.deploy.serve import frames
from d2lcls.deploy.serve.decoders import confinement, decoder
libc, parent = ctypes.CDLL(None, use_errno=True), os.getpid()

def outcome(action):
    try:
        eval(action)
    except OSError as error:
        return error.errno
    except Exception as error:
        return repr(error)
    return 0

def number(call):
    libc.syscall(call, 0, 0, 0, 0, 0, 0)
    return ctypes.get_errno()

def hostile(content):
    outcomes = {action: outcome(action) for action in json.loads(content[decoder.LENGTH.size:])}
    calls = {call[confinement._MACHINES[platform.machine()][0]] for call in confinement._CALLS.values()}
    confined = set(outcomes.values()) == {errno.EPERM}  # otherwise some of the calls would do real damage
    calls |= {335, 336}  # uretprobe and uprobe of x86-64, which the kernel takes for faults where it has set no probe
    numbers = [number(call) for call in range(1000) if call not in calls] if confined else []
    return frames.DECODED, json.dumps([outcomes, numbers]).encode()

decoder.decode = hostile
sys.exit(decoder.main(sys.argv[1]))
"""


class Parent:
    """The decoders' parent, as the service starts it."""

    def __init__(self, script, **options):
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-c", script, str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], **options)

    def ask(self, content):
        """Start a decoder, and return its answer to one picture."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            socket.send_fds(self.control, [START.pack(1_000_000, False)], [theirs.fileno()])
            theirs.close()
            ours.sendall(frames.pack(frames.PICTURE, content))
            with ours.makefile("rb") as stream:
                assert frames.read(stream)[0] == frames.READY
                kind, answer = frames.read(stream)
                return kind, answer[TIME.size :]

    def stop(self):
        self.control.close()
        return self.process.wait(20)


@pytest.mark.skipif(not confinement.possible(), reason="this system has no seccomp filters")
def test_code_in_a_decoder_reaches_no_file_no_process_and_no_network(tmp_path):
    file = tmp_path / "file"
    file.write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as server, open(tmp_path / "log", "w") as log:
        parent = Parent(CAPTURED, stderr=log)
        actions = [
            f"os.unlink({str(file)!r})",
            f"os.rename({str(file)!r}, {str(file) + '2'!r})",
            f"os.truncate({str(file)!r}, 0)",
            f"os.chmod({str(file)!r}, 0)",
            f"os.symlink('/', {str(file) + '3'!r})",
            f"os.mkdir({str(file) + '4'!r})",
            f"open({str(file)!r})",
            f"os.listdir({str(tmp_path)!r})",
            f"os.stat({str(file)!r})",
            "os.kill(parent, 0)",
            f"os.kill({os.getpid()}, 0)",
            "os.killpg(0, 0)",
            "os.fork()",
            "os.execv('/bin/sh', ['sh', '-c', 'true'])",
            "subprocess.Popen(['true'])",
            f"socket.socket().connect(('127.0.0.1', {server.getsockname()[1]}))",
            "socket.socketpair()",
            "os.write(2, b'into the log')",
            "os.nice(1)",
            "os.sched_setaffinity(parent, [0])",
        ]
        content = json.dumps(actions).encode()
        outcomes, numbers = json.loads(parent.ask(LENGTH.pack(0) + content)[1])
        assert {action for action, outcome in outcomes.items() if outcome != errno.EPERM} == set()
        assert set(numbers) == {errno.EPERM}
        assert file.read_text() == "kept" and os.listdir(tmp_path) == ["file", "log"]
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert parent.stop() == 0 and not (tmp_path / "log").read_text()


def test_without_filters_decoders_work_and_one_line_says_so():
    script = "import platform; platform.machine = lambda: 'sparc'\n"
    script += "import sys; from d2lcls.deploy.serve.decoders import decoder; sys.exit(decoder.main(sys.argv[1]))"
    parent = Parent(script, stderr=subprocess.PIPE, text=True)
    order = json.dumps(
        {"resize": 8, "crop": 8, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "pixels": 100}
    ).encode()
    for _ in range(3):
        kind, pixels = parent.ask(LENGTH.pack(len(order)) + order + png())
        assert kind == frames.DECODED and len(pixels) == 8 * 8 * 3
    with parent.process.stderr as printed:
        assert parent.stop() == 0 and len(printed.read().splitlines()) == 1


def test_only_the_service_itself_has_the_token(tmp_path):
    serving = Serving(write_model(tmp_path / "model"), tmp_path / "log", token="secret-of-this-test")
    children = psutil.Process(serving.process.pid).children(recursive=True)
    environments = [Path(f"/proc/{child.pid}/environ").read_bytes() for child in children]
    assert serving.ask("GET", "/v1/models")[0] == 401
    assert len(environments) > 5 and not any(b"secret-of-this-test" in one for one in environments)
    assert serving.stop() == 0
