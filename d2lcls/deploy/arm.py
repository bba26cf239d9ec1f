"""A model as one program for 64-bit Arm (a phone, a Raspberry Pi), that needs nothing else where it runs."""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from d2lcls.deploy.manifest import ModelError, derive, write_manifest
from d2lcls.deploy.tvm_graph import import_tvm, read_onnx_model, read_relax
from d2lcls.deploy.tvm_schedule import schedule

FILE = "classify"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
PROCESSOR = "cortex-a72"  # of the Raspberry Pi 4; its instructions are those of every 64-bit Arm core since 2012
_SOURCES = Path(__file__).parent / "program"


def compile_arm(folder, target, processor=PROCESSOR):
    """Compile a model to a program that names what a picture shows: copy it to the device and run it.

    It is linked statically, so that it needs no library of the device, and runs from Android's shell as it does on
    Linux. TVM's loops are called in their order on memory whose size is known; TVM's runtime is not part of it.

    Args:
        folder: model folder of form "onnx".
        target: a new or empty folder for the model of form "tvm", which holds `classify`.
        processor: LLVM's name of the core for which instructions are chosen and ordered.

    Returns:
        `Manifest`.

    Raises:
        FileNotFoundError, ModelError: as `read_manifest`; also for an operator that TVM does not know.
        ValueError: the target is not empty, or LLVM knows no such processor.
        ImportError: apache-tvm, onnx or onnxruntime is not installed; names the extra.
        RuntimeError: there is no cross compiler, or it fails.
    """
    from d2lcls.deploy.export import new_folder

    manifest = read_onnx_model(folder)
    if not shutil.which(COMPILER):
        raise RuntimeError(f"{COMPILER} is not installed, which links programs for 64-bit Arm. "
                           "Debian and Ubuntu: sudo apt install g++-aarch64-linux-gnu")
    tvm = import_tvm()
    from tvm.target.codegen import llvm_is_valid_cpu

    triple = "aarch64-linux-gnu"
    if not llvm_is_valid_cpu(processor, triple):
        raise ValueError(f"processor must be LLVM's name of a 64-bit Arm core, such as {PROCESSOR} or cortex-a53, "
                         f"not {processor!r}.")
    machine = tvm.target.Target({"kind": "llvm", "mtriple": triple, "mcpu": processor})
    target = new_folder(target)
    with machine, tempfile.TemporaryDirectory() as work:
        plan, loops = plan_calls(schedule(read_relax(folder, manifest)), folder)
        tvm.tirx.build(loops, target=machine).write_to_file(str(Path(work, "loops.o")), "o")
        Path(work, "weights.bin").write_bytes(bytes(plan.weights))
        Path(work, "plan.h").write_text(plan_source(plan, manifest), "ascii")
        _link(work, target / FILE)
    made = derive(manifest, "tvm", 1, processor=processor)
    return write_manifest(target, made, ["apache-tvm", "onnx"])


@dataclass
class Plan:
    """Which loops run in which order, on what.

    Args:
        weights: all constants one behind the other, each at a multiple of 64 bytes.
        memory: bytes for what is computed in between.
        arrays: list of (place, offset in bytes, shape); place is WEIGHTS, ARENA, INPUT or OUTPUT.
        calls: list of (name of the loops, places in `arrays` of their inputs and, last, their output).
    """

    weights: bytearray = field(default_factory=bytearray)
    memory: int = 0
    arrays: list = field(default_factory=list)
    calls: list = field(default_factory=list)


def plan_calls(module, folder="the model"):
    """Lay a module's arrays into memory.

    Args:
        module: scheduled `tvm.IRModule` of a fixed batch.
        folder: named in errors.

    Returns:
        (`Plan`, `tvm.IRModule` of the loops alone).

    Raises:
        ModelError: the graph has something else in it than calls of loops on float32.
    """
    tvm = import_tvm()
    from tvm.ir import GenericConst
    from tvm.relax import Call, Var
    from tvm.relax import transform as passes
    from tvm.tirx import PrimFunc

    module = tvm.transform.Sequential([
        passes.ToNonDataflow(), passes.RemovePurityChecking(), passes.CallTIRRewrite(),
        passes.StaticPlanBlockMemory(), passes.LowerAllocTensor(), passes.AttachGlobalSymbol()])(module)
    plan, main = Plan(), module["main"]
    storages, known = {}, {main.params[0]: _add(plan, "INPUT", 0, main.params[0].ty, folder)}

    def place(value):
        if isinstance(value, GenericConst):
            content = value.value.numpy()
            made = _add(plan, "WEIGHTS", len(plan.weights), value.ty, folder)
            plan.weights += content.tobytes() + bytes(-content.nbytes % 64)
            return made
        return known[value]

    for block in main.body.blocks:
        for binding in block.bindings:
            variable, value = binding.var, binding.value
            name = getattr(getattr(value, "op", None), "name", None)
            if isinstance(value, Var):
                known[variable] = known[value]
            elif name == "relax.memory.alloc_storage":
                storages[variable] = plan.memory
                plan.memory += -(-int(value.args[0].values[0]) // 64) * 64
            elif name == "relax.memory.alloc_tensor":
                offset = storages[value.args[0]] + int(value.args[1].value)
                known[variable] = _add(plan, "ARENA", offset, variable.ty, folder)
            elif isinstance(value, Call) and isinstance(value.op, tvm.ir.GlobalVar):
                plan.calls.append((value.op.name_hint, [place(argument) for argument in value.args]))
            else:
                raise ModelError(f"{folder}: TVM leaves {name or value} in the graph, which a program without TVM's "
                                 "runtime cannot run. Compile it for this machine instead: --target host")
    result = known[main.body.body]
    plan.arrays[result] = ("OUTPUT", 0, plan.arrays[result][2])
    return plan, tvm.IRModule({name: function for name, function in module.functions.items()
                               if isinstance(function, PrimFunc)})


def _add(plan, place, offset, kind, folder):
    if kind.dtype != "float32":
        raise ModelError(f"{folder}: the graph computes with {kind.dtype}; a program for Arm computes with float32.")
    plan.arrays.append((place, offset, [int(size) for size in kind.shape.values]))
    return len(plan.arrays) - 1


def plan_source(plan, manifest):
    """Return what `program/classify.cc` includes: the plan, the classes and the preprocessing in C++."""
    look = manifest.preprocess
    mean, std = np.array(look.mean), np.array(look.std)
    factor, shift = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)  # as `normalise` has them
    names = sorted({name for name, _ in plan.calls})
    lines = [f"constexpr int64_t kArena = {max(plan.memory, 64)};",
             f"constexpr int kInputSize = {3 * look.crop ** 2}, kClasses = {len(manifest.classes)};",
             f"constexpr int kResize = {look.resize}, kCrop = {look.crop};",
             f"constexpr bool kBicubic = {str(look.interpolation == 'bicubic').lower()};",
             f"constexpr float kFactor[] = {{{_floats(factor)}}}, kShift[] = {{{_floats(shift)}}};",
             f"constexpr char kAbout[] = {_text(f'The network is {manifest.name}.')};",
             "constexpr const char* classes[] = {", *[f"    {_text(name)}," for name in manifest.classes], "};",
             'extern "C" {',
             *[f"int __tvm_ffi_{name}(void*, const TVMFFIAny*, int32_t, TVMFFIAny*);" for name in names],
             "}", "static std::vector<Array> arrays = {",
             *[f"    {{{place}, {offset}, {{{', '.join(map(str, shape))}}}}}," for place, offset, shape in plan.arrays],
             "};", "static const std::vector<Step> steps = {",
             *[f"    {{__tvm_ffi_{name}, {{{', '.join(map(str, arrays))}}}}}," for name, arrays in plan.calls], "};"]
    return "\n".join(lines) + "\n"


def _floats(values):
    return ", ".join(f"{float(value).hex()}f" for value in values)


def _text(text):
    """Return a text as a literal of C++ in ASCII."""
    return '"' + "".join(chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
                         for byte in text.encode()) + '"'


def _link(work, path):
    import tvm_ffi.libinfo as places

    includes = [f"-I{path}" for path in (
        places.find_include_path(), places.find_dlpack_include_path(), _SOURCES, work)]
    command = [COMPILER, "-std=c++17", "-O2", "-ffp-contract=off", "-static", "-s", f"-Wa,-I{work}", *includes,
               str(_SOURCES / "classify.cc"), str(Path(work, "loops.o")), "-o", str(path), "-pthread"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{COMPILER} could not link the program: {done.stderr.strip()[-500:]}")
