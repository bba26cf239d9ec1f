import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
import zipfile

from d2lcls import cli
from d2lcls.deploy.archive import write_archive
from d2lcls.deploy.predictor import open_model

import psutil
import pytest
from serving import png, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def archive(model, tmp_path_factory):
    return write_archive(model, tmp_path_factory.mktemp("store") / "small.mar")


def test_archive_holds_what_the_server_needs(archive, model):
    with zipfile.ZipFile(archive) as content:
        assert set(content.namelist()) == {
            "MAR-INF/MANIFEST.json",
            "handler.py",
            *(path.name for path in model.iterdir()),
        }
        manifest = json.loads(content.read("MAR-INF/MANIFEST.json"))
    assert manifest["runtime"] == "python" and manifest["model"]["handler"] == "handler.py:handle"


def test_command_writes_the_same(archive, model, tmp_path, capsys):
    assert cli.main(["archive", str(model), "--out", str(tmp_path / "small.mar")]) == 0
    printed = capsys.readouterr().out
    assert f"--model-store {tmp_path} --models small=small.mar" in printed and "token" in printed
    with zipfile.ZipFile(tmp_path / "small.mar") as made, zipfile.ZipFile(archive) as expected:
        assert {name: made.read(name) for name in made.namelist()} == {
            name: expected.read(name) for name in expected.namelist()
        }
    assert cli.main(["archive", str(tmp_path), "--out", str(tmp_path / "other.mar")]) == 1
    assert "holds no manifest.json" in capsys.readouterr().err
    with pytest.raises(SystemExit) as wrong:
        cli.main(["archive", str(model), "--out", str(tmp_path / "small.zip")])
    assert wrong.value.code == 2 and "ends in .mar" in capsys.readouterr().err


def test_other_endings_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="Name it small.mar"):
        write_archive(model, tmp_path / "small.zip")


def test_handler_answers_each_picture(archive, model, tmp_path):
    shutil.unpack_archive(archive, tmp_path, "zip")
    space, wrong = {}, []
    exec((tmp_path / "handler.py").read_text(), space)
    context = types.SimpleNamespace(
        system_properties={"model_dir": str(tmp_path)},
        set_response_status=lambda code, phrase, idx: wrong.append((code, idx)),
    )
    assert space["handle"](None, context) is None
    answers = space["handle"]([{"body": bytearray(png(0))}, {"body": b"no"}, {"data": png(1)}, {}], context)
    assert wrong == [(400, 1), (400, 3)]
    for answer, picture in ((answers[0], png(0)), (answers[2], png(1))):
        expected = open_model(model).predict(picture)
        assert [entry["class"] for entry in answer] == [name for name, _ in expected]
        assert [entry["probability"] for entry in answer] == pytest.approx([value for _, value in expected], rel=1e-5)


def free_ports(number):
    """Ports that nobody listens at; the server takes none above 32767."""
    ports = []
    for port in range(20_000 + os.getpid() % 10_000, 32_768):
        with socket.socket() as listening:
            try:
                listening.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == number:
            return ports
    raise AssertionError("no free port")


def ask(port):
    """Return the status and body of a prediction, (None, b"") while nobody listens."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        try:
            connection.request("POST", "/predictions/small", png(), {"Content-Type": "image/png"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return None, b""


def test_model_server_serves_the_archive(archive, model, tmp_path):
    program = os.environ.get("MULTI_MODEL_SERVER") or shutil.which("multi-model-server")
    if not (program and shutil.which("java")):
        pytest.skip("needs Java, and multi-model-server 1.1.11 on the path or named by MULTI_MODEL_SERVER")
    ports = free_ports(2)
    (tmp_path / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{ports[0]}\nmanagement_address=http://127.0.0.1:{ports[1]}\n"
        "default_workers_per_model=1\n"
    )
    environment = {
        **os.environ,
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen(
            [
                program,
                "--start",
                "--foreground",
                "--mms-config",
                tmp_path / "config.properties",
                "--model-store",
                archive.parent,
                "--models",
                f"small={archive.name}",
            ],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + 60
        while True:
            status, content = ask(ports[0])
            if status == 200:
                break
            assert time.monotonic() < until and server.poll() is None, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.3)
        assert json.loads(content)[0]["class"] == open_model(model).predict(png())[0][0]
    finally:
        children = psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)
        for child in psutil.wait_procs(children, 5)[1]:
            child.kill()


def test_the_same_model_always_makes_the_same_bytes(model, tmp_path, monkeypatch):
    first = write_archive(model, tmp_path / "first.mar").read_bytes()
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert write_archive(model, tmp_path / "second.mar").read_bytes() == first
