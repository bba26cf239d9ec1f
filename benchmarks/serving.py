"""How many predictions per second does a service return, and how does it handle four times its capacity?

The same int8 CIFAR-ResNet-20 and the same PNG of 32 x 32 pixels go to `d2lcls serve` and to its rivals:
multi-model-server and LitServe with batches of 32, and plain uvicorn, which computes each image separately; each has
one process per core. They are started one at a time, warmed up and loaded by wrk with 32 connections, in turns, all on
this machine. Then `d2lcls serve` gets more requests than it can handle. Writes results/serving.json, if all rivals are
installed. Eight minutes on two cores.

With --minutes 10, `d2lcls serve` alone is loaded for ten minutes, and its memory is written to
results/serving_memory.json.

The rivals are run by the Python of --rivals PYTHON or of the variable D2LCLS_RIVALS; its environment is made with
    python -m venv rivals && rivals/bin/pip install multi-model-server==1.1.11 litserve uvicorn
and this project's own requirements. multi-model-server needs Java, too.
"""

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
from rivals.services import Service, ask, contestants

LUA = """
wrk.method = "POST"
local file = io.open("PICTURE", "rb"); wrk.body = file:read("*a"); file:close()
wrk.headers["Content-Type"] = "image/png"
"""
CONNECTIONS, CROWD = 32, 400  # of the usual load, and of too much
ALONE = 0.1  # share of the machine that other programs may take
UNITS = {
    "rate": "answers of status 200 a second",
    "p50, p99": "ms, of all answers",
    "errors": "answers of another status",
    "broken": "connections that failed",
    "memory": "MB resident, all its processes",
    "growth": "MB by which that grew while loaded",
    "core_us": "microseconds of processor time a request, without wrk's",
    "others": "share of the machine that other programs took",
    "ratio": "d2lcls' rate over theirs, same round",
}


def main():
    """Measure what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rivals", metavar="PYTHON", default=os.environ.get("D2LCLS_RIVALS"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--overload-seconds", type=int, default=60)
    parser.add_argument("--minutes", type=float, help="only load d2lcls for so long and watch its memory")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        print("serving: skipped, as wrk is not installed.")
        return None
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        model, size = write_model(folder), write_picture(folder / "picture.png")
        (folder / "load.lua").write_text(LUA.replace("PICTURE", str(folder / "picture.png")))
        if options.minutes:
            return watch_memory(folder, model, options.minutes)
        compare(folder, contestants(model, options.rivals), options, size)


def write_model(folder):
    """Write a CIFAR-ResNet-20 in int8; its weights are drawn, as the time does not depend on them."""
    from d2lcls.models import get_model

    import mxnet as mx

    look = Preprocess(32, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")
    train = load("cifar10")
    mx.random.seed(0)
    net = get_model("cifar_resnet20_v1", classes=10)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net(mx.nd.zeros((1, 3, 32, 32)))
    export(net, folder / "float", "cifar_resnet20_v1", train.classes, look)
    quantize_model(folder / "float", folder / "model", look.normalise(train.images[:256]))
    return folder / "model"


def write_picture(path):
    """Write the CIFAR-10 image whose PNG is nearest to 2.7 kB and return its size."""
    encoded = []
    for image in load("cifar10").images[:500]:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        encoded.append(stream.getvalue())
    chosen = min(encoded, key=lambda content: abs(len(content) - 2700))
    path.write_bytes(chosen)
    return len(chosen)


def compare(folder, services, options, size):
    """Load all services in turns, overload d2lcls serve, and write the results."""
    measured = {name: [] for name in services}
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
    overload = measure_overload(services["d2lcls"], folder, options.overload_seconds)
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
                "wrk": f"wrk -t1 -c{CONNECTIONS}, for overload -c{CROWD}, on the same cores",
                "units": {
                    **UNITS,
                    "offered": "requests a second, all connections asking again at once",
                    "accepted, refused": "answers of status 200 and 503 a second",
                    "accepted_p99, refused_p99": "ms, of probes among the crowd",
                    "times_capacity": "offered, over d2lcls' rate above",
                },
            },
        )
    )


def measure(start, folder, seconds):
    """Start a service, load it, and return what was seen; again, if other programs kept the machine busy meanwhile."""
    with Service(start, folder) as service:
        wrk(service, folder, 3)
        for _ in range(10):
            (cpu, memory), busy = service.usage(), _busy()
            found = wrk(service, folder, seconds)
            after = service.usage()
            others = (_busy() - busy - after[0] + cpu) / seconds / usable_cores()
            if others < ALONE:
                break
            print(f"once more, as other programs took {others:.0%} of the machine", flush=True)
        requests = found.pop("requests")
        return {
            **found,
            "memory": after[1],
            "growth": after[1] - memory,
            "others": others,
            "core_us": 1e6 * (after[0] - cpu) / requests,
        }


def _busy():
    """Return the seconds that all processors were busy, but for what wrk and other ended children used."""
    times, children = psutil.cpu_times(), resource.getrusage(resource.RUSAGE_CHILDREN)
    return times.user + times.nice + times.system - children.ru_utime - children.ru_stime


def measure_overload(start, folder, seconds):
    """Let a crowd ask without pause, with four probes among it that tell accepted answers from refused ones."""
    with Service(start, folder) as service:
        wrk(service, folder, 3, CROWD)
        _, memory = service.usage()
        with ThreadPoolExecutor(4) as probes:
            sent = [probes.submit(probe, service, seconds) for _ in range(4)]
            found = wrk(service, folder, seconds, CROWD)
            _, after = service.usage()
        answers = [answer for one in sent for answer in one.result()]
    waits = {status: sorted(wait for answered, wait in answers if answered == status) for status in (200, 503)}
    other = len(answers) - len(waits[200]) - len(waits[503])
    p99 = {status: 1000 * one[int(0.99 * len(one))] for status, one in waits.items()}
    return {
        "offered": found["requests"] / seconds,
        "accepted": found["rate"],
        "refused": found["errors"] / seconds,
        "broken": found["broken"],
        "seconds": seconds,
        "accepted_probes": len(waits[200]),
        "refused_probes": len(waits[503]),
        "other_probes": other,
        "accepted_p99": p99[200],
        "refused_p99": p99[503],
        "memory": after,
        "growth": after - memory,
    }


def probe(service, seconds):
    """Ask now and then, and return (status, seconds) of each answer, which wrk does not tell apart."""
    found, until = [], time.monotonic() + seconds - 1
    while time.monotonic() < until:
        begun = time.monotonic()
        found.append((ask(service.port, service.path, service.picture), time.monotonic() - begun))
        time.sleep(0.02)
    return found


def watch_memory(folder, model, minutes):
    """Load ours for some minutes and write how much memory it had on the way."""
    with Service(contestants(model, None)["d2lcls"], folder) as service:
        wrk(service, folder, 10)
        seen = [service.usage()[1]]
        rates, errors = [], 0
        for _ in range(round(2 * minutes)):
            found = wrk(service, folder, 30)
            rates.append(found["rate"])
            errors += found["errors"] + found["broken"]
            seen.append(service.usage()[1])
            print(f"{rates[-1]:,.0f} requests/s, {seen[-1]:.1f} MB", flush=True)
    print(
        results.write(
            "serving_memory",
            f"python benchmarks/serving.py --minutes {minutes:g}",
            {
                "minutes": minutes,
                "first": seen[0],
                "last": seen[-1],
                "most": max(seen),
                "growth": seen[-1] - seen[0],
                "rate": {key: value for key, value in results.spread(rates).items() if key != "values"},
                "errors": errors,
                "units": {
                    "first, last, most, growth": "MB resident, all its processes; first is after ten seconds of load",
                    "rate": "answers of status 200 a second",
                    "errors": "other answers and failed connections",
                },
            },
        )
    )


def wrk(service, folder, seconds, connections=CONNECTIONS):
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
    total = re.search(r"(\d+) requests in", printed)[1]
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", printed)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", printed)
    errors = int(wrong[1]) if wrong else 0
    return {
        "rate": (int(total) - errors) / seconds,
        "p50": milliseconds(printed, "50"),
        "p99": milliseconds(printed, "99"),
        "errors": errors,
        "broken": sum(map(int, broken.groups())) if broken else 0,
        "requests": int(total),
    }


def milliseconds(printed, percentile):
    """Return a line of wrk's latency distribution in ms."""
    number, unit = re.search(rf"{percentile}%\s+([\d.]+)(us|ms|s)", printed).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


if __name__ == "__main__":
    main()
