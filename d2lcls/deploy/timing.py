"""Timing forms of a model fairly: each in a process of its own, which sleeps but for its turns.

The threads of MXNet, ONNX Runtime and TVM look for work for a while before they sleep; in one process they take the
cores from whoever is measured, and a form was seen to take twenty times as long. Run as a module, this is such a process:
python -m d2lcls.deploy.timing FOLDER X.npy, for a model folder and inputs float32 (N, 3, H, W).
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SETTLE, RUN = 0.05, 0.1  # seconds of a turn before anything is timed, and of timing
SERVING = "NaiveEngine"  # how `d2lcls serve` computes: no threads of MXNet's between a call and its computation


class Sleeper:
    """A process that computes when it is asked to, and sleeps in between.

    Args:
        command: list; the process says a line when it is ready, which is kept in `ready`, and answers each line on
            standard input with a line.
        engine: MXNet's engine; `SERVING`, or None for its usual one, which training needs.

    Raises:
        RuntimeError: it ended; says what it printed.
    """

    def __init__(self, command, engine=SERVING):
        self._errors = tempfile.TemporaryFile()
        environment = {**os.environ, "MXNET_ENGINE_TYPE": engine} if engine else os.environ
        self._process = subprocess.Popen(
            [str(word) for word in command],
            text=True,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self.ready = self._answer()

    def ask(self, question):
        """Return the line with which it answers a number."""
        print(question, file=self._process.stdin, flush=True)
        return self._answer()

    def milliseconds(self, pictures):
        """Return how long it takes for so many pictures, if that is what it answers, as `answer` does."""
        return float(self.ask(pictures))

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            printed = self._errors.read().decode()[-1000:]
            self.close()
            raise RuntimeError(f"A process that was to be timed ended: {printed}")
        threads = Path(f"/proc/{self._process.pid}/task")
        while any(_state(path) != "S" for path in threads.glob("*/stat")):
            time.sleep(0.002)
        return line

    def close(self):
        """End it."""
        self._process.communicate()  # closes its input, at which it ends
        self._errors.close()


def in_turn(commands, batch_sizes=(1, 64), rounds=10, starts=2):
    """Time several forms: one turn of each, round after round, so that a busy machine slows all of them.

    Args:
        commands: dict from name to the command of its `Sleeper`; see `command_of`.
        batch_sizes: numbers of pictures.
        rounds: turns of each, all together.
        starts: how often the processes are started anew, if there are as many rounds: where Linux puts their threads is
            luck that stays with them.

    Returns:
        dict from batch size to a dict from name to the list of its milliseconds, by round.
    """
    starts = min(starts, rounds)
    found = {size: {name: [] for name in commands} for size in batch_sizes}
    for start in range(starts):
        sleepers = {name: Sleeper(command) for name, command in commands.items()}
        try:
            for turn in range(start * rounds // starts, (start + 1) * rounds // starts):
                for size in batch_sizes:
                    for name in rotated(sleepers, turn):
                        found[size][name].append(sleepers[name].milliseconds(size))
        finally:
            for sleeper in sleepers.values():
                sleeper.close()
    return found


def rotated(names, turn):
    """Return names as a list that begins with another one each turn: nobody is always the first."""
    first = turn % len(names)
    return [*names][first:] + [*names][:first]


def command_of(folder, inputs):
    """Return the command of a `Sleeper` for a model folder and the .npy file of its inputs."""
    return [sys.executable, "-m", "d2lcls.deploy.timing", folder, inputs]


def answer(run, x, ready="ready"):
    """Say that all is ready; then, for each number of pictures that is asked for, how long `run` takes, a median."""
    print(ready, flush=True)
    for line in sys.stdin:
        batch = np.resize(x, (int(line), *x.shape[1:]))
        _seconds_of(run, batch, SETTLE, 1)
        print(1000 * float(np.median(_seconds_of(run, batch, RUN, 3))), flush=True)


def _seconds_of(run, x, total, at_least):
    begun, times = time.perf_counter(), []
    while len(times) < at_least or time.perf_counter() - begun < total:
        started = time.perf_counter()
        run(x)
        times.append(time.perf_counter() - started)
    return times


def _state(path):
    try:
        return path.read_text().rpartition(")")[2].split()[0]
    except OSError:  # the thread has ended since it was listed
        return "S"


if __name__ == "__main__":
    from d2lcls.deploy.predictor import load_model

    answer(load_model(sys.argv[1]).compute, np.load(sys.argv[2]))
