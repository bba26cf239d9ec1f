"""A graph bound to the few batch sizes that a service computes: MXNet sets each of them up once, and not at every call.

A hybridized block infers shapes and plans memory anew at each call, about a millisecond and a half for a ResNet-20 in
int8, unless it is told static_shape=True, with which int8 layers return the first batch's outputs for ever. A bound
executor does neither.
"""

import mxnet as mx


def bind(symbol, arguments, statistics, shapes, name="data"):
    """Bind a graph to the shapes of its input, on the CPU.

    Args:
        symbol: `mxnet.symbol.Symbol` of logits (N, K), fused or quantised already.
        arguments, statistics: dicts from name to NDArray, without the input.
        shapes: list of the input's shapes (N, C, H, W) with different N.
        name: of the input.

    Returns:
        function from float32 of one of the shapes to logits float32 (N, K); to be called from one thread.
    """
    executors = {}
    used = {key: arguments[key] for key in symbol.list_arguments() if key != name}
    kept = {key: statistics[key] for key in symbol.list_auxiliary_states()}
    largest = None
    for shape in sorted(shapes, reverse=True):  # the first one's memory is enough for the others
        executors[shape[0]] = symbol.bind(mx.cpu(), {**used, name: mx.nd.zeros(shape)}, grad_req="null",
                                          aux_states=kept, shared_exec=largest)
        largest = largest or executors[shape[0]]

    def compute(x):
        executor = executors[len(x)]
        executor.arg_dict[name][:] = x
        return executor.forward(is_train=False)[0].asnumpy()

    return compute
