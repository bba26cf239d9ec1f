"""For benchmarks/serving.py: how each service is started, queried, watched and stopped."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from d2lcls.deploy.archive import write_archive
from d2lcls.machine.cores import usable_cores

import psutil

HERE = Path(__file__).parent
Start = Callable[[Path, int], tuple[str, list[str], dict[str, str]]]


def contestants(model: Path, python: str | None) -> dict[str, Start]:
    """Return the services that can be started on this machine.

    Args:
        model: model folder.
        python: Python interpreter of the environment that holds the rivals, or None.

    Returns:
        dict from name to a function of (folder, port) that returns (path of the address, command, environment).
    """
    ours = [sys.executable, "-m", "d2lcls", "serve", str(model), "--port"]
    services: dict[str, Start] = {
        "d2lcls": lambda folder, port: ("/v1/predict", [*ours, str(port)], {}),
        "without_waiting": lambda folder, port: ("/v1/predict", [*ours, str(port), "--batch-wait", "0"], {}),
    }
    one = {"OMP_NUM_THREADS": "1", "MODEL": str(model), "CORES": str(usable_cores())}  # a thread for each process
    if python is None:
        print("serving: without rivals, as no environment was named.")
        return services
    programs: dict[str, tuple[str, Start]] = {
        "multi_model_server": (
            "mms",
            lambda folder, port: (
                "/predictions/model",
                _model_server(model, python, folder, port),
                {**one, "TMPDIR": str(folder), "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"},
            ),
        ),
        "litserve": (
            "litserve",
            lambda folder, port: ("/predict", [python, str(HERE / "litserve_app.py")], {**one, "PORT": str(port)}),
        ),
        "uvicorn": (
            "uvicorn",
            lambda folder, port: (
                "/predict",
                [
                    python,
                    "-m",
                    "uvicorn",
                    "--host",
                    "127.0.0.1",
                    "--port",
                    str(port),
                    "--log-level",
                    "warning",
                    "--workers",
                    str(usable_cores()),
                    "--app-dir",
                    str(HERE),
                    "uvicorn_app:app",
                ],
                one,
            ),
        ),
    }
    for name, (module, start) in programs.items():
        installed = subprocess.run([python, "-c", f"import {module}, d2lcls"], capture_output=True).returncode == 0
        if installed and (module != "mms" or shutil.which("java")):
            services[name] = start
        else:
            print(f"serving: without {name}, which is not installed in {python}.")
    return services


def _model_server(model: Path, python: str, folder: Path, port: int) -> list[str]:
    write_archive(model, folder / "model.mar")
    (folder / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{port}\nmanagement_address=http://127.0.0.1:{port + 1}\n"
        f"default_workers_per_model={usable_cores()}\nmodel_store={folder}\nload_models=none\n"
    )
    return [
        str(Path(python).parent / "multi-model-server"),
        "--start",
        "--foreground",
        "--mms-config",
        str(folder / "config.properties"),
    ]


class Service:
    """A running service with `port`, `path` and the `picture` to send; a context manager that starts and stops it."""

    def __init__(self, start: Start, folder: Path) -> None:
        self.port, self.folder = _free_port(), folder
        self.path, command, environment = start(folder, self.port)
        self.picture = (folder / "picture.png").read_bytes()
        (folder / "log").unlink(missing_ok=True)  # processes of the service before may still write to the old file
        with open(folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, **environment}, stdout=log, stderr=log, start_new_session=True
            )

    def __enter__(self) -> Service:
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _wait(self) -> None:
        """Wait for the first response; multi-model-server needs a model to be registered before."""
        until, registered = time.monotonic() + 90, not self.path.startswith("/predictions/")
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if not registered:
                    options = f"batch_size=32&max_batch_delay=2&initial_workers={usable_cores()}&synchronous=true"
                    registered = ask(self.port + 1, f"/models?url=model.mar&model_name=model&{options}", b"") == 200
                if registered and ask(self.port, self.path, self.picture) == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.2)
        raise RuntimeError(f"{self.path}: not served. Its log ends with: {(self.folder / 'log').read_text()[-2000:]}")

    def usage(self) -> tuple[float, float]:
        """Return (seconds of processor time, MB resident) of the service and all processes below it."""
        process = psutil.Process(self.process.pid)
        processes = [process, *process.children(recursive=True)]
        times = [one.cpu_times() for one in processes]
        return sum(one.user + one.system for one in times), sum(one.memory_info().rss for one in processes) / 1e6

    def stop(self) -> None:
        """Ask it to stop, and make sure that no process of it is left."""
        children = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for one in psutil.wait_procs(children, 5)[1]:
            one.kill()


def ask(port: int, path: str, body: bytes) -> int:
    """Send a body and return the status of the response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body, {"Content-Type": "image/png"})
        return connection.getresponse().status
    finally:
        connection.close()


def _free_port() -> int:
    """Return a port that is free, as is the next one; multi-model-server accepts none above 32767."""
    for port in range(20_000 + os.getpid() % 10_000, 32_766, 2):
        try:
            for number in (port, port + 1):
                with socket.socket() as listening:
                    listening.bind(("127.0.0.1", number))
            return port
        except OSError:
            continue
    raise RuntimeError("No port is free from 20000 to 32767.")
