"""AdamW: Adam with decoupled weight decay. MXNet 1.9.1 has its operator, and no optimizer that calls it."""

from __future__ import annotations

import math
from typing import Any

import mxnet as mx
from mxnet import nd


@mx.optimizer.register
class AdamW(mx.optimizer.Optimizer):
    """Adam whose weight decay does not go through the moments of the gradient.

    With the gradient g, the moments m = b1 m + (1 - b1) g and v = b2 v + (1 - b2) g^2, and their values corrected for
    their start at 0, m' = m / (1 - b1^t) and v' = v / (1 - b2^t), a step is

        w = w - lr (m' / (sqrt(v') + epsilon) + wd w)

    which is PyTorch's: the decay follows the learning rate and its schedule. Once this module is imported, the name
    "adamw" is known to `mx.optimizer.create` and `gluon.Trainer`.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (2019), algorithm 2.

    Args:
        learning_rate: lr.
        beta1, beta2: decay rates of the two moments.
        epsilon: added to the root of the second moment.
        kwargs: further arguments of `mx.optimizer.Optimizer`, such as `wd`.
    """

    def __init__(
        self,
        learning_rate: float = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon

    def create_state(self, index: int, weight: nd.NDArray) -> tuple[nd.NDArray, nd.NDArray]:
        """Return the two moments of a weight, zeros of its shape."""
        return nd.zeros_like(weight), nd.zeros_like(weight)

    def update(self, index: int, weight: nd.NDArray, grad: nd.NDArray, state: tuple[nd.NDArray, nd.NDArray]) -> None:
        """Make one step, in place."""
        self._update_count(index)
        count, lr, wd = self._index_update_count[index], self._get_lr(index), self._get_wd(index)
        # The operator knows no correction of the moments: it goes into the rate and epsilon.
        first, second = 1 - self.beta1**count, math.sqrt(1 - self.beta2**count)
        mean, variance = state
        nd.contrib.adamw_update(
            weight,
            grad,
            mean,
            variance,
            rescale_grad=self.rescale_grad,
            lr=lr * second / first,
            eta=1.0,
            wd=lr * wd,
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=self.epsilon * second,
            clip_gradient=self.clip_gradient or -1,
            out=weight,
        )
