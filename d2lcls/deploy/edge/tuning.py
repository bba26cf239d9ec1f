"""Which tile is the fastest on this machine? Each loop is compiled for several tiles and timed.

TVM's own tuner, MetaSchedule, searches the form of a schedule too, which takes hours for a network, and in TVM 0.27
it ends with a segmentation fault on these networks. Here a rule gives the form, and only its numbers are searched,
which takes a minute or two, as in AutoTVM (Chen et al., Learning to Optimize Tensor Programs, 2018).
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

from d2lcls.deploy.edge.graph import import_tvm, read_relax
from d2lcls.deploy.edge.host import build
from d2lcls.deploy.edge.schedule import DEPTH, schedule, schedule_function
from d2lcls.deploy.edge.target import Records, host_target, host_tile
from d2lcls.deploy.manifest import read_manifest
from d2lcls.machine.child import in_child
from d2lcls.machine.temporary import temporary_folder

import numpy as np

if TYPE_CHECKING:
    import tvm

TILES, DEPTHS = (1, 2, 4, 7, 8, 14, 16), (8, 16, 32, 64)


def gain(folder: str | Path, records: Records, batch: int = 1, rounds: int = 50) -> list[float]:
    """Run the tuned model and the one scheduled by rule in turn, so that a busy machine slows both.

    They run in a separate process, so that a crash does not end this one.

    Args:
        folder: model folder of form "onnx".
        records: of `tune` for it.
        batch: the number of pictures it was tuned for.
        rounds: number of times each is run.

    Returns:
        For each round, how many times as fast the tuned model was; take their median.
    """
    return in_child(_gain, folder, records, batch, rounds, what="Running the tuned model")


def _gain(folder: str | Path, records: Records, batch: int, rounds: int) -> list[float]:

    tvm, manifest = import_tvm(), read_manifest(folder, forms=("onnx",))
    module = read_relax(folder, manifest, batch)
    models, ratios = [], []
    x = tvm.runtime.tensor(np.random.default_rng(0).normal(size=manifest.input_shape(batch)).astype(np.float32))
    with temporary_folder() as work:
        for number, scheduled in enumerate((schedule(module, host_tile()), records.apply(module))):
            path = Path(work, f"{number}.so")
            build(scheduled, path)
            models.append(tvm.relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())["main"])
        for turn in range(rounds + 1):
            seconds = [0.0, 0.0]
            for number in ((0, 1), (1, 0))[turn % 2]:  # neither always follows the other
                begun = time.perf_counter()
                models[number](x)
                seconds[number] = time.perf_counter() - begun
            if turn:  # the first warms up
                ratios.append(seconds[0] / seconds[1])
    return ratios


def tune(folder: str | Path, seconds: float, batch: int = 1, seed: int = 0) -> Records:
    """Time tiles for each loop of a model, in turn, until the time is over.

    A tile that is faster on the first try is timed again in turn with the best one so far, and must be 2 % faster; at
    the end, the best one is compared in the same way with the rule's. So a tile does not win because the machine was
    busy. All run on one thread, which is disturbed least, in a separate process.

    Args:
        folder: model folder of form "onnx".
        seconds: time to spend; the slowest loops come first in each round.
        batch: number of pictures that the model will take.
        seed: of the order of the trials.

    Returns:
        The fastest tiles, for `compile_host`.

    Raises:
        FileNotFoundError, ModelError, ImportError: as `read_relax`.
        ValueError: `seconds` is not above 0.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, not {seconds}.")
    read_manifest(folder, forms=("onnx",))  # refuses another form at once
    # 600 seconds more to read the model, and for the last round
    return in_child(_tune, folder, seconds, batch, seed, what="Tuning", timeout=seconds + 600)


def _tune(folder: str | Path, seconds: float, batch: int, seed: int) -> Records:
    import_tvm()
    from tvm.tirx import PrimFunc

    until = time.monotonic() + seconds
    module = read_relax(folder, read_manifest(folder, forms=("onnx",)), batch)
    loops = {function.script(): function for function in module.functions.values() if isinstance(function, PrimFunc)}
    best: dict[str, _Timed] = {}
    queue: dict[str, list[tuple[int, int]]] = {}
    shuffle = random.Random(seed)
    for text, function in loops.items():
        best[text] = _Timed(function, host_tile(), DEPTH)
        others = {
            schedule_function(function, tile, depth, parallel=False).script(): (tile, depth)
            for tile in TILES
            for depth in DEPTHS
        }
        others.pop(best[text].text, None)
        queue[text] = list(others.values())  # each different schedule once
        shuffle.shuffle(queue[text])
    by_rule, trials = dict(best), len(best)
    order = sorted(loops, key=lambda text: -best[text].seconds)
    while any(queue.values()) and time.monotonic() < until:
        for text in [text for text in order if queue[text]]:
            if time.monotonic() >= until:
                break
            candidate = _Timed(loops[text], *queue[text].pop())
            trials += 1
            if candidate.seconds < best[text].seconds and _ratio(candidate, best[text]) < 0.98:
                best[text] = candidate
    for text, timed in best.items():
        if timed is not by_rule[text] and _ratio(timed, by_rule[text]) >= 0.98:
            best[text] = by_rule[text]
    seconds_of = {text: (by_rule[text].time(), timed.time()) for text, timed in best.items()}
    return Records({text: timed.pair for text, timed in best.items()}, seconds_of, trials)


class _Timed:
    """One loop in one schedule, compiled, with arrays to run on."""

    def __init__(self, function: tvm.tirx.PrimFunc, tile: int, depth: int) -> None:
        tvm = import_tvm()
        scheduled = schedule_function(function, tile, depth, parallel=False)
        self.pair, self.text = (tile, depth), scheduled.script()
        built = tvm.compile(tvm.IRModule({"main": scheduled.with_attr("global_symbol", "main")}), target=host_target())
        rng = np.random.default_rng(0)
        shapes = [[int(size) for size in parameter.shape] for parameter in function.params]
        self._arrays = [tvm.runtime.tensor(rng.uniform(0.1, 1, size=shape).astype(np.float32)) for shape in shapes]
        self._run = built.jit().time_evaluator("main", tvm.cpu(), number=1, repeat=3, min_repeat_ms=3)
        self.seconds = self.time()

    def time(self) -> float:
        """Return the seconds of one run, the minimum of three measurements."""
        return min(self._run(*self._arrays).results)


def _ratio(candidate: _Timed, best: _Timed) -> float:
    """Return the candidate's time as a share of the best one's, the median of five measurements in turn."""
    return float(np.median([candidate.time() / best.time() for _ in range(5)]))
