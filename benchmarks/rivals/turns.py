"""For the benchmarks of training speed: their sides take turns, each a process that sleeps in between."""

import json
import os
import sys
from pathlib import Path

from d2lcls.book import results
from d2lcls.deploy.timing import Sleeper, rotated
from d2lcls.machine.cores import has_bfloat16

HERE = Path(__file__).parent
# What importing d2lcls sets in a process and those that it starts.
THREADS = ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")
LIBRARIES = f"LD_LIBRARY_PATH={Path(sys.prefix, 'lib', 'system')}"  # libraries that tools/venv.sh had to add
UNITS = {
    "images_per_second": "images/s, over rounds",
    "ours_*_over": "our images/s over theirs, by round",
    "peak_mb": "MB, the most that a side's main process ever had resident",
    "imported_mb": "MB that it had before it made a network; PyTorch's build for CUDA brings many libraries",
}


def ours(*words):
    """Return the command of this project's side."""
    return [sys.executable, HERE / "ours.py", *words]


def precisions():
    """Return those that this processor has instructions for."""
    return ("float32", "bfloat16") if has_bfloat16() else ("float32",)


def gluon(*words, threads=False):
    """Return the command of a side of stock Gluon, which has never heard of d2lcls.

    Args:
        words: arguments of gluon_training.py.
        threads: let it have the number of threads and their patience that d2lcls sets, instead of MXNet's own.
    """
    unset = ("DNNL_MAX_CPU_ISA",) if threads else ("DNNL_MAX_CPU_ISA", *THREADS)
    return [*_without(unset), LIBRARIES, sys.executable, HERE / "gluon_training.py", *words]


def torch(python, *words):
    """Return the command of a side of PyTorch, run by another Python and with PyTorch's own settings."""
    return [*_without(("DNNL_MAX_CPU_ISA", *THREADS)), python, HERE / "torch_training.py", *words]


def on_cores(number, command):
    """Return the command that runs another on so many cores, with as many threads."""
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))[:number]))
    return ["env", f"OMP_NUM_THREADS={number}", "taskset", "--cpu-list", cores, *command]


def _without(names):
    return ["env", *(word for name in names for word in ("-u", name))]


def take_turns(commands, request, rounds, may_fail=()):
    """Train on every side once per round.

    Args:
        commands: dict from name to command, of which all must train equally many parameters.
        request: what each side is asked each time; see side.py.
        rounds: turns of each.
        may_fail: names of sides that are left out if they do not start.

    Returns:
        (turns, missing): dict from name to the list of its answers, by round; and for sides that did not start, dict
        from name to the error that they printed.
    """
    sleepers, missing = {}, {}
    try:
        for name, command in commands.items():
            try:
                sleepers[name] = Sleeper(command, engine=None)
            except RuntimeError as error:
                if name not in may_fail:
                    raise
                said = str(error).strip().splitlines()
                missing[name] = next((line for line in reversed(said) if "Error" in line), said[-1])
        trained = {name: int(sleeper.ready) for name, sleeper in sleepers.items()}
        if len(set(trained.values())) != 1:
            raise RuntimeError(f"Sides that should train the same network train {trained} parameters.")
        turns = {name: [] for name in sleepers}
        for number in range(rounds):
            for name in rotated(sleepers, number):
                turns[name].append(json.loads(sleepers[name].ask(request)))
            print("  ".join(f"{name} {speed(seen[-1]):,.0f}" for name, seen in turns.items()), flush=True)
    finally:
        for sleeper in sleepers.values():
            sleeper.close()
    return turns, missing


def passes(sleepers, rounds):
    """Let every side make a pass a round, after one that warms up, and end them all.

    Args:
        sleepers: dict from name to a `Sleeper` that answers as `answer_passes` in side.py.
        rounds: passes of each that count.

    Returns:
        dict from name to its images/s, by round.
    """
    found = {name: [] for name in sleepers}
    try:
        for number in range(rounds + 1):
            for name in rotated(sleepers, number):
                found[name].append(float(sleepers[name].ask("a pass")))
            print("  ".join(f"{name} {values[-1]:,.0f}" for name, values in found.items()), flush=True)
    finally:
        for sleeper in sleepers.values():
            sleeper.close()
    return {name: values[1:] for name, values in found.items()}


def speed(turn):
    """Return the images per second of one turn."""
    return turn["images"] / turn["seconds"]


def summary(turns, own):
    """Sum up what the sides came to.

    Args:
        turns: as `take_turns` returns them.
        own: names of this project's sides.

    Returns:
        dict with `images_per_second`, `peak_mb` and `imported_mb` of each side, and under NAME_over, for each of `own`,
        the ratios of its speed to every other's, by round.
    """
    speeds = {name: [speed(turn) for turn in seen] for name, seen in turns.items()}
    over = {
        f"{name}_over": {
            other: brief([a / b for a, b in zip(speeds[name], found)])
            for other, found in speeds.items()
            if other != name
        }
        for name in own
    }
    return {
        "images_per_second": {name: brief(found) for name, found in speeds.items()},
        **over,
        **{f"{what}_mb": {name: seen[-1][what] for name, seen in turns.items()} for what in ("peak", "imported")},
    }


def brief(values):
    """Return median, least and most of repeated measurements."""
    found = results.spread(values)
    return {key: found[key] for key in ("median", "min", "max")}
