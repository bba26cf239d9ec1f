"""Do the README's two commands succeed on another system, Python version or processor?

Clones the last commit into a new folder with a new home folder, runs `make book` and `make test` there and records
what passed and how long it took. With --root, all of this happens in the root folder of another system, as made by
debootstrap (Debian 13: debootstrap --variant=minbase --include=ca-certificates,git,make,python3 trixie FOLDER). With
--level the processor is masked to fewer instructions, at full speed, by tools/masked_cpu.py; such a cell is marked as
emulated. With --offline both commands run once more, without network and with an empty data cache, so that the sample
of the data is used. Each call adds one cell of the matrix to results/portability.json. About 12 minutes on two cores.
--root needs root.
"""

import argparse
import json
import os
import platform
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import d2lcls  # noqa: F401
from d2lcls.book import results

REPOSITORY = Path(__file__).resolve().parent.parent
MASKS = runpy.run_path(str(REPOSITORY / "tools" / "masked_cpu.py"))
# A network namespace that has only the loopback device.
REFUSED = ["unshare", "-n" if os.geteuid() == 0 else "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
KEPT = ("PATH", "LANG", "PIP_", "SSL_", "REQUESTS_", "CURL_", "HTTP", "NO_PROXY", "UV_", "GIT_SSL")
UNITS = {
    "seconds": "s, with everything to install",
    "compiler": "whether g++ is installed; the tests of compiled models are skipped without it",
    "cores_busy_elsewhere": "processor seconds per second that other programs took meanwhile",
}


def main():
    """Run one cell and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("/"), help="root folder of the system (default: this one)")
    parser.add_argument("--python", help="Python in that system (default: what `make` finds)")
    parser.add_argument(
        "--bind",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="folder of this system that is shown there too, such as one with more Pythons",
    )
    parser.add_argument("--level", choices=MASKS["LEVELS"], help="mask the processor")
    parser.add_argument("--offline", action="store_true", help="both commands again, without a network")
    parser.add_argument(
        "--container", type=Path, metavar="JSON", help="instead, add what tools/container.py --json wrote"
    )
    parser.add_argument("--log", type=Path, default=Path("runs/portability.log"), help="what the commands print")
    options = parser.parse_args()
    cells, containers = {}, {}
    if options.container:
        made = json.loads(options.container.read_text())
        containers[made.pop("arch")] = made
        passed = not any(step["outcome"].startswith("FAILS") for step in made["steps"])
    else:
        with tempfile.TemporaryDirectory(dir=options.root / "tmp", prefix="portability-") as work:
            cell = run(options, Path(work))
        cells[f"{cell['system']}, Python {cell['python']}, {cell['instructions']}"] = cell
        print(json.dumps(cell, indent=1))
        passed = all(step["passed"] for step in cell["steps"].values())
    path = results.FOLDER / "portability.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    cells, containers = {**found.get("cells", {}), **cells}, {**found.get("containers", {}), **containers}
    print(
        results.write(
            "portability",
            "python benchmarks/portability.py --root FOLDER --python PYTHON --level LEVEL",
            {"cells": dict(sorted(cells.items())), "containers": dict(sorted(containers.items())), "units": UNITS},
        )
    )
    return 0 if passed else 1


def run(options, work):
    """Clone, run both commands, and return the cell as a dict."""
    clone, home = work / "d2lcls", work / "home"
    home.mkdir()
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", REPOSITORY, clone], check=True)
    commit = subprocess.run(
        ["git", "-C", clone, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    seen = {name: value for name, value in os.environ.items() if name.startswith(KEPT)}
    seen.update(HOME=inside(home, options.root), PATH="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", LANG="C.UTF-8")
    make = ["make", *([f"PYTHON={options.python}"] if options.python else [])]
    if options.level:
        masks = MASKS["environment"](options.level, work)
        paths = {key: inside(Path(masks[key]), options.root) for key in masks if key != "MASKED_CPU_BITS"}
        make = ["env", *(f"{key}={value}" for key, value in {**masks, **paths}.items()), *make]
    commands = {target: [*make, target] for target in ("book", "test")}
    if options.offline:
        commands.update({f"{target}, offline": [*REFUSED, *words] for target, words in commands.items()})
    steps = {}
    options.log.parent.mkdir(parents=True, exist_ok=True)
    with open(options.log, "w") as log:
        for name, words in commands.items():
            cache = inside(home / ("empty" if words[0] == REFUSED[0] else "data"), options.root)
            begun, written, busy = time.perf_counter(), options.log.stat().st_size, busy_elsewhere()
            code = execute(words, clone, {**seen, "D2LCLS_HOME": cache}, options, log)
            seconds = time.perf_counter() - begun
            printed = options.log.read_bytes()[written:].decode(errors="replace")
            steps[name] = {
                "passed": code == 0,
                "seconds": round(seconds),
                "cores_busy_elsewhere": round((busy_elsewhere() - busy) / seconds, 2),
                "counts": re.findall(r"=+ ([^=\n]*\b(?:passed|failed|error)\b[^=\n]*) in [\d.]+s", printed),
            }
    tell = "import platform; print(platform.python_version()); print(platform.freedesktop_os_release()['PRETTY_NAME'])"
    python, system = subprocess.run(
        command([".venv/bin/python", "-c", tell], clone, options), env=seen, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return {
        "system": system,
        "python": python,
        "machine": platform.machine(),
        "instructions": options.level or results.instructions(),
        "emulated": bool(options.level),
        "compiler": (options.root / "usr/bin/g++").exists(),
        "commit": commit,
        "steps": steps,
    }


def busy_elsewhere():
    """Return the processor seconds that this machine has spent on anything but this process and its children."""
    user, nice, system, _, _, interrupts, soft, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def execute(words, clone, environment, options, log):
    """Run a command in the clone, print its output into the log and return its exit code."""
    log.flush()
    return subprocess.run(
        command(words, clone, options), env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
    ).returncode


def command(words, clone, options):
    """Return the command line that runs `words` in the clone, in the other root with mounts of its own."""
    there = f"cd {shlex.quote(inside(clone, options.root))} && exec {shlex.join(words)}"
    if options.root == Path("/"):
        return ["sh", "-c", there]
    root = shlex.quote(str(options.root))
    mounts = [f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev", f"mount --rbind /sys {root}/sys"]
    for folder in options.bind:
        target = shlex.quote(f"{options.root}{folder}")
        mounts.append(f"mkdir -p {target} && mount --bind {shlex.quote(str(folder))} {target}")
    return ["unshare", "--mount", "sh", "-c", " && ".join([*mounts, f"exec chroot {root} sh -c {shlex.quote(there)}"])]


def inside(path, root):
    """Return a path as the system in `root` knows it."""
    return str(Path("/", path.relative_to(root)))


if __name__ == "__main__":
    sys.exit(main())
