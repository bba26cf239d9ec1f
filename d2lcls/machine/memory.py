"""The available memory, and a check before work that needs more."""

from collections.abc import Iterator
from pathlib import Path

import psutil


def available_memory(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes of memory available to this process, within the limit of its container if there is one."""
    return min([psutil.virtual_memory().available, *_available_in_container(groups)])


def check_memory(needed: float, what: str, remedy: str) -> None:
    """Raise MemoryError if something needs more memory than is available.

    Args:
        needed: bytes, at least.
        what: what needs them, the beginning of the message.
        remedy: what to do, a sentence.
    """
    available = available_memory()
    if needed > available:
        raise MemoryError(
            f"{what} needs at least {_gigabytes(needed)} of memory; {_gigabytes(available)} are available. {remedy}"
        )


def limit_memory(more: int) -> None:
    """Let this process have so many bytes of address space more than it has now; then allocations fail."""
    import resource  # not on Windows

    limit = psutil.Process().memory_info().vms + more
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _available_in_container(groups: Path) -> Iterator[int]:
    """Yield the bytes available in a control group of version 2 or 1; nothing without a limit."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            yield int((groups / limit).read_text()) - int((groups / used).read_text())
        except (OSError, ValueError):  # no control group of this version, or its limit is "max"
            continue


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"
