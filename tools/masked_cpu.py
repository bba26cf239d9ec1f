"""Run a command as if the processor had fewer instructions, at full speed: masked_cpu.py LEVEL COMMAND...

    python tools/masked_cpu.py avx2 make test        # a laptop from before 2021, or a cloud that hides AVX-512
    python tools/masked_cpu.py avx512 make test      # AVX-512 without VNNI

It needs Linux on x86-64, a processor whose CPUID instruction can be made to fault ("cpuid_fault" in /proc/cpuinfo:
Intel since 2012) and a C compiler. Programs that query the instruction sets get the reduced list. Programs that do not,
such as code compiled for another processor, still run, although they would stop on the smaller processor. To detect
that, use `qemu-x86_64 -cpu Haswell`, which executes only the smaller processor's instructions, about 20 times slower.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("masked_cpu.c")
# The bits of CPUID leaf 7 to clear in the registers EBX, ECX and EDX; and the names to remove from /proc/cpuinfo.
_VNNI = (0, 1 << 11, 0)
_AVX512 = (
    1 << 16 | 1 << 17 | 1 << 21 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 30 | 1 << 31,
    1 << 1 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 14,
    1 << 2 | 1 << 3 | 1 << 8,
)
_LATER = 1 << 22 | 1 << 23 | 1 << 24 | 1 << 25  # AMX and AVX512-FP16, in EDX
LEVELS = {
    "avx2": ((*_AVX512[:2], _AVX512[2] | _LATER), r"avx512\w*|amx_\w*|avx_vnni\w*|gfni|vaes|vpclmulqdq"),
    "avx512": ((*_VNNI[:2], _LATER), r"avx512_vnni|avx512_bf16|avx512_fp16|amx_\w*|avx_vnni\w*"),
}


def possible(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine can mask its processor."""
    return cpu_info.is_file() and " cpuid_fault" in cpu_info.read_text()


def environment(level: str, folder: str | Path) -> dict[str, str]:
    """Compile the library into a folder and return the environment variables that mask child processes to a level.

    Args:
        level: one of `LEVELS`.
        folder: where the library and the reduced /proc/cpuinfo are written; it must outlive the child processes.

    Raises:
        RuntimeError: this processor's CPUID instruction cannot be made to fault.
        FileNotFoundError, subprocess.CalledProcessError: there is no C compiler, or it fails.
    """
    if not possible():
        raise RuntimeError(
            'This processor cannot be masked: /proc/cpuinfo has no "cpuid_fault". '
            "Use qemu-x86_64 -cpu Haswell, which is slower."
        )
    bits, names = LEVELS[level]
    library, info = Path(folder, "masked_cpu.so"), Path(folder, "cpuinfo")
    subprocess.run(["cc", "-O2", "-Wall", "-fPIC", "-shared", "-o", library, SOURCE, "-ldl"], check=True)
    info.write_text(re.sub(rf" (?:{names})(?= |$)", "", Path("/proc/cpuinfo").read_text(), flags=re.M))
    return {
        "LD_PRELOAD": str(library),
        "MASKED_CPU_INFO": str(info),
        "MASKED_CPU_BITS": ",".join(f"{b:x}" for b in bits),
    }


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or arguments[0] not in LEVELS:
        sys.exit(f"usage: masked_cpu.py {{{','.join(LEVELS)}}} COMMAND...")
    with tempfile.TemporaryDirectory() as folder:
        code = subprocess.run(arguments[1:], env={**os.environ, **environment(arguments[0], folder)}).returncode
        return code if code >= 0 else 128 - code  # as a shell reports a signal


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
