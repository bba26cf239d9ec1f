"""A small model, and the service as a process of its own on this machine."""

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import psutil
from PIL import Image


def write_model(folder, seed=0):
    """Write a model of three classes that sees 8 x 8 pixels."""
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


def png(seed=0, size=8, kind="PNG"):
    """Return an image file of coloured noise."""
    stream = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype(np.uint8)
    Image.fromarray(noise).save(stream, kind)
    return stream.getvalue()


class Serving:
    """A running service; `log` is the file of its standard error."""

    def __init__(self, model, log, *options, token=None):
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

    def lines(self, event=None):
        """The log's events so far; whatever is printed is one, too."""
        events = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in events if event in (None, line["event"])]

    def wait_for(self, event, seconds=60):
        """Wait for an event and return it."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            events = self.lines(event) if self.log.read_text().endswith("\n") else []
            if events:
                return events[-1]
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"no {event!r} in the log: {self.log.read_text()}")

    def ask(self, method, path, body=None, headers=None):
        """Send one request on a connection of its own; returns (status, headers, body)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def predict(self, body, kind="image/png", query="", **headers):
        """Send a picture; returns (status, content)."""
        status, _, answer = self.ask("POST", f"/v1/predict{query}", body, {"Content-Type": kind, **headers})
        return status, json.loads(answer)

    def raw(self, data, seconds=5):
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

    def engine(self):
        """The process that computes."""
        return psutil.Process(self.process.pid).children()[0]

    def stop(self, number=signal.SIGTERM):
        """Stop the service and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(20)
        finally:
            self.process.kill()  # does nothing to a process that has ended
