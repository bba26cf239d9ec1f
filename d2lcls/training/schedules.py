"""Learning-rate schedules: plain functions from the number of the step to the learning rate.

Each function here returns `rate(step)` for step 0 to total_steps - 1. During the first `warmup_steps` the rate
climbs in a straight line from lr / warmup_steps to lr (Goyal et al., 2017); the shape follows after that.
"""

import math


def constant(lr, total_steps, warmup_steps=0):
    """Hold the rate at `lr`."""
    return _with_warmup(lr, total_steps, warmup_steps, lambda progress: 1.0)


def cosine(lr, total_steps, warmup_steps=0, final=0.0):
    """Fall from `lr` to `final * lr` along half a cosine wave (Loshchilov and Hutter, SGDR, 2017)."""
    return _with_warmup(
        lr, total_steps, warmup_steps, lambda progress: final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
    )


def linear(lr, total_steps, warmup_steps=0, final=0.0):
    """Fall from `lr` to `final * lr` in a straight line."""
    return _with_warmup(lr, total_steps, warmup_steps, lambda progress: 1 - (1 - final) * progress)


def step(lr, total_steps, warmup_steps=0, milestones=(0.5, 0.75), factor=0.1):
    """Multiply the rate by `factor` at each milestone, a share of the steps after warm-up (He et al., 2016)."""
    return _with_warmup(
        lr, total_steps, warmup_steps, lambda progress: factor ** sum(progress >= milestone for milestone in milestones)
    )


def exponential(lr, total_steps, warmup_steps=0, final=0.01):
    """Shrink the rate by the same factor every step, so that it ends at `final * lr`."""
    return _with_warmup(lr, total_steps, warmup_steps, lambda progress: final**progress)


SCHEDULES = {"constant": constant, "cosine": cosine, "exponential": exponential, "linear": linear, "step": step}


def _with_warmup(lr, total_steps, warmup_steps, shape):
    if lr <= 0:
        raise ValueError(f"The learning rate must be above 0, not {lr}.")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"warmup_steps must lie between 0 and the {total_steps} steps of the run, not {warmup_steps}.")

    def rate(step):
        if step < warmup_steps:
            return lr * (step + 1) / warmup_steps
        return lr * shape((step - warmup_steps) / max(1, total_steps - warmup_steps))

    return rate
