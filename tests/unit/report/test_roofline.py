from __future__ import annotations

import itertools
from typing import Any

import pytest
from matplotlib.text import Text

from hwsim.analysis.graph_result import GraphResult, run_graph
from hwsim.errors import InputError
from hwsim.report.figures.ceilings import compute_ceilings, memory_ceilings, op_points
from hwsim.report.figures.roofline import roofline_figure
from hwsim.report.labels import spread
from tests.unit.report.conftest import (
    make_device,
    make_graph,
    make_result,
    make_stack,
    make_system,
)


def lines(figure: Any, start: str) -> dict[str, Any]:
    found = [ln for ln in figure.axes[0].lines if str(ln.get_gid()).startswith(start)]
    return {str(line.get_gid()).removeprefix(start): line for line in found}


def texts(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_equal_peaks_are_one_ceiling() -> None:
    ceilings = compute_ceilings(make_device())
    assert [(c.peak, c.dtypes, c.unit) for c in ceilings] == [
        (2e15, ("fp8",), "matrix"),
        (1e15, ("bf16", "fp16"), "matrix"),
        (67e12, ("fp32",), "vector"),
    ]


def test_levels_without_a_bandwidth_have_no_ceiling() -> None:
    assert memory_ceilings(make_device()) == {"l2": 10e12, "hbm": 4e12}


def test_a_bare_device_has_its_ceilings_and_ridge_points() -> None:
    figure = roofline_figure([], device=make_device())
    axes = figure.axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    peaks = lines(figure, "peak-")
    assert set(peaks) == {"fp8-matrix", "bf16-fp16-matrix", "fp32-vector"}
    assert set(peaks["bf16-fp16-matrix"].get_ydata()) == {1e15}
    assert set(lines(figure, "memory-")) == {"l2", "hbm"}
    hbm = lines(figure, "memory-")["hbm"]
    slopes = [y / x for x, y in zip(hbm.get_xdata(), hbm.get_ydata(), strict=True)]
    assert slopes == pytest.approx([4e12, 4e12])
    ridges = [ln for ln in axes.lines if ln.get_gid() == "ridge"]
    at = sorted(float(ln.get_xdata()[0]) for ln in ridges)
    assert at == pytest.approx([67e12 / 4e12, 250.0, 500.0])
    shown = texts(figure)
    assert "bf16, fp16  1 PFLOP/s" in shown
    assert "hbm  4 TB/s" in shown
    assert "250 FLOP/B" in shown
    assert lines(figure, "op-") == {}


def test_operators_are_points_at_their_intensity_and_rate(result: GraphResult) -> None:
    points = lines(roofline_figure([result]), "op-")
    assert set(points) == {"qkv", "silu", "down"}
    row = next(r for r in result.op_rows() if r["name"] == "down")
    assert points["down"].get_xdata()[0] == pytest.approx(row["flop"] / row["nbytes"])
    assert points["down"].get_ydata()[0] == pytest.approx(row["flop"] / row["time_s"])
    assert points["down"].get_markersize() > points["silu"].get_markersize()
    assert points["down"].get_ydata()[0] <= 1e15


def test_operators_without_arithmetic_are_left_out_and_told_of(
    result: GraphResult,
) -> None:
    points, left = op_points([result])
    row = next(r for r in result.op_rows() if r["name"] == "lookup")
    assert row["flop"] == 0
    assert left[0] == pytest.approx(row["total_s"] / result.serial_sum)
    assert sum(p.share for p in points) + left[0] == pytest.approx(1.0)
    assert "without arithmetic" in roofline_figure([result]).caption


def test_two_graphs_differ_by_marker_and_stand_in_the_legend(
    result: GraphResult,
) -> None:
    other = make_result(name="decode", rows=8)
    figure = roofline_figure([result, other])
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown[-2:] == ["prefill", "decode"]
    points = [ln for ln in figure.axes[0].lines if ln.get_gid() == "op-down"]
    assert len({line.get_marker() for line in points}) == 2


def test_labels_do_not_overlap(result: GraphResult) -> None:
    figure = roofline_figure([result, make_result(name="decode", rows=8)])
    renderer = figure.canvas.get_renderer()
    named = [t for t in figure.axes[0].texts if t.get_text() in {"qkv", "down", "silu"}]
    assert len(named) >= 3
    boxes = [Text.get_window_extent(text, renderer) for text in named]
    for first, second in itertools.combinations(boxes, 2):
        assert not first.overlaps(second)


def test_no_device_and_two_devices_are_refused(result: GraphResult) -> None:
    with pytest.raises(InputError, match="needs a device"):
        roofline_figure([])
    other = make_system(id="other")
    second = run_graph(make_graph(), other, make_stack())
    with pytest.raises(InputError, match="not both fixture and other"):
        roofline_figure([result, second])


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([], []),
        ([5.0], [5.0]),
        ([10.0, 10.0, 40.0], [7.0, 13.0, 40.0]),
        ([40.0, 10.0, 10.0], [40.0, 7.0, 13.0]),
        ([0.0, 1.0, 2.0], [-5.0, 1.0, 7.0]),
    ],
)
def test_spread(positions: list[float], expected: list[float]) -> None:
    assert spread(positions, 6.0) == pytest.approx(expected)
