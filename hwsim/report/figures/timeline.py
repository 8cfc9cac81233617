"""The simulated timeline: the whole run in shares, and its start in detail."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hwsim.errors import InputError
from hwsim.report import format as fmt
from hwsim.report.style import (
    FAMILIES,
    GRID,
    OTHER,
    PASSES,
    SURFACE,
    ReportFigure,
    family,
    family_colour,
    new_figure,
    save_figure,
    styled,
    text_on,
)

if TYPE_CHECKING:
    from hwsim.sim.records import Record

Row = tuple[int, str]
DETAILED = 150  # records that one panel shows as single boxes
_BOXES = 26  # boxes in a row of the zoomed panel, about
_MAX_ROWS = 16
_BAR = 0.78  # of a row's height
_CHARACTER = 0.062  # inch that one character of a box's name takes


@styled
def timeline_figure(
    records: Iterable[Record],
    path: str | os.PathLike[str] | None = None,
    *,
    width: float = 7.2,
) -> ReportFigure:
    """Draw a row per rank and stream, coloured by the kind of operator.

    A short run is drawn operator by operator. A long one is drawn twice: the
    whole run, each layer filled by the share of time of each kind in it, and
    its first layers operator by operator.

    Parameters
    ----------
    records : iterable of Record
        The timeline of a simulation. [s]
    path : str or path-like, optional
        Written there too, as its suffix says.
    width : float
        Width of the figure. [inch]

    Raises
    ------
    InputError
        If there are no records.
    """
    every = list(records)
    if not every:
        raise InputError("the timeline is empty; there is nothing to draw")
    rows = sorted({(r.rank, r.stream) for r in every})
    shown = rows[:_MAX_ROWS]
    kept = [r for r in every if (r.rank, r.stream) in set(shown)]
    end = max(r.end for r in every)
    window = _zoom(kept)
    panels = 1 if window is None else 2
    height = 0.75 + panels * (0.55 + 0.34 * len(shown))
    figure = new_figure(width, height, _caption(every, rows, shown, window, end))
    grid = figure.subplots(panels, 1, squeeze=False)
    if window is None:
        _draw_boxes(grid[0, 0], kept, shown, (0.0, end), width)
    else:
        _draw_shares(grid[0, 0], kept, shown, end, width)
        grid[0, 0].set_title("Whole run, by layer")
        _draw_boxes(grid[1, 0], kept, shown, window, width)
        grid[1, 0].set_title(f"Its first {fmt.seconds(window[1] - window[0])}")
    _legend(figure, kept, width)
    if path is not None:
        save_figure(figure, path)
    return figure


def _zoom(records: Sequence[Record]) -> tuple[float, float] | None:
    """Return the window of the first layers, or None where all fits at once."""
    if len(records) <= DETAILED:
        return None
    ends = _layer_ends(records)
    starts: dict[Row, list[float]] = defaultdict(list)
    for record in records:
        starts[record.rank, record.stream].append(record.start)
    # Whole layers, as many as leave every row readable; at least one.
    full = min(sorted(s)[_BOXES] for s in starts.values() if len(s) > _BOXES)
    first = min(min(s) for s in starts.values())
    return first, max((e for e in ends if e <= full), default=ends[0])


def _layer_ends(records: Sequence[Record]) -> list[float]:
    """Return the end of every block instance, in order of time."""
    ends: dict[tuple[str, int], float] = {}
    for record in records:
        key = (record.block, record.instance)
        ends[key] = max(ends.get(key, 0.0), record.end)
    return sorted(set(ends.values()))


def _boxes(
    records: Sequence[Record], window: tuple[float, float]
) -> dict[str, list[Record]]:
    by_family: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.start < window[1] and record.end > window[0]:
            by_family[family(record.kind)].append(record)
    return by_family


def _draw_boxes(
    axes: Any,
    records: Sequence[Record],
    rows: Sequence[Row],
    window: tuple[float, float],
    width: float,
) -> None:
    place = {row: index for index, row in enumerate(rows)}
    per_second = (width - 1.2) / (window[1] - window[0])
    for name, mine in sorted(_boxes(records, window).items()):
        boxes = []
        for record in mine:
            y = place[record.rank, record.stream] - _BAR / 2
            left, right = max(record.start, window[0]), min(record.end, window[1])
            boxes.append([(left, y), (right, y), (right, y + _BAR), (left, y + _BAR)])
            if (right - left) * per_second > _CHARACTER * len(record.name) + 0.06:
                axes.text(
                    (left + right) / 2, y + _BAR / 2, record.name, ha="center",
                    va="center", fontsize=7, color=text_on(family_colour(name)),
                    clip_on=True,
                )  # fmt: skip
        axes.add_collection(
            PolyCollection(
                boxes,
                facecolor=family_colour(name),
                edgecolor=SURFACE,
                linewidth=0.4,
                gid=f"ops-{name}",
            )
        )
    _axes(axes, rows, window, width)


def _draw_shares(
    axes: Any, records: Sequence[Record], rows: Sequence[Row], end: float, width: float
) -> None:
    # Slices end where layers end: alike layers look alike.
    ends = _layer_ends(records)
    step = -(-len(ends) // int(width * 25))
    edges = np.array([0.0, *ends[step - 1 : -1 : step], end])
    edges = edges[np.concatenate([[True], np.diff(edges) > 0.0])]
    bins = len(edges) - 1
    for index, row in enumerate(rows):
        base = np.full(bins, index + _BAR / 2)
        axes.fill_between(
            [0.0, end], index - _BAR / 2, index + _BAR / 2, color=GRID, alpha=0.45,
            linewidth=0,
        )  # fmt: skip
        mine = [r for r in records if (r.rank, r.stream) == row]
        for name in _families(mine):
            share = _busy_share([r for r in mine if family(r.kind) == name], edges)
            top = base - share * _BAR
            axes.stairs(
                top, edges, baseline=base, fill=True, color=family_colour(name),
                linewidth=0, gid=f"share-{name}",
            )  # fmt: skip
            base = top
    _axes(axes, rows, (0.0, end), width)


def _busy_share(records: Sequence[Record], edges: Any) -> Any:
    """Return the share of each bin that the records, none overlapping, fill."""
    starts = np.array([r.start for r in records])
    ends = np.array([r.end for r in records])
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], ends[order]
    done = np.concatenate([[0.0], np.cumsum(ends - starts)])
    at = np.searchsorted(starts, edges, side="right")
    last = np.maximum(at - 1, 0)
    # Busy time up to each edge: all that started, less what is yet to run.
    busy = done[at] - np.where(at > 0, np.maximum(ends[last] - edges, 0.0), 0.0)
    return np.clip(np.diff(busy) / np.diff(edges), 0.0, 1.0)


def _families(records: Iterable[Record]) -> list[str]:
    present = {family(r.kind) for r in records}
    return [name for name in (*PASSES, *FAMILIES, OTHER) if name in present]


def _axes(
    axes: Any, rows: Sequence[Row], window: tuple[float, float], width: float
) -> None:
    ranks = {rank for rank, _ in rows}
    axes.set_yticks(
        range(len(rows)),
        [f"rank {r} {s}" if len(ranks) > 1 else s for r, s in rows],
    )
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(*window)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6 if width > 5 else 4))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: fmt.quantity(float(f"{value:.6g}"), "s", 4))
    )


def _legend(figure: ReportFigure, records: Sequence[Record], width: float) -> None:
    handles = [
        Patch(color=family_colour(name), label=name) for name in _families(records)
    ]
    figure.legend(
        handles=handles, loc="outside lower left", ncols=7 if width > 5 else 2,
        handlelength=1.0, handleheight=1.0, columnspacing=1.2, handletextpad=0.4,
    )  # fmt: skip


def _caption(
    every: Sequence[Record],
    rows: Sequence[Row],
    shown: Sequence[Row],
    window: tuple[float, float] | None,
    end: float,
) -> str:
    ranks = len({rank for rank, _ in rows})
    text = (
        f"{fmt.plural(len(every), 'operator')} on {fmt.plural(ranks, 'simulated rank')}"
        f" in {fmt.seconds(end)}; a gap is a stream that waits."
    )
    if window is not None:
        text += (
            " Above the whole run, each layer filled by the share of its time that "
            "each kind takes; below its first layers, operator by operator."
        )
    if len(rows) > len(shown):
        text += f" {len(rows) - len(shown)} more streams are not drawn."
    return text
