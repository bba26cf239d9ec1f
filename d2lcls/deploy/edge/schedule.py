"""How each loop is to run, decided by rule: what needs no machine to try it on, and so serves a machine elsewhere.

What TVM generates without a schedule is the definition of an operator: one multiplication after the other. The rule
computes a tile at a time, some pixels wide and one or more vectors of channels deep, whose sums stay in registers
while all inputs of the tile pass by; bias, activation and shortcut are added to the tile before it is stored.
"""

import math

TILE = 4  # pixels; with 16 channels on 64-bit Arm: 16 registers of sums of the 32 there are
DEPTH = 16  # channels
PARALLEL = 1 << 16  # additions from which on it pays to wake a second thread


def schedule(module, tile=TILE, depth=DEPTH, parallel=True):
    """Schedule every function of TIR.

    Args:
        module: `tvm.IRModule` as `read_relax` returns it.
        tile: pixels side by side that are summed at once, at most.
        depth: channels that are summed at once, at most.
        parallel: share the work among threads.

    Returns:
        `tvm.IRModule` that computes the same.
    """
    from tvm.tirx import PrimFunc

    return type(module)(
        {
            name: schedule_function(function, tile, depth, parallel) if isinstance(function, PrimFunc) else function
            for name, function in module.functions.items()
        },
        attrs=module.attrs,
    )


def schedule_function(function, tile=TILE, depth=DEPTH, parallel=True):
    """Schedule one `PrimFunc`; one of a kind that the rule does not know is returned as it is."""
    from tvm.s_tir import Schedule

    plan = Schedule(function)
    blocks, sums = _blocks(plan)
    if len(sums) > 1:
        return function
    for place, block in enumerate(blocks[:-1]):
        if place not in sums and (sums and place > sums[0] or not _pads(plan, block)):
            plan.compute_inline(block)
    blocks, sums = _blocks(plan)
    *before, last = blocks
    for block in before if sums else blocks:
        if not (sums and block is blocks[sums[0]]):
            _by_element(plan, block)
    if sums:
        _by_tile(plan, blocks[sums[0]], None if sums[0] == len(blocks) - 1 else last, tile, depth, parallel)
    return plan.mod["main"].with_attrs(dict(function.attrs))


def _by_element(plan, block):
    """Compute the elements of a block's last axis by vectors."""
    last = plan.get_loops(block)[-1]
    width = _largest_divisor(_extent(plan, last), DEPTH)
    if width % 4 == 0:
        plan.vectorize(plan.split(last, [None, width])[1])


def _by_tile(plan, block, last, tile, depth, parallel):
    """Compute a block of sums tile by tile; `last` is the block that takes the sums, None if they are the result."""
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
    pixels = []
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


def _innermost(plan, block):
    return next(loop for loop in reversed(plan.get_loops(block)) if _extent(plan, loop) > 1)


def _blocks(plan):
    """Return the blocks of a function in the order in which they run, and the places of those that sum."""
    blocks = plan.get_child_blocks(plan.get_sblock("root"))
    return blocks, [
        place
        for place, block in enumerate(blocks)
        if any(_is_reduction(iteration) for iteration in plan.get(block).iter_vars)
    ]


def _is_reduction(iteration):
    return iteration.iter_type == 2  # IterVar.CommReduce


def _pads(plan, block):
    return "if_then_else" in plan.get(block).body.script()


def _extent(plan, loop):
    return int(plan.get(loop).extent)


def _largest_divisor(number, limit):
    return next(part for part in range(min(number, limit), 0, -1) if number % part == 0)
