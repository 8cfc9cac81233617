"""From one time to another, mechanism by mechanism: a waterfall."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from matplotlib.ticker import FuncFormatter

from hwsim.errors import InputError
from hwsim.report import format as fmt
from hwsim.report.style import (
    BLUE,
    GREY,
    INK,
    MUTED,
    ORANGE,
    ReportFigure,
    new_figure,
    save_figure,
    styled,
)

if TYPE_CHECKING:
    from hwsim.analysis.comparing.waterfall import Waterfall

_LEAST = 2e-3  # of the larger end: smaller steps are drawn as one


@styled
def waterfall_figure(
    fall: Waterfall, path: str | os.PathLike[str] | None = None, *, width: float = 7.2
) -> ReportFigure:
    """Draw what each mechanism adds to a time, or takes from it.

    Parameters
    ----------
    fall : Waterfall
        Of a comparison.
    path : str or path-like, optional
        Written there too, as its suffix says.
    width : float
        Width of the figure. [inch]

    Raises
    ------
    InputError
        If the waterfall has no steps.
    """
    if not fall.steps:
        raise InputError(fall.reason or "there is no step to draw: the times are equal")
    steps = _merged(fall)
    figure = new_figure(width, 1.1 + 0.38 * (len(steps) + 2))
    figure.caption = _caption(fall, steps)
    axes = figure.add_subplot()
    names = [fall.source, *(name for name, _ in steps), fall.target]
    _bar(axes, 0, 0.0, fall.from_s, GREY, fmt.seconds(fall.from_s))
    at = fall.from_s
    for row, (_, value) in enumerate(steps, start=1):
        sign = "−" if value < 0 else "+"
        text = sign + fmt.seconds(abs(value))
        _bar(axes, row, at, value, BLUE if value < 0 else ORANGE, text)
        axes.plot([at, at], [row - 1, row], color=MUTED, linewidth=0.7, zorder=1)
        at += value
    last = len(names) - 1
    axes.plot([at, at], [last - 1, last], color=MUTED, linewidth=0.7, zorder=1)
    _bar(axes, last, 0.0, fall.to_s, GREY, fmt.seconds(fall.to_s))
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.14)
    axes.set_xlim(left=0.0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: fmt.seconds(v)))
    axes.set_xlabel(fall.of)
    if path is not None:
        save_figure(figure, path)
    return figure


def _merged(fall: Waterfall) -> list[tuple[str, float]]:
    least = _LEAST * max(fall.from_s, fall.to_s)
    kept = [(name, value) for name, value in fall.steps.items() if abs(value) >= least]
    rest = [value for value in fall.steps.values() if abs(value) < least]
    return [*kept, ("all others", sum(rest))] if any(rest) else kept


def _bar(
    axes: Any, row: int, left: float, value: float, colour: str, text: str
) -> None:
    axes.barh(row, value, left=left, height=0.62, color=colour, zorder=2)
    axes.annotate(
        text, (max(left, left + value), row), (4, 0), textcoords="offset points",
        va="center", fontsize=8.5, color=INK,
    )  # fmt: skip


def _caption(fall: Waterfall, steps: list[tuple[str, float]]) -> str:
    said = ", ".join(
        f"{name} {'−' if value < 0 else '+'}{fmt.seconds(abs(value))}"
        for name, value in steps
    )
    return (
        f"{fall.of.capitalize()}: {fmt.seconds(fall.from_s)} on {fall.source}, "
        f"{fmt.seconds(fall.to_s)} on {fall.target}. What each mechanism changes, "
        f"whatever order they are swapped in: {said}."
    )
