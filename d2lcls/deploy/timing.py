"""Timing forms of a model fairly: each in a process of its own, which sleeps except in its turns.

The threads of MXNet, ONNX Runtime and TVM look for work for a while before they sleep. In one process they would take
the cores from the form that is timed: in one case it took twenty times as long. This module runs as such a process:
python -m d2lcls.deploy.timing FOLDER X.npy, for a model folder and inputs float32 (N, 3, H, W).
"""

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from d2lcls.machine.temporary import temporary_folder

import numpy as np

SETTLE, RUN = 0.05, 0.1  # seconds of a turn before anything is timed, and of timing
SERVING = "NaiveEngine"  # how `d2lcls serve` computes: no threads of MXNet's between a call and its computation

Name = TypeVar("Name")


class Sleeper:
    """A process that computes when it is asked to, and sleeps in between.

    Args:
        command: program and arguments; it prints a line when it is ready, which is kept in `ready`, and answers each
            line on standard input with a line.
        engine: MXNet's engine; `SERVING`, or None for its usual one, which training needs.
        threads: value of OMP_NUM_THREADS; None is that of this process.

    Raises:
        RuntimeError: the process ended; the message has what it printed.
    """

    def __init__(self, command: Sequence[object], engine: str | None = SERVING, threads: int | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in `close`
        settings = {"MXNET_ENGINE_TYPE": engine, "OMP_NUM_THREADS": threads}
        self._process = subprocess.Popen(
            [str(word) for word in command],
            text=True,
            env={**os.environ, **{name: str(value) for name, value in settings.items() if value}},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self.ready = self._answer()

    def ask(self, question: object) -> str:
        """Return the line with which the process answers a line, such as a number of pictures."""
        print(question, file=self._process.stdin, flush=True)
        return self._answer()

    def milliseconds(self, pictures: int) -> float:
        """Return how long so many pictures take, for a process that answers with `answer`."""
        return float(self.ask(pictures))

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            printed = self._errors.read().decode()[-1000:]
            self.close()
            raise RuntimeError(printed or f"The process ended with exit code {self._process.returncode}.")
        threads = Path(f"/proc/{self._process.pid}/task")
        while any(_state(path) != "S" for path in threads.glob("*/stat")):
            time.sleep(0.002)
        return line

    def close(self) -> None:
        """Close the input of the process, at which it ends, and wait for that."""
        self._process.communicate()
        self._errors.close()


def in_turn(
    commands: Mapping[Name, Sequence[object]], batch_sizes: Sequence[int] = (1, 64), rounds: int = 10, starts: int = 2
) -> dict[int, dict[Name, list[float]]]:
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
    times: dict[int, dict[Name, list[float]]] = {size: {name: [] for name in commands} for size in batch_sizes}
    for start in range(starts):
        sleepers = {name: Sleeper(command) for name, command in commands.items()}
        try:
            for turn in range(start * rounds // starts, (start + 1) * rounds // starts):
                for size in batch_sizes:
                    for name, milliseconds in take_turns(sleepers, size, turn).items():
                        times[size][name].append(milliseconds)
        finally:
            for sleeper in sleepers.values():
                sleeper.close()
    return times


def take_turns(sleepers: Mapping[Name, Sleeper], pictures: int, turn: int = 0) -> dict[Name, float]:
    """Return the milliseconds that each process takes for so many pictures; the order depends on the turn's number."""
    return {name: sleepers[name].milliseconds(pictures) for name in rotated(sleepers, turn)}


def rotated(names: Iterable[Name], turn: int) -> list[Name]:
    """Return names as a list that begins with another one in each turn, so that none is always the first."""
    names = list(names)
    first = turn % len(names) if names else 0
    return names[first:] + names[:first]


@contextmanager
def inputs_file(x: np.ndarray) -> Iterator[Path]:
    """Yield the path of a .npy file with inputs for `command_of`, which is deleted afterwards.

    Raises:
        DiskFull: there is no room for it.
    """
    content = io.BytesIO()  # for a full disk, np.save would raise an error without a number
    np.save(content, x)
    with temporary_folder() as work:
        (work / "x.npy").write_bytes(content.getbuffer())
        yield work / "x.npy"


def command_of(folder: str | Path, inputs: str | Path, trust: bool = False) -> list[str | Path]:
    """Return the command of a `Sleeper` for a model folder and the .npy file of its inputs."""
    return [sys.executable, "-m", "d2lcls.deploy.timing", folder, inputs, *["--trust"] * trust]


def answer(run: Callable[[np.ndarray], Any], x: np.ndarray, ready: str = "ready") -> None:
    """Print `ready`; then, for each number of pictures on standard input, the median milliseconds of `run`."""
    print(ready, flush=True)
    for line in sys.stdin:
        batch = np.resize(x, (int(line), *x.shape[1:]))
        _seconds_of(run, batch, SETTLE, 1)
        print(1000 * float(np.median(_seconds_of(run, batch, RUN, 3))), flush=True)


def _seconds_of(run: Callable[[np.ndarray], Any], x: np.ndarray, total: float, at_least: int) -> list[float]:
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < at_least or time.perf_counter() - begun < total:
        started = time.perf_counter()
        run(x)
        times.append(time.perf_counter() - started)
    return times


def _state(path: Path) -> str:
    try:
        return path.read_text().rpartition(")")[2].split()[0]
    except OSError:  # the thread has ended since it was listed
        return "S"


def main(folder: str, inputs: str, trust: str = "") -> None:
    """Be the process of `command_of`; where the model cannot be loaded, exit with the reason."""
    from d2lcls.deploy.predictor import open_model

    try:
        model = open_model(folder, trust == "--trust")
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.exit(str(error))
    answer(model.compute, np.load(inputs))


if __name__ == "__main__":
    main(*sys.argv[1:])
