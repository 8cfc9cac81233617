"""Figures of results; the larger ones stand in modules of their own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from hwsim.errors import InputError
from hwsim.report import format as fmt
from hwsim.report.figures.scatter import scatter_figure
from hwsim.report.figures.timeline import timeline_figure
from hwsim.report.style import (
    GREY,
    PART_COLOURS,
    SURFACE,
    ReportFigure,
    new_figure,
    save_figure,
    styled,
    text_on,
)

__all__ = ["breakdown_figure", "save_figure", "scatter_figure", "timeline_figure"]

PathLike = str | os.PathLike[str] | None
_LABELLED = 0.5  # inch: a segment narrower than this has no text in it


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
