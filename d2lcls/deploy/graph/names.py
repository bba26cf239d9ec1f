"""Names of variables in graphs and parameter files, and lists of them for messages."""

import os
from collections.abc import Iterable


def without_kind(name: str) -> str:
    """Return a parameter's name without the "arg:" or "aux:" that checkpoints write before it."""
    return name[4:] if name[:4] in ("arg:", "aux:") else name


def common_prefix(names: Iterable[str], end: str = "_") -> str:
    """Return what all names begin with, up to its last underscore, or whatever `end` is."""
    prefix = os.path.commonprefix(list(names))
    return prefix[: prefix.rfind(end) + 1]


def listed(names: Iterable[object], most: int = 12) -> str:
    """Return names separated by commas, and how many more there are than `most`."""
    texts = list(map(str, names))
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
