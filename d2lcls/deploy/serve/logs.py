"""One line of JSON an event, on standard error; never what a client sent beyond its method and path."""

import json
import os
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_EXPECTED = "MXNet start using engine: NaiveEngine"  # said by each process that computes, which was told to


def make_log(level="info", stream=None):
    """Return a function of (level, event) and named details that writes a line if the level is high enough."""
    least = LEVELS[level]

    def log(level, event, **details):
        if LEVELS[level] < least:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "level": level, "event": event, **details}, default=repr)
        try:
            print(line, file=stream or sys.stderr, flush=True)
        except (OSError, ValueError):  # nobody reads any more: no reason to stop
            pass

    return log


@contextmanager
def only_events(level="info"):
    """Keep standard error to events: what libraries and the processes that compute print there becomes events, too.

    libpng and MXNet write lines of their own in the midst. They are told as "printed", 20 of them in a second.

    Args:
        level: least level, as for `make_log`.

    Yields:
        function of (level, event) and named details.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # whoever prints faster than this is read loses lines, and never waits
    with os.fdopen(os.dup(2), "w", encoding="utf-8") as stream:
        log = make_log(level, stream)
        os.dup2(writing, 2)
        os.close(writing)
        reader = threading.Thread(target=_tell_printed, args=(reading, log), daemon=True)
        reader.start()
        try:
            yield log
        finally:
            os.dup2(stream.fileno(), 2)  # closes the pipe here; what was printed is still told
            reader.join(1)


def _tell_printed(reading, log):
    second, told = 0, 0
    with open(reading, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            now = int(time.monotonic())
            second, told = now, told if now == second else 0
            if line.strip() and told < 20 and _EXPECTED not in line:
                told += 1
                log("info", "printed", text=line.rstrip()[:1000])


class Often:
    """Events that may come thousands of times a second: the first of each second is told, the others are counted."""

    def __init__(self, log):
        self.log, self.counts = log, {}

    def __call__(self, level, event, **details):
        key = level, event, details.get("status"), details.get("path")
        if len(self.counts) >= 100:
            key = level, event, details.get("status"), "others"
        count = self.counts.get(key, 0)
        self.counts[key] = count + 1
        if not count:
            self.log(level, event, **details)

    def flush(self):
        """Tell how many more there were; to be called once a second."""
        counts, self.counts = self.counts, {}
        for (level, event, status, path), count in counts.items():
            if count > 1:
                self.log(level, f"{event}, again", status=status, path=path, times=count - 1)
