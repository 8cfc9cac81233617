from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib as mpl
import pytest

from hwsim.analysis.published.runs import PublishedComparison
from hwsim.errors import InputError, OutputError
from hwsim.report.figures.graphs import breakdown_figure, save_figure, scatter_figure
from hwsim.report.style import FAMILIES, PART_COLOURS, ReportFigure, render, text_on

PARTS = {
    "compute": 6.0, "memory": 3.0, "interconnect": 0.0, "overhead": 1.0, "idle": 0.0,
}  # fmt: skip


def legend_of(figure: ReportFigure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_bars_are_as_wide_as_their_shares() -> None:
    figure = breakdown_figure({"step": PARTS})
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.6, 0.3, 0.1])
    assert [text.get_text() for text in axes.texts] == ["60 %", "30 %", "10 %"]
    assert legend_of(figure) == ["compute", "memory", "overhead"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["step\n10 s"]
    assert "compute 60.0 %" in figure.caption
    assert "idle" not in figure.caption


def test_the_first_breakdown_is_on_top() -> None:
    axes = breakdown_figure({"a": PARTS, "b": PARTS}).axes[0]
    bottom, top = axes.get_ylim()
    assert bottom > top


@pytest.mark.parametrize(
    ("bars", "words"),
    [
        ({}, "no breakdown"),
        ({"x": {"compute": 0.0}}, "the sum is not"),
        ({"x": {"compute": 2.0, "memory": -1.0}}, "part memory"),
        ({"x": {"compute": float("nan")}}, "part compute"),
    ],
)
def test_what_is_no_breakdown_is_refused(
    bars: dict[str, dict[str, float]], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        breakdown_figure(bars)


def test_scatter_draws_times_of_the_answered_rows(
    comparison: PublishedComparison,
) -> None:
    figure = scatter_figure(comparison.rows)
    times, errors = figure.axes
    points = next(line for line in times.lines if line.get_label() == "somebody")
    assert list(points.get_xdata()) == pytest.approx([2.0, 2.0])  # 8 at 4/s is 2 s
    assert list(points.get_ydata()) == pytest.approx([1.8, 1.6])
    drawn = errors.lines[-1]
    assert list(drawn.get_ydata()) == pytest.approx([-0.1, -0.2])
    assert times.get_xscale() == times.get_yscale() == "log"
    assert legend_of(figure) == ["within 10 %", "within 25 %", "somebody"]
    assert "1 within ±10 %" in figure.caption
    assert "2 within ±25 %" in figure.caption
    assert "1 without a prediction" in figure.caption


def test_scatter_without_a_prediction_is_refused(
    comparison: PublishedComparison,
) -> None:
    with pytest.raises(InputError, match="nothing to draw"):
        scatter_figure(comparison.unanswered)


@pytest.mark.parametrize(
    ("suffix", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")]
)
def test_a_figure_is_written_as_its_suffix_says(
    tmp_path: Path, suffix: str, magic: bytes
) -> None:
    path = tmp_path / f"figure.{suffix}"
    breakdown_figure({"step": PARTS}, path=path)
    assert path.read_bytes().startswith(magic)


def test_an_unknown_suffix_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(OutputError, match=r"\.svg, \.png, \.pdf"):
        save_figure(breakdown_figure({"step": PARTS}), tmp_path / "figure.bmp")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["svg", "png", "pdf"])
def test_equal_figures_give_equal_bytes(suffix: str) -> None:
    first, second = (
        render(breakdown_figure({"step": PARTS}), suffix) for _ in range(2)
    )
    assert first == second


def test_svg_text_is_text_and_names_are_escaped() -> None:
    name = "<script>$x^2$</script> & co"
    svg = render(breakdown_figure({name: PARTS}), "svg").decode()
    words = {
        "".join(e.itertext()) for e in ET.fromstring(svg).iter() if "text" in e.tag
    }
    assert name in words
    assert "<script" not in svg


def test_the_callers_settings_and_pyplot_are_left_alone() -> None:
    before = dict(mpl.rcParams)
    figure = breakdown_figure({"step": PARTS})
    assert dict(mpl.rcParams) == before
    assert figure._repr_svg_().lstrip().startswith("<?xml")


def test_colours_are_distinct_and_text_on_them_legible() -> None:
    colours = [*PART_COLOURS.values()]
    assert len(set(colours)) == len(colours)
    families = [colour for colour, _ in FAMILIES.values()]
    assert len(set(families)) == len(families)
    assert text_on("#ffffff") == "#000000"
    assert text_on("#0072b2") == "#ffffff"
    assert all(re.fullmatch(r"#[0-9a-f]{6}", c) for c in colours + families)
