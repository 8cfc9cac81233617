"""Figures of results: breakdown, timeline, and predicted against published."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, PercentFormatter

from hwsim.errors import InputError
from hwsim.report import format as fmt
from hwsim.report.style import (
    CYCLE,
    GREY,
    GRID,
    INK,
    MARKERS,
    MUTED,
    PART_COLOURS,
    SURFACE,
    ReportFigure,
    new_figure,
    save_figure,
    styled,
    text_on,
)
from hwsim.report.timeline import timeline_figure

if TYPE_CHECKING:
    from hwsim.analysis.published import ComparedRow

__all__ = ["breakdown_figure", "save_figure", "scatter_figure", "timeline_figure"]

PathLike = str | os.PathLike[str] | None
_LABELLED = 0.5  # inch: a segment narrower than this has no text in it
BANDS = (0.10, 0.25)


@styled
def breakdown_figure(
    parts_by_label: Mapping[str, Mapping[str, float]],
    path: PathLike = None,
    *,
    width: float = 7.2,
) -> ReportFigure:
    """Draw where the time goes: one stacked bar to 100 % per label.

    Parameters
    ----------
    parts_by_label : dict of str to dict of str to float
        Seconds by part (compute, memory, interconnect, overhead, idle) of
        each bar, drawn from the top. [s]
    path : str or path-like, optional
        Written there too, as its suffix says.
    width : float
        Width of the figure. [inch]

    Raises
    ------
    InputError
        If there is nothing to draw, or a part is negative.
    """
    bars = _checked_bars(parts_by_label)
    figure = new_figure(width, 0.85 + 0.42 * len(bars), _breakdown_caption(bars))
    axes = figure.add_subplot()
    names = _drawn_parts(bars)
    for row, parts in enumerate(bars.values()):
        _draw_bar(axes, row, parts, names, width)
    axes.set_yticks(
        range(len(bars)),
        [f"{name}\n{fmt.seconds(sum(p.values()))}" for name, p in bars.items()],
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    handles = [Patch(color=_part_colour(name), label=name) for name in names]
    figure.legend(
        handles=handles, loc="outside upper left", ncols=3 if width < 5 else 5,
        handlelength=1.0, handleheight=1.0, columnspacing=1.4,
    )  # fmt: skip
    if path is not None:
        save_figure(figure, path)
    return figure


def _checked_bars(
    parts_by_label: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, float]]:
    bars = {label: dict(parts) for label, parts in parts_by_label.items()}
    if not bars:
        raise InputError("no breakdown to draw; give at least one")
    for label, parts in bars.items():
        total = sum(parts.values())
        # Sums of floats may leave a part a hair below zero.
        wrong = [n for n, v in parts.items() if not v >= -1e-9 * abs(total)]
        if wrong or not total > 0:
            what = f"part {wrong[0]}" if wrong else "the sum"
            raise InputError(f"breakdown {label!r}: {what} is not a positive time")
    return bars


def _part_names(bars: Mapping[str, Mapping[str, float]]) -> list[str]:
    extra = [name for parts in bars.values() for name in parts]
    return list(dict.fromkeys([*PART_COLOURS, *extra]))


def _drawn_parts(bars: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the parts that are wide enough somewhere to be seen."""
    totals = {label: sum(parts.values()) for label, parts in bars.items()}
    return [
        name
        for name in _part_names(bars)
        if any(p.get(name, 0.0) > 5e-4 * totals[b] for b, p in bars.items())
    ]


def _part_colour(name: str) -> str:
    return PART_COLOURS.get(name, GREY)


def _draw_bar(
    axes: Any, row: int, parts: Mapping[str, float], names: list[str], width: float
) -> None:
    left, total = 0.0, sum(parts.values())
    for name in names:
        share = max(parts.get(name, 0.0), 0.0) / total
        colour = _part_colour(name)
        axes.barh(
            row, share, left=left, height=0.62, color=colour, edgecolor=SURFACE,
            linewidth=0.8,
        )  # fmt: skip
        # About three quarters of the width are bar, the rest is labels.
        if share * width * 0.75 >= _LABELLED:
            axes.text(
                left + share / 2, row, fmt.percent(share, 0), ha="center",
                va="center", color=text_on(colour), fontsize=8.5,
            )  # fmt: skip
        left += share


def _breakdown_caption(bars: Mapping[str, Mapping[str, float]]) -> str:
    lines = []
    for label, parts in bars.items():
        total = sum(parts.values())
        shares = sorted(parts.items(), key=lambda item: -item[1])
        text = ", ".join(
            f"{name} {fmt.percent(value / total)}"
            for name, value in shares
            if value > 5e-4 * total
        )
        lines.append(f"{label}: {fmt.seconds(total)}, of which {text}.")
    return " ".join(lines)


@styled
def scatter_figure(
    rows: Iterable[ComparedRow], path: PathLike = None, *, width: float = 7.2
) -> ReportFigure:
    """Draw predicted over published time, log-log, a mark per published source.

    Parameters
    ----------
    rows : iterable of ComparedRow
        Rows without a prediction are left out and counted in the caption. A
        published rate is drawn as the time that its work takes.
    path : str or path-like, optional
        Written there too, as its suffix says.
    width : float
        Width of the figure. [inch]

    Raises
    ------
    InputError
        If no row has a prediction.
    """
    every = list(rows)
    drawn = [row for row in every if row.seconds is not None]
    if not drawn:
        raise InputError("no row has a prediction; there is nothing to draw")
    figure = new_figure(
        width, min(0.66 * width + 0.6, 5.4) + _legend_height(drawn, width)
    )
    figure.caption = _scatter_caption(every, drawn)
    axes = figure.add_subplot()
    times = [t for row in drawn for t in (row.row.seconds, float(row.seconds or 0))]
    low, high = min(times) / 1.6, max(times) * 1.6
    _draw_bands(axes, low, high)
    for index, name in enumerate(_sources(drawn)):
        mine = [row for row in drawn if row.source.id == name]
        axes.plot(
            [row.row.seconds for row in mine], [row.seconds or 0.0 for row in mine],
            linestyle="", marker=MARKERS[index % len(MARKERS)], markersize=5.5,
            color=CYCLE[index % len(CYCLE)], markeredgecolor=INK,
            markeredgewidth=0.5, alpha=0.9, label=name, zorder=3,
        )  # fmt: skip
    _time_axes(axes, low, high)
    figure.legend(
        loc="outside lower left", ncols=_legend_columns(width), columnspacing=1.2,
        handletextpad=0.3, fontsize=7.5,
    )  # fmt: skip
    if path is not None:
        save_figure(figure, path)
    return figure


def _sources(rows: Sequence[ComparedRow]) -> list[str]:
    return sorted({row.source.id for row in rows})


def _legend_columns(width: float) -> int:
    return 3 if width > 5 else 1


def _legend_height(rows: Sequence[ComparedRow], width: float) -> float:
    lines = -(-len(_sources(rows)) // _legend_columns(width))
    return 0.17 * lines


def _draw_bands(axes: Any, low: float, high: float) -> None:
    line = np.array([low, high])
    for band, alpha in zip(reversed(BANDS), (0.55, 1.0), strict=True):
        axes.fill_between(
            line, line * (1 - band), line * (1 + band), color=GRID, alpha=alpha,
            linewidth=0, zorder=1, gid=f"band-{band:.0%}",
        )  # fmt: skip
    axes.plot(line, line, color=MUTED, linewidth=1.0, zorder=2)
    for band in BANDS:
        axes.annotate(
            f"±{band:.0%}".replace("%", " %"), (high, high * (1 - band)), (3, 0),
            textcoords="offset points", fontsize=7.5, color=MUTED, va="center",
            annotation_clip=False,
        )  # fmt: skip


def _time_axes(axes: Any, low: float, high: float) -> None:
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    shown = FuncFormatter(lambda value, _: fmt.quantity(value, "s", 3))
    blank = FuncFormatter(lambda *_: "")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(shown)
        axis.set_minor_formatter(blank)
    axes.set_xlabel("published time of the run")
    axes.set_ylabel("predicted time of the run")


def _scatter_caption(every: Sequence[Any], drawn: Sequence[ComparedRow]) -> str:
    ratios = [float(row.seconds or 0.0) / row.row.seconds - 1 for row in drawn]
    inside = [sum(abs(r) <= band for r in ratios) for band in BANDS]
    text = (
        f"{len(drawn)} published runs: {inside[0]} within ±10 % and {inside[1]} within "
        "±25 % of the published time (bands); on the diagonal, prediction and "
        "publication agree. A published rate is drawn as the time of its work."
    )
    left = len(every) - len(drawn)
    return text + (f" {left} without a prediction are not drawn." if left else "")


def legend_line(colour: str, label: str, **style: Any) -> Line2D:
    """Return a legend entry that stands for no drawn artist."""
    return Line2D([], [], color=colour, label=label, **style)
