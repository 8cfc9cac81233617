"""Figures of a validation: predicted against measured, spread of errors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, PercentFormatter

from hwsim.analysis.validation.details import BAND, EDGES
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

PathLike = str | os.PathLike[str] | None


@styled
def measured_figure(
    points: Mapping[str, Any],
    path: PathLike = None,
    *,
    width: float = 7.2,
    devices: Sequence[str] = (),
) -> ReportFigure:
    """Draw predicted over measured, log-log, a mark per device.

    ``points`` are those of :mod:`hwsim.analysis.validation.details`: of many rows
    an evenly spaced part in order of measured time is drawn; the caption says so.
    Devices named in ``devices`` keep their colour from one figure to the next.

    Raises
    ------
    InputError
        If no row has a prediction.
    """
    drawn = _known(points)
    figure = new_figure(width, min(0.62 * width + 0.7, 5.2))
    axes = figure.add_subplot()
    every = np.concatenate([np.concatenate(pair) for pair in drawn.values()])
    low, high = every.min() / 1.6, every.max() * 1.6
    line = np.array([low, high])
    axes.fill_between(
        line, line * (1 - BAND), line * (1 + BAND), color=GRID, linewidth=0, zorder=1
    )
    axes.plot(line, line, color=MUTED, linewidth=1.0, zorder=2)
    for number, device in _numbered(drawn, devices):
        axes.plot(
            *drawn[device], linestyle="", markersize=3.0,
            marker=MARKERS[number % len(MARKERS)], color=CYCLE[number % len(CYCLE)],
            alpha=0.5, markeredgewidth=0, label=device, zorder=3, rasterized=True,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    _axis_units(axes, points)
    figure.legend(
        loc="outside lower left", ncols=3 if width > 5 else 2, handletextpad=0.3,
        columnspacing=1.2, fontsize=7.5, markerscale=1.6,
    )  # fmt: skip
    figure.caption = _scatter_caption(points, len(every) // 2)
    if path is not None:
        save_figure(figure, path)
    return figure


def _numbered(names: Any, devices: Sequence[str]) -> list[tuple[int, str]]:
    """Return the devices that are drawn, each with the number of its colour."""
    present = set(names)
    every = list(dict.fromkeys([*devices, *sorted(present)]))
    return [(i, device) for i, device in enumerate(every) if device in present]


def _known(points: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    found = {
        str(name): (np.asarray(p["measured"], float), np.asarray(p["predicted"], float))
        for name, p in points["devices"].items()
        if p["measured"]
    }
    if not found:
        raise InputError("no row has a prediction; there is nothing to draw")
    return found


def _axis_units(axes: Any, points: Mapping[str, Any]) -> None:
    timed = points["unit"] == "s"
    what = "time" if timed else "value"
    shown = FuncFormatter(
        lambda value, _: fmt.quantity(value, "s", 3) if timed else fmt.count(value, 3)
    )
    blank = FuncFormatter(lambda *_: "")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(shown)
        axis.set_minor_formatter(blank)
    axes.set_xlabel(f"measured {what}")
    axes.set_ylabel(f"predicted {what}")


def _scatter_caption(points: Mapping[str, Any], shown: int) -> str:
    rows, inside = points["rows"], points["within_band"]
    text = (
        f"{fmt.plural(rows, 'row')}: {fmt.percent(inside)} are within ±25 % "
        "of the measurement (band); on the diagonal, both agree."
    )
    if shown < rows:
        text += f" {fmt.count(shown)} of them are drawn, evenly spaced by time."
    return text


@styled
def error_figure(
    points: Mapping[str, Any],
    path: PathLike = None,
    *,
    width: float = 7.2,
    devices: Sequence[str] = (),
) -> ReportFigure:
    """Draw a histogram of the signed error, a line per device.

    Raises
    ------
    InputError
        If no row has a prediction.
    """
    drawn = _known(points)
    figure = new_figure(width, 0.36 * width + 0.9)
    axes = figure.add_subplot()
    for number, device in _numbered(drawn, devices):
        counts = np.asarray(points["devices"][device]["histogram"], float)
        share = counts / max(counts.sum(), 1.0)
        axes.stairs(
            share, EDGES, color=CYCLE[number % len(CYCLE)], linewidth=1.4, label=device
        )
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.set_xlim(EDGES[0], EDGES[-1])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, symbol=" %", decimals=0))
    axes.set_xlabel("(predicted − measured) / measured")
    axes.set_ylabel("share of rows")
    figure.legend(
        loc="outside lower left", ncols=3 if width > 5 else 2, handletextpad=0.5,
        columnspacing=1.2, fontsize=7.5,
    )  # fmt: skip
    figure.caption = (
        f"Median {fmt.signed_percent(points['median'])}; the outermost bars "
        f"hold what is farther off ({fmt.percent(points['beyond'])} of the rows)."
    )
    if path is not None:
        save_figure(figure, path)
    return figure
