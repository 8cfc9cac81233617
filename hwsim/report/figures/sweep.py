"""Sweeps as curves and heat maps, sensitivities as a tornado."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from hwsim.errors import InputError
from hwsim.report import format as fmt
from hwsim.report.style import (
    BLUE,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PART_COLOURS,
    SURFACE,
    ReportFigure,
    new_figure,
    save_figure,
    styled,
)

if TYPE_CHECKING:
    from hwsim.analysis.varying.sensitivity import SensitivityResult
    from hwsim.analysis.varying.sweep import WhatIf
    from hwsim.analysis.varying.vary import Axis

PathLike = str | os.PathLike[str] | None
_BARS = 14
_LAUNCH = {"launch": PART_COLOURS["idle"]}


def metric_text(key: str, value: float | None, digits: int = 3) -> str:
    """Return a figure of an answer as people read it, by its key's unit."""
    if value is None:
        return fmt.NONE
    name = key.split(".")[0]
    if name.endswith("_per_s") or "per_s_" in name:
        return f"{fmt.count(value, digits)} /s"
    if name.endswith("_s"):
        return fmt.seconds(value, digits)
    if name.endswith("_bytes") or key.startswith("memory_bytes"):
        return fmt.nbytes(value, digits)
    if name.endswith("_w"):
        return fmt.quantity(value, "W", digits)
    if name in {"mfu", "hfu", "memory_headroom", "utilisation"}:
        return fmt.percent(value)
    return fmt.count(value, digits)


def ends_text(key: str, interval: Sequence[float] | None) -> str:
    """Return an interval of a figure as people read it; empty where none is known."""
    if not interval:
        return ""
    low, high = (metric_text(key, float(end)) for end in interval)
    return f"{low} – {high}"


def interval_text(key: str, interval: Sequence[float] | None) -> str:
    """Return an interval to stand after its figure, in brackets."""
    ends = ends_text(key, interval)
    return f" (90 %: {ends})" if ends else ""


@styled
def whatif_figure(
    result: WhatIf, path: PathLike = None, *, width: float = 7.2
) -> ReportFigure:
    """Draw a sweep: a curve with its knees, or a heat map of two parameters.

    Parameters
    ----------
    result : WhatIf
        From :func:`hwsim.whatif`.
    path : str or path-like, optional
        Written there too, as its suffix says.
    width : float
        Width of the figure. [inch]

    Raises
    ------
    InputError
        If fewer than two points can run.
    """
    if sum(p.metric is not None for p in result.points) < 2:
        raise InputError("fewer than two points can run: there is nothing to draw")
    draw = _curve if len(result.axes) == 1 else _heat
    figure = draw(result, width)
    if path is not None:
        save_figure(figure, path)
    return figure


def _curve(result: WhatIf, width: float) -> ReportFigure:
    axis, key = result.axes[0], result.metric
    figure = new_figure(width, 0.56 * width, _curve_caption(result))
    axes = figure.add_subplot()
    xs = _positions(axis)
    known = [(x, p, p.metric) for x, p in zip(xs, result.points, strict=False)
             if p.metric is not None]  # fmt: skip
    _band(axes, known)
    axes.plot([x for x, _, _ in known], [m for _, _, m in known], color=MUTED,
              linewidth=1.2, zorder=2)  # fmt: skip
    for bound, mine in _by_bound(known).items():
        axes.plot(
            [x for x, _, _ in mine], [m for _, _, m in mine], linestyle="",
            marker="o", markersize=4.5, color=_colour(bound), label=bound, zorder=3,
        )  # fmt: skip
    _mark_now(axes, result, axis)
    for knee in result.knees:
        axes.axvline(knee.at, color=INK, linewidth=0.8, linestyle=":", zorder=1)
    _scales(axes, axis, [m for _, _, m in known], most=max(int(1.3 * width), 3))
    _name_knees(axes, result, axis)
    axes.set_xlabel(axis.parameter.key)
    axes.set_ylabel(key)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: metric_text(key, v)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, axis="y")
    figure.legend(loc="outside upper left", ncols=5, title=None, handletextpad=0.2)
    return figure


def _band(axes: Any, known: Any) -> None:
    """Shade the 90 % prediction intervals, where all points have one."""
    if all(point.interval for _, point, _ in known):
        axes.fill_between(
            [x for x, _, _ in known],
            [p.interval[0] for _, p, _ in known],
            [p.interval[1] for _, p, _ in known],
            color=GREY, alpha=0.25, linewidth=0, label="90 % interval", zorder=1,
        )  # fmt: skip


def _by_bound(known: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for item in known:
        found.setdefault(f"{item[1].bound} binds", []).append(item)
    return found


def _colour(bound: str) -> str:
    name = bound.removesuffix(" binds")
    return (PART_COLOURS | _LAUNCH).get(name, GREY)


def _name_knees(axes: Any, result: WhatIf, axis: Axis) -> None:
    for i, knee in enumerate(result.knees):
        across = axes.transAxes.inverted().transform(
            axes.transData.transform((knee.at, 0.0))
        )[0]
        side = "right" if across > 0.7 else "left"
        gap = -4 if side == "right" else 4
        axes.annotate(
            f"{knee.before} → {knee.after}\n{axis.parameter.shown(knee.at)}",
            (knee.at, 0.98 - 0.12 * (i % 3)), (gap, 0), textcoords="offset points",
            xycoords=("data", "axes fraction"), va="top", ha=side, fontsize=7.5,
        )  # fmt: skip


def _positions(axis: Axis) -> list[float]:
    if axis.numeric:
        return [float(v) for v in axis.values]
    return [float(i) for i in range(len(axis.values))]


def _mark_now(axes: Any, result: WhatIf, axis: Axis) -> None:
    now = axis.parameter.value
    if now is None or result.now.metric is None or not axis.numeric:
        return
    low, high = min(axis.values), max(axis.values)
    if low <= now <= high:  # type: ignore[operator]
        axes.plot([now], [result.now.metric], marker="o", markersize=10, linestyle="",
                  markerfacecolor="none", markeredgecolor=INK, label="now", zorder=4,
                  )  # fmt: skip


def _scales(axes: Any, axis: Axis, metric: list[float], most: int) -> None:
    if min(metric) > 0 and max(metric) / min(metric) > 10:
        axes.set_yscale("log")
    if not axis.numeric:
        axes.set_xticks(range(len(axis.values)), [str(v) for v in axis.values])
        return
    xs, shown = _positions(axis), axis.parameter.shown
    if min(xs) > 0 and max(xs) / min(xs) > 3:
        axes.set_xscale("log", base=2)
        ticks = _doubled(axis, min(xs), max(xs))
        axes.set_xticks(ticks[:: -(-len(ticks) // most)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: shown(v)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _doubled(axis: Axis, low: float, high: float) -> list[float]:
    """Return ticks: today's value times powers of two; of few values, each."""
    if len(axis.values) <= 9:
        return _positions(axis)
    start = axis.parameter.value or low
    powers = range(
        math.ceil(math.log2(low / start) - 1e-9),
        math.floor(math.log2(high / start) + 1e-9) + 1,
    )
    every = 1 + len(powers) // 9
    return [start * 2.0**power for power in powers if power % every == 0]


def _curve_caption(result: WhatIf) -> str:
    axis = result.axes[0]
    known = [p for p in result.points if p.metric is not None]
    first, last = known[0], known[-1]
    text = (
        f"{result.title}. From {axis.parameter.shown(first.values[0])}: "
        f"{metric_text(result.metric, first.metric)}, to "
        f"{axis.parameter.shown(last.values[0])}: "
        f"{metric_text(result.metric, last.metric)}."
    )
    for knee in result.knees:
        text += (
            f" At {axis.parameter.shown(knee.at)} the bound changes from "
            f"{knee.before} to {knee.after}."
        )
    return text


def _heat(result: WhatIf, width: float) -> ReportFigure:
    rows, columns = result.axes
    shape = (len(rows.values), len(columns.values))
    metric = np.full(shape[0] * shape[1], np.nan)
    for i, point in enumerate(result.points):
        metric[i] = np.nan if point.metric is None else point.metric
    grid = metric.reshape(shape)
    bounds = np.array(
        [p.bound for p in result.points] + [""] * (metric.size - len(result.points)),
        dtype=object,
    ).reshape(shape)
    figure = new_figure(width, 1.5 + 0.34 * shape[0], _heat_caption(result))
    axes = figure.add_subplot()
    spread = np.nanmax(grid) / max(np.nanmin(grid), 1e-300)
    shown = np.log10(grid) if spread > 10 and np.nanmin(grid) > 0 else grid
    image = axes.imshow(shown, cmap="cividis", aspect="auto", origin="lower")
    _write_cells(axes, result.metric, grid, image)
    _borders(axes, bounds)
    axes.set_yticks(range(shape[0]), [rows.parameter.shown(v) for v in rows.values])
    names = [columns.parameter.shown(v) for v in columns.values]
    long = sum(map(len, names)) > 60
    axes.set_xticks(range(shape[1]), names, rotation=30 if long else 0,
                    ha="right" if long else "center")  # fmt: skip
    axes.set_ylabel(rows.parameter.key)
    axes.set_xlabel(columns.parameter.key)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(
        f"{result.metric}; lines: the bound changes", fontsize=8.5, fontweight="normal"
    )
    return figure


def _write_cells(axes: Any, key: str, grid: Any, image: Any) -> None:
    if grid.shape[1] > 12:
        return
    for (i, j), value in np.ndenumerate(grid):
        if np.isnan(value):
            axes.text(j, i, fmt.NONE, ha="center", va="center", fontsize=7, color=MUTED)
            continue
        red, green, blue, _ = image.cmap(image.norm(image.get_array()[i, j]))
        bright = 0.3 * red + 0.59 * green + 0.11 * blue > 0.5
        text = metric_text(key, float(value)).removesuffix(" /s")
        axes.text(j, i, text, ha="center", va="center", fontsize=7,
                  color="#000000" if bright else "#ffffff")  # fmt: skip


def _borders(axes: Any, bounds: Any) -> None:
    """Draw a line between neighbours that different things bind."""
    style = {"color": SURFACE, "linewidth": 2.2, "solid_capstyle": "butt"}
    for i, j in itertools.product(*map(range, bounds.shape)):
        here = bounds[i, j]
        if i + 1 < bounds.shape[0] and here and bounds[i + 1, j] not in ("", here):
            axes.plot([j - 0.5, j + 0.5], [i + 0.5, i + 0.5], **style)
        if j + 1 < bounds.shape[1] and here and bounds[i, j + 1] not in ("", here):
            axes.plot([j + 0.5, j + 0.5], [i - 0.5, i + 0.5], **style)


def _heat_caption(result: WhatIf) -> str:
    known = [p for p in result.points if p.metric is not None]
    low = min(known, key=lambda p: p.metric or 0.0)
    high = max(known, key=lambda p: p.metric or 0.0)

    def at(point: Any) -> str:
        pairs = zip(result.axes, point.values, strict=True)
        return " and ".join(f"{a.parameter.key} {a.parameter.shown(v)}"
                            for a, v in pairs)  # fmt: skip

    bounds = fmt.listed(dict.fromkeys(p.bound for p in known))
    return (
        f"{result.title}. "
        f"Least, {metric_text(result.metric, low.metric)}, at {at(low)}; "
        f"most, {metric_text(result.metric, high.metric)}, at {at(high)}. "
        f"Bound by {bounds}; {len(result.points) - len(known)} of "
        f"{len(result.points)} points cannot run."
    )


@styled
def tornado_figure(
    result: SensitivityResult, path: PathLike = None, *, width: float = 7.2
) -> ReportFigure:
    """Draw what a swing of each parameter does to the metric, strongest first.

    Parameters
    ----------
    result : SensitivityResult
        From :func:`hwsim.sensitivity`.
    path : str or path-like, optional
        Written there too, as its suffix says.
    width : float
        Width of the figure. [inch]

    Raises
    ------
    InputError
        If no parameter moves the metric.
    """
    ordered = sorted(result.rows, key=lambda r: -_reach(r, result.now))[:_BARS]
    rows = [r for r in ordered if _reach(r, result.now) > 1e-3 * result.now] or ordered
    if not rows:
        raise InputError(f"no parameter moves {result.metric}: nothing to draw")
    figure = new_figure(width, 1.1 + 0.3 * len(rows), _tornado_caption(result, rows))
    axes = figure.add_subplot()
    for at, row in enumerate(rows):
        for value, colour in ((row.low, ORANGE), (row.high, BLUE)):
            if value is not None:
                axes.barh(at, value - result.now, left=result.now, height=0.62,
                          color=colour, zorder=2)  # fmt: skip
    axes.axvline(result.now, color=INK, linewidth=0.9, zorder=3)
    axes.set_yticks(range(len(rows)), [row.parameter.key for row in rows])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda v, _: metric_text(result.metric, v))
    )
    axes.set_xlabel(result.metric)
    axes.grid(visible=True, axis="x")
    swing = fmt.percent(result.swing, 0)
    figure.legend(
        handles=[Patch(color=ORANGE, label=f"{swing} less of it"),
                 Patch(color=BLUE, label=f"{swing} more of it")],
        loc="outside upper left", ncols=2, handlelength=1.0, handleheight=1.0,
    )  # fmt: skip
    if path is not None:
        save_figure(figure, path)
    return figure


def _reach(row: Any, now: float) -> float:
    ends = [abs(v - now) for v in (row.low, row.high) if v is not None]
    return max(ends, default=0.0)


def _tornado_caption(result: SensitivityResult, rows: Any) -> str:
    said = ", ".join(f"{r.parameter.key} {r.elasticity:+.2f}" for r in rows[:6])
    return (
        f"{result.title}, {metric_text(result.metric, result.now)} now. Each bar: the "
        f"parameter {fmt.percent(result.swing, 0)} lower and higher. Elasticities, "
        f"percent per percent: {said}."
    )
