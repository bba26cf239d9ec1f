"""Computing a graph as it is written: MXNet 1.9.1 otherwise fuses its layers, sometimes wrongly."""

from __future__ import annotations

from collections.abc import Mapping

import mxnet as mx
import numpy as np
from mxnet import nd

# MXNet fuses every graph that is bound to cpu(0). cpu(1) is the same processor, but without fusion.
UNFUSED = mx.cpu(1)


def run(symbol: mx.sym.Symbol, values: Mapping[str, np.ndarray | nd.NDArray]) -> list[np.ndarray]:
    """Compute the outputs of a graph as for prediction and as it is written, without fusion.

    Args:
        symbol: the graph.
        values: the value of each of its variables by name; their types are kept.
    """
    arguments, statistics = (
        {name: nd.array(values[name], UNFUSED, values[name].dtype) for name in names}
        for names in (symbol.list_arguments(), symbol.list_auxiliary_states())
    )
    executor = symbol.bind(UNFUSED, arguments, grad_req="null", aux_states=statistics)
    return [output.asnumpy() for output in executor.forward(is_train=False)]
