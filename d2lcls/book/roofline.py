"""The roofline picture: what computing and memory allow, and how near layers or networks come to it."""

from d2lcls.book.plots import ACCENT, DARK, LIGHT

import numpy as np
from matplotlib.figure import Figure

_LOOKS = ((DARK, "s"), (ACCENT, "o"), (LIGHT, "^"), ("white", "D"))  # apart by shape and in grey
_LINES = ("-", "--", ":")


def show_roofline(points, rates, bandwidth, title="What computes much for each byte comes near the roof"):
    """Draw what was reached over what is computed for each byte, both logarithmic, under what the machine allows.

    Left of its ridge a roof is what the memory can feed, intensity times bandwidth; right of it, what the core's
    arithmetic can do. Source: Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance Model for
    Multicore Architectures" (2009).

    Args:
        points: dict from what they are, such as "convolutions", to a list of (FLOP/byte, GFLOP/s), as the `intensity`
            and `gflops` of a `LayerCost`; at most four kinds.
        rates: dict from the name of a roof, such as "float32", to GFLOP/s; at most three.
        bandwidth: GB/s of the memory.
        title: the finding, in a few words.

    Raises:
        ValueError: there is no point or no roof, or too many kinds of them, or one that is not above 0.
    """
    if not 1 <= len(points) <= len(_LOOKS) or not 1 <= len(rates) <= len(_LINES):
        raise ValueError(
            f"points must hold one to {len(_LOOKS)} kinds and rates one to {len(_LINES)} roofs, not "
            f"{len(points)} and {len(rates)}. Draw the others in a figure of their own."
        )
    places = {name: np.array(pairs, dtype=float).reshape(-1, 2) for name, pairs in points.items()}
    every = np.concatenate([*places.values()])
    if not len(every) or not (every > 0).all() or not min(*rates.values(), bandwidth) > 0:
        raise ValueError(
            f"points, rates and bandwidth must be above 0, and at least one point there, not {points}, "
            f"{rates} and {bandwidth}."
        )
    ridges = [rate / bandwidth for rate in rates.values()]
    span = np.geomspace(min(every[:, 0].min(), *ridges) / 2, max(every[:, 0].max(), *ridges) * 2, 200)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    for (name, rate), line in zip(rates.items(), _LINES):
        axis.loglog(
            span,
            np.minimum(rate, span * bandwidth),
            line,
            color="black",
            linewidth=1.2,
            label=f"{name}: {rate:,.0f} GFLOP/s",
        )
    for (name, pairs), (colour, marker) in zip(places.items(), _LOOKS):
        axis.loglog(*pairs.T, marker, color=colour, markeredgecolor=DARK, markersize=6, label=name)
    axis.set_xlabel("arithmetic intensity (FLOP/byte)")
    axis.set_ylabel("rate reached (GFLOP/s)")
    middle = (span[0] * min(ridges)) ** 0.5  # of the slope, with hardly a point above it
    axis.annotate(
        f"memory: {bandwidth:,.0f} GB/s",
        (middle, middle * bandwidth),
        (-4, 4),
        textcoords="offset points",
        fontsize=8,
        ha="right",
    )
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")
    axis.set_title(title)
    return figure
