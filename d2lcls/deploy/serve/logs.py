"""The log: one JSON object per line on standard error; of what a client sent, only the method and the path.

A message is the name of an event and its one argument a dict of details: `log.info("reloaded", {"model": name})`.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TextIO

LEVELS = ("debug", "info", "warning", "error")
LINES_KEPT = 1000  # while nobody reads the log
LINES_PER_SECOND = 20  # of what libraries print
_EXPECTED = "MXNet start using engine: NaiveEngine"  # printed by every worker, which is configured to use it

log = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line: time, level, event, and the details that the event has."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.msg,
        }
        return json.dumps({**line, **record.args} if isinstance(record.args, dict) else line, default=repr)


class _Handler(logging.Handler):
    """Writes lines in a thread of its own: nobody waits for a log that is not read, or whose disk is full.

    Lines that cannot be written, and those that come while `LINES_KEPT` wait, are lost.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.lines: queue.Queue[str | None] = queue.Queue(LINES_KEPT)
        self.writer = threading.Thread(target=self._write, daemon=True)
        self.writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand over a record's line."""
        with suppress(queue.Full):
            self.lines.put_nowait(self.format(record))

    def close(self) -> None:
        """Write the lines that wait, for a second at most, and close the file descriptor."""
        super().close()
        with suppress(queue.Full):
            self.lines.put_nowait(None)
        self.writer.join(1)

    def _write(self) -> None:
        begin = ""
        while (line := self.lines.get()) is not None:
            content = f"{begin}{line}\n".encode()
            try:
                while content:
                    content = content[os.write(self.descriptor, content) :]
                begin = ""
            except OSError:
                begin = "\n"  # part of the line may have been written
        os.close(self.descriptor)


@contextmanager
def json_log(level: str = "info") -> Iterator[None]:
    """Keep standard error to JSON: the package's log, and lines that libraries and workers print there.

    Whatever is printed becomes an event "printed", `LINES_PER_SECOND` at most.

    Args:
        level: one of `LEVELS`; events below it are left out.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)  # a program that prints faster than this is read loses lines, and never waits
    logger = logging.getLogger("d2lcls")
    before = logger.level, logger.propagate
    errors = os.dup(2)
    handler = _Handler(errors)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    logger.setLevel(level.upper())
    logger.propagate = False
    os.dup2(writing, 2)
    os.close(writing)
    reader = threading.Thread(
        target=_log_printed, args=(os.fdopen(reading, encoding="utf-8", errors="replace"),), daemon=True
    )
    reader.start()
    try:
        yield
    finally:
        os.dup2(errors, 2)  # closes our end of the pipe; the reader still logs what was printed
        reader.join(1)
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _log_printed(lines: TextIO) -> None:
    second, count = 0, 0
    with lines:
        for line in lines:
            now = int(time.monotonic())
            second, count = now, count if now == second else 0
            if line.strip() and count < LINES_PER_SECOND and _EXPECTED not in line:
                count += 1
                log.info("printed", {"text": line.rstrip()[:1000]})


class Repeated:
    """Logs events that may come thousands of times a second: the first one of each second, and how many came after it.

    Args:
        logger: where they are logged.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self.counts: dict[tuple[int, str, int, str], int] = {}

    def log(self, level: int, event: str, details: dict[str, Any]) -> None:
        """Log an event, unless one of the same level, name, status and path was logged since the last `flush`."""
        path = details["path"] if len(self.counts) < 100 else "others"
        key = level, event, details["status"], path
        self.counts[key] = self.counts.get(key, 0) + 1
        if self.counts[key] == 1:
            self.logger.log(level, event, details)

    def flush(self) -> None:
        """Log how many events were left out; to be called once a second."""
        counts, self.counts = self.counts, {}
        for (level, event, status, path), count in counts.items():
            if count > 1:
                self.logger.log(level, f"{event}, again", {"status": status, "path": path, "times": count - 1})
