"""Computing a graph as it is written: MXNet 1.9.1 otherwise fuses its layers, in places wrongly."""

import mxnet as mx
from mxnet import nd

# MXNet fuses whatever is bound to cpu(0). cpu(1) is the same processor, and left alone.
UNFUSED = mx.cpu(1)


def run(symbol, values):
    """Compute a graph as for prediction and as it is written, without fusion.

    Args:
        symbol: `mx.sym.Symbol`.
        values: dict from the names of all its variables to numpy arrays or NDArrays, whose types are kept.

    Returns:
        list of numpy arrays, one for each output.
    """
    arguments, statistics = (
        {name: nd.array(values[name], UNFUSED, values[name].dtype) for name in names}
        for names in (symbol.list_arguments(), symbol.list_auxiliary_states())
    )
    executor = symbol.bind(UNFUSED, arguments, grad_req="null", aux_states=statistics)
    return [output.asnumpy() for output in executor.forward(is_train=False)]
