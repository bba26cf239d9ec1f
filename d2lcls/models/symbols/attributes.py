"""The attributes of operators in a graph from a file: each must have the kind that MXNet documents, within bounds.

MXNet reads numbers leniently, computes with most of them unchecked, and divides by some.
"""

import math
import re
from collections.abc import Mapping
from functools import cache

import mxnet as mx

# Layers fused for oneDNN hold a graph of their own: the one layer that they are made of, and what follows it.
FUSED = {"_sg_mkldnn_conv": "Convolution", "_sg_mkldnn_fully_connected": "FullyConnected"}
# Attributes that MXNet does not document.
_RANGES = dict.fromkeys(("min_calib_range", "max_calib_range"), "float or None")
_UNDOCUMENTED = {
    **dict.fromkeys(("add_n", "ElementWiseSum"), {"num_args": "int"}),
    "_sg_mkldnn_conv": {
        **dict.fromkeys(("with_bn", "with_act", "with_sum", "with_postsum_act", "quantized"), "boolean"),
        **_RANGES,
    },
    "_sg_mkldnn_fully_connected": {
        **dict.fromkeys(("quantized", "with_eltwise", "enable_float_output"), "boolean"),
        "channel_wise_quantize": "boolean or None",
        **_RANGES,
    },
}

_INT32, _INT64 = (-(1 << 31), (1 << 31) - 1), (-(1 << 63), (1 << 63) - 1)
# Smallest and largest value of a number, of each number in a tuple.
_BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("kernel", "stride", "dilate"), (1, 4096)),
    **dict.fromkeys(("pad", "adj", "pad_width"), (0, 4096)),
    **dict.fromkeys(("target_shape", "output_size", "h_w", "height", "width", "offset"), (-1, 1 << 14)),
    **dict.fromkeys(("num_filter", "num_hidden", "num_group", "input_dim", "output_dim", "depth"), (1, 1 << 24)),
    **dict.fromkeys(("num_outputs", "num_args", "num_groups", "ndev"), (1, 4096)),
    **dict.fromkeys(("axis", "axis1", "axis2", "axes", "dim", "dim1", "dim2", "lhs_axes", "rhs_axes"), (-8, 8)),
    **dict.fromkeys(("lhs_begin", "lhs_end", "rhs_begin", "rhs_end"), (-8, 8)),
    **dict.fromkeys(("repeats", "reps"), (1, 4096)),
    **dict.fromkeys(("nsize", "block_size"), (1, 256)),
    **dict.fromkeys(("scale_height", "scale_width"), (1 / 64, 64)),
    **dict.fromkeys(("begin", "end", "step"), _INT64),  # the largest number means "to the end"
    "sections": (0, 4096),
    "scale": (1, 64),
    "p_value": (1, 64),
    "p": (0, 1),
    "ord": (1, 2),
    "workspace": (0, 1 << 20),
    "k": (0, 1 << 24),
    "size": (1, 1 << 24),
}
# The same for operators to which other bounds apply.
_OWN_BOUNDS: dict[tuple[str, str], tuple[float, float]] = {
    ("UpSampling", "num_filter"): (0, 1 << 24),
    ("_random_normal_like", "scale"): (0, 1 << 24),
    **{(op, "target_shape"): (0, 0) for op in ("Reshape", "reshape")},  # MXNet does not compare it with the input
}
_MAX_NUMBERS = {"indices": 4096, "reps": 4}  # with more repetitions, MXNet leaves parts of the output as they were
_TEXTS = {
    "ctx": re.compile(r"(cpu(_pinned|_shared)?(\([0-9]\))?)?"),
    "key": re.compile(r"[\w.:/-]{0,200}"),
    "__dtype__": re.compile(r"-1|[0-7]|12"),
    "__storage_type__": re.compile(r"-1|0"),
}
_WHOLE = re.compile(r"[-+]?[0-9]{1,19}L?")
_DECIMAL = re.compile(r"[-+]?([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][-+]?[0-9]{1,2})?")
_MAX_FLOAT = 3.4e38
_MAX_SIZE = 1 << 31


class NotAllowed(ValueError):
    """A graph with an operator, an attribute or a structure that is not allowed; the message names the node."""


def check_attributes(op: str, attributes: Mapping[str, str]) -> None:
    """Check that an operator has all of these attributes, and that their values have their kinds and are in bounds.

    Args:
        op: an operator that MXNet has, or "null" for a variable, whose attributes are free except hidden ones.
        attributes: from names to values.

    Raises:
        NotAllowed: one of them is not as it should be; the message does not name the node.
    """
    kinds = {} if op == "null" else _kinds(op)
    for key, value in attributes.items():
        if key == "__shape__":
            _check_shape(op, key, value)
        elif key in _TEXTS:
            if not _TEXTS[key].fullmatch(value):
                raise NotAllowed(f"its {key} is {value[:60]!r}, which is not allowed")
        elif key in kinds:
            _check(op, key, value.strip(" "), kinds[key])
        elif op != "null" and not key.startswith("__"):
            raise NotAllowed(f"{op} has no attribute {key[:60]!r}")
    sections, indices = (attributes.get(key, "0") for key in ("sections", "indices"))
    if op == "_split_v2" and not re.search("[1-9]", sections) and not re.search("[0-9]", indices):
        raise NotAllowed("its indices are empty, and it has no sections")  # MXNet reads the first index
    bilinear = op == "UpSampling" and attributes.get("sample_type") == "bilinear"
    if bilinear and not re.search("[1-9]", attributes.get("num_filter", "0")):
        raise NotAllowed("its num_filter should be 1 or more for bilinear scaling")  # MXNet divides by it


@cache
def _kinds(op: str) -> dict[str, str]:
    """Return the documented kind of each attribute, such as "int or None, optional, default='-1'"."""
    documented = mx.operator.get_operator_arguments(op)
    kinds = {name: kind for name, kind in zip(documented.names, documented.types) if "Symbol" not in kind}
    return {**kinds, **_UNDOCUMENTED.get(op, {})}


def _check(op: str, key: str, value: str, kind: str) -> None:
    if value == "None" and ("or None" in kind or kind.startswith("{None")):
        return
    if kind.startswith("{"):
        choices = re.findall(r"'(\w+)'", kind[: kind.index("}")])
        if value not in choices:
            raise NotAllowed(f"its {key} is {value[:60]!r}, expected {' or '.join(choices)}")
    elif kind.startswith("boolean"):
        if value.lower() not in ("true", "false", "0", "1"):
            raise NotAllowed(f"its {key} is {value[:60]!r}, expected True or False")
    elif kind.startswith("Shape"):
        _check_shape(op, key, value)
    elif kind.startswith(("int", "long")):
        _check_numbers(op, key, [value])
    elif kind.startswith(("float", "double")):
        low, high = _OWN_BOUNDS.get((op, key)) or _BOUNDS.get(key, (-_MAX_FLOAT, _MAX_FLOAT))
        if not _DECIMAL.fullmatch(value) or not low <= float(value) <= high:
            raise NotAllowed(f"its {key} is {value[:60]!r}, expected a number from {low:g} to {high:g}")
    else:
        raise NotAllowed(f"its {key} is of the kind {kind}, which is not allowed")


def _check_shape(op: str, key: str, value: str) -> None:
    """Check a tuple or list of whole numbers, some of which may be None, or a single whole number."""
    inner = value.strip(" ")
    if inner[:1] + inner[-1:] in ("()", "[]"):
        inner = inner[1:-1]
    items = [item.strip(" ") for item in inner.split(",")]
    if not items[-1]:
        items.pop()
    if len(items) > _MAX_NUMBERS.get(key, 16):
        raise NotAllowed(f"its {key} has {len(items)} numbers, more than any network has")
    numbers = _check_numbers(op, key, [item for item in items if item != "None"])
    size = math.prod(abs(number) or 1 for number in numbers)
    if key in ("shape", "__shape__", "target_shape") and (len(numbers) > 8 or size >= _MAX_SIZE):
        raise NotAllowed(f"its {key} is {value[:60]}, more than MXNet's arrays can hold")


def _check_numbers(op: str, key: str, items: list[str]) -> list[int]:
    low, high = _OWN_BOUNDS.get((op, key)) or _BOUNDS.get(key, _INT32)
    numbers = [int(item.rstrip("L")) for item in items if _WHOLE.fullmatch(item)]
    if len(numbers) < len(items) or any(not low <= number <= high for number in numbers):
        raise NotAllowed(f"its {key} is {', '.join(items)[:60]!r}, expected whole numbers from {low:g} to {high:g}")
    return numbers
