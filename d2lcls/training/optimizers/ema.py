"""An exponential moving average of the weights, which is validated and saved in their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from d2lcls.machine.gluon import is_learnable, parameters_by_path

from mxnet import gluon, nd


class MovingAverage:
    """Average a network's weights over the steps; training itself goes on as without it.

    After step t the average moves towards the weights by the share 1 - d of their difference, with
    d = min(decay, (1 + t) / (10 + t)), so that the first, random weights are soon forgotten. After the last step the
    network keeps the average.

    BatchNorm's running statistics are averaged in the same way, on each device those that it gathered: they belong to
    the weights of the same steps. The statistics of the last step alone would belong to weights that the average has
    not reached yet. Frozen parameters stay as they are, bit for bit.

    Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992); the growing decay is
    that of TensorFlow's `ExponentialMovingAverage`. Tan and Le's code for EfficientNet (2019) averages the statistics,
    too.

    Args:
        net: initialised `gluon.Block`.
        total_steps: number of steps of the run.
        decay: of the average, from 0 to below 1; at 0.999 it is over about the last thousand steps.
    """

    def __init__(self, net: gluon.Block, total_steps: int, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema must be a decay from 0 to below 1, not {decay}.")
        self.net, self.total_steps, self.decay = net, total_steps, decay
        nd.waitall()  # reading running statistics does not wait for the step that updates them
        self.slow = {
            name: [copy.copy() for copy in parameter.list_data()] for name, parameter in parameters_by_path(net).items()
        }

    def after(self, steps: int) -> None:
        """Update the average after this number of steps."""
        share = 1 - min(self.decay, (1 + steps) / (10 + steps))
        nd.waitall()
        for name, parameter in parameters_by_path(self.net).items():
            if is_learnable(parameter) and parameter.grad_req == "null":
                continue
            for average, current in zip(self.slow[name], parameter.list_data()):
                average += share * (current - average)
        if steps == self.total_steps:
            self._into_network()

    @contextmanager
    def in_network(self) -> Iterator[None]:
        """Let the network have the average for a `with` statement; afterwards it has its own weights again."""
        nd.waitall()
        parameters = parameters_by_path(self.net).values()
        before = [(copy, copy.copy()) for parameter in parameters for copy in parameter.list_data()]
        self._into_network()
        try:
            yield
        finally:
            nd.waitall()
            for copy, value in before:
                value.copyto(copy)

    def _into_network(self) -> None:
        for name, parameter in parameters_by_path(self.net).items():
            for average, current in zip(self.slow[name], parameter.list_data()):
                average.copyto(current)
