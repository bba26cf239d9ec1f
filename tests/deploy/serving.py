"""A small model, and the service as a process of its own on this machine."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image


def write_model(folder: Path, seed: int = 0) -> Path:
    """Write a model of three classes with an input of 8 x 8 pixels."""
    from d2lcls.data.preprocess import Preprocess
    from d2lcls.deploy.exporting import export

    import mxnet as mx
    from mxnet.gluon import nn

    mx.random.seed(seed)
    net = nn.HybridSequential()
    net.add(nn.Conv2D(4, 3, activation="relu"), nn.Flatten(), nn.Dense(3))
    net.initialize(mx.init.Normal(0.2))
    export(net, folder, f"small{seed}", ["red", "green", "blue"], Preprocess(8, 8, (0.5,) * 3, (0.5,) * 3, "bilinear"))
    return folder


def png(seed: int = 0, size: int = 8, kind: str = "PNG") -> bytes:
    """Return an image file of coloured noise."""
    stream = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype(np.uint8)
    Image.fromarray(noise).save(stream, kind)
    return stream.getvalue()


class Serving:
    """A running service; `log` is the file of its standard error."""

    def __init__(self, model: Path, log: Path, *options: object, token: str | None = None) -> None:
        environment = {**os.environ, "D2LCLS_TOKEN": token or "", "OMP_NUM_THREADS": "1"}
        self.log = log
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-W",
                    "error",
                    "-m",
                    "d2lcls",
                    "serve",
                    str(model),
                    "--port",
                    "0",
                    "--engines",
                    "1",
                    *map(str, options),
                ],
                stderr=file,
                env=environment,
            )
        try:
            self.port = self.wait_for("serving")["port"]
        except BaseException:
            self.process.kill()
            raise

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """The log's events so far; whatever is printed is one, too."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if event in (None, line["event"])]

    def wait_for(self, event: str, seconds: float = 60) -> dict[str, Any]:
        """Wait for an event and return it."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            lines = self.lines(event) if self.log.read_text().endswith("\n") else []
            if lines:
                return lines[-1]
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"no {event!r} in the log: {self.log.read_text()}")

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Message, bytes]:
        """Send one request on a connection of its own; returns (status, headers, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def predict(self, body: bytes, kind: str = "image/png", query: str = "", **headers: str) -> tuple[int, Any]:
        """Send a picture; returns (status, content)."""
        status, _, answer = self.ask("POST", f"/v1/predict{query}", body, {"Content-Type": kind, **headers})
        return status, json.loads(answer)

    def raw(self, data: bytes, seconds: float = 5) -> bytes:
        """Send bytes and return what comes until the service closes or falls silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            answer = b""
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while True:
                    part = connection.recv(65536)
                    if not part:
                        break
                    answer += part
            except OSError:
                pass
            return answer

    def workers(self) -> list[psutil.Process]:
        """The worker processes."""
        return self.children("d2lcls.deploy.serve.worker")

    def children(self, module: str) -> list[psutil.Process]:
        """The service's processes that run this module."""
        # A process that has ended meanwhile is left out; children() and cmdline() would fail for it.
        found = psutil.process_iter(["ppid", "cmdline"])
        return [one for one in found if one.info["ppid"] == self.process.pid and module in (one.info["cmdline"] or ())]

    def engine(self) -> psutil.Process:
        """The only worker process."""
        return self.workers()[0]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop the service and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()  # does nothing to a process that has ended
