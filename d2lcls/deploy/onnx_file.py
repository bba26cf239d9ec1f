"""ONNX files, which may come from strangers: what they may contain, and a child process in which they are opened first.

ONNX Runtime computes constants while it opens a file, so a few bytes can demand any amount of memory or time, and the
package onnx has known faults that end the process. Both meet a file in a child process, with limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from d2lcls.deploy.manifest import ModelError
from d2lcls.machine.child import ChildFailed, in_child
from d2lcls.machine.memory import limit_memory

T = TypeVar("T")

MISSING = '{} is not installed: pip install "d2lcls[deploy]"'
OPSETS = range(11, 19)  # onnx converts older ones before it quantises; in later ones its shape inference has a fault
MEMORY, SECONDS = 2_000_000_000, 120  # for a file, besides four times its size
NODES = 20_000  # the largest networks have a few thousand, and ONNX Runtime takes 13 seconds for 100,000
_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8}  # of a number, by TensorProto's numbers of types


def import_onnx() -> ModuleType:
    """Import and return the package onnx; ImportError names the extra it comes with."""
    try:
        import onnx
        import onnx.checker
        import onnx.helper
    except ImportError as error:
        raise ImportError(MISSING.format("onnx")) from error
    return onnx


def call_apart(
    function: Callable[..., T],
    path: Path,
    *arguments: Any,
    what: str,
    memory: int | None = MEMORY,
    seconds: float = SECONDS,
) -> T:
    """Call a function that opens an ONNX file in a child process, which a hostile file may end or keep busy.

    Args:
        function: called with the path and the arguments; as for `in_child`.
        path: the .onnx file.
        arguments: further ones.
        what: what the function does, for messages, such as "quantising it".
        memory: bytes that it may use, besides four times the file's size; None is no limit.
        seconds: that it may take.

    Raises:
        FileNotFoundError: there is no such file.
        ModelError: the function failed, in one line that names the file; or the process crashed or reached a limit.
        ImportError: the function's.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    try:
        return in_child(_call, function, path, arguments, what, memory, what=what, timeout=seconds)
    except ChildFailed as failure:
        raise ModelError(f"{path}: {failure}. Make it anew.") from failure


def _call(function: Callable[..., T], path: Path, arguments: tuple[Any, ...], what: str, memory: int | None) -> T:
    if memory:
        limit_memory(memory + 4 * path.stat().st_size)
    try:
        return function(path, *arguments)
    except (ModelError, ImportError):
        raise
    except Exception as error:  # those of ONNX Runtime and of protobuf have no common parent but this one
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ModelError(f"{path}: {what} failed ({reason}). Make it anew.") from error


def read_onnx(path: Path) -> Any:
    """Return an ONNX model, an `onnx.ModelProto`, if it is one file, without control flow, in ONNX's own operators.

    Nothing is computed, and nothing is allocated for sizes that the file only declares.

    Raises:
        ModelError: it is damaged, or has something that is not allowed; says what.
        ImportError: onnx is not installed; names the extra.
    """
    onnx = import_onnx()
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it has no types

    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError as error:
        raise ModelError(f"{path}: not an ONNX model, or damaged ({error}). Make it anew.") from error
    for fault in _faults(model):
        raise ModelError(f"{path}: {fault}. Make it anew.")
    return model


def _faults(model: Any) -> Iterator[str]:
    """Yield a clause for each thing in a model that is not allowed."""
    opsets = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(opsets) != 1 or opsets[0] not in OPSETS:
        found = ", ".join(map(str, opsets[:5])) or "none"
        yield f"its opset is {found}; expected one from {OPSETS[0]} to {OPSETS[-1]}"
    if len(model.graph.node) > NODES:
        yield f"it has {len(model.graph.node)} nodes; expected {NODES} at most"
    if model.functions:
        yield f"it defines its own operator {model.functions[0].name[:80]!r}; expected only operators of ONNX"
    if model.graph.sparse_initializer:
        yield "it has sparse weights; expected dense ones"
    for tensor in model.graph.initializer:
        yield from _faults_of_tensor(tensor)
    for node in model.graph.node:
        name = f"the node {node.name[:80]!r} ({node.op_type[:80]!r})"
        if node.domain not in ("", "ai.onnx"):
            yield f"{name} is of the domain {node.domain[:80]!r}; expected only operators of ONNX"
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                yield f"{name} holds a graph of its own; expected no loops and no branches"
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                yield f"{name} holds sparse numbers; expected dense ones"
            for tensor in (*((attribute.t,) if attribute.HasField("t") else ()), *attribute.tensors):
                yield from _faults_of_tensor(tensor)


def _faults_of_tensor(tensor: Any) -> Iterator[str]:
    name = f"the array {tensor.name[:80]!r}"
    if tensor.external_data or tensor.data_location:
        yield f"{name} is kept in another file; expected all of them in this one, as the manifest has its checksum"
    elif tensor.data_type not in _BYTES:
        yield f"{name} has the type number {tensor.data_type}; expected one of {', '.join(map(str, _BYTES))}"
    elif any(size < 0 for size in tensor.dims):
        yield f"{name} has the shape {tuple(tensor.dims[:9])}; expected no negative sizes"
    else:
        lists = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        stored = len(tensor.raw_data) / _BYTES[tensor.data_type] + sum(map(len, lists))
        if stored != math.prod(tensor.dims):
            yield f"{name} has the shape {tuple(tensor.dims[:9])}, but {stored:.12g} numbers"
