"""The figure of a service over time: requests, cache, replicas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hwsim.report import format as fmt
from hwsim.report.figures.tables import axis_unit
from hwsim.report.style import (
    BLUE,
    GREEN,
    GRID,
    ORANGE,
    ReportFigure,
    new_figure,
    styled,
)

# From nothing, which shows the page through, light or dark, to full.
_BUSY = LinearSegmentedColormap.from_list(
    "busy", [(*to_rgb(BLUE), 0.0), (*to_rgb(BLUE), 1.0)]
)


@styled
def service_figure(series: Mapping[str, Any], *, width: float = 7.2) -> ReportFigure:
    """Draw requests that wait and run, cache in use and busy replicas over time.

    Parameters
    ----------
    series : mapping
        As saved with a service; see
        :func:`hwsim.analysis.serving.series.series_of`.
    """
    rows = series["replica_busy"]
    many = 0 if rows is None else len(rows)
    last = 0.0 if rows is None else min(0.9 + 0.16 * many, 3.0)
    need = series["kv_needed"]
    heights = [1.9, *([1.2] if need else []), *([last] if many else [])]
    figure = new_figure(width, sum(heights) + 0.7)
    axes = figure.subplots(
        len(heights), 1, sharex=True, squeeze=False, height_ratios=heights
    )[:, 0]
    edges = series["bin_s"] * np.arange(len(series["waiting"]) + 1)
    _requests(axes[0], series, edges)
    if need:
        _share(axes[1], need, edges, "KV cache", GREEN)
    if many == 1:
        _share(axes[-1], rows[0], edges, "replica busy", BLUE)
    elif many:
        _heat(axes[-1], rows, edges)
    axes[-1].set_xlim(edges[0], edges[-1])
    axes[-1].xaxis.set_major_formatter(axis_unit("s"))
    axes[-1].xaxis.set_major_locator(MaxNLocator(8 if width > 5 else 4))
    axes[-1].set_xlabel("since the first arrival")
    figure.legend(loc="outside lower left", ncols=2 if width > 5 else 1)
    figure.align_ylabels(axes)
    figure.caption = _caption(series)
    return figure


def _requests(axes: Any, series: Mapping[str, Any], edges: Any) -> None:
    for key, label, colour, dash in (
        ("running", "running: between first and last token", BLUE, "-"),
        ("waiting", "waiting for their first token", ORANGE, (0, (5, 2))),
    ):
        axes.stairs(
            series[key], edges, baseline=None, color=colour, linestyle=dash,
            linewidth=1.5, label=label,
        )  # fmt: skip
    axes.set_ylim(bottom=0.0)
    axes.grid(visible=True, color=GRID)
    axes.set_ylabel("requests")


def _share(axes: Any, values: Any, edges: Any, what: str, colour: str) -> None:
    axes.stairs(values, edges, baseline=None, color=colour, linewidth=1.5)
    most = 1.15 * max(values)
    # A cache that is hardly used would be a flat line on a whole scale.
    axes.set_ylim(0.0, most if 0.0 < most < 0.5 else max(1.0, 1.05 * max(values)))
    axes.grid(visible=True, color=GRID)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_ylabel(what)


def _heat(axes: Any, rows: Any, edges: Any) -> None:
    axes.imshow(
        np.asarray(rows, float), cmap=_BUSY, vmin=0.0, vmax=1.0, aspect="auto",
        interpolation="nearest", extent=(edges[0], edges[-1], len(rows) - 0.5, -0.5),
    )  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_ylabel("replica busy")


def _caption(series: Mapping[str, Any]) -> str:
    waiting, running = (np.asarray(series[k], float) for k in ("waiting", "running"))
    text = (
        f"Means over {fmt.seconds(series['bin_s'], 3)} each, of the requests that "
        f"were answered: {fmt.count(running.mean(), 3)} run in the mean and at most "
        f"{fmt.count(running.max(), 3)}, {fmt.count(waiting.mean(), 3)} wait in the "
        f"mean and at most {fmt.count(waiting.max(), 3)}."
    )
    if series["kv_needed"]:
        need = np.asarray(series["kv_needed"], float)
        text += (
            f" The tokens of running requests take {fmt.percent(need.mean(), 0)} of "
            f"the KV cache in the mean and at most {fmt.percent(need.max(), 0)}; "
            "prompts under way come on top."
        )
    rows = series["replica_busy"]
    if rows is None:
        return text
    means = [float(np.mean(row)) for row in rows]
    if len(means) == 1:
        return f"{text} The replica is busy {fmt.percent(means[0], 0)} of the time."
    return (
        f"{text} Replicas are busy {fmt.percent(min(means), 0)} to "
        f"{fmt.percent(max(means), 0)} of the time: the fuller the colour, the busier."
    )
