"""TVM's target for this machine: the instructions that it may use are those that Linux reports.

The name of the processor is not enough. Many clouds hide instructions from their virtual machines, and code that LLVM
generates for the processor of that name is then killed with SIGILL.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2lcls.deploy.edge.graph import import_tvm
from d2lcls.deploy.edge.schedule import DEPTH, TILE, schedule_function
from d2lcls.deploy.manifest import ModelError
from d2lcls.machine.cores import cpu_flags, usable_cores

if TYPE_CHECKING:
    import tvm

# Instruction sets beyond SSE2 that loops over float32 may use: Linux's name and LLVM's name.
_X86 = {
    "pni": "sse3",
    "ssse3": "ssse3",
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
    "popcnt": "popcnt",
    "abm": "lzcnt",
    "bmi1": "bmi",
    "bmi2": "bmi2",
    "movbe": "movbe",
    "f16c": "f16c",
    "fma": "fma",
    "avx": "avx",
    "avx2": "avx2",
    "avx512f": "avx512f",
    "avx512dq": "avx512dq",
    "avx512bw": "avx512bw",
    "avx512vl": "avx512vl",
}


def host_target() -> tvm.target.Target:
    """Return TVM's target for this machine.

    Raises:
        ModelError: the processor is neither x86-64 nor 64-bit Arm.
        ImportError: apache-tvm is not installed; names the extra.
    """
    tvm, machine, flags = import_tvm(), platform.machine(), cpu_flags()
    common = {"kind": "llvm", "num-cores": usable_cores()}
    if machine in ("aarch64", "arm64"):
        return tvm.target.Target({**common, "mcpu": "generic"})  # with NEON, which every 64-bit Arm core has
    if machine != "x86_64":
        raise ModelError(f"TVM compiles here for x86-64 and 64-bit Arm, not for {machine}. Use the ONNX model instead.")
    # The minuses come last: without fma, LLVM would take it to be part of avx512f.
    has = [f"+{name}" for flag, name in _X86.items() if flag in flags]
    lacks = [f"-{name}" for flag, name in _X86.items() if flag not in flags]
    return tvm.target.Target({**common, "mcpu": "x86-64", "mattr": has + lacks})


def host_tile() -> int:
    """Return how many pixels the rule sums at once: more where a register of 512 bits holds a tile's channels."""
    return 4 * TILE if "avx512f" in cpu_flags() else TILE


def needs() -> dict[str, Any]:
    """Return what code for `host_target` needs to run: {"machine": "x86_64", "instructions": ["avx2", ...]}.

    The instruction sets have their names in /proc/cpuinfo.
    """
    instructions = sorted(cpu_flags() & set(_X86)) if platform.machine() == "x86_64" else []
    return {"machine": platform.machine(), "instructions": instructions}


def check_needs(folder: str | Path, made_from: Mapping[str, Any] | None) -> None:
    """Raise `ModelError` for machine code that would crash this process.

    Args:
        folder: model folder, for the message.
        made_from: of its manifest, with what `needs` returned where it was compiled.
    """
    if not made_from or not {"machine", "instructions"} <= set(made_from):
        raise ModelError(
            f"{folder}: its manifest does not list the instructions it needs, as it was compiled by an earlier version "
            "of d2lcls. Compile it again with: d2lcls compile"
        )
    machine, missing = made_from["machine"], sorted(set(made_from["instructions"]) - cpu_flags())
    if machine != platform.machine():
        raise ModelError(
            f"{folder}: was compiled for {machine}, and this machine is {platform.machine()}. "
            "Compile it here with: d2lcls compile"
        )
    if missing:
        raise ModelError(
            f"{folder}: was compiled for a processor with {', '.join(missing)}, which this one does not "
            "have, or which its host hides. Compile it here with: d2lcls compile"
        )


@dataclass(frozen=True)
class Records:
    """The fastest tiles found.

    Args:
        choices: from the text of a loop to its (tile, depth).
        seconds: from the same to (by rule, tuned), the seconds of one run.
        trials: number of schedules timed.
    """

    choices: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    seconds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    trials: int = 0

    def apply(self, module: tvm.IRModule) -> tvm.IRModule:
        """Schedule a module with the tiles found; a loop that was not tuned is scheduled by rule."""
        from tvm.tirx import PrimFunc

        by_rule = (host_tile(), DEPTH)
        return type(module)(
            {
                name: schedule_function(function, *self.choices.get(function.script(), by_rule))
                if isinstance(function, PrimFunc)
                else function
                for name, function in module.functions.items()
            },
            attrs=module.attrs,
        )
