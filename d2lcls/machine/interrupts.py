"""Ctrl-C that waits for the end of a training step."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any


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
