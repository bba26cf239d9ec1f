import io

from d2lcls.book.roofline import show_roofline

import numpy as np
import pytest
from PIL import Image

POINTS = {"convolutions": [(40.0, 90.0), (280.0, 110.0)], "normalisation": [(0.25, 4.0)]}


def test_roofs_bend_where_memory_no_longer_holds_back():
    figure = show_roofline(POINTS, {"float32": 120.0, "bfloat16": 240.0}, bandwidth=20.0)
    axis = figure.axes[0]
    roofs = {line.get_label(): line.get_xydata() for line in axis.lines[:2]}
    assert list(roofs) == ["float32: 120 GFLOP/s", "bfloat16: 240 GFLOP/s"]
    for rate, roof in zip((120, 240), roofs.values()):
        intensity, reached = roof.T
        np.testing.assert_allclose(reached[intensity < rate / 20], 20 * intensity[intensity < rate / 20])
        np.testing.assert_allclose(reached[intensity > rate / 20], rate)
        assert intensity.min() < 0.25 and intensity.max() > 280  # no point stands outside
    assert [list(map(tuple, line.get_xydata())) for line in axis.lines[2:]] == list(POINTS.values())
    assert axis.get_xscale() == axis.get_yscale() == "log"
    assert "FLOP/byte" in axis.get_xlabel() and "GFLOP/s" in axis.get_ylabel()


def test_it_can_be_read_in_grey():
    figure = show_roofline({name: [(1.0, 2.0)] for name in "abcd"}, {"x": 9.0, "y": 8.0, "z": 7.0}, 3.0)
    roofs, points = figure.axes[0].lines[:3], figure.axes[0].lines[3:]
    assert len({line.get_linestyle() for line in roofs}) == 3
    assert len({line.get_marker() for line in points}) == 4
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=60)
    assert np.asarray(Image.open(stream).convert("L")).std() > 3


def test_the_caches_have_a_slope_of_their_own():
    axis = show_roofline(POINTS, {"float32": 120.0}, bandwidth=20.0, cache=60.0).axes[0]
    slope = next(line for line in axis.lines if line.get_label() == "caches: 60 GB/s").get_xydata()
    np.testing.assert_allclose(slope[:, 1], 60 * slope[:, 0])
    assert slope[:, 1].max() <= 120
    with pytest.raises(ValueError, match="cache must be above 0"):
        show_roofline(POINTS, {"float32": 120.0}, bandwidth=20.0, cache=0)


@pytest.mark.parametrize(
    "points, rates, bandwidth, message",
    [
        ({}, {"a": 1.0}, 1.0, "one to 4 kinds"),
        (POINTS, {}, 1.0, "one to 3 roofs"),
        (POINTS, dict.fromkeys("abcd", 1.0), 1.0, "one to 3 roofs"),
        ({"a": []}, {"a": 1.0}, 1.0, "above 0"),
        ({"a": [(0.0, 1.0)]}, {"a": 1.0}, 1.0, "above 0"),
        (POINTS, {"a": 1.0}, 0.0, "above 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(points, rates, bandwidth, message):
    with pytest.raises(ValueError, match=message):
        show_roofline(points, rates, bandwidth)
