"""A progress line, updated in place in a terminal or a notebook, and whether to show progress at all."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator
from contextlib import closing
from typing import Any, TypeVar

import psutil
from tqdm import tqdm

T = TypeVar("T")


def display_mode() -> str:
    """Return where to show progress: "terminal", "notebook" or "off".

    `D2LCLS_PROGRESS` (`off`, `terminal` or `notebook`) takes precedence over detection; tests run with `off`.

    Raises:
        ValueError: `D2LCLS_PROGRESS` has another value.
    """
    mode = os.environ.get("D2LCLS_PROGRESS", "")
    if mode not in ("", "off", "terminal", "notebook"):
        raise ValueError(f"D2LCLS_PROGRESS must be off, terminal or notebook, not {mode!r}.")
    if mode:
        return mode
    if "ipykernel" in sys.modules:
        return "notebook"
    return "terminal" if sys.stderr.isatty() else "off"


class Progress:
    """The progress line of one run; the `with` statement clears it at the end.

    Args:
        total: number of steps; None if it is unknown.
        done: number of steps before this run (of a resumed run).
        verbose: False shows nothing at all.
        every: seconds between two updates.
        unit: what a step is called.
    """

    def __init__(
        self, total: int | None, done: int = 0, verbose: bool = True, every: float = 0.5, unit: str = "step"
    ) -> None:
        self.total, self.first, self.every, self.verbose, self.unit = total, done, every, verbose, unit
        self.mode = display_mode() if verbose else "off"
        self.begun, self.shown = time.monotonic(), 0.0
        self.handle: Any = None
        self.width = 0

    def update(self, step: int, text: str) -> None:
        """Show the number of steps done, the time left, `text` and the memory in use."""
        now = time.monotonic()
        if self.mode == "off" or (now - self.shown < self.every and step != self.total):
            return
        self.shown = now
        memory = psutil.Process().memory_info().rss / 2**30
        line = tqdm.format_meter(
            step,
            self.total,
            now - self.begun,
            initial=self.first,
            unit=self.unit,
            ncols=110,
            postfix=", ".join(filter(None, (text, f"{memory:.1f} GiB"))),
        )
        self._show(line)

    def clear(self) -> None:
        """Remove the moving line from the terminal, so that a line can be printed that stays."""
        if self.mode == "terminal":
            self._show("")

    def _show(self, line: str) -> None:
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

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.mode == "terminal" or self.handle is not None:
            self._show("")


class Stopwatch:
    """Measures the total time in `seconds` that a loop waits for the items of a generator."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, items: Generator[T, Any, Any]) -> Generator[T, None, None]:
        """Yield the items of a generator, measure the time until each arrives, and close the generator at the end."""
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
