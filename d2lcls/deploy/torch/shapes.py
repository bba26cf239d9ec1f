"""PyTorch for ONNX's operators that change shapes: reshaping, slices, padding, reductions.

`d2lcls.deploy.torch.operators` shows how to add one.
"""

from __future__ import annotations

from d2lcls.deploy.torch.graph import NoForm, Step
from d2lcls.deploy.torch.operators import arguments, written_as


@written_as("Flatten")
def flatten(step: Step) -> str:
    """All axes but the first as one."""
    axis = step.get("axis", 1)
    if axis != 1:
        raise NoForm(f"axis={axis}")
    return f"{step.operand(0)}.flatten(1)"


@written_as("Reshape")
def reshape(step: Step) -> str:
    """Another shape; a size of 0 leaves the axis as it is."""
    sizes = [f"{step.operand(0)}.shape[{axis}]" if size == 0 else size for axis, size in enumerate(step.sizes(1))]
    return f"{step.operand(0)}.reshape({', '.join(map(str, sizes))})"


@written_as("Expand")
def expand(step: Step) -> str:
    """Repetition along axes of size 1."""
    sizes = [-1 if size == 1 else size for size in step.sizes(1)]
    return f"{step.operand(0)}.expand({', '.join(map(str, sizes))})"


@written_as("Transpose")
def transpose(step: Step) -> str:
    """Axes in another order."""
    return f"{step.operand(0)}.permute({', '.join(map(str, step.get('perm', range(len(step.known_shape(0)))[::-1])))})"


@written_as("Squeeze", "Unsqueeze")
def axes_of_one(step: Step) -> str:
    """Axes of size 1 removed or inserted."""
    x, axes = step.operand(0), step.numbers(1)
    if step.kind == "Squeeze":
        return x + "".join(f".squeeze({axis})" for axis in sorted(axes, reverse=min(axes) >= 0))
    return x + "".join(f".unsqueeze({axis})" for axis in sorted(axes, reverse=min(axes) < 0))


@written_as("Concat")
def concatenation(step: Step) -> str:
    """Arrays joined along an axis."""
    return f"torch.cat(({', '.join(map(step.operand, range(len(step.inputs))))},), {step.get('axis')})"


@written_as("Split", several=True)
def split(step: Step) -> str:
    """Parts along an axis."""
    axis = step.get("axis", 0)
    parts = step.numbers(1, None) or [step.known_shape(0)[axis] // len(step.outputs)] * len(step.outputs)
    return f"{step.operand(0)}.split(({', '.join(map(str, parts))},), {axis})"


@written_as("Slice")
def part(step: Step) -> str:
    """A part along some axes."""
    starts, ends = step.numbers(1), step.numbers(2)
    axes, strides = step.numbers(3, list(range(len(starts)))), step.numbers(4, [1] * len(starts))
    rank = len(step.known_shape(0))
    parts = [":"] * rank
    for start, end, axis, stride in zip(starts, ends, axes, strides):
        if stride < 1:
            raise NoForm("backward steps")
        end = end if -(2**31) < end < 2**31 - 1 else ""  # the largest number means the end
        parts[axis] = f"{start or ''}:{end}" + (f":{stride}" if stride > 1 else "")
    return f"{step.operand(0)}[{', '.join(parts)}]"


@written_as("Gather")
def gather(step: Step) -> str:
    """One index of an axis, or several."""
    indices, axis = step.value(1), step.get("axis", 0)
    if indices.ndim == 0:
        return f"{step.operand(0)}.select({axis}, {int(indices)})"
    if indices.ndim > 1:
        raise NoForm("indices with several axes")
    return f"torch.cat([{step.operand(0)}.narrow({axis}, i, 1) for i in {[int(index) for index in indices]}], {axis})"


@written_as("Pad")
def padding(step: Step) -> str:
    """`F.pad`."""
    pads, mode, fill = step.numbers(1), step.get("mode", "constant"), step.value(2, None)
    rank = len(pads) // 2
    pairs = list(zip(pads[:rank], pads[rank:]))[::-1]
    while len(pairs) > 1 and pairs[-1] == (0, 0):
        pairs.pop()
    flat = ", ".join(str(number) for pair in pairs for number in pair)
    if mode == "constant":
        named = "" if fill is None or not float(fill) else f", value={arguments(float(fill))}"
    elif len(pairs) > rank - 2:
        raise NoForm(f"mode={mode} on axes of images and channels")
    else:
        named = f", mode={'replicate' if mode == 'edge' else mode!r}"
    return f"F.pad({step.operand(0)}, ({flat}){named})"


@written_as("Resize")
def resize(step: Step) -> str:
    """`F.interpolate`, of rows and columns."""
    mode, grid = step.get("mode", "nearest"), step.get("coordinate_transformation_mode", "half_pixel")
    how = {
        ("nearest", "asymmetric", "floor"): '"nearest"',
        ("linear", "half_pixel"): '"bilinear", align_corners=False',
        ("linear", "pytorch_half_pixel"): '"bilinear", align_corners=False',
        ("linear", "align_corners"): '"bilinear", align_corners=True',
    }.get((mode, grid, step.get("nearest_mode", "round_prefer_floor")) if mode == "nearest" else (mode, grid))
    before, after = step.known_shape(0), step.output_shape()
    if how is None or len(before) != 4 or before[:2] != after[:2]:
        raise NoForm(f"mode={mode}, {grid}")
    return f"F.interpolate({step.operand(0)}, size=({after[2]}, {after[3]}), mode={how})"


@written_as("TopK", several=True)
def top_k(step: Step) -> str:
    """The largest or smallest values, and their indices."""
    named = "" if step.get("largest", 1) else ", largest=False"
    return f"{step.operand(0)}.topk({step.numbers(1)[0]}, {step.get('axis', -1)}{named})"


@written_as("DepthToSpace")
def depth_to_space(step: Step) -> str:
    """`F.pixel_shuffle`, for channels in the same order."""
    if step.get("mode", "DCR") != "CRD":
        raise NoForm("mode=DCR")
    return f"F.pixel_shuffle({step.operand(0)}, {step.get('blocksize')})"


@written_as("LpNormalization")
def normalisation(step: Step) -> str:
    """Division by a norm along an axis."""
    return f"F.normalize({step.operand(0)}, {step.get('p', 2)}, {step.get('axis', -1)})"


@written_as("Tile")
def repetition(step: Step) -> str:
    """Repetition of the whole array."""
    return f"{step.operand(0)}.repeat({', '.join(map(str, step.sizes(1)))})"


@written_as("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceProd")
def reduction(step: Step) -> str:
    """A mean, sum, product, maximum, minimum or norm over axes."""
    axes = step.get("axes")
    if axes is None:
        axes = step.numbers(1, list(range(len(step.known_shape(0)))))
    if step.kind == "ReduceProd":  # PyTorch takes one axis at a time
        return step.operand(0) + "".join(
            f".prod({axis}, keepdim={bool(step.get('keepdims', 1))})" for axis in sorted(axes, reverse=min(axes) >= 0)
        )
    name = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "amax", "ReduceMin": "amin", "ReduceL2": "norm"}[
        step.kind
    ]
    axes = f"({', '.join(map(str, axes))}{',' if len(axes) == 1 else ''})"
    return f"{step.operand(0)}.{name}({'dim=' if name == 'norm' else ''}{axes}" + (
        ", keepdim=True)" if step.get("keepdims", 1) else ")"
    )


@written_as("ArgMax", "ArgMin")
def index_of_extreme(step: Step) -> str:
    """The index of the maximum or minimum."""
    return f"{step.operand(0)}.{step.kind.lower()}({step.get('axis', 0)}, keepdim={bool(step.get('keepdims', 1))})"
