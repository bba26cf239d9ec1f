"""An old MXNet model written as ONNX, with a report of how nearly both compute the same."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from unittest.mock import patch

from d2lcls.deploy.graph.input_shapes import infer_outputs
from d2lcls.deploy.onnx.converters import CONVERTERS, OPSET, register
from d2lcls.deploy.onnx_runtime import import_onnx, import_runtime
from d2lcls.deploy.rescue.load import RescueError
from d2lcls.machine.files import write_atomically

import mxnet as mx
import numpy as np


@dataclass(frozen=True)
class Parity:
    """How nearly ONNX Runtime computes what MXNet computes.

    Args:
        differences: dict from output to the largest difference of a value, as a share of the largest value.
        same_top1: dict from output, those of shape (N, K), to the share of images with the same top-1.
        images: how many were compared.
        free_batch: whether the ONNX model takes any number of images at once.
        opset: of the ONNX model.
    """

    differences: Mapping[str, float]
    same_top1: Mapping[str, float]
    images: int
    free_batch: bool
    opset: int = OPSET

    @property
    def largest(self):
        """The largest difference in any output."""
        return max(self.differences.values())


def write_onnx(model, path, inputs, tolerance=1e-4):
    """Write a model as ONNX if it computes what MXNet does; arguments and errors as `checked_onnx`.

    Args:
        path: the ONNX file; it appears only if both agree.

    Returns:
        `Parity`.
    """
    made, parity = checked_onnx(model, inputs, tolerance)
    write_atomically(path, lambda file: file.write(made.SerializeToString()))
    return parity


def checked_onnx(model, inputs, tolerance=1e-4):
    """Convert a model and compare it with MXNet on real inputs.

    Args:
        model: `OldModel`.
        inputs: dict from the names of the inputs to arrays (N, ...), of shapes as `model.shapes` says.
        tolerance: largest allowed difference, as a share of an output's largest value.

    Returns:
        (`onnx.ModelProto`, `Parity`).

    Raises:
        RescueError: an operator cannot be converted, which is named; or the results differ.
        ImportError: onnx or onnxruntime is not installed; names the extra.
    """
    runtime = import_runtime()
    count, reasons = len(next(iter(inputs.values()))), []
    images = [
        {name: np.ascontiguousarray(array[place : place + 1]) for name, array in inputs.items()}
        for place in range(count)
    ]
    expected = [list(model.run(one).values()) for one in images]
    for free in (True, False) if _batch_is_free(model) else (False,):
        made = to_onnx(model, free)
        try:
            settings = runtime.SessionOptions()
            settings.log_severity_level = 4  # its warnings are of no use to the user, its errors are raised
            session = runtime.InferenceSession(made.SerializeToString(), settings, providers=["CPUExecutionProvider"])
            # All at once against MXNet's one at a time: so a batch that is not free does not go unseen.
            parity = compare(session, [inputs] if free else images, expected, free)
        except (RuntimeError, ValueError, *_runtime_errors(runtime)) as error:
            reasons.append(" ".join(str(error).split())[:300])
            continue
        if parity.largest <= tolerance:
            return made, parity
        reasons.append(
            f"its outputs differ by up to {parity.largest:.2g} of the largest value, more than {tolerance:g}"
        )
    raise RescueError(
        f"The ONNX model was made and does not compute the same ({reasons[-1]}). It was not written. "
        f"Operators in it: {', '.join(sorted({node.op for node in model.graph.nodes} - {'null'}))}."
    )


def to_onnx(model, free_batch=True):
    """Convert an `OldModel` and return the checked `onnx.ModelProto`, of opset `OPSET`.

    Args:
        model: `OldModel`.
        free_batch: whether the first axis of inputs and outputs is to be free, called "N".

    Raises:
        RescueError: an operator has no converter, or not with these attributes; it is named.
    """
    onnx = import_onnx()
    from mxnet.onnx.mx2onnx._export_onnx import MXNetGraph

    register()
    shapes = model.input_shapes()
    symbol = with_shapes(model, shapes, free_batch)
    _check_converters(model, MXNetGraph.registry_)
    names = [name for name in symbol.list_inputs() if name in shapes]
    last = symbol.get_internals()[len(symbol.get_internals()) - 1].name + "_label"
    names = [name for name in names if name != last]  # the exporter leaves this one out by itself
    fixed = [shapes[name] for name in names]
    dynamic = (
        {"dynamic": True, "dynamic_input_shapes": [("N", *shape[1:]) for shape in fixed]}
        if free_batch
        else {"dynamic": False}
    )
    parameters = {name: mx.nd.array(array, dtype=array.dtype) for name, array in model.parameters.items()}
    try:
        with patch.object(onnx.checker, "check_graph"):  # it takes the newest opset, not the one asked for
            graph = MXNetGraph().create_onnx_graph_proto(
                symbol, parameters, fixed, [onnx.TensorProto.FLOAT] * len(fixed), opset_version=OPSET, **dynamic
            )
        _clean(graph, symbol, shapes, free_batch)
        made = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], producer_name="d2lcls", ir_version=7
        )
        onnx.checker.check_model(made, full_check=True)
    except (
        NotImplementedError,
        AttributeError,
        AssertionError,
        KeyError,
        IndexError,
        ValueError,
        TypeError,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as error:
        raise RescueError(f"The network cannot be written as ONNX: {' '.join(str(error).split())[:300]}") from error
    return made


def with_shapes(model, shapes, free_batch=True):
    """Return a model's symbol with the shapes of every layer in it, where converters find them.

    Args:
        model: `OldModel`.
        shapes: dict from the names of the inputs to shapes (1, ...).
        free_batch: False if other numbers of images need not work.
    """
    one = _shapes_of(model, shapes)
    more = _shapes_of(model, model.input_shapes(2)) if free_batch else one
    nodes = []
    for place, node in enumerate(model.graph.nodes):
        if node.op in CONVERTERS and node.op != "null" and (place, 0) in one:
            known = {
                "inputs": [one.get(edge) for edge in node.inputs],
                "output": one[place, 0],
                "larger": more.get((place, 0)),
            }
            node = node._replace(attributes={**node.attributes, "__shapes__": json.dumps(known)})
        nodes.append(node)
    return model.graph._replace(nodes=tuple(nodes)).load()


def compare(session, batches, expected, free_batch):
    """Return the `Parity` of an ONNX Runtime session.

    Args:
        session: `onnxruntime.InferenceSession`.
        batches: list of dicts from input to array.
        expected: list of lists of outputs, of all images in any grouping.
        free_batch: what to note.
    """
    names = [value.name for value in session.get_inputs()]
    found = [session.run(None, {name: batch[name] for name in names}) for batch in batches]
    names = [value.name for value in session.get_outputs()]
    differences, top1 = {}, {}
    for place, name in enumerate(names):
        a, b = (np.concatenate([np.atleast_1d(one[place]) for one in every]) for every in (expected, found))
        if a.shape != b.shape:
            raise ValueError(f"output {name!r} has the shape {b.shape} instead of {a.shape}")
        scale = np.abs(a).max(initial=0) or 1
        difference = float(np.abs(a.astype(np.float64) - b).max(initial=0) / scale)
        differences[name] = difference if np.isfinite(difference) else float("inf")
        if a.ndim == 2 and a.shape[1] > 1:
            top1[name] = float((a.argmax(axis=1) == b.argmax(axis=1)).mean())
    return Parity(differences, top1, sum(len(next(iter(batch.values()))) for batch in batches), free_batch)


def _shapes_of(model, shapes):
    known = {**shapes, **{name: array.shape for name, array in model.parameters.items()}}
    internals = model.symbol.get_internals()
    of = {}
    for place, shape in zip(range(len(internals.list_outputs())), infer_outputs(internals, known)):
        of.setdefault(internals[place].name, []).append(shape)
    return {
        (place, output): list(shape)
        for place, node in enumerate(model.graph.nodes)
        for output, shape in enumerate(of.get(node.name, []))
    }


def _batch_is_free(model):
    try:
        one, two = (infer_outputs(model.symbol, model.variable_shapes(n)) for n in (1, 2))
    except (mx.MXNetError, RescueError):
        return False
    return all(a and b and b[0] == 2 * a[0] and a[1:] == b[1:] for a, b in zip(one, two))


def _check_converters(model, registry):
    used = {node["op"] for node in json.loads(model.symbol.tojson())["nodes"]}  # as MXNet calls them, not by an alias
    missing = sorted(used - {"null", *registry.get(12, {}), *registry.get(13, {})})
    if missing:
        raise RescueError(
            f"No converter to ONNX is known for {', '.join(missing)}. Cut the network off before it, or "
            "register one as d2lcls.deploy.onnx.converters does."
        )


def _clean(graph, symbol, shapes, free_batch):
    """Leave as inputs only what is fed, and bring the outputs into MXNet's order with their shapes."""
    stored = {tensor.name for tensor in graph.initializer}
    used = {name for node in graph.node for name in node.input}
    outputs = {value.name: value for value in graph.output}
    inputs = [value for value in graph.input if value.name not in stored and value.name in used]
    kept = [tensor for tensor in graph.initializer if tensor.name in used or tensor.name in outputs]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.input[:]
    graph.input.extend(inputs)
    ordered = [_output_name(name, outputs) for name in symbol.list_outputs()]
    del graph.output[:]
    for name, shape in zip(ordered, infer_outputs(symbol, shapes)):
        value = outputs[name]
        del value.type.tensor_type.shape.dim[:]
        for place, size in enumerate(shape):
            dimension = value.type.tensor_type.shape.dim.add()
            if free_batch and place == 0:
                if size == 1:
                    dimension.dim_param = "N"
            else:
                dimension.dim_value = size
        graph.output.append(value)


def _output_name(name, known):
    """Return the exporter's name of an output: layer_output is layer, layer_output1 is layer1."""
    head, _, number = name.rpartition("_output")
    return next(one for one in (head + number, name, head) if one in known)


def _runtime_errors(runtime):
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(
        getattr(state, name)
        for name in ("Fail", "InvalidGraph", "InvalidArgument", "NotImplemented", "RuntimeException", "EPFail")
        if hasattr(state, name)
    )
