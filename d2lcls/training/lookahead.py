"""Slow weights, towards which the quick ones of the optimizer are drawn back every few steps."""

from mxnet import nd


class Lookahead:
    """Average a network with its own past every few steps, less and less of the new as the run goes on.

    Every `every` steps the slow weights move by a share of the way to the network's parameters and running statistics,
    and the network takes their place. The share, 1 - decay, follows the run: decay is
    0.95 ** every * progress ** 3, near 0 for most of it. After the last step the network keeps the slow weights.

    Source: Zhang et al., "Lookahead Optimizer: k steps forward, 1 step back" (2019); the growing decay is from Jordan,
    "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (2024).

    Args:
        net: initialised `gluon.Block`.
        total_steps: of the run.
        every: steps between two averages, 1 or more.
    """

    def __init__(self, net, total_steps, every=5):
        if every < 1:
            raise ValueError(f"lookahead must be a number of steps, 1 or more (or 0: off), not {every}.")
        self.net, self.total_steps, self.every = net, total_steps, every
        nd.waitall()  # reading running statistics does not wait for the step that updates them
        self.slow = {
            name: [copy.copy() for copy in parameter.list_data()]
            for name, parameter in net._collect_params_with_prefix().items()
        }

    def after(self, steps):
        """Do what is due after so many steps."""
        if steps == self.total_steps:
            self._average(1.0)
        elif steps % self.every == 0:
            self._average(0.95**self.every * (steps / self.total_steps) ** 3)

    def _average(self, decay):
        nd.waitall()
        for name, parameter in self.net._collect_params_with_prefix().items():
            for slow, quick in zip(self.slow[name], parameter.list_data()):
                slow *= decay
                slow += (1 - decay) * quick
                slow.copyto(quick)
