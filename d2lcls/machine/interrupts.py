"""Ctrl-C that never cuts a step in half."""

import signal
import threading


class StopAfterStep:
    """While in use, the first Ctrl-C sets `wanted`, and the loop stops when its step is done; a second
    one interrupts at once. In threads other than the main one it changes nothing."""

    def __enter__(self):
        self.wanted = False
        self._previous = None
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_):
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _note(self, *_):
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True

    def check(self, step, checkpoint):
        """Raise KeyboardInterrupt, saying where the run stands, if Ctrl-C was pressed."""
        if self.wanted:
            saved = f"; {checkpoint} holds it, resume=True goes on from there" if checkpoint else ""
            raise KeyboardInterrupt(f"stopped after step {step}{saved}")
