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
        with open(cpu_info) as lines:  # 64-bit Arm calls them features
            return set(next((line for line in lines if line.startswith(("flags", "Features"))), "").split()[2:])
    except OSError:
        return set()


# The value of DNNL_MAX_CPU_ISA from which on oneDNN 2.4, in MXNet, uses an instruction set; AMX is off unless asked for.
_ONEDNN = (
    "SSE41",
    "AVX",
    "AVX2",
    "AVX2_VNNI",
    "AVX512_MIC",
    "AVX512_MIC_4OPS",
    "AVX512_CORE",
    "AVX512_CORE_VNNI",
    "AVX512_CORE_BF16",
    "AVX512_CORE_AMX",
    "ALL",
)
_FROM = {
    "avx": "AVX",
    "avx2": "AVX2",
    "avx_vnni": "AVX2_VNNI",
    "avx512bw": "AVX512_CORE",
    "avx512_vnni": "AVX512_CORE_VNNI",
    "avx512_bf16": "AVX512_CORE_BF16",
    "amx_int8": "AVX512_CORE_AMX",
    "amx_bf16": "AVX512_CORE_AMX",
}


def onednn_flags(flags=None, limit=None):
    """Return which of the processor's flags, of those that matter to oneDNN, it may use: MXNet computes with it on CPUs.

    Args:
        flags: set, as `cpu_flags` returns it; None is this processor's.
        limit: value of DNNL_MAX_CPU_ISA; None is that of this process.
    """
    flags = cpu_flags() if flags is None else flags
    limit = os.environ.get("DNNL_MAX_CPU_ISA", "") if limit is None else limit
    highest = _ONEDNN.index(limit if limit in _ONEDNN else "AVX512_CORE_BF16")
    return {flag for flag in flags & set(_FROM) if _ONEDNN.index(_FROM[flag]) <= highest}


def has_bfloat16():
    """Return whether MXNet may use instructions for bfloat16 here; without them it fails, or is slower than float32."""
    return bool(onednn_flags() & {"avx512_bf16", "amx_bf16"})


def int8_saturates(flags=None):
    """Return whether sums of 8-bit products saturate in 16 bits here, as they do on x86 processors without VNNI.

    Args:
        flags: set, as `cpu_flags` returns it; None is this processor's.
    """
    flags = cpu_flags() if flags is None else flags
    return "sse2" in flags and not onednn_flags(flags) & {"avx512_vnni", "avx_vnni"}


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
