"""Figures of a validation: predicted against measured, spread of errors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter, PercentFormatter

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
    from hwsim.analysis.validate import FamilyComparison

PathLike = str | os.PathLike[str] | None
BAND = 0.25
POINTS = 3000  # drawn of each device: more cover one another
EDGES = np.linspace(-0.6, 0.6, 49)


@styled
def measured_figure(
    comparison: FamilyComparison,
    path: PathLike = None,
    *,
    width: float = 7.2,
    devices: Sequence[str] = (),
) -> ReportFigure:
    """Draw predicted over measured, log-log, a mark per device.

    Of many rows an evenly spaced part in order of measured time is drawn; the
    caption says so. Devices named in ``devices`` keep their colour from one
    figure to the next.

    Raises
    ------
    InputError
        If no row has a prediction.
    """
    names, measured, predicted = _known(comparison)
    figure = new_figure(width, min(0.62 * width + 0.7, 5.2))
    axes = figure.add_subplot()
    low = min(measured.min(), predicted.min()) / 1.6
    high = max(measured.max(), predicted.max()) * 1.6
    line = np.array([low, high])
    axes.fill_between(
        line, line * (1 - BAND), line * (1 + BAND), color=GRID, linewidth=0, zorder=1
    )
    axes.plot(line, line, color=MUTED, linewidth=1.0, zorder=2)
    shown = 0
    for number, device in _numbered(names, devices):
        index = np.flatnonzero(names == device)
        index = index[np.argsort(measured[index], kind="stable")]
        index = index[:: max(1, -(-len(index) // POINTS))]
        shown += len(index)
        axes.plot(
            measured[index], predicted[index], linestyle="", markersize=3.0,
            marker=MARKERS[number % len(MARKERS)], color=CYCLE[number % len(CYCLE)],
            alpha=0.5, markeredgewidth=0, label=device, zorder=3, rasterized=True,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    _axis_units(axes, comparison)
    figure.legend(
        loc="outside lower left", ncols=3 if width > 5 else 2, handletextpad=0.3,
        columnspacing=1.2, fontsize=7.5, markerscale=1.6,
    )  # fmt: skip
    figure.caption = _scatter_caption(measured, predicted, shown)
    if path is not None:
        save_figure(figure, path)
    return figure


def _numbered(names: Any, devices: Sequence[str]) -> list[tuple[int, str]]:
    """Return the devices that are drawn, each with the number of its colour."""
    present = set(names)
    every = list(dict.fromkeys([*devices, *sorted(present)]))
    return [(i, device) for i, device in enumerate(every) if device in present]


def _known(comparison: FamilyComparison) -> tuple[Any, Any, Any]:
    known = np.isfinite(comparison.predictions.time)
    if not np.any(known):
        raise InputError("no row has a prediction; there is nothing to draw")
    return (
        comparison.predictions.device[known],
        comparison.measured[known],
        comparison.predictions.time[known],
    )


def _axis_units(axes: Any, comparison: FamilyComparison) -> None:
    units = set(comparison.unit)
    what = "time" if units == {"s"} else "value"
    shown = FuncFormatter(
        lambda value, _: (
            fmt.quantity(value, "s", 3) if units == {"s"} else fmt.count(value, 3)
        )
    )
    blank = FuncFormatter(lambda *_: "")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(shown)
        axis.set_minor_formatter(blank)
    axes.set_xlabel(f"measured {what}")
    axes.set_ylabel(f"predicted {what}")


def _scatter_caption(measured: Any, predicted: Any, shown: int) -> str:
    inside = float(np.mean(np.abs(predicted / measured - 1) <= BAND))
    text = (
        f"{fmt.plural(len(measured), 'row')}: {fmt.percent(inside)} are within ±25 % "
        "of the measurement (band); on the diagonal, both agree."
    )
    if shown < len(measured):
        text += f" {fmt.count(shown)} of them are drawn, evenly spaced by time."
    return text


@styled
def error_figure(
    comparison: FamilyComparison,
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
    names, measured, predicted = _known(comparison)
    error = predicted / measured - 1.0
    figure = new_figure(width, 0.36 * width + 0.9)
    axes = figure.add_subplot()
    for number, device in _numbered(names, devices):
        own = np.clip(error[names == device], EDGES[0], EDGES[-1])
        share = np.histogram(own, EDGES)[0] / len(own)
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
    beyond = float(np.mean(np.abs(error) > EDGES[-1]))
    figure.caption = (
        f"Median {fmt.signed_percent(float(np.median(error)))}; the outermost bars "
        f"hold what is farther off ({fmt.percent(beyond)} of the rows)."
    )
    if path is not None:
        save_figure(figure, path)
    return figure
