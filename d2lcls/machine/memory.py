"""How much memory there is, so that what cannot fit is refused before it is begun."""

from pathlib import Path

import psutil


def available_memory(groups=Path("/sys/fs/cgroup")):
    """Return the bytes of memory that this process may still take, within the limit of its container if there is one."""
    return min([psutil.virtual_memory().available, *_left_in_container(groups)])


def check_memory(needed, what, remedy):
    """Raise MemoryError if something needs more bytes of memory than there are.

    Args:
        needed: bytes, at least.
        what: what needs them, the beginning of a sentence.
        remedy: what to do, a sentence.
    """
    available = available_memory()
    if needed > available:
        raise MemoryError(
            f"{what} needs at least {_gigabytes(needed)} of memory; {_gigabytes(available)} are available. {remedy}"
        )


def _left_in_container(groups):
    """Yield the bytes that a control group, of version 2 or 1, leaves; nothing where there is no limit."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            yield int((groups / limit).read_text()) - int((groups / used).read_text())
        except (OSError, ValueError):  # no control group of this version, or its limit is "max"
            continue


def _gigabytes(number):
    return f"{number / 1e9:,.1f} GB"
