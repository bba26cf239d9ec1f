"""A model as one program for 64-bit Arm (a phone, a Raspberry Pi), which needs nothing else where it runs."""

from __future__ import annotations

import math
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from d2lcls.deploy.edge.arm_plan import plan_calls, plan_source
from d2lcls.deploy.edge.graph import import_tvm, read_relax
from d2lcls.deploy.edge.schedule import schedule
from d2lcls.deploy.manifest import Manifest, derive, read_manifest, write_model
from d2lcls.deploy.onnx_runtime import open_session
from d2lcls.machine.files import check_new_folder
from d2lcls.machine.temporary import temporary_folder

import numpy as np

FILE = "classify"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
PROCESSOR = "cortex-a72"  # of the Raspberry Pi 4; it uses only instructions that every 64-bit Arm core has
_SOURCES = Path(__file__).parent / "program"


def compile_arm(
    folder: str | Path, target: str | Path, processor: str = PROCESSOR, tolerance: float = 1e-4
) -> tuple[Manifest, float | None]:
    """Compile a model to a program that prints the likeliest classes of a picture: copy it to the device and run it.

    It is linked statically, so that it needs no library of the device, and runs from Android's shell as it does on
    Linux. TVM's loops are called in their order on memory whose size is fixed; TVM's runtime is not part of it. Where
    `runs_here`, it is run once and compared with ONNX Runtime.

    Args:
        folder: model folder of form "onnx".
        target: a new or empty folder for the model of form "tvm", which will hold `classify`.
        processor: LLVM's name of the core for which instructions are chosen and ordered.
        tolerance: largest allowed difference of a logit, as a share of the largest one.

    Returns:
        (manifest, largest difference of a logit on random inputs, as that share; None where it could not be run).

    Raises:
        FileNotFoundError, ModelError: as `read_manifest`; also for an operator that TVM does not support, or where the
            program computes something else.
        ValueError: the target is not empty, or LLVM has no such processor.
        ImportError: apache-tvm, onnx or onnxruntime is not installed; names the extra.
        RuntimeError: there is no cross compiler, or it fails.
    """
    manifest = read_manifest(folder, forms=("onnx",))
    check_new_folder(target)
    if not shutil.which(COMPILER):
        raise RuntimeError(
            f"{COMPILER} is not installed, which links programs for 64-bit Arm. "
            "Debian and Ubuntu: sudo apt install g++-aarch64-linux-gnu"
        )
    tvm = import_tvm()
    from tvm.target.codegen import llvm_is_valid_cpu

    triple = "aarch64-linux-gnu"
    if not llvm_is_valid_cpu(processor, triple):
        raise ValueError(
            f"processor must be LLVM's name of a 64-bit Arm core, such as {PROCESSOR} or cortex-a53, not {processor!r}."
        )
    machine = tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": processor})
    x = np.random.default_rng(0).normal(size=manifest.input_shape(2)).astype(np.float32)

    def write(path: Path) -> None:
        with machine, temporary_folder() as work:
            plan, loops = plan_calls(schedule(read_relax(folder, manifest)), folder)
            tvm.tirx.build(loops, target=machine).write_to_file(str(Path(work, "loops.o")), "o")
            Path(work, "weights.bin").write_bytes(bytes(plan.weights))
            Path(work, "plan.h").write_text(plan_source(plan, manifest), "ascii")
            _link(work, path / FILE)

    made, difference = write_model(
        target,
        derive(manifest, "tvm", 1, processor=processor),
        ["apache-tvm", "onnx"],
        write,
        (lambda path: run_program(path, x).logits) if runs_here() else None,
        open_session(Path(folder, "model.onnx"))(x),
        tolerance,
    )
    return made, None if math.isnan(difference) else difference


@dataclass(frozen=True)
class Answer:
    """The program's answer.

    logits: float32 (N, K).
    load_ms: milliseconds from its start until it could take the first picture.
    run_ms: median milliseconds per picture.
    """

    logits: np.ndarray
    load_ms: float
    run_ms: float


def runs_here() -> bool:
    """Return whether `run_program` can run a program for 64-bit Arm: on such a machine itself, or with an emulator."""
    return _is_arm() or bool(shutil.which(EMULATOR))


def emulation() -> list[str]:
    """Return the words before the program in a command that runs it here: none on a 64-bit Arm machine."""
    return [] if _is_arm() else [EMULATOR]


def run_program(folder: str | Path, x: np.ndarray, runs: int = 1) -> Answer:
    """Run the program that `compile_arm` made, emulated where this is no Arm machine.

    The emulated program computes the same; its time is no measure of an Arm processor.

    Args:
        folder: model folder of form "tvm" that holds `classify`.
        x: float32 (N, 3, H, W), one picture or more.
        runs: how often each is computed, for the median.

    Raises:
        FileNotFoundError: the folder holds no program.
        RuntimeError: there is no emulator, or the program fails.
    """
    program = Path(folder, FILE)
    if not program.is_file():
        raise FileNotFoundError(f"{folder}: holds no {FILE}. Make one with: d2lcls compile --target arm64")
    if not runs_here():
        raise RuntimeError(
            f"{EMULATOR} is not installed, which runs programs for 64-bit Arm here. "
            "Debian and Ubuntu: sudo apt install qemu-user"
        )
    with temporary_folder() as work:
        paths = [Path(work, f"{number}.f32") for number in range(len(x))]
        for path, picture in zip(paths, np.ascontiguousarray(x, dtype=np.float32)):
            path.write_bytes(picture.tobytes())
        done = subprocess.run(
            [*emulation(), program, "--logits", "--runs", str(runs), *paths], capture_output=True, text=True
        )
    if done.returncode:
        raise RuntimeError(f"{program} failed: {done.stderr.strip()[-500:]}")
    logits = [line.split() for line in re.findall(r"^  logits (.+)$", done.stdout, re.M)]
    times = np.array(re.findall(r"^  load ([\d.]+) ms, .* run ([\d.]+) ms", done.stdout, re.M), dtype=float)  # (N, 2)
    return Answer(np.array(logits, dtype=np.float32), *map(float, np.median(times, axis=0)))


def _is_arm() -> bool:
    return platform.system() == "Linux" and platform.machine() == "aarch64"


def _link(work: Path, path: Path) -> None:
    from tvm_ffi import libinfo

    folders = (libinfo.find_include_path(), libinfo.find_dlpack_include_path(), _SOURCES, work)
    options = ["-std=c++17", "-O2", "-ffp-contract=off", "-static", "-s", f"-Wa,-I{work}", "-pthread"]
    options += [f"-I{folder}" for folder in folders]
    done = subprocess.run(
        [COMPILER, *options, _SOURCES / "classify.cc", Path(work, "loops.o"), "-o", path],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{COMPILER} could not link the program: {done.stderr.strip()[-500:]}")
