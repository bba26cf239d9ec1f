"""Which tile is the quickest on this machine? Found by trying: each loop is compiled for several tiles and timed.

TVM's own tuner, MetaSchedule, searches the form of a schedule too, which takes hours for a network, and in TVM 0.27
it ends with a segmentation fault on these. Here the form is given by rule, and only its numbers are searched: a minute
or two. AutoTVM had that idea (Chen et al., Learning to Optimize Tensor Programs, 2018).
"""

import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from d2lcls.deploy.edge.graph import import_tvm, read_onnx_model, read_relax
from d2lcls.deploy.edge.schedule import DEPTH, schedule, schedule_function
from d2lcls.deploy.edge.target import host_target, host_tile
from d2lcls.machine.child import in_child

import numpy as np

TILES, DEPTHS = (1, 2, 4, 7, 8, 14, 16), (8, 16, 32, 64)


@dataclass(frozen=True)
class Records:
    """The quickest tiles found.

    Args:
        choices: dict from the text of a loop to its (tile, depth).
        seconds: dict from the same to (by rule, tuned), the seconds of one run.
        trials: number of schedules timed.
    """

    choices: dict = field(default_factory=dict)
    seconds: dict = field(default_factory=dict)
    trials: int = 0

    def apply(self, module):
        """Schedule a `tvm.IRModule` with the tiles found; a loop that was not tuned is scheduled by rule."""
        from tvm.tirx import PrimFunc

        by_rule = (host_tile(), DEPTH)
        return type(module)(
            {
                name: schedule_function(function, *self.choices.get(function.script(), by_rule))
                if isinstance(function, PrimFunc)
                else function
                for name, function in module.functions.items()
            },
            attrs=module.attrs,
        )


def gain(folder, records, batch=1, rounds=50):
    """Run the tuned model and the one scheduled by rule in turn, so that a busy machine slows both.

    They run in a process of their own, which they cannot take this one down with.

    Args:
        folder: model folder of form "onnx".
        records: `Records` for it.
        batch: the number of pictures it was tuned for.
        rounds: number of times each is run.

    Returns:
        list of `rounds` ratios: how many times as quick the tuned model was; its median tells.
    """
    return in_child(_gain, folder, records, batch, rounds, what="Running the tuned model")


def _gain(folder, records, batch, rounds):
    from d2lcls.deploy.edge.host import build

    tvm, manifest = import_tvm(), read_onnx_model(folder)
    module, models, ratios = read_relax(folder, manifest, batch), [], []
    x = tvm.runtime.tensor(np.random.default_rng(0).normal(size=manifest.input_shape(batch)).astype(np.float32))
    with tempfile.TemporaryDirectory() as work:
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


def tune(folder, seconds, batch=1, seed=0):
    """Time tiles for each loop of a model, in turn, until the time is over.

    A tile that is quicker on the first try is timed again in turn with the best one so far, and must win by 2 %, and in
    the end once more against the rule's: what a busy machine makes look quick is not taken. All run on one thread,
    which is disturbed least, in a process of their own.

    Args:
        folder: model folder of form "onnx".
        seconds: time to spend; the loops with the most work come first in each round.
        batch: number of pictures that the model will take.
        seed: of the order of the trials.

    Returns:
        `Records`, for `compile_host`.

    Raises:
        FileNotFoundError, ModelError, ImportError: as `read_relax`.
        ValueError: `seconds` is not above 0.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, not {seconds}.")
    read_onnx_model(folder)  # refuses another form at once
    # 600 seconds more to read the model, and for the last round
    return in_child(_tune, folder, seconds, batch, seed, what="Tuning", timeout=seconds + 600)


def _tune(folder, seconds, batch, seed):
    import_tvm()
    from tvm.tirx import PrimFunc

    until = time.monotonic() + seconds
    module = read_relax(folder, read_onnx_model(folder), batch)
    loops = {function.script(): function for function in module.functions.values() if isinstance(function, PrimFunc)}
    records, best, queue, shuffle = Records(), {}, {}, random.Random(seed)
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
            timed = by_rule[text]
        records.choices[text] = timed.pair
        records.seconds[text] = (by_rule[text].time(), timed.time())
    return Records(records.choices, records.seconds, trials)


class _Timed:
    """One loop in one schedule, compiled, with arrays to run on."""

    def __init__(self, function, tile, depth):
        tvm = import_tvm()
        scheduled = schedule_function(function, tile, depth, parallel=False)
        self.pair, self.text = (tile, depth), scheduled.script()
        built = tvm.compile(tvm.IRModule({"main": scheduled.with_attr("global_symbol", "main")}), target=host_target())
        rng = np.random.default_rng(0)
        shapes = [[int(size) for size in parameter.shape] for parameter in function.params]
        self._arrays = [tvm.runtime.tensor(rng.uniform(0.1, 1, size=shape).astype(np.float32)) for shape in shapes]
        self._run = built.jit().time_evaluator("main", tvm.cpu(), number=1, repeat=3, min_repeat_ms=3)
        self.seconds = self.time()

    def time(self):
        """Return the seconds of one run: the least of three measurements."""
        return min(self._run(*self._arrays).results)


def _ratio(candidate, best):
    """Return how long the candidate takes as a share of the best, the median of five measurements in turn."""
    return float(np.median([candidate.time() / best.time() for _ in range(5)]))
