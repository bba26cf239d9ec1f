"""One line of JSON an event, on standard error; never what a client sent beyond its method and path."""

import json
import sys
import time

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def make_log(level="info", stream=None):
    """Return a function of (level, event, **details) that writes a line if the level is high enough."""
    least = LEVELS[level]

    def log(level, event, **details):
        if LEVELS[level] < least:
            return
        line = json.dumps({"time": f"{time.time():.3f}", "level": level, "event": event, **details}, default=repr)
        try:
            print(line, file=stream or sys.stderr, flush=True)
        except (OSError, ValueError):  # nobody reads any more: no reason to stop
            pass

    return log


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
