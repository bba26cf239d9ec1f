"""Learning-rate schedules: functions from the number of the step to the learning rate.

Each function here returns `rate(step)` for step 0 to total_steps - 1. During the first `warmup_steps` the rate rises
linearly from lr / warmup_steps to lr (Goyal et al., 2017); the schedule's own shape follows after that.
`Recipe.learning_rate` chooses among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Rate = Callable[[int], float]


def constant(lr: float, total_steps: int, warmup_steps: int = 0) -> Rate:
    """Keep the rate at `lr`."""
    return _with_warmup(lr, total_steps, warmup_steps, lambda progress: 1.0)


def cosine(lr: float, total_steps: int, warmup_steps: int = 0, final: float = 0.0) -> Rate:
    """Decrease from `lr` to `final * lr` along half a cosine wave (Loshchilov and Hutter, SGDR, 2017)."""
    return _with_warmup(
        lr, total_steps, warmup_steps, lambda progress: final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
    )


def linear(lr: float, total_steps: int, warmup_steps: int = 0, final: float = 0.0) -> Rate:
    """Decrease linearly from `lr` to `final * lr`."""
    return _with_warmup(lr, total_steps, warmup_steps, lambda progress: 1 - (1 - final) * progress)


def step(
    lr: float, total_steps: int, warmup_steps: int = 0, milestones: tuple[float, ...] = (0.5, 0.75), factor: float = 0.1
) -> Rate:
    """Multiply the rate by `factor` at each milestone, a share of the steps after warm-up (He et al., 2016)."""
    return _with_warmup(
        lr, total_steps, warmup_steps, lambda progress: factor ** sum(progress >= milestone for milestone in milestones)
    )


def exponential(lr: float, total_steps: int, warmup_steps: int = 0, final: float = 0.01) -> Rate:
    """Multiply the rate by the same factor every step, so that it ends at `final * lr`."""
    return _with_warmup(lr, total_steps, warmup_steps, lambda progress: final**progress)


SCHEDULES: dict[str, Callable[..., Rate]] = {
    "constant": constant,
    "cosine": cosine,
    "exponential": exponential,
    "linear": linear,
    "step": step,
}


def _with_warmup(lr: float, total_steps: int, warmup_steps: int, shape: Callable[[float], float]) -> Rate:
    if lr <= 0:
        raise ValueError(f"The learning rate must be above 0, not {lr}.")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"warmup_steps must lie between 0 and the {total_steps} steps of the run, not {warmup_steps}.")

    def rate(step: int) -> float:
        if step < warmup_steps:
            return lr * (step + 1) / warmup_steps
        return lr * shape((step - warmup_steps) / max(1, total_steps - warmup_steps))

    return rate
