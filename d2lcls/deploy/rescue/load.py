"""An old MXNet model, loaded from what is left of it: a graph and parameters, or parameters and a Gluon class."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from d2lcls.deploy.graph.input_shapes import find_inputs, guess_shape, infer_shapes
from d2lcls.deploy.graph.params_file import read_params
from d2lcls.deploy.graph.symbol_json import Graph, read_symbol, reason_of
from d2lcls.models.fusion.unfused import run

import mxnet as mx
import numpy as np

WIDE = {np.dtype(name) for name in ("float16", "float64")}


class RescueError(ValueError):
    """A model whose parts do not fit together; the message lists what is missing or mismatched."""


@dataclass(frozen=True)
class OldModel:
    """A model that runs.

    Args:
        graph: `Graph`, upgraded.
        symbol: `mx.sym.Symbol` of it.
        arguments, statistics: dicts from name to numpy array: what is learned, and running means and variances.
        shapes: dict from the name of each input to its shape without the batch axis; None if it must be given.
        labels: names of inputs that only a loss reads; prediction does not need them.
        notes: what was done to make it load, in sentences.
    """

    graph: Graph
    symbol: Any
    arguments: Mapping[str, np.ndarray]
    statistics: Mapping[str, np.ndarray]
    shapes: Mapping[str, Any]
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def parameters(self):
        """Arguments and statistics in one dict."""
        return {**self.arguments, **self.statistics}

    def input_shapes(self, batch=1):
        """Return the shapes (N, ...) of all inputs, those of labels included.

        Raises:
            RescueError: a shape is not known; says how to give it.
        """
        unknown = [name for name, shape in self.shapes.items() if shape is None]
        if unknown:
            raise RescueError(
                f"The network takes {unknown[0]!r} in many sizes: give one, as in --shape 3,224,224 "
                f"or, with several inputs, --shape {unknown[0]}=3,224,224."
            )
        shapes = {name: (batch, *shape) for name, shape in self.shapes.items()}
        if self.labels:
            found = infer_shapes(self.symbol, {**shapes, **{n: a.shape for n, a in self.parameters.items()}})
            for name in self.labels:
                if not found.get(name) or 0 in found[name]:
                    raise RescueError(
                        f"The shape of the label {name!r} does not follow from the inputs': give it with "
                        f"--shape {name}=..."
                    )
                shapes[name] = found[name]
        return shapes

    def run(self, inputs):
        """Compute the outputs as for prediction.

        Args:
            inputs: array (N, ...) for the only input, or dict from name to array.

        Returns:
            dict from the outputs' names to numpy arrays.

        Raises:
            RescueError: a shape is wrong, or MXNet refuses; says why.
        """
        if not isinstance(inputs, Mapping):
            if len(self.shapes) != 1:
                raise RescueError(f"The network takes several inputs, {', '.join(self.shapes)}: pass a dict.")
            inputs = {next(iter(self.shapes)): inputs}
        if inputs.keys() != self.shapes.keys():
            raise RescueError(f"Expected the inputs {', '.join(self.shapes)}, not {', '.join(inputs) or 'none'}.")
        inputs = {name: np.asarray(value) for name, value in inputs.items()}
        known = {name: array.shape for name, array in {**inputs, **self.parameters}.items()}
        try:
            _check_memory(self.symbol, known)
            given = {
                name: value.astype(np.float32) if value.dtype == np.float64 else value for name, value in inputs.items()
            }
            shapes = infer_shapes(self.symbol, known)
            labels = {name: np.zeros(shapes[name], np.float32) for name in self.labels}
            found = run(self.symbol, {**given, **labels, **self.parameters})
        except mx.MXNetError as error:
            sizes = ", ".join(f"{name} {array.shape}" for name, array in inputs.items())
            raise RescueError(f"MXNet cannot run the network on {sizes} ({reason_of(error)}).") from error
        return dict(zip(self.symbol.list_outputs(), found))

    def save(self, prefix):
        """Write PREFIX-symbol.json and PREFIX-0000.params in the form of MXNet 1.9, and return both paths."""
        paths = f"{prefix}-symbol.json", f"{prefix}-0000.params"
        self.symbol.save(paths[0])
        mx.nd.save(
            paths[1],
            {
                f"{kind}:{name}": mx.nd.array(array, dtype=array.dtype)
                for kind, arrays in (("arg", self.arguments), ("aux", self.statistics))
                for name, array in arrays.items()
            },
        )
        return paths


def load_old_model(symbol_path, params_path, shapes=None):
    """Load a Module checkpoint or a Gluon export, of any age.

    Args:
        symbol_path: PREFIX-symbol.json.
        params_path: PREFIX-NNNN.params.
        shapes: dict from an input's name to its shape without the batch axis, or one shape for the only input; None
            takes what the graph and the sizes of its weights tell.

    Returns:
        `OldModel`.

    Raises:
        FileNotFoundError, SymbolError, ParamsError: as `read_symbol` and `read_params`.
        RescueError: parameters are missing, or have other shapes than the graph; all of them are listed.
    """
    return assemble(read_symbol(symbol_path), read_params(params_path), shapes)


def assemble(graph, arrays, shapes=None, notes=()):
    """Bring a `Graph` and a dict of arrays together as an `OldModel`; see `load_old_model`."""
    plain, notes = {}, [*notes, *graph.changes]
    for name, array in arrays.items():
        bare = name[4:] if name[:4] in ("arg:", "aux:") else name
        if bare in plain:
            raise RescueError(f"{bare!r} is in the parameters twice, as argument and as statistic.")
        plain[bare] = array
    graph, plain = _in_float32(graph.complete(), plain, notes)
    symbol = graph.load()
    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    inputs, labels = find_inputs(graph, symbol, plain)
    extra = [name for name in plain if name not in names]
    if extra:
        notes.append(f"{len(extra)} parameters are not used by the graph: {_some(extra)}")
    shapes = _input_shapes(graph, inputs, labels, plain, shapes)
    _check_parameters(
        symbol,
        {name for name in names if name not in (*inputs, *labels)},
        plain,
        {name: (1, *shape) for name, shape in shapes.items() if shape is not None},
    )
    for name in inputs:
        if shapes[name] is None and len(inputs) == 1:
            shapes[name], note = guess_shape(graph, symbol, name, {n: a.shape for n, a in plain.items() if n in names})
            if note:
                notes.append(note)
    return OldModel(
        graph,
        symbol,
        {name: plain[name] for name in symbol.list_arguments() if name in plain},
        {name: plain[name] for name in symbol.list_auxiliary_states()},
        shapes,
        tuple(labels),
        tuple(notes),
    )


def _in_float32(graph, arrays, notes):
    """Turn half and double precision into single: on a CPU that is what MXNet computes in and ONNX needs."""
    kinds = sorted({str(array.dtype) for array in arrays.values() if array.dtype in WIDE})
    if not kinds:
        return graph, arrays
    notes.append(f"weights of {' and '.join(kinds)} are computed with in float32")
    nodes = []
    for node in graph.nodes:
        attributes = dict(node.attributes)
        if attributes.get("dtype") in ("float16", "float64"):
            attributes["dtype"] = "float32"
        if attributes.get("__dtype__") in ("1", "2"):  # MXNet's numbers of these types; 0 is float32
            attributes["__dtype__"] = "0"
        nodes.append(node._replace(attributes=attributes))
    return graph._replace(nodes=tuple(nodes)), {
        name: array.astype(np.float32) if array.dtype in WIDE else array for name, array in arrays.items()
    }


def _input_shapes(graph, inputs, labels, arrays, given):
    if not inputs:
        raise RescueError("The network has no input: every variable of the graph is among the parameters.")
    if given is not None and not isinstance(given, Mapping):
        if len(inputs) > 1:
            raise RescueError(
                f"The network takes {', '.join(inputs)}: say whose shape it is, as in --shape {inputs[0]}=3,224,224."
            )
        given = {inputs[0]: given}
    for name, shape in (given or {}).items():
        if name not in inputs:
            raise RescueError(f"{name!r} is no input of the network; it takes {', '.join(inputs)}.")
        if not all(isinstance(n, (int, np.integer)) and 0 < n < 1 << 20 for n in shape):
            raise RescueError(f"The shape of {name!r} must be whole numbers above 0, not {tuple(shape)}.")
    return {name: tuple(int(n) for n in given[name]) if given and name in given else None for name in inputs}


def _check_parameters(symbol, needed, arrays, shapes):
    """Compare what the graph needs with what the file holds, and list all differences at once."""
    missing = sorted(needed - arrays.keys())
    try:
        expected = infer_shapes(symbol, shapes)
    except mx.MXNetError as error:
        if shapes:
            raise RescueError(f"The graph cannot take inputs of {_sizes(shapes)} ({reason_of(error)}).") from error
        expected = None  # some operators, such as Pad, want to know the input's shape before anything else
    known, expected = expected is not None, expected or {}
    wrong = [
        (name, expected[name], arrays[name].shape)
        for name in sorted(needed & arrays.keys())
        if expected.get(name)
        and (
            len(expected[name]) != arrays[name].ndim
            or any(n not in (0, m) for n, m in zip(expected[name], arrays[name].shape))
        )
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} parameters are missing: {_some([_expected(n, expected) for n in missing])}")
        left = [name for name in arrays if name not in needed]
        if left:
            problems.append(f"in the file, and unknown to the graph: {_some(left)}")
    if wrong:
        problems.append(
            f"{len(wrong)} have another shape: "
            + _some([f"{name} {found} instead of {wanted}" for name, wanted, found in wrong])
        )
    if not problems and not known:
        return
    if not problems:
        try:
            infer_shapes(symbol, {**shapes, **{name: array.shape for name, array in arrays.items() if name in needed}})
            return
        except mx.MXNetError as error:
            problems.append(reason_of(error))
    hint = " Or is it the input's shape that differs?" if wrong and not missing and shapes else ""
    raise RescueError(
        f"The parameters do not fit the graph: {'; '.join(problems)}. Look for the files that were "
        f"written together.{hint}"
    )


def _check_memory(symbol, shapes):
    """Refuse what cannot fit, before MXNet tries: it would end the process, or the machine."""
    import psutil

    found = infer_shapes(symbol.get_internals(), shapes, outputs=True)
    sizes = [math.prod(max(n, 0) for n in shape) for shape in found if shape]
    if max(sizes, default=0) >= 2**31:
        raise RescueError(
            f"One of the network's layers would give {max(sizes):,} numbers on this input; MXNet's arrays "
            "hold less than 2 ** 31. Give a smaller --shape."
        )
    need = 4 * sum(sizes)
    free = psutil.virtual_memory().available
    if need > free:
        raise RescueError(
            f"The network's layers need up to {need / 2**30:,.1f} GB on this input, and "
            f"{free / 2**30:,.1f} GB are free. Give a smaller --shape."
        )


def _expected(name, expected):
    shape = expected.get(name)
    return f"{name} ({', '.join(str(n or '?') for n in shape)})" if shape else name


def _sizes(shapes):
    return ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())


def _some(names, most=12):
    names = list(map(str, names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
