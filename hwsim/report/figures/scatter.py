"""Predicted against published time: how far off, and which way."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from hwsim.errors import InputError
from hwsim.report import format as fmt
from hwsim.report.style import (
    CYCLE,
    GRID,
    INK,
    MARKERS,
    MUTED,
    ReportFigure,
    new_figure,
    save_figure,
    styled,
)

if TYPE_CHECKING:
    from hwsim.analysis.published.runs import ComparedRow

BANDS = (0.10, 0.25)
_SHADES = (1.0, 0.5)  # of the grid's colour: the narrow band is the darker


@styled
def scatter_figure(
    rows: Iterable[ComparedRow],
    path: str | os.PathLike[str] | None = None,
    *,
    width: float = 7.2,
) -> ReportFigure:
    """Draw predicted over published time, log-log, and the error below it.

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
    columns = 4 if width > 5 else 2
    sources = sorted({row.source.id for row in drawn})
    lines = -(-(len(sources) + len(BANDS)) // columns)
    figure = new_figure(width, 0.5 * width + 2.3 + 0.16 * lines)
    figure.caption = _caption(every, drawn)
    times, errors = figure.subplots(2, 1, sharex=True, height_ratios=(2.0, 1.0))
    _draw_bands(times, errors, drawn)
    for index, name in enumerate(sources):
        mine = [row for row in drawn if row.source.id == name]
        published = [row.row.seconds for row in mine]
        mark = _mark(index)
        times.plot(published, [r.seconds or 0.0 for r in mine], label=name, **mark)
        errors.plot(published, [time_error(row) for row in mine], **mark)
    handles = [
        Patch(color=GRID, alpha=shade, label=f"within {fmt.percent(band, 0)}")
        for band, shade in zip(BANDS, _SHADES, strict=True)
    ]
    figure.legend(
        handles=[*handles, *times.get_legend_handles_labels()[0]],
        loc="outside lower left", ncols=columns, columnspacing=1.0,
        handletextpad=0.4, handlelength=1.2, fontsize=7,
    )  # fmt: skip
    if path is not None:
        save_figure(figure, path)
    return figure


def time_error(row: ComparedRow) -> float:
    """Return (predicted - published) / published of the time, signed."""
    return (row.seconds or 0.0) / row.row.seconds - 1.0


def _mark(index: int) -> dict[str, Any]:
    return {
        "linestyle": "", "marker": MARKERS[index % len(MARKERS)], "markersize": 5.0,
        "color": CYCLE[index % len(CYCLE)], "markeredgecolor": INK,
        "markeredgewidth": 0.5, "alpha": 0.9, "zorder": 3,
    }  # fmt: skip


def _draw_bands(times: Any, errors: Any, drawn: Sequence[ComparedRow]) -> None:
    every = [t for row in drawn for t in (row.row.seconds, float(row.seconds or 0.0))]
    low, high = min(every) / 1.6, max(every) * 1.6
    line = np.array([low, high])
    for band, shade in reversed(list(zip(BANDS, _SHADES, strict=True))):
        look = {"color": GRID, "alpha": shade, "linewidth": 0, "zorder": 1}
        times.fill_between(line, line * (1 - band), line * (1 + band), **look)
        errors.fill_between(line, -band, band, **look)
    times.plot(line, line, color=MUTED, linewidth=1.0, zorder=2)
    errors.axhline(0.0, color=MUTED, linewidth=1.0, zorder=2)
    times.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    times.set_ylabel("predicted time")
    for axis in (times.yaxis, errors.xaxis):
        axis.set_major_formatter(FuncFormatter(lambda v, _: fmt.quantity(v, "s", 3)))
        axis.set_minor_formatter(NullFormatter())
    # At least the wider band is in sight, and no point on the edge.
    reach = max(BANDS[-1], *(abs(time_error(row)) for row in drawn)) * 1.1
    errors.set_ylim(-min(reach, 1.0), reach)
    errors.yaxis.set_major_formatter(
        FuncFormatter(lambda v, _: fmt.signed_percent(v, 0) if v else "0 %")
    )
    errors.set_ylabel("error of time")
    errors.set_xlabel("published time of the run")


def _caption(every: Sequence[ComparedRow], drawn: Sequence[ComparedRow]) -> str:
    inside = [sum(abs(row.error or 0.0) <= band for row in drawn) for band in BANDS]
    text = (
        f"{fmt.plural(len(drawn), 'published run')}: {inside[0]} within ±10 % and "
        f"{inside[1]} within ±25 % of the published figure. A published rate is drawn "
        "as the time of its work: a rate 25 % too fast is a time 20 % too short."
    )
    left = len(every) - len(drawn)
    return text + (f" Not drawn: {left} without a prediction." if left else "")
