"""Ctrl-C that waits for the end of a training step, and SIGTERM that does what Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C in the block, so that a step is finished and temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(number: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(signal.SIGINT)  # which `nohup` and shell scripts set to be ignored
    (handler if callable(handler) else signal.default_int_handler)(number, frame)


class StopAfterStep:
    """In its `with` block, the first Ctrl-C only sets `wanted`; the loop calls `check` after each step. A second Ctrl-C
    interrupts at once. In threads other than the main thread it changes nothing.
    """

    def __enter__(self) -> StopAfterStep:
        self.wanted = False
        self._previous: Any = None
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, *_: object) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True

    def check(self, step: int, checkpoint: Path | None) -> None:
        """Raise KeyboardInterrupt, with the step and how to continue from its checkpoint, if Ctrl-C was pressed."""
        if self.wanted:
            saved = f", saved in {checkpoint}; continue with resume=True" if checkpoint else ""
            raise KeyboardInterrupt(f"stopped after step {step}{saved}")
