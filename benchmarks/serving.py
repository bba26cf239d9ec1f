"""How many predictions a second does a service answer, and how does it take four times as many as it can?

The same model and the same PNG of 32 x 32 pixels go to `d2lcls serve` and to whichever of these is installed in the Python
given for it: multi-model-server with batches of 32, LitServe with batches of 32, and plain uvicorn, which computes each
picture by itself. Each starts alone, is warmed up and loaded by wrk with 32 connections, in turns, all on this machine.
Then `d2lcls serve` is offered four times its own rate. Writes results/serving.json. Five minutes on two cores with all four.
"""

import argparse
import http.client
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from PIL import Image

from d2lcls import results
from d2lcls.cores import usable_cores
from d2lcls.data import load
from d2lcls.deploy.mar import write_archive

LUA = """
wrk.method = "POST"
local file = io.open("PICTURE", "rb"); wrk.body = file:read("*a"); file:close()
wrk.headers["Content-Type"] = "image/png"
DELAY
"""
UVICORN = """
import json, d2lcls
from d2lcls.deploy.predictor import load_model
predictor = load_model(MODEL)
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    if scope["path"] == "/predict":
        answer = [{"class": name, "probability": share} for name, share in predictor.predict(body)]
    else:
        answer = "ok"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})
"""
LITSERVE = """
import d2lcls, litserve
from fastapi import Request
from d2lcls.deploy.predictor import load_model
class API(litserve.LitAPI):
    def setup(self, device): self.predictor = load_model(MODEL)
    async def decode_request(self, request: Request): return await request.body()
    def batch(self, inputs): return inputs
    def predict(self, pictures): return self.predictor.predict_many(pictures)
    def unbatch(self, output): return output
    def encode_response(self, output): return [{"class": name, "probability": share} for name, share in output]
if __name__ == "__main__":
    litserve.LitServer(API(max_batch_size=32, batch_timeout=0.002, enable_async=False), accelerator="cpu").run(
        host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning")
"""


def main():
    """Load each service in turn and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="model folder, such as cifar_resnet20_v1 in int8")
    parser.add_argument("--multi-model-server", metavar="PROGRAM", help="its command; Java has to be there")
    parser.add_argument("--uvicorn-python", metavar="PYTHON", help="a Python with uvicorn and d2lcls")
    parser.add_argument("--litserve-python", metavar="PYTHON", help="a Python with litserve and d2lcls")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--overload-seconds", type=int, default=60)
    options = parser.parse_args()
    if not options.model or not shutil.which("wrk"):
        print("serving: skipped, as it needs a model folder and wrk.")
        return
    with tempfile.TemporaryDirectory() as folder:
        folder, model = Path(folder), Path(options.model).resolve()
        picture = write_picture(folder / "picture.png")
        contestants = {"d2lcls": ("/v1/predict", lambda port: ours(model, port))}
        if options.multi_model_server and shutil.which("java"):
            write_archive(model, folder / "model.mar")
            contestants["multi_model_server"] = ("/predictions/model", lambda port: theirs(options.multi_model_server, folder,
                                                                                         port))
        for name, python, text in (("uvicorn", options.uvicorn_python, UVICORN), ("litserve", options.litserve_python, LITSERVE)):
            if python:
                contestants[name] = ("/predict", lambda port, python=python, text=text, name=name: script(
                    python, text.replace("MODEL", repr(str(model))).replace("PORT", str(port)), folder / f"{name}_app.py", port))
        measured = {name: [] for name in contestants}
        for _ in range(options.rounds):
            for name, (path, start) in contestants.items():
                measured[name].append(measure(start, path, folder, options.seconds))
                print(name, measured[name][-1], flush=True)
        values = {name: {key: results.spread([one[key] for one in rounds]) for key in rounds[0]}
                  for name, rounds in measured.items()}
        ratio = {name: results.spread([a["rate"] / b["rate"] for a, b in zip(measured["d2lcls"], rounds)])
                 for name, rounds in measured.items() if name != "d2lcls"}
        overload = measure(contestants["d2lcls"][1], "/v1/predict", folder, options.overload_seconds,
                           4 * values["d2lcls"]["rate"]["median"])
        print("overload", overload, flush=True)
        print(results.write("serving", "python benchmarks/serving.py MODEL --multi-model-server PROGRAM "
                            "--uvicorn-python PYTHON --litserve-python PYTHON", {
                                **values, "ratio": ratio, "overload": overload, "picture_bytes": picture,
                                "wrk": "wrk -t1 -c32, on the same cores", "rounds": options.rounds, "units": {
                                    "rate": "answers of status 200 a second", "p50, p99": "ms, of all answers",
                                    "accepted_p99": "ms, of the probes' answers of status 200",
                                    "errors": "answers of another status", "memory": "MB resident, all its processes",
                                    "growth": "MB by which that grew while loaded",
                                    "core_us": "microseconds of processor time a request, without wrk's",
                                    "ratio": "d2lcls' rate over theirs, same round"}}))


def write_picture(path):
    """Write the CIFAR-10 test image whose PNG is nearest to 2.7 kB and return its size."""
    encoded = []
    for image in load("cifar10").images[:500]:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        encoded.append(stream.getvalue())
    chosen = min(encoded, key=lambda content: abs(len(content) - 2700))
    path.write_bytes(chosen)
    return len(chosen)


def ours(model, port):
    """Start `d2lcls serve`."""
    return [sys.executable, "-m", "d2lcls", "serve", str(model), "--port", str(port)], {}


def theirs(program, folder, port):
    """Start multi-model-server; the batches are asked for when the model is registered, see `measure`."""
    (folder / "config.properties").write_text(
        f"inference_address=http://127.0.0.1:{port}\nmanagement_address=http://127.0.0.1:{port + 1}\n"
        f"default_workers_per_model={usable_cores()}\nmodel_store={folder}\nload_models=none\n")
    return [program, "--start", "--foreground", "--mms-config", str(folder / "config.properties")], {
        "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def script(python, text, path, port):
    """Start a contestant that is a Python program."""
    path.write_text(text)
    if "litserve" in text:
        return [python, str(path)], {"OMP_NUM_THREADS": "1"}
    return [python, "-m", "uvicorn", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning",
            "--app-dir", str(path.parent), f"{path.stem}:app"], {"OMP_NUM_THREADS": str(usable_cores())}


def measure(start, path, folder, seconds, offered=None):
    """Start a service, load it, stop it and return what was seen; `offered` is a rate to load it with."""
    port = free_port()
    command, environment = start(port)
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, stdout=log, stderr=log,
                                   start_new_session=True)
    try:
        wait_until_served(port, path, folder, process)
        address = f"http://127.0.0.1:{port}{path}"
        wrk(address, folder, 3)
        before = usage(process)
        with ThreadPoolExecutor(4) as probes:
            accepted = [probes.submit(probe, port, path, folder, seconds) for _ in range(4 if offered else 0)]
            found = wrk(address, folder, seconds, offered)
            cpu, memory = usage(process)
        found.update(memory=memory, growth=memory - before[1], core_us=1e6 * (cpu - before[0]) / found["requests"])
        if offered:
            waits = sorted(wait for one in accepted for wait in one.result())
            found.update(seconds=seconds, accepted_probes=len(waits), accepted_p99=1000 * waits[int(0.99 * len(waits))])
        return found
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def probe(port, path, folder, seconds):
    """Ask now and then, and return how many seconds each answer of status 200 took, which wrk does not tell apart."""
    found, until, picture = [], time.monotonic() + seconds - 1, (folder / "picture.png").read_bytes()
    while time.monotonic() < until:
        begun = time.monotonic()
        if ask(port, path, picture) == 200:
            found.append(time.monotonic() - begun)
        time.sleep(0.02)
    return found


def wrk(address, folder, seconds, offered=None):
    """Load an address and return rate, p50, p99, errors and requests."""
    connections = 400 if offered else 32
    pause = f"function delay() return {max(1, round(1000 * connections / offered))} end" if offered else ""
    (folder / "load.lua").write_text(LUA.replace("PICTURE", str(folder / "picture.png")).replace("DELAY", pause))
    printed = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(folder / "load.lua"),
                              address], check=True, capture_output=True, text=True, timeout=seconds + 60).stdout
    total, spent = re.search(r"(\d+) requests in ([\d.]+)s", printed).groups()
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", printed)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", printed)
    errors = int(wrong[1]) if wrong else 0
    return {"rate": (int(total) - errors) / float(spent), "p50": milliseconds(printed, "50"), "p99": milliseconds(printed, "99"),
            "errors": errors, "broken": sum(map(int, broken.groups())) if broken else 0, "requests": int(total)}


def milliseconds(printed, percentile):
    """Return a line of wrk's latency distribution in ms."""
    number, unit = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s)", printed).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def wait_until_served(port, path, folder, process):
    """Wait for the first answer; where there is a management address, register the model there first."""
    until, registered = time.monotonic() + 90, not path.startswith("/predictions/")
    picture = (folder / "picture.png").read_bytes()
    while time.monotonic() < until and process.poll() is None:
        try:
            if not registered:
                registered = ask(port + 1, f"/models?url=model.mar&model_name=model&batch_size=32&max_batch_delay=2"
                                 f"&initial_workers={usable_cores()}&synchronous=true", b"") == 200
            if registered and ask(port, path, picture) == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.2)
    raise RuntimeError(f"{path}: not served. Its log ends with: {(folder / 'log').read_text()[-2000:]}")


def ask(port, path, body):
    """Send a body and return the status of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", path, body, {"Content-Type": "image/png"})
        return connection.getresponse().status
    finally:
        connection.close()


def usage(process):
    """Return (seconds of processor time, MB resident) of a process and all below it."""
    everybody = [psutil.Process(process.pid)]
    everybody += everybody[0].children(recursive=True)
    times = [one.cpu_times() for one in everybody]
    return sum(one.user + one.system for one in times), sum(one.memory_info().rss for one in everybody) / 1e6


def free_port():
    """A port that nobody listens at, nor at the next one; multi-model-server takes none above 32767."""
    for port in range(20_000 + os.getpid() % 10_000, 32_766, 2):
        try:
            for number in (port, port + 1):
                with socket.socket() as listening:
                    listening.bind(("127.0.0.1", number))
            return port
        except OSError:
            continue
    raise RuntimeError("No port is free from 20000 to 32767.")


if __name__ == "__main__":
    main()
