"""How many predictions per second does a service answer, and what does it do with several times as many requests?

The same int8 CIFAR-ResNet-20 and the same PNG of 32 x 32 pixels are sent to `d2lcls serve` and to its rivals:
multi-model-server and LitServe with batches of 32, and plain uvicorn, which computes each picture by itself; each has
one process per core. They run one at a time, are warmed up and loaded by wrk with 32 connections, in turns, all on this
machine. Then `d2lcls serve` gets more requests than it can answer. Writes results/serving.json, if all rivals are
installed. Eight minutes on two cores.

With --minutes 10, only `d2lcls serve` is loaded for that time, and its memory written to results/serving_memory.json.

The rivals are expected in the environment of --rivals PYTHON or of the variable D2LCLS_RIVALS, made with
    python -m venv rivals && rivals/bin/pip install multi-model-server==1.1.11 litserve uvicorn
and this project's own requirements. multi-model-server needs Java, too.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import resource
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from d2lcls.book import results
from d2lcls.data import Preprocess, load
from d2lcls.deploy.exporting import export
from d2lcls.deploy.quantization import quantize_model
from d2lcls.machine.cores import usable_cores

import psutil
from PIL import Image
from rivals.services import Service, Start, ask, contestants

LUA = """
wrk.method = "POST"
local file = io.open("PICTURE", "rb"); wrk.body = file:read("*a"); file:close()
wrk.headers["Content-Type"] = "image/png"
"""
CONNECTIONS, OVERLOAD = 32, 400  # of the usual load, and of overload
ALONE = 0.1  # share of the processor time that other programs may take
UNITS = {
    "rate": "responses of status 200 per second",
    "p50, p99": "ms, of all responses",
    "errors": "responses of another status",
    "broken": "connections that failed",
    "memory": "MB resident, all processes of the service",
    "growth": "MB by which that grew while loaded",
    "core_us": "microseconds of processor time per request, without wrk's",
    "others": "share of the processor time that other programs took",
    "ratio": "rate of d2lcls over theirs, same round",
}


def main() -> None:
    """Measure what the options select."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rivals", metavar="PYTHON", default=os.environ.get("D2LCLS_RIVALS"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--overload-seconds", type=int, default=60)
    parser.add_argument("--minutes", type=float, help="only load d2lcls for so long and measure its memory")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        print("serving: skipped, as wrk is not installed.")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, size = write_model(folder), write_picture(folder / "picture.png")
        (folder / "load.lua").write_text(LUA.replace("PICTURE", str(folder / "picture.png")))
        if options.minutes:
            watch_memory(folder, model, options.minutes)
        else:
            compare(folder, contestants(model, options.rivals), options, size)


def write_model(folder: Path) -> Path:
    """Write a CIFAR-ResNet-20 in int8 with random weights, as the time does not depend on them."""
    from d2lcls.models import get_model

    import mxnet as mx

    preprocess = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")
    train = load("cifar10")
    mx.random.seed(0)
    net = get_model("cifar_resnet20_v1", classes=10)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net(mx.nd.zeros((1, 3, 32, 32)))
    export(net, folder / "float", "cifar_resnet20_v1", train.classes, preprocess)
    quantize_model(folder / "float", folder / "model", preprocess.normalise(train.images[:256]))
    return folder / "model"


def write_picture(path: Path) -> int:
    """Write the CIFAR-10 image whose PNG is nearest to 2.7 kB and return its size."""
    encoded = []
    for image in load("cifar10").images[:500]:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        encoded.append(stream.getvalue())
    chosen = min(encoded, key=lambda content: abs(len(content) - 2700))
    path.write_bytes(chosen)
    return len(chosen)


def compare(folder: Path, services: dict[str, Start], options: argparse.Namespace, size: int) -> None:
    """Load all services in turns, overload ours, and write the results."""
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in services}
    for _ in range(options.rounds):
        for name, start in services.items():
            measured[name].append(measure(start, folder, options.seconds))
            print(name, {key: round(value, 1) for key, value in measured[name][-1].items()}, flush=True)
    values = {
        name: {key: results.spread([one[key] for one in rounds]) for key in rounds[0]}
        for name, rounds in measured.items()
    }
    ratio = {
        name: results.spread([a["rate"] / b["rate"] for a, b in zip(measured["d2lcls"], rounds)])
        for name, rounds in measured.items()
        if name != "d2lcls"
    }
    overload = measure_overload(many_from_one_address(services["d2lcls"]), folder, options.overload_seconds)
    overload["times_capacity"] = overload["offered"] / values["d2lcls"]["rate"]["median"]
    print("overload", {key: round(value, 1) for key, value in overload.items()}, flush=True)
    if len(services) < 5:
        print("serving: nothing is written, as rivals are missing.")
        return
    print(
        results.write(
            "serving",
            "python benchmarks/serving.py --rivals PYTHON",
            {
                **values,
                "ratio": ratio,
                "overload": overload,
                "picture_bytes": size,
                "rounds": options.rounds,
                "seconds": options.seconds,
                "wrk": f"wrk -t1 -c{CONNECTIONS}, for overload -c{OVERLOAD}, on the same cores",
                "units": {
                    **UNITS,
                    "offered": "requests per second, each connection sending the next one at once",
                    "accepted, refused": "responses of status 200 and 503 per second",
                    "accepted_p99, refused_p99": "ms, of probes among the other requests",
                    "times_capacity": "offered, over d2lcls' rate above",
                },
            },
        )
    )


def many_from_one_address(start: Start) -> Start:
    """Return the service without its limit for one address, which all connections of wrk share."""

    def begin(folder: Path, port: int) -> tuple[str, list[str], dict[str, str]]:
        path, command, environment = start(folder, port)
        return path, [*command, "--address-connections", "1000"], environment

    return begin


def measure(start: Start, folder: Path, seconds: int) -> dict[str, float]:
    """Start a service, load it, and return the measurements, repeated if other programs kept the machine busy."""
    with Service(start, folder) as service:
        wrk(service, folder, 3)
        for _ in range(10):
            (cpu, memory), busy = service.usage(), _busy()
            measured = wrk(service, folder, seconds)
            after = service.usage()
            others = (_busy() - busy - after[0] + cpu) / seconds / usable_cores()
            if others < ALONE:
                break
            print(f"once more, as other programs took {others:.0%} of the machine", flush=True)
        requests = measured.pop("requests")
        return {
            **measured,
            "memory": after[1],
            "growth": after[1] - memory,
            "others": others,
            "core_us": 1e6 * (after[0] - cpu) / requests,
        }


def _busy() -> float:
    """Return the seconds that all processors were busy, without those of wrk and other ended children."""
    times, children = psutil.cpu_times(), resource.getrusage(resource.RUSAGE_CHILDREN)
    return times.user + times.nice + times.system - children.ru_utime - children.ru_stime


def measure_overload(start: Start, folder: Path, seconds: int) -> dict[str, float]:
    """Overload a service, with four probes among the load that tell accepted requests from refused ones."""
    with Service(start, folder) as service:
        wrk(service, folder, 3, OVERLOAD)
        _, memory = service.usage()
        with ThreadPoolExecutor(4) as probes:
            sent = [probes.submit(probe, service, seconds) for _ in range(4)]
            measured = wrk(service, folder, seconds, OVERLOAD)
            _, after = service.usage()
        responses = [response for one in sent for response in one.result()]
    waits = {status: sorted(wait for actual, wait in responses if actual == status) for status in (200, 503)}
    other = len(responses) - len(waits[200]) - len(waits[503])
    p99 = {status: 1000 * one[int(0.99 * len(one))] for status, one in waits.items()}
    return {
        "offered": measured["requests"] / seconds,
        "accepted": measured["rate"],
        "refused": measured["errors"] / seconds,
        "broken": measured["broken"],
        "seconds": seconds,
        "accepted_probes": len(waits[200]),
        "refused_probes": len(waits[503]),
        "other_probes": other,
        "accepted_p99": p99[200],
        "refused_p99": p99[503],
        "memory": after,
        "growth": after - memory,
    }


def probe(service: Service, seconds: float) -> list[tuple[int, float]]:
    """Send a request now and then, and return (status, seconds) of each response, which wrk does not separate."""
    responses, until = [], time.monotonic() + seconds - 1
    while time.monotonic() < until:
        begun = time.monotonic()
        responses.append((ask(service.port, service.path, service.picture), time.monotonic() - begun))
        time.sleep(0.02)
    return responses


def watch_memory(folder: Path, model: Path, minutes: float) -> None:
    """Load ours for some minutes and write how its memory changed."""
    with Service(contestants(model, None)["d2lcls"], folder) as service:
        wrk(service, folder, 10)
        memory = [service.usage()[1]]
        rates: list[float] = []
        errors = 0.0
        for _ in range(round(2 * minutes)):
            measured = wrk(service, folder, 30)
            rates.append(measured["rate"])
            errors += measured["errors"] + measured["broken"]
            memory.append(service.usage()[1])
            print(f"{rates[-1]:,.0f} requests/s, {memory[-1]:.1f} MB", flush=True)
    print(
        results.write(
            "serving_memory",
            f"python benchmarks/serving.py --minutes {minutes:g}",
            {
                "minutes": minutes,
                "first": memory[0],
                "last": memory[-1],
                "most": max(memory),
                "growth": memory[-1] - memory[0],
                "rate": {key: value for key, value in results.spread(rates).items() if key != "values"},
                "errors": errors,
                "units": {
                    "first, last, most, growth": "MB resident, all processes; first is after ten seconds of load",
                    "rate": "responses of status 200 per second",
                    "errors": "other responses and failed connections",
                },
            },
        )
    )


def wrk(service: Service, folder: Path, seconds: int, connections: int = CONNECTIONS) -> dict[str, float]:
    """Load a service and return rate, p50, p99, errors, broken and requests."""
    printed = subprocess.run(
        [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "--latency",
            "-s",
            str(folder / "load.lua"),
            f"http://127.0.0.1:{service.port}{service.path}",
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=seconds + 60,
    ).stdout
    total = int(_search(r"(\d+) requests in", printed)[1])
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", printed)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", printed)
    errors = int(wrong[1]) if wrong else 0
    return {
        "rate": (total - errors) / seconds,
        "p50": milliseconds(printed, "50"),
        "p99": milliseconds(printed, "99"),
        "errors": errors,
        "broken": sum(map(int, broken.groups())) if broken else 0,
        "requests": total,
    }


def milliseconds(printed: str, percentile: str) -> float:
    """Return a line of wrk's latency distribution in ms."""
    number, unit = _search(rf"{percentile}%\s+([\d.]+)(us|ms|s)", printed).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def _search(pattern: str, printed: str) -> re.Match[str]:
    match = re.search(pattern, printed)
    if match is None:
        raise ValueError(f"wrk has not printed {pattern!r} but: {printed}")
    return match


if __name__ == "__main__":
    main()
