"""One moving line that says how far a run is: in a terminal, in a notebook, and nowhere else."""

import os
import sys
import time
from contextlib import closing

import psutil
from tqdm import tqdm


def display_mode():
    """Return where progress can be shown: "terminal", "notebook" or "off".

    `D2LCLS_PROGRESS=off` (or `terminal`, `notebook`) overrules what is found; tests run with it off.
    """
    wanted = os.environ.get("D2LCLS_PROGRESS", "")
    if wanted:
        if wanted not in ("off", "terminal", "notebook"):
            raise ValueError(f"D2LCLS_PROGRESS must be off, terminal or notebook, not {wanted!r}.")
        return wanted
    if "ipykernel" in sys.modules:
        return "notebook"
    return "terminal" if sys.stderr.isatty() else "off"


class Progress:
    """The moving line of one run; use it in a `with` statement so that it is cleared at the end.

    Args:
        total: number of steps.
        done: steps made before (a resumed run).
        verbose: False shows nothing at all.
        every: seconds between two updates.
    """

    def __init__(self, total, done=0, verbose=True, every=0.5):
        self.total, self.first, self.every, self.verbose = total, done, every, verbose
        self.mode = display_mode() if verbose else "off"
        self.begun, self.shown = time.monotonic(), 0.0
        self.handle, self.width = None, 0

    def update(self, step, text):
        """Show that `step` steps are made, with the time left, `text` and the memory in use."""
        now = time.monotonic()
        if self.mode == "off" or (now - self.shown < self.every and step < self.total):
            return
        self.shown = now
        memory = psutil.Process().memory_info().rss / 2**30
        line = tqdm.format_meter(
            step,
            self.total,
            now - self.begun,
            initial=self.first,
            unit="step",
            ncols=110,
            postfix=f"{text}, {memory:.1f} GiB",
        )
        self._show(line)

    def clear(self) -> None:
        """Remove the moving line from the terminal, so that a line can be printed that stays."""
        if self.mode == "terminal":
            self._show("")

    def _show(self, line):
        if self.mode == "terminal":
            sys.stderr.write("\r" + line.ljust(self.width) + ("\r" if not line else ""))
            sys.stderr.flush()
            self.width = len(line)
        else:
            from IPython.display import Pretty, display

            content = Pretty(line)
            if self.handle is None:
                self.handle = display(content, display_id=True)
            else:
                self.handle.update(content)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.mode == "terminal" or self.handle is not None:
            self._show("")


class Stopwatch:
    """Adds up the `seconds` that an iterator takes to hand out its items."""

    def __init__(self):
        self.seconds = 0.0

    def over(self, items):
        """Yield the items, the watch running while the next one is awaited; close the iterator at the end."""
        with closing(items):
            while True:
                begun = time.perf_counter()
                try:
                    item = next(items)
                except StopIteration:
                    return
                finally:
                    self.seconds += time.perf_counter() - begun
                yield item
