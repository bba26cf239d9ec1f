"""A graph bound, as it is, to the batch sizes it meets: MXNet sets each of them up once, and not at every call.

A hybridized block infers shapes and plans memory anew at each call, about a millisecond and a half for a ResNet-20 in
int8, unless it is told static_shape=True, with which int8 layers return the first batch's outputs for ever. A bound
executor does neither.
"""

from threading import Lock

from d2lcls.models.fusion.unfused import UNFUSED

import mxnet as mx

KEPT = 32  # batch sizes that are kept set up, enough for all those of a service; beyond, the one set up first goes


def bind(symbol, arguments, statistics, name="data"):
    """Bind a graph on the CPU to each batch size that comes.

    Args:
        symbol: `mxnet.symbol.Symbol` of logits (N, K), fused or quantised already.
        arguments, statistics: dicts from name to NDArray, without the input.
        name: of the input.

    Returns:
        function from float32 (N, C, H, W), any N, to logits float32 (N, K); threads may share it, and wait for each
        other.
    """
    executors, lock = {}, Lock()

    def executor(shape):
        # Parameters of its own: oneDNN lays them out anew, in place, and an executor that shares them computes nonsense.
        own = {key: arguments[key].copyto(UNFUSED) for key in symbol.list_arguments() if key != name}
        return symbol.bind(
            UNFUSED,
            {**own, name: mx.nd.zeros(shape, UNFUSED)},
            grad_req="null",
            aux_states={key: statistics[key].copyto(UNFUSED) for key in symbol.list_auxiliary_states()},
        )

    def compute(x):
        with lock:
            if x.shape not in executors:
                if len(executors) == KEPT:
                    executors.pop(next(iter(executors)))
                executors[x.shape] = executor(x.shape)
            bound = executors[x.shape]
            bound.arg_dict[name][:] = x
            return bound.forward(is_train=False)[0].asnumpy()

    return compute
