"""The processor's instruction sets, and the cores that this process may use: MXNet should run one thread per core."""

import math
import os
import sys
from pathlib import Path


def usable_cores(topology: Path = Path("/sys/devices/system/cpu"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of physical cores that this process may use, within the quota of its container.

    Two hardware threads of one core share the arithmetic units that a convolution keeps busy, so they count as one.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {_siblings(topology / f"cpu{number}/topology/thread_siblings_list", number) for number in allowed}
    return min(len(cores), math.ceil(_quota(groups)))


def cpu_flags(cpu_info: str | Path = "/proc/cpuinfo") -> set[str]:
    """Return the processor's flags as Linux lists them, such as "avx512_bf16"; empty on other systems."""
    try:
        with open(cpu_info) as lines:  # on 64-bit Arm they are called features
            return set(next((line for line in lines if line.startswith(("flags", "Features"))), "").split()[2:])
    except OSError:
        return set()


# The values of DNNL_MAX_CPU_ISA in oneDNN 2.4, which is part of MXNet, in ascending order, and the lowest value that
# allows each instruction set. AMX is off by default.
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


def onednn_flags(flags: set[str] | None = None, limit: str | None = None) -> set[str]:
    """Return the instruction sets that oneDNN, with which MXNet computes on CPUs, may use on this processor.

    Args:
        flags: the processor's flags, as `cpu_flags` returns them; None is this processor's.
        limit: value of DNNL_MAX_CPU_ISA; None is that of this process.
    """
    flags = cpu_flags() if flags is None else flags
    limit = os.environ.get("DNNL_MAX_CPU_ISA", "") if limit is None else limit
    highest = _ONEDNN.index(limit if limit in _ONEDNN else "AVX512_CORE_BF16")
    return {flag for flag in flags & set(_FROM) if _ONEDNN.index(_FROM[flag]) <= highest}


def has_bfloat16() -> bool:
    """Return whether MXNet has instructions for bfloat16; without them it fails, or is slower than float32."""
    return bool(onednn_flags() & {"avx512_bf16", "amx_bf16"})


def int8_saturates(flags: set[str] | None = None) -> bool:
    """Return whether sums of 8-bit products saturate at 16 bits, as they do on x86 processors without VNNI.

    Args:
        flags: the processor's flags, as `cpu_flags` returns them; None is this processor's.
    """
    flags = cpu_flags() if flags is None else flags
    return "sse2" in flags and not onednn_flags(flags) & {"avx512_vnni", "avx_vnni"}


def _siblings(path: Path, number: int) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # not Linux, or a sandbox that hides it: count each processor as a core
        return str(number)


def _quota(groups: Path) -> float:
    """Return the control group's quota in cores, `sys.maxsize` without one."""
    try:
        if (groups / "cpu.max").exists():  # cgroup 2
            quota, period = (groups / "cpu.max").read_text().split()
        else:
            quota, period = ((groups / f"cpu/cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        share = int(quota) / int(period)
    except (OSError, ValueError):  # no control groups, or the quota is "max"
        return sys.maxsize
    return share if share > 0 else sys.maxsize
