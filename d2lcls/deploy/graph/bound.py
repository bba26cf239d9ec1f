"""A graph bound to each batch size that it gets, so that MXNet sets it up once for each and not at every call.

A hybridized block infers shapes and plans memory again at each call, about a millisecond and a half for a ResNet-20 in
int8. static_shape=True would avoid that, but then int8 layers return the first batch's outputs for ever. A bound
executor does neither.
"""

from collections.abc import Callable, Mapping
from threading import Lock

from d2lcls.deploy.graph.input_shapes import GraphError, check_sizes
from d2lcls.deploy.graph.names import listed
from d2lcls.models.fusion.unfused import UNFUSED

import mxnet as mx
import numpy as np

MAX_EXECUTORS = 32  # one for each batch size, enough for all those of a service; then the oldest is dropped


def check_arrays(
    symbol: mx.sym.Symbol,
    arguments: Mapping[str, mx.nd.NDArray],
    statistics: Mapping[str, mx.nd.NDArray],
    name: str,
    shape: tuple[int, ...],
) -> None:
    """Check that MXNet can compute a graph with these parameters from an input of this name and shape.

    Raises:
        GraphError: parameters are missing, or the graph has no such input, or as `check_sizes`.
        MXNetError: the shapes contradict each other.
    """
    arrays = {**arguments, **statistics}
    known = {key: value.shape for key, value in arrays.items()} | {name: shape}
    needed = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    if not known.keys() >= {*needed}:
        raise GraphError(f"the file of parameters lacks {listed(sorted({*needed} - known.keys()))}")
    if name not in needed:
        raise GraphError(f"it has no input {name!r}")
    types = {key: value.dtype for key, value in arrays.items() if key != name}
    check_sizes(symbol, {key: known[key] for key in needed}, types)


def bind(
    symbol: mx.sym.Symbol,
    arguments: Mapping[str, mx.nd.NDArray],
    statistics: Mapping[str, mx.nd.NDArray],
    name: str = "data",
) -> Callable[[np.ndarray], np.ndarray]:
    """Bind a graph on the CPU to each batch size it is called with.

    Args:
        symbol: of logits (N, K), fused or quantised already.
        arguments, statistics: by name, without the input.
        name: of the input.

    Returns:
        function from float32 (N, C, H, W), any N, to logits float32 (N, K). Threads may share it; their calls run one
        after another. It raises GraphError or MXNetError if the graph cannot be computed with such a shape.
    """
    executors: dict[tuple[int, ...], mx.executor.Executor] = {}
    lock = Lock()

    def executor(shape: tuple[int, ...]) -> mx.executor.Executor:
        check_arrays(symbol, arguments, statistics, name, shape)
        # Copies: oneDNN changes the layout of parameters in place, and executors that share them compute nonsense.
        own = {key: arguments[key].copyto(UNFUSED) for key in symbol.list_arguments() if key != name}
        aux_states = {key: statistics[key].copyto(UNFUSED) for key in symbol.list_auxiliary_states()}
        return symbol.bind(UNFUSED, {**own, name: mx.nd.zeros(shape, UNFUSED)}, grad_req="null", aux_states=aux_states)

    def compute(x: np.ndarray) -> np.ndarray:
        with lock:
            if x.shape not in executors:
                if len(executors) == MAX_EXECUTORS:
                    executors.pop(next(iter(executors)))
                executors[x.shape] = executor(x.shape)
            bound = executors[x.shape]
            bound.arg_dict[name][:] = x
            return bound.forward(is_train=False)[0].asnumpy()

    return compute
