"""A process that opens files: reads lines of JSON, [kind, path], and answers each with how it went.

Its memory is limited to 500 MB beyond what it starts with and four times the file's size.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
from pathlib import Path

from readers import outcome


def memory() -> int:
    """Return the bytes of address space in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")


def main() -> None:
    """Answer each line with what `outcome` returns."""
    answers, sys.stdout = os.fdopen(os.dup(1), "w", buffering=1), io.StringIO()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    for line in sys.stdin:
        kind, name = json.loads(line)
        path = Path(name)
        resource.setrlimit(resource.RLIMIT_AS, (memory() + 500_000_000 + 4 * path.stat().st_size, hard))
        answer = outcome(kind, path)
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
