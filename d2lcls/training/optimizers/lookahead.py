"""Lookahead: slow weights, to which the optimizer's weights are pulled back every few steps."""

from __future__ import annotations

from d2lcls.machine.gluon import is_learnable, parameters_by_path

from mxnet import gluon, nd


class Lookahead:
    """Average a network's weights with their past every few steps, less and less changed as training proceeds.

    Every `every` steps the slow weights move part of the way to the network's parameters and running statistics,
    and are then copied into the network. They move by the share 1 - decay, where decay is
    0.95 ** every * progress ** 3: near 0 for most of the run. After the last step the network keeps the slow weights.

    Source: Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back" (2019); the growing decay is from Jordan,
    "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024).

    Args:
        net: initialised `gluon.Block`.
        total_steps: number of steps of the run.
        every: steps between two averages, 1 or more.
    """

    def __init__(self, net: gluon.Block, total_steps: int, every: int = 5) -> None:
        if every < 1:
            raise ValueError(f"lookahead must be a number of steps, 1 or more (or 0: off), not {every}.")
        self.net, self.total_steps, self.every = net, total_steps, every
        nd.waitall()  # reading running statistics does not wait for the step that updates them
        self.slow = {
            name: [copy.copy() for copy in parameter.list_data()] for name, parameter in parameters_by_path(net).items()
        }

    def after(self, steps: int) -> None:
        """Update the slow weights if it is time, after this number of steps."""
        if steps == self.total_steps:
            self._average(1.0)
        elif steps % self.every == 0:
            self._average(0.95**self.every * (steps / self.total_steps) ** 3)

    def _average(self, decay: float) -> None:
        nd.waitall()
        for name, parameter in parameters_by_path(self.net).items():
            if is_learnable(parameter) and parameter.grad_req == "null":  # frozen
                continue
            for slow, quick in zip(self.slow[name], parameter.list_data()):
                slow *= decay
                slow += (1 - decay) * quick
                slow.copyto(quick)
