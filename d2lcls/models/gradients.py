"""Checking backpropagation against finite differences."""

from __future__ import annotations

from collections.abc import Callable

from d2lcls.machine.gluon import parameters_by_path

import numpy as np
from mxnet import autograd, gluon, nd


def check_gradients(
    net: gluon.Block,
    x: nd.NDArray,
    y: nd.NDArray,
    loss: Callable[[nd.NDArray, nd.NDArray], nd.NDArray] | None = None,
    eps: float = 1e-5,
    samples: int = 5,
    seed: int = 0,
) -> dict[str, float]:
    """Compare gradients from backpropagation with central differences, (L(w + eps) - L(w - eps)) / (2 eps).

    Args:
        net: initialised `gluon.Block` in float64 (`net.cast("float64")`), not hybridized; in float32 rounding
            would hide all but gross errors.
        x: float64 NDArray (N, C, H, W).
        y: NDArray of labels (N,).
        loss: function of (logits, labels) that returns (N,); None is cross-entropy.
        eps: half the distance between the two evaluations.
        samples: how many entries of each parameter are checked, chosen at random.
        seed: seed of that choice.

    Returns:
        dict from parameter name to its largest error: the distance of both divided by the largest
        gradient of that parameter, so that 1e-6 means six digits agree.

    Raises:
        ValueError: a parameter is not float64.
    """
    loss = loss or gluon.loss.SoftmaxCrossEntropyLoss()
    learned = {name: p for name, p in parameters_by_path(net).items() if p.grad_req != "null"}
    for name, parameter in learned.items():
        if np.dtype(parameter.dtype) != np.float64:
            raise ValueError(f"{name} is {np.dtype(parameter.dtype).name}; call net.cast('float64') first.")

    def total() -> float:
        with autograd.train_mode():
            return float(loss(net(x), y).sum().asscalar())

    with autograd.record():
        value = loss(net(x), y).sum()
    value.backward()
    rng, errors = np.random.default_rng(seed), {}
    for name, parameter in learned.items():
        weights, gradient = parameter.data().asnumpy(), parameter.grad().asnumpy()
        size = max(np.abs(gradient).max(), 1e-8)
        errors[name] = 0.0
        for index in rng.choice(weights.size, size=min(samples, weights.size), replace=False):
            index = np.unravel_index(index, weights.shape)
            sides = []
            for side in (eps, -eps):
                moved = weights.copy()
                moved[index] += side
                parameter.set_data(nd.array(moved, dtype="float64"))
                sides.append(total())
            numeric = (sides[0] - sides[1]) / (2 * eps)
            errors[name] = max(errors[name], abs(numeric - gradient[index]) / size)
        parameter.set_data(nd.array(weights, dtype="float64"))
    return errors
