"""One side of a speed comparison: a process that trains, or reads, for one turn per request.

It needs nothing but Python and Linux, so that MXNet's and PyTorch's environments can both run it.
"""

import json
import sys
import time
from pathlib import Path

LR = 0.01  # of every side: small enough that a network survives many turns on few images
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # of every side, as GluonCV's script has them


def answer(make):
    """Warm up, say how many numbers are trained, and answer each request with what a turn came to.

    Args:
        make: function that returns (turn, first, parameters): a function of the number on standard input that returns a
            dict; the number of a turn that warms up; a function that returns the number of trained parameters.
    """
    imported = memory("VmRSS")
    turn, first, parameters = make()
    for _ in range(2):  # some things are set up at the second only
        turn(first)
    print(parameters(), flush=True)
    for line in sys.stdin:
        print(json.dumps({**turn(float(line)), "imported": imported, "peak": memory("VmHWM")}), flush=True)


def fixed_batch(step, images):
    """Return a turn of steps on one batch, as many as fill so many seconds.

    Args:
        step: function that computes a step and returns when that is done.
        images: size of the batch.
    """

    def turn(seconds):
        begun, steps = time.perf_counter(), 0
        while not steps or time.perf_counter() - begun < seconds:
            step()
            steps += 1
        return {"images": steps * images, "seconds": time.perf_counter() - begun}

    return turn


def stretch(train):
    """Return a turn that trains on the first so many images of a set.

    Args:
        train: function of a number of images that reads and trains on them once, and returns a dict of what it saw.
    """

    def turn(images):
        begun = time.perf_counter()
        seen = train(int(images))
        return {"images": int(images), "seconds": time.perf_counter() - begun, **(seen or {})}

    return turn


def answer_passes(run, ready="ready"):
    """Say that all is ready; then answer each line on standard input with the images/s of a pass.

    Args:
        run: function that reads a set once and yields its batches, each when it can be used.
        ready: the line that is said first.
    """
    print(ready, flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        images = sum(len(x) for x in run())
        print(images / (time.perf_counter() - begun), flush=True)


def memory(what):
    """Return the memory of this process in MB: "VmRSS" is what it has resident, "VmHWM" the most that it ever had."""
    return int(Path("/proc/self/status").read_text().partition(f"{what}:")[2].split()[0]) * 1024 / 1e6
