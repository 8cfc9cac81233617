"""Figures of distributions and choices: CDF, Pareto, bars, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, PercentFormatter

from hwsim.errors import InputError
from hwsim.report import format as fmt
from hwsim.report.style import (
    BLUE,
    CYCLE,
    GREY,
    GRID,
    INK,
    MARKERS,
    MUTED,
    ORANGE,
    SURFACE,
    VERMILLION,
    ReportFigure,
    new_figure,
    styled,
)

_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
_LOG_FROM = 20.0  # a spread wider than this is drawn on a logarithmic axis


def shown(value: float, unit: str, digits: int = 4) -> str:
    """Return a figure in its unit; days, dollars and counts take no prefix."""
    if unit == "s":
        return fmt.seconds(value, digits)
    if unit in {"B", "B/s", "FLOP", "FLOP/s", "W", "Wh", "J"}:
        return fmt.quantity(value, unit, digits)
    return f"{fmt.count(value, digits)} {unit}".strip()


def axis_unit(unit: str) -> Any:
    """Return a formatter of an axis in a unit."""
    return FuncFormatter(lambda value, _: shown(float(f"{value:.6g}"), unit, 3))


@styled
def cdf_figure(
    series: Mapping[str, Sequence[float]],
    *,
    unit: str = "s",
    what: str = "latency",
    shares: Sequence[float] | None = None,
    limits: Mapping[str, float] | None = None,
    width: float = 7.2,
) -> ReportFigure:
    """Draw what share of the cases stays below each value.

    Parameters
    ----------
    series : dict of str to sequence of float
        Values by name: samples, or quantiles where ``shares`` is given.
    unit, what : str
        Unit of the values; what they are.
    shares : sequence of float, optional
        Shares that the values are quantiles at.
    limits : dict of str to float, optional
        Limits drawn as vertical lines, by name of their series.

    Raises
    ------
    InputError
        If there is nothing to draw.
    """
    curves = {name: np.sort(np.asarray(v, float)) for name, v in series.items()}
    curves = {n: v[np.isfinite(v)] for n, v in curves.items() if np.isfinite(v).any()}
    if not curves:
        raise InputError("no distribution to draw; give at least one")
    figure = new_figure(width, 0.42 * width + 0.6)
    axes = figure.add_subplot()
    for i, (name, values) in enumerate(curves.items()):
        at = np.linspace(0.0, 1.0, len(values)) if shares is None else shares
        axes.plot(
            values, at, color=CYCLE[i % len(CYCLE)], label=name, linewidth=1.8,
            linestyle=_DASHES[i % len(_DASHES)],
        )  # fmt: skip
        if limits and name in limits:
            axes.axvline(
                limits[name], color=CYCLE[i % len(CYCLE)], linewidth=0.9,
                linestyle=(0, (2, 2)), label=f"limit of {name}",
            )  # fmt: skip
    every = np.concatenate(list(curves.values()))
    positive = every[every > 0]
    if positive.size and positive.max() / positive.min() > _LOG_FROM:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    axes.set_ylim(0.0, 1.0)
    axes.grid(visible=True, color=GRID)
    axes.xaxis.set_major_formatter(axis_unit(unit))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %", decimals=0))
    axes.set_xlabel(what)
    axes.set_ylabel("share below")
    if len(curves) > 1 or limits:
        figure.legend(loc="outside lower left", ncols=3 if width > 5 else 1)
    figure.caption = _cdf_caption(curves, shares, unit)
    return figure


def _cdf_caption(
    curves: Mapping[str, Any], shares: Sequence[float] | None, unit: str
) -> str:
    told = []
    for name, values in curves.items():
        at = np.linspace(0.0, 1.0, len(values)) if shares is None else shares
        half, most = (float(np.interp(q, at, values)) for q in (0.5, 0.99))
        told.append(
            f"{name}: half within {shown(half, unit, 3)}, 99 % within "
            f"{shown(most, unit, 3)}"
        )
    return f"{'; '.join(told)}."


@styled
def bars_figure(
    values: Mapping[str, float],
    *,
    unit: str = "s",
    what: str = "time",
    ends: Mapping[str, tuple[float, float]] | None = None,
    best: str | None = None,
    limit: float | None = None,
    limit_name: str = "the limit",
    width: float = 7.2,
) -> ReportFigure:
    """Draw one bar per case, with its 90 % interval as a whisker.

    Parameters
    ----------
    values : dict of str to float
        Value by case, drawn from the top.
    ends : dict of str to (float, float), optional
        90 % interval by case.
    best : str, optional
        The case that is set apart by colour.
    limit, limit_name : float, str
        A value to compare with, as a line, and what it is.

    Raises
    ------
    InputError
        If there is nothing to draw.
    """
    if not values:
        raise InputError("no bars to draw; give at least one")
    figure = new_figure(width, 0.75 + 0.36 * len(values))
    axes = figure.add_subplot()
    for row, (name, value) in enumerate(values.items()):
        colour = BLUE if name == best else GREY
        axes.barh(row, value, height=0.62, color=colour)
        span = (ends or {}).get(name)
        right = value
        if span is not None:
            # On a rim of the page's colour it shows on bars, light and dark.
            for colour, more in ((SURFACE, 2.0), (INK, 0.0)):
                axes.plot(span, [row, row], color=colour, linewidth=1.3 + more)
                axes.plot(
                    span, [row, row], color=colour, linestyle="", marker="|",
                    markeredgewidth=1.3 + more, markersize=6.0 + more / 2,
                )  # fmt: skip
            right = max(right, span[1])
        axes.annotate(
            shown(value, unit, 3), (right, row), (4, 0), textcoords="offset points",
            va="center", fontsize=8.5,
        )  # fmt: skip
    if limit is not None:
        axes.axvline(limit, color=VERMILLION, linewidth=1.2, linestyle=(0, (4, 2)))
    axes.set_yticks(range(len(values)), [_folded(n, width) for n in values])
    axes.invert_yaxis()
    axes.margins(x=0.16)
    axes.set_xlim(left=0.0)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(axis_unit(unit))
    axes.locator_params(axis="x", nbins=6 if width > 5 else 3)
    axes.set_xlabel(what)
    told = "; ".join(f"{n} {shown(v, unit, 3)}" for n, v in values.items())
    figure.caption = f"{told}."
    if ends:
        figure.caption += " A whisker is the 90 % interval of the prediction."
    if limit is not None:
        figure.caption += f" The dashed line is {limit_name}."
    return figure


def _folded(text: str, width: float) -> str:
    """Return a long name on several lines."""
    import textwrap

    return "\n".join(textwrap.wrap(text, 34 if width > 5 else 16)) or text


@styled
def pareto_figure(
    points: Sequence[tuple[float, float]],
    front: Sequence[tuple[float, float]],
    *,
    units: tuple[str, str],
    names: tuple[str, str],
    marked: tuple[float, float] | None = None,
    width: float = 7.2,
) -> ReportFigure:
    """Draw choices by two figures that should both be small, and those unbeaten.

    Parameters
    ----------
    points, front : sequence of (float, float)
        All choices drawn; those that no other beats.
    units, names : tuple of str
        Of the horizontal and the vertical figure.
    marked : (float, float), optional
        The chosen one.

    Raises
    ------
    InputError
        If there is no point.
    """
    if not front:
        raise InputError("no choices to draw; give at least one")
    figure = new_figure(width, 0.5 * width + 0.6)
    axes = figure.add_subplot()
    if points:
        x, y = np.array(points, float).T
        axes.plot(
            x, y, linestyle="", marker=MARKERS[0], markersize=3.0, color=GREY,
            alpha=0.7, markeredgewidth=0, label="layouts", rasterized=True,
        )  # fmt: skip
    x, y = np.array(sorted(front), float).T
    axes.plot(
        x, y, linestyle="", marker=MARKERS[1], markersize=4.5, color=BLUE,
        label="no other is better in everything",
    )  # fmt: skip
    if marked is not None:
        axes.plot(
            *marked, linestyle="", marker="*", markersize=13, color=ORANGE,
            markeredgecolor=MUTED, markeredgewidth=0.6, label="chosen",
        )  # fmt: skip
    axes.grid(visible=True, color=GRID)
    axes.xaxis.set_major_formatter(axis_unit(units[0]))
    axes.yaxis.set_major_formatter(axis_unit(units[1]))
    axes.locator_params(axis="x", nbins=6 if width > 5 else 3)
    axes.set(xlabel=names[0], ylabel=names[1])
    figure.legend(loc="outside lower left", ncols=3 if width > 5 else 1)
    figure.caption = (
        f"{fmt.plural(len(points), 'layout')} drawn, {fmt.count(len(front))} of which "
        f"no other beats in every figure. Left is less {names[0]}, below less "
        f"{names[1]}."
    )
    return figure


@styled
def lines_figure(
    series: Mapping[str, Sequence[Sequence[float]]],
    *,
    x: Sequence[str],
    y: Sequence[str],
    log: bool = False,
    width: float = 7.2,
) -> ReportFigure:
    """Draw curves of one figure over another.

    Parameters
    ----------
    series : dict of str to sequence of (float, float)
        Points by curve.
    x, y : (str, str)
        What is on each axis, and its unit.
    log : bool
        Logarithmic axes.

    Raises
    ------
    InputError
        If there is nothing to draw.
    """
    curves = {name: np.asarray(points, float) for name, points in series.items()}
    if not curves or not all(len(points) for points in curves.values()):
        raise InputError("no curve to draw; give at least one point of each")
    figure = new_figure(width, 0.5 * width + 0.7)
    axes = figure.add_subplot()
    for i, (name, points) in enumerate(curves.items()):
        axes.plot(
            *points.T, color=CYCLE[i % len(CYCLE)], label=name, linewidth=1.8,
            linestyle=_DASHES[i % len(_DASHES)], marker=MARKERS[i % len(MARKERS)],
            markersize=4.0,
        )  # fmt: skip
    if log:
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    else:
        axes.set_ylim(bottom=0.0)
    axes.grid(visible=True, color=GRID)
    axes.xaxis.set_major_formatter(axis_unit(x[1]))
    axes.yaxis.set_major_formatter(axis_unit(y[1]))
    axes.set(xlabel=x[0], ylabel=y[0])
    figure.legend(loc="outside lower left", ncols=3 if width > 5 else 1)
    told = "; ".join(
        f"{name} from {shown(points[0][1], y[1], 3)} at {shown(points[0][0], x[1], 3)} "
        f"to {shown(points[-1][1], y[1], 3)} at {shown(points[-1][0], x[1], 3)}"
        for name, points in curves.items()
    )
    figure.caption = f"{y[0]} over {x[0]}: {told}."
    return figure
