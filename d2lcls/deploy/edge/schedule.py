"""How each loop runs, decided by a rule, which needs no measurement and so works for another machine as well.

Without a schedule, TVM generates code as the operator is defined: one multiplication after the other. The rule computes
one tile at a time, some pixels wide and one or more vectors of channels deep. Its sums stay in registers until all
inputs have been added; bias, activation and shortcut are applied to the tile before it is stored.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tvm

TILE = 4  # pixels; with 16 channels on 64-bit Arm, the sums take 16 of the 32 registers
DEPTH = 16  # channels
PARALLEL = 1 << 16  # number of additions above which a second thread makes a loop faster


def schedule(module: tvm.IRModule, tile: int = TILE, depth: int = DEPTH, parallel: bool = True) -> tvm.IRModule:
    """Schedule every function of TIR.

    Args:
        module: as `read_relax` returns it.
        tile: largest number of adjacent pixels that are summed at once.
        depth: largest number of channels that are summed at once.
        parallel: distribute the work over threads.

    Returns:
        Module that computes the same.
    """
    from tvm.tirx import PrimFunc

    return type(module)(
        {
            name: schedule_function(function, tile, depth, parallel) if isinstance(function, PrimFunc) else function
            for name, function in module.functions.items()
        },
        attrs=module.attrs,
    )


def schedule_function(
    function: tvm.tirx.PrimFunc, tile: int = TILE, depth: int = DEPTH, parallel: bool = True
) -> tvm.tirx.PrimFunc:
    """Schedule one function; one that the rule does not cover is returned unchanged."""
    from tvm.s_tir import Schedule

    plan = Schedule(function)
    blocks, sums = _blocks(plan)
    if len(sums) > 1:
        return function
    for index, block in enumerate(blocks[:-1]):
        if index not in sums and (sums and index > sums[0] or not _pads(plan, block)):
            plan.compute_inline(block)
    blocks, sums = _blocks(plan)
    *before, last = blocks
    for block in before if sums else blocks:
        if not (sums and block is blocks[sums[0]]):
            _by_element(plan, block)
    if sums:
        _by_tile(plan, blocks[sums[0]], None if sums[0] == len(blocks) - 1 else last, tile, depth, parallel)
    return plan.mod["main"].with_attrs(dict(function.attrs))


def _by_element(plan: Any, block: Any) -> None:
    """Compute the elements of a block's last axis as vectors."""
    last = plan.get_loops(block)[-1]
    width = _largest_divisor(_extent(plan, last), DEPTH)
    if width % 4 == 0:
        plan.vectorize(plan.split(last, [None, width])[1])


def _by_tile(plan: Any, block: Any, last: Any, tile: int, depth: int, parallel: bool) -> None:
    """Compute a block of sums tile by tile; `last` is the block that uses the sums, None if they are the result."""
    loops = plan.get_loops(block)
    work = math.prod(_extent(plan, loop) for loop in loops)
    summed = [_is_reduction(iteration) for iteration in plan.get(block).iter_vars]
    inside = [loop for loop, is_sum in zip(loops, summed) if is_sum]
    rows = [loop for loop, is_sum in zip(loops, summed) if not is_sum]
    while len(rows) > 1 and _extent(plan, rows[-1]) == 1:  # such as the multiplier of a depthwise convolution
        rows.pop()
    *rows, channels = rows
    wide = _largest_divisor(_extent(plan, rows[-1]), tile) if rows else 1
    deep = _largest_divisor(_extent(plan, channels), depth if wide > 1 else 4 * depth)
    pixels: list[Any] = []
    if rows:
        rows[-1], pixel = plan.split(rows[-1], [None, wide])
        pixels = [pixel]
    channels, vector = plan.split(channels, [None, deep])
    plan.reorder(*rows, channels, *inside, *pixels, vector)
    last = last or plan.cache_write(block, 0, "global")
    plan.reverse_compute_at(last, channels)
    if parallel and work >= PARALLEL:
        plan.parallel(plan.fuse(*rows, channels))
    plan.vectorize(_innermost(plan, last))
    plan.vectorize(vector)
    for pixel in pixels:
        plan.unroll(pixel)
    plan.decompose_reduction(block, inside[0])


def _innermost(plan: Any, block: Any) -> Any:
    return next(loop for loop in reversed(plan.get_loops(block)) if _extent(plan, loop) > 1)


def _blocks(plan: Any) -> tuple[Any, list[int]]:
    """Return the blocks of a function in the order in which they run, and the indices of those that sum."""
    blocks = plan.get_child_blocks(plan.get_sblock("root"))
    return blocks, [index for index, block in enumerate(blocks) if any(map(_is_reduction, plan.get(block).iter_vars))]


def _is_reduction(iteration: Any) -> bool:
    return iteration.iter_type == 2  # IterVar.CommReduce


def _pads(plan: Any, block: Any) -> bool:
    return "if_then_else" in plan.get(block).body.script()


def _extent(plan: Any, loop: Any) -> int:
    return int(plan.get(loop).extent)


def _largest_divisor(number: int, limit: int) -> int:
    return next(part for part in range(min(number, limit), 0, -1) if number % part == 0)
