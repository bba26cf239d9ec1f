"""Every allowed operator with drawn attributes, shapes, types and values, in a process that must not end."""

import json
import random
import re
import resource
import subprocess
import sys

from d2lcls.models.symbols.allowed import ALLOWED, signature
from d2lcls.models.symbols.attributes import FUSED, NotAllowed, check_attributes

import mxnet as mx
import pytest

SHAPES = [(2, 4, 6, 6)] * 3 + [
    (2, 4),
    (4,),
    (1,),
    (2, 4, 6),
    (2, 4, 3, 6, 6),
    (1,) * 8,
    (1,) * 9,
    (3, 4, 6, 6),
    (1, 4, 1, 1),
]
SHAPES += [(2, 2), (4, 3, 3, 3), (0, 4), (2, 0, 4, 4), ()]
REQUIRED = {
    "kernel": "(3, 3)", "num_filter": "4", "num_hidden": "4", "num_outputs": "2", "num_args": "2", "scalar": "2",
    "reps": "(2, 2)", "block_size": "2", "pad_width": "(0, 0, 0, 0, 1, 1, 1, 1)", "nsize": "3",
}  # fmt: skip
RUN = """
import json, sys
import d2lcls
from d2lcls.deploy.graph.input_shapes import GraphError, check_sizes, infer_shapes
from d2lcls.models.symbols.allowed import load_symbol
from d2lcls.models.fusion.unfused import run
import mxnet as mx
import numpy as np
np.seterr(all="ignore")
for number, line in enumerate(sys.stdin):
    case = json.loads(line)
    print(number, flush=True)
    try:
        symbol = load_symbol(json.dumps(case["graph"]))
        names = symbol.list_arguments() + symbol.list_auxiliary_states()
        shapes = {name: tuple(shape) for name, shape in case["shapes"].items() if name in names}
        shapes = {name: (2,) for name in names} | infer_shapes(symbol, shapes) | shapes
        types = {name: np.dtype(case["type"]).type for name in names}
        check_sizes(symbol, shapes, types)
        run(symbol, {name: np.full(shapes[name], case["value"]).astype(types[name]) for name in names})
        print("computed", flush=True)
    except (ValueError, mx.MXNetError):
        print("refused", flush=True)
"""


def drawn(rng, kind):
    if kind.startswith("{"):
        return rng.choice(re.findall(r"'(\w+)'", kind[: kind.index("}")]))
    if kind.startswith("bool"):
        return rng.choice(("True", "False"))
    if kind.startswith("Shape"):
        return str(tuple(rng.choice((0, 1, 2, 3, -1, 4, 100)) for _ in range(rng.choice((0, 1, 2, 2, 3, 4, 5, 8)))))
    return str(rng.choice((0, 1, 2, 3, -1, 7, 100, 4096)))


def case_of(rng, op):
    arguments = mx.operator.get_operator_arguments(op)
    attributes = {
        name: REQUIRED[name] if name in REQUIRED and rng.random() < 0.7 else drawn(rng, kind)
        for name, kind in zip(arguments.names, arguments.types)
        if "Symbol" not in kind and ("optional" not in kind or rng.random() < 0.5)
    }
    try:
        check_attributes(op, attributes)
        inputs = len(signature(op, attributes)[0] or "ab")
    except NotAllowed:
        inputs = 1
    nodes = [{"op": "null", "name": f"v{index}"} for index in range(inputs)]
    nodes.append({"op": op, "name": "it", "attrs": attributes, "inputs": [[index, 0, 0] for index in range(inputs)]})
    return {
        "graph": {"nodes": nodes, "heads": [[inputs, 0, 0]]},
        "shapes": {f"v{index}": rng.choice(SHAPES) for index in range(inputs) if index == 0 or rng.random() < 0.5},
        "type": rng.choice(("float32", "float32", "int8", "uint8", "int32", "float16")),
        "value": rng.choice((1.0, 0.0, -7.0, 1e30, float("nan"), float("inf"))),
    }


@pytest.mark.slow
def test_no_allowed_operator_ends_the_process_or_hangs():
    rng = random.Random(0)
    cases = [case_of(rng, op) for op in sorted(ALLOWED - {"null"} - FUSED.keys()) for _ in range(20)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN],
        input="\n".join(map(json.dumps, cases)),
        text=True,
        capture_output=True,
        timeout=600,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30)),
    )
    lines = done.stdout.split()
    assert done.returncode == 0, (done.stderr[-300:], cases[int([line for line in lines if line.isdecimal()][-1])])
    assert lines.count("computed") > 1000 and lines.count("refused") > 500
