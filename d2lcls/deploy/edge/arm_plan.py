"""What the program for Arm has instead of TVM's runtime: which loops run in which order, on which memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2lcls.deploy.edge.graph import import_tvm
from d2lcls.deploy.manifest import Manifest, ModelError

import numpy as np

if TYPE_CHECKING:
    import tvm


@dataclass
class Plan:
    """Which loops run in which order, on which arrays.

    Args:
        weights: all constants one after the other, each at a multiple of 64 bytes.
        memory: number of bytes for intermediate results.
        arrays: (region, offset in bytes, shape) of each; the region is WEIGHTS, ARENA, INPUT or OUTPUT.
        calls: (name of the loops, indices in `arrays` of their inputs and, last, their output) of each.
    """

    weights: bytearray = field(default_factory=bytearray)
    memory: int = 0
    arrays: list[tuple[str, int, list[int]]] = field(default_factory=list)
    calls: list[tuple[str, list[int]]] = field(default_factory=list)


def plan_calls(module: tvm.IRModule, folder: str | Path = "the model") -> tuple[Plan, tvm.IRModule]:
    """Assign memory to a module's arrays.

    Args:
        module: scheduled, of a fixed batch.
        folder: named in errors.

    Returns:
        (plan, module of the loops alone).

    Raises:
        ModelError: the graph has something other than calls of loops on float32.
    """
    tvm = import_tvm()
    from tvm.ir import GenericConst
    from tvm.relax import Call, Var
    from tvm.relax import transform as passes
    from tvm.tirx import PrimFunc

    module = tvm.transform.Sequential(
        [
            passes.ToNonDataflow(),
            passes.RemovePurityChecking(),
            passes.CallTIRRewrite(),
            passes.StaticPlanBlockMemory(),
            passes.LowerAllocTensor(),
            passes.AttachGlobalSymbol(),
        ]
    )(module)
    plan, main = Plan(), module["main"]
    storages: dict[Any, int] = {}  # offsets in the arena
    indices = {main.params[0]: _add(plan, "INPUT", 0, main.params[0].ty, folder)}  # in plan.arrays, by variable

    def index_of(value: Any) -> int:
        if isinstance(value, GenericConst):
            content = value.value.numpy()
            index = _add(plan, "WEIGHTS", len(plan.weights), value.ty, folder)
            plan.weights += content.tobytes() + bytes(-content.nbytes % 64)
            return index
        return indices[value]

    for block in main.body.blocks:
        for binding in block.bindings:
            variable, value = binding.var, binding.value
            name = getattr(getattr(value, "op", None), "name", None)
            if isinstance(value, Var):
                indices[variable] = indices[value]
            elif name == "relax.memory.alloc_storage":
                storages[variable] = plan.memory
                plan.memory += -(-int(value.args[0].values[0]) // 64) * 64
            elif name == "relax.memory.alloc_tensor":
                offset = storages[value.args[0]] + int(value.args[1].value)
                indices[variable] = _add(plan, "ARENA", offset, variable.ty, folder)
            elif isinstance(value, Call) and isinstance(value.op, tvm.ir.GlobalVar):
                plan.calls.append((value.op.name_hint, [index_of(argument) for argument in value.args]))
            else:
                raise ModelError(
                    f"{folder}: TVM leaves {name or value} in the graph, which a program without TVM's "
                    "runtime cannot run. Compile it for this machine instead: --target host"
                )
    result = indices[main.body.body]
    plan.arrays[result] = ("OUTPUT", 0, plan.arrays[result][2])
    return plan, tvm.IRModule(
        {name: function for name, function in module.functions.items() if isinstance(function, PrimFunc)}
    )


def _add(plan: Plan, region: str, offset: int, kind: Any, folder: str | Path) -> int:
    """Add an array to the plan and return its index."""
    if kind.dtype != "float32":
        raise ModelError(f"{folder}: the graph computes with {kind.dtype}; a program for Arm computes with float32.")
    plan.arrays.append((region, offset, [int(size) for size in kind.shape.values]))
    return len(plan.arrays) - 1


def plan_source(plan: Plan, manifest: Manifest) -> str:
    """Return what `program/classify.cc` includes: the plan, the classes and the preprocessing in C++."""
    preprocess = manifest.preprocess
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    factor, shift = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)  # as in `normalise`
    names = sorted({name for name, _ in plan.calls})
    lines = [
        f"constexpr int64_t kArena = {max(plan.memory, 64)};",
        f"constexpr int kInputSize = {3 * preprocess.crop**2}, kClasses = {len(manifest.classes)};",
        f"constexpr int kMostArguments = {max([len(arrays) for _, arrays in plan.calls], default=1)};",
        f"constexpr int kResize = {preprocess.resize}, kCrop = {preprocess.crop};",
        f"constexpr bool kBicubic = {str(preprocess.interpolation == 'bicubic').lower()};",
        f"constexpr float kFactor[] = {{{_floats(factor)}}}, kShift[] = {{{_floats(shift)}}};",
        f"constexpr char kAbout[] = {_text(f'The network is {manifest.name}.')};",
        "constexpr const char* classes[] = {",
        *[f"    {_text(name)}," for name in manifest.classes],
        "};",
        'extern "C" {',
        *[f"int __tvm_ffi_{name}(void*, const TVMFFIAny*, int32_t, TVMFFIAny*);" for name in names],
        "}",
        "static std::vector<Array> arrays = {",
        *[f"    {{{region}, {offset}, {{{', '.join(map(str, shape))}}}}}," for region, offset, shape in plan.arrays],
        "};",
        "static const std::vector<Step> steps = {",
        *[f"    {{__tvm_ffi_{name}, {{{', '.join(map(str, arrays))}}}}}," for name, arrays in plan.calls],
        "};",
    ]
    return "\n".join(lines) + "\n"


def _floats(values: Iterable[float]) -> str:
    return ", ".join(f"{float(value).hex()}f" for value in values)


def _text(text: str) -> str:
    """Return a text as a literal of C++ in ASCII."""
    letters = (chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in text.encode())
    return f'"{"".join(letters)}"'
