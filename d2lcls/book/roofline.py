"""The roofline figure: the limits of arithmetic and memory, and how near layers or networks come to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from d2lcls.book.plots import ACCENT, DARK, LIGHT, new_figure

import numpy as np
from matplotlib.figure import Figure

_STYLES = ((DARK, "s"), (ACCENT, "o"), (LIGHT, "^"), ("white", "D"))  # distinct by shape and in grey
_LINES = ("-", "--", ":")


def show_roofline(
    points: Mapping[str, Sequence[tuple[float, float]]],
    rates: Mapping[str, float],
    bandwidth: float,
    title: str = "Layers that compute much for each byte come near the roof",
    cache: float | None = None,
) -> Figure:
    """Draw the rate reached over the arithmetic intensity, both logarithmic, below the machine's limits.

    Left of its ridge, a roof is the limit of the memory, intensity times bandwidth; right of it, the limit of the
    core's arithmetic. Source: Williams, Waterman and Patterson, "Roofline: An Insightful Visual Performance Model for
    Multicore Architectures" (2009).

    Args:
        points: (FLOP/byte, GFLOP/s) by kind, such as "convolutions", like the `intensity` and `gflops` of a
            `LayerCost`; at most four kinds.
        rates: GFLOP/s by name of a roof, such as "float32"; at most three.
        bandwidth: GB/s of the memory.
        title: the finding, in a few words.
        cache: GB/s of the caches, drawn as a second slope, for layers whose arrays stay in them; None draws none.

    Raises:
        ValueError: there are no points or no roofs, or too many kinds of them, or a number is not above 0.
    """
    if not 1 <= len(points) <= len(_STYLES) or not 1 <= len(rates) <= len(_LINES):
        raise ValueError(
            f"points must hold one to {len(_STYLES)} kinds and rates one to {len(_LINES)} roofs, not "
            f"{len(points)} and {len(rates)}. Draw the others in another figure."
        )
    arrays = {name: np.array(pairs, dtype=float).reshape(-1, 2) for name, pairs in points.items()}
    every = np.concatenate([*arrays.values()])
    if not len(every) or not (every > 0).all() or not min(*rates.values(), bandwidth) > 0:
        raise ValueError(
            f"points, rates and bandwidth must be above 0, with at least one point, not {points}, "
            f"{rates} and {bandwidth}."
        )
    if cache is not None and not cache > 0:
        raise ValueError(f"cache must be above 0, not {cache}.")
    ridges = [rate / bandwidth for rate in rates.values()]
    span = np.geomspace(min(every[:, 0].min(), *ridges) / 2, max(every[:, 0].max(), *ridges) * 2, 200)
    figure, axis = new_figure(7, 4.2)
    for (name, rate), line in zip(rates.items(), _LINES):
        axis.loglog(
            span,
            np.minimum(rate, span * bandwidth),
            line,
            color="black",
            linewidth=1.2,
            label=f"{name}: {rate:,.0f} GFLOP/s",
        )
    for (name, pairs), (colour, marker) in zip(arrays.items(), _STYLES):
        axis.loglog(*pairs.T, marker, color=colour, markeredgecolor=DARK, markersize=6, label=name)
    axis.set(xlabel="arithmetic intensity (FLOP/byte)", ylabel="rate reached (GFLOP/s)", title=title)
    middle = (span[0] * min(ridges)) ** 0.5  # of the slope, where there are hardly any points above it
    axis.annotate(
        f"memory: {bandwidth:,.0f} GB/s",
        (middle, middle * bandwidth),
        (-4, 4) if cache is None else (8, -8),  # beside the slope, on the side where no other one is
        textcoords="offset points",
        fontsize=8,
        ha="right" if cache is None else "left",
    )
    if cache is not None:
        slope = span[span <= max(rates.values()) / cache]
        axis.loglog(slope, slope * cache, "--", color="black", linewidth=1.2, label=f"caches: {cache:,.0f} GB/s")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")
    return figure
