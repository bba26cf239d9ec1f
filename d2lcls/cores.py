"""What the processor has: cores that this process may compute on, which is the number of threads MXNet should use, and
instructions."""

import math
import os
import sys
from pathlib import Path


def usable_cores(topology=Path("/sys/devices/system/cpu"), groups=Path("/sys/fs/cgroup")):
    """Return the number of physical cores that this process may run on and its container's quota pays for.

    Two hardware threads of one core share the arithmetic units that a convolution keeps busy, so they count as one.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())
    cores = {_siblings(topology / f"cpu{number}/topology/thread_siblings_list", number) for number in allowed}
    return min(len(cores), math.ceil(_quota(groups)))


def cpu_flags(cpu_info=Path("/proc/cpuinfo")):
    """Return the set of what Linux lists as the processor's abilities, such as "avx512_bf16"; empty elsewhere."""
    try:
        with open(cpu_info) as lines:
            return set(next((line for line in lines if line.startswith("flags")), "").split()[2:])
    except OSError:
        return set()


def int8_saturates():
    """Whether sums of 8-bit products saturate in 16 bits here, as on x86 processors without VNNI."""
    flags = cpu_flags()
    return "sse2" in flags and not flags & {"avx512_vnni", "avx_vnni"}


def _siblings(path, number):
    try:
        return path.read_text().strip()
    except OSError:  # not Linux, or a sandbox that hides it: each processor is taken for a core
        return str(number)


def _quota(groups):
    """Return the cores that a control group's quota pays for, `sys.maxsize` where there is none."""
    try:
        if (groups / "cpu.max").exists():  # cgroup 2
            quota, period = (groups / "cpu.max").read_text().split()
        else:
            quota, period = ((groups / f"cpu/cpu.cfs_{what}_us").read_text() for what in ("quota", "period"))
        share = int(quota) / int(period)
    except (OSError, ValueError):  # no control groups here, or the quota is "max"
        return sys.maxsize
    return share if share > 0 else sys.maxsize
