"""An old MXNet model, loaded from a graph and its parameters, or from parameters and a Gluon class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from d2lcls.deploy.graph.input_shapes import (
    GraphError,
    Shape,
    check_sizes,
    find_inputs,
    guess_shape,
    infer_outputs,
    infer_shapes,
)
from d2lcls.deploy.graph.names import listed, without_kind
from d2lcls.deploy.graph.symbol_json import Graph, read_symbol
from d2lcls.machine.temporary import temporary_folder
from d2lcls.models.fusion.unfused import run
from d2lcls.models.symbols.allowed import reason_of
from d2lcls.weights.params_file import params_bytes, read_params

import mxnet as mx
import numpy as np

WIDE = {np.dtype(name) for name in ("float16", "float64")}


class RescueError(ValueError):
    """A model whose parts do not fit together; the message lists what is missing or mismatched."""


@dataclass(frozen=True)
class OldModel:
    """A model that runs.

    Args:
        graph: upgraded.
        symbol: of the graph.
        arguments: learned parameters by name.
        statistics: running means and variances by name.
        shapes: of each input, without the batch axis; None if it must be given.
        labels: names of inputs that only a loss reads; prediction does not need them.
        notes: what was done to load it.
    """

    graph: Graph
    symbol: mx.sym.Symbol
    arguments: Mapping[str, np.ndarray]
    statistics: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...] | None]
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> dict[str, np.ndarray]:
        """Arguments and statistics in one dict."""
        return {**self.arguments, **self.statistics}

    def input_shapes(self, batch: int = 1) -> dict[str, tuple[int, ...]]:
        """Return the shapes (N, ...) of all inputs, labels included.

        Raises:
            RescueError: a shape is not known; the message explains how to give it.
        """
        shapes = {}
        for name, shape in self.shapes.items():
            if shape is None:
                raise RescueError(
                    f"The network takes {name!r} in many sizes: give one, as in --shape 3,224,224 "
                    f"or, with several inputs, --shape {name}=3,224,224."
                )
            shapes[name] = (batch, *shape)
        if self.labels:
            inferred = infer_shapes(self.symbol, {**shapes, **_shapes(self.parameters)})
            for name in self.labels:
                if not inferred.get(name) or 0 in inferred[name]:
                    raise RescueError(
                        f"The shape of the label {name!r} does not follow from the inputs': give it with "
                        f"--shape {name}=..."
                    )
                shapes[name] = inferred[name]
        return shapes

    def variable_shapes(self, batch: int = 1) -> dict[str, tuple[int, ...]]:
        """Return the shapes of inputs, labels and parameters by name; errors as for `input_shapes`."""
        return {**self.input_shapes(batch), **_shapes(self.parameters)}

    def node_shapes(self, batch: int = 1) -> dict[str, list[tuple[int, ...]]]:
        """Return the shapes of all outputs of each node of the graph, by its name; errors as for `input_shapes`."""
        internals = self.symbol.get_internals()
        shapes: dict[str, list[tuple[int, ...]]] = {}
        for index, shape in enumerate(infer_outputs(internals, self.variable_shapes(batch))):
            shapes.setdefault(internals[index].name, []).append(shape)
        return shapes

    def run(self, inputs: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the outputs as for prediction.

        Args:
            inputs: array (N, ...) for the only input, or arrays by name.

        Returns:
            arrays by the outputs' names.

        Raises:
            RescueError: a shape is wrong, or MXNet cannot run the network; the message gives the reason.
        """
        if not isinstance(inputs, Mapping):
            if len(self.shapes) != 1:
                raise RescueError(f"The network takes several inputs, {', '.join(self.shapes)}: pass a dict.")
            inputs = {next(iter(self.shapes)): inputs}
        if inputs.keys() != self.shapes.keys():
            raise RescueError(f"Expected the inputs {', '.join(self.shapes)}, not {', '.join(inputs) or 'none'}.")
        inputs = {name: np.asarray(value) for name, value in inputs.items()}
        known = _shapes({**inputs, **self.parameters})
        try:
            shapes = infer_shapes(self.symbol, known)
            labels = {name: np.zeros(shapes[name], np.float32) for name in self.labels}
            values = {
                name: value.astype(np.float32) if value.dtype == np.float64 else value for name, value in inputs.items()
            }
            values = {**values, **labels, **self.parameters}
            _check_memory(self.symbol, values)
            outputs = run(self.symbol, values)
        except mx.MXNetError as error:
            raise RescueError(
                f"MXNet cannot run the network on {_sizes(_shapes(inputs))} ({reason_of(error)})."
            ) from error
        return dict(zip(self.symbol.list_outputs(), outputs))

    def save(self, prefix: str | Path) -> tuple[str, str]:
        """Write PREFIX-symbol.json and PREFIX-0000.params as MXNet 1.9 does, and return both paths.

        Raises:
            DiskFull: there is no room; older files are unchanged.
        """
        paths = f"{prefix}-symbol.json", f"{prefix}-0000.params"
        arrays = {
            f"{kind}:{name}": np.atleast_1d(array)
            for kind, arrays in (("arg", self.arguments), ("aux", self.statistics))
            for name, array in arrays.items()
        }
        Path(paths[0]).parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(f"{prefix}.new", paths[1]) as folder:
            for path, content in zip(paths, (self.symbol.tojson().encode(), params_bytes(arrays))):
                (folder / Path(path).name).write_bytes(content)
            for path in paths:
                os.replace(folder / Path(path).name, path)
        return paths


def load_old_model(
    symbol_path: str | Path, params_path: str | Path, shapes: Shape | Mapping[str, Shape] | None = None
) -> OldModel:
    """Load a Module checkpoint or a Gluon export of any version.

    Args:
        symbol_path: PREFIX-symbol.json.
        params_path: PREFIX-NNNN.params.
        shapes: without the batch axis, by input, or one shape for the only input; None infers them from the graph and
            the sizes of its weights.

    Raises:
        FileNotFoundError, SymbolError, ParamsError: as `read_symbol` and `read_params`.
        RescueError: parameters are missing, or have other shapes than the graph; all of them are listed.
    """
    return build_old_model(read_symbol(symbol_path), read_params(params_path), shapes)


def build_old_model(
    graph: Graph,
    arrays: Mapping[str, np.ndarray],
    shapes: Shape | Mapping[str, Shape] | None = None,
    notes: Sequence[str] = (),
) -> OldModel:
    """Build a model from a graph and its parameters by name; see `load_old_model`."""
    notes = [*notes, *graph.changes]
    parameters: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        bare = without_kind(name)
        if bare in parameters:
            raise RescueError(f"{bare!r} is in the parameters twice, as argument and as statistic.")
        parameters[bare] = array
    graph, parameters = _in_float32(graph.complete(), parameters, notes)
    symbol = graph.load()
    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    inputs, labels = find_inputs(graph, symbol, parameters)
    extra = [name for name in parameters if name not in names]
    if extra:
        notes.append(f"{len(extra)} parameters are not used by the graph: {listed(extra)}")
    input_shapes = _input_shapes(inputs, shapes)
    _check_parameters(
        symbol,
        {name for name in names if name not in (*inputs, *labels)},
        parameters,
        {name: (1, *shape) for name, shape in input_shapes.items() if shape is not None},
    )
    if len(inputs) == 1 and input_shapes[inputs[0]] is None:
        used = {name: array for name, array in parameters.items() if name in names}
        input_shapes[inputs[0]], note = guess_shape(graph, symbol, inputs[0], _shapes(used))
        if note:
            notes.append(note)
    return OldModel(
        graph,
        symbol,
        {name: parameters[name] for name in symbol.list_arguments() if name in parameters},
        {name: parameters[name] for name in symbol.list_auxiliary_states()},
        input_shapes,
        tuple(labels),
        tuple(notes),
    )


def _in_float32(graph: Graph, arrays: dict[str, np.ndarray], notes: list[str]) -> tuple[Graph, dict[str, np.ndarray]]:
    """Convert half and double precision to single, in which MXNet computes on a CPU and which ONNX needs."""
    kinds = sorted({str(array.dtype) for array in arrays.values() if array.dtype in WIDE})
    if not kinds:
        return graph, arrays
    notes.append(f"weights of {' and '.join(kinds)} were converted to float32")
    nodes = []
    for node in graph.nodes:
        attributes = dict(node.attributes)
        if attributes.get("dtype") in ("float16", "float64"):
            attributes["dtype"] = "float32"
        if attributes.get("__dtype__") in ("1", "2"):  # MXNet's codes of these types; 0 is float32
            attributes["__dtype__"] = "0"
        nodes.append(node._replace(attributes=attributes))
    return graph._replace(nodes=tuple(nodes)), {
        name: array.astype(np.float32) if array.dtype in WIDE else array for name, array in arrays.items()
    }


def _input_shapes(inputs: list[str], given: Shape | Mapping[str, Shape] | None) -> dict[str, tuple[int, ...] | None]:
    if not inputs:
        raise RescueError("The network has no input: every variable of the graph is among the parameters.")
    if given is not None and not isinstance(given, Mapping):
        if len(inputs) > 1:
            raise RescueError(
                f"The network has several inputs, {', '.join(inputs)}: name the one of this shape, as in "
                f"--shape {inputs[0]}=3,224,224."
            )
        given = {inputs[0]: given}
    shapes: dict[str, tuple[int, ...] | None] = dict.fromkeys(inputs)
    for name, shape in (given or {}).items():
        if name not in inputs:
            raise RescueError(f"{name!r} is not an input of the network, whose inputs are {', '.join(inputs)}.")
        if not all(isinstance(n, (int, np.integer)) and 0 < n < 1 << 20 for n in shape):
            raise RescueError(f"The shape of {name!r} must be whole numbers above 0, not {tuple(shape)}.")
        shapes[name] = tuple(int(n) for n in shape)
    return shapes


def _check_parameters(
    symbol: mx.sym.Symbol, needed: set[str], arrays: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]
) -> None:
    """Compare the parameters that the graph needs with those in the file, and list all differences at once."""
    missing = sorted(needed - arrays.keys())
    expected: Mapping[str, Shape] = {}
    inferred = True
    try:
        expected = infer_shapes(symbol, shapes)
    except mx.MXNetError as error:
        if shapes:
            raise RescueError(f"The graph cannot take inputs of {_sizes(shapes)} ({reason_of(error)}).") from error
        inferred = False  # some operators, such as Pad, need the input's shape before anything else
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
        problems.append(
            f"{len(missing)} parameters are missing: {listed(_expected(name, expected) for name in missing)}"
        )
        left = [name for name in arrays if name not in needed]
        if left:
            problems.append(f"in the file, but not in the graph: {listed(left)}")
    if wrong:
        problems.append(
            f"{len(wrong)} have another shape: "
            + listed(f"{name} {shape} instead of {wanted}" for name, wanted, shape in wrong)
        )
    if not problems and not inferred:
        return
    if not problems:
        try:
            infer_shapes(symbol, {**shapes, **_shapes({name: arrays[name] for name in needed})})
            return
        except mx.MXNetError as error:
            problems.append(reason_of(error))
    hint = " Or is it the input's shape that differs?" if wrong and not missing and shapes else ""
    raise RescueError(
        f"The parameters do not fit the graph: {'; '.join(problems)}. Look for the files that were "
        f"written together.{hint}"
    )


def _check_memory(symbol: mx.sym.Symbol, values: Mapping[str, np.ndarray]) -> None:
    """Raise for a network that cannot fit into memory: MXNet would end the process, or the machine."""
    import psutil

    try:
        need = check_sizes(symbol, _shapes(values), {name: value.dtype.type for name, value in values.items()})
    except GraphError as error:
        raise RescueError(f"The network cannot be computed: {error}. Give another --shape.") from error
    free = psutil.virtual_memory().available
    if need > free:
        raise RescueError(
            f"The network's layers need up to {need / 2**30:,.1f} GB for this input, and "
            f"{free / 2**30:,.1f} GB are free. Give a smaller --shape."
        )


def _expected(name: str, expected: Mapping[str, Shape]) -> str:
    shape = expected.get(name)
    return f"{name} ({', '.join(str(n or '?') for n in shape)})" if shape else name


def _shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def _sizes(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
