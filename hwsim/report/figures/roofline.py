"""The roofline picture: ceilings of a device, operators as points under them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from hwsim.analysis.graph_result import GraphResult
from hwsim.errors import InputError
from hwsim.report import format as fmt
from hwsim.report.figures.ceilings import (
    Ceiling,
    OpPoint,
    compute_ceilings,
    memory_ceilings,
    op_points,
)
from hwsim.report.labels import place_labels, spread
from hwsim.report.style import (
    FAMILIES,
    GRID,
    INK,
    MUTED,
    OTHER,
    SURFACE,
    ReportFigure,
    family,
    family_colour,
    new_figure,
    save_figure,
    settle,
    styled,
)

if TYPE_CHECKING:
    from hwsim.analysis.saved import SavedGraph
    from hwsim.specs.device import DeviceSpec

_DASHES = (0, (5, 2))
_MARKERS = ("o", "D", "s", "^")
_SEEN = 1e-3  # share of time that an operator needs to widen the picture
_LARGEST, _SMALLEST = 22.0, 3.5  # marker size in points


@styled
def roofline_figure(
    results: Sequence[GraphResult | SavedGraph] = (),
    device: DeviceSpec | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    width: float = 7.2,
) -> ReportFigure:
    """Draw the ceilings of a device and, under them, operators of results.

    Parameters
    ----------
    results : sequence of GraphResult
        Results on one device; none draws the bare device.
    device : DeviceSpec, optional
        Needed where there are no results.
    path : str or path-like, optional
        Written there too, as its suffix says.
    width : float
        Width of the figure. [inch]

    Raises
    ------
    InputError
        If there is no device, or the results are of different ones.
    """
    device = _the_device(results, device)
    points, left_out = op_points(results)
    peaks, levels = compute_ceilings(device), memory_ceilings(device)
    used = {str(row["dtype"]) for r in results for row in r.op_rows() if row["flop"]}
    figure = new_figure(width, min(0.66 * width + 0.9, 5.2))
    axes = figure.add_subplot()
    box = _limits(peaks, levels, points)
    figure.caption = _caption(device, results, points, left_out, _outside(points, box))
    _frame(axes, box)
    _draw_ceilings(axes, peaks, levels, used, box)
    _draw_points(axes, points)
    _legend(figure, results, points, width)
    names = _name_peaks(axes, peaks, used, width)
    settle(figure)  # what follows measures text in place
    _spread_peaks(axes, peaks, names)
    _label_levels(axes, levels, box)
    _label_ridges(axes, peaks, used, device.bandwidth)
    largest = sorted(points, key=lambda p: -p.share)[: 8 if width > 5 else 4]
    place_labels(
        axes,
        [(p.arithmetic_intensity, p.flop_per_s, p.name) for p in largest],
        [_size(p.share) for p in largest],
    )
    if path is not None:
        save_figure(figure, path)
    return figure


def _the_device(
    results: Sequence[GraphResult | SavedGraph], device: DeviceSpec | None
) -> DeviceSpec:
    devices = [r.system.device for r in results if isinstance(r, GraphResult)]
    device = device or (devices[0] if devices else None)
    if device is None:
        raise InputError("a roofline needs a device; give one or give results")
    other = next((d for d in devices if d.id != device.id), None)
    if other is not None:
        raise InputError(
            f"one roofline shows one device, not both {device.id} and {other.id}; "
            "draw one figure for each"
        )
    return device


Box = tuple[float, float, float, float]


def _limits(
    peaks: Sequence[Ceiling], levels: dict[str, float], points: Sequence[OpPoint]
) -> Box:
    top, slowest = peaks[0].peak, min(levels.values())
    ridge = max(p.peak for p in peaks) / slowest
    # Points of next to no time must not flatten the rest.
    points = [p for p in points if p.share >= _SEEN]
    xs = [p.arithmetic_intensity for p in points]
    left = min([0.5, *(x / 2 for x in xs)])
    right = max([ridge * 8, *(x * 2 for x in xs)])
    bottom = min([left * slowest, *(p.flop_per_s / 2 for p in points)])
    return left, right, bottom, top * 2


def _outside(points: Sequence[OpPoint], box: Box) -> int:
    """Return how many points lie beyond the edges of the picture."""
    return sum(
        not (
            box[0] <= p.arithmetic_intensity <= box[1]
            and box[2] <= p.flop_per_s <= box[3]
        )
        for p in points
    )


def _frame(axes: Any, box: Box) -> None:
    axes.set(xscale="log", yscale="log", xlim=box[:2], ylim=box[2:])
    axes.set_xlabel("arithmetic intensity (FLOP/B)")
    axes.set_ylabel("rate (FLOP/s)")
    axes.grid(True)
    for axis, unit in ((axes.xaxis, ""), (axes.yaxis, "FLOP/s")):
        axis.set_major_locator(LogLocator(10, numticks=12))
        axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(
            FuncFormatter(
                lambda v, _, u=unit: fmt.quantity(v, u, 3).removesuffix("FLOP/s")
            )
        )


def _draw_ceilings(
    axes: Any,
    peaks: Sequence[Ceiling],
    levels: dict[str, float],
    used: set[str],
    box: Box,
) -> None:
    left, right, top = box[0], box[1], peaks[0].peak
    fastest, slowest = max(levels.values()), min(levels.values())
    for ceiling in peaks:
        strong = bool(used & set(ceiling.dtypes))
        axes.plot(
            [ceiling.peak / fastest, right], [ceiling.peak] * 2,
            color=INK if strong else MUTED, linewidth=1.6 if strong else 0.8,
            linestyle="-" if ceiling.unit == "matrix" else _DASHES,
            gid=f"peak-{'-'.join(ceiling.dtypes)}-{ceiling.unit}", zorder=2,
        )  # fmt: skip
        ridge = ceiling.peak / slowest
        axes.plot(
            ridge, ceiling.peak, marker="o", markersize=4.5, color=SURFACE,
            markeredgecolor=INK if strong else MUTED, zorder=2.5, gid="ridge",
        )  # fmt: skip
    for name, bandwidth in levels.items():
        main = bandwidth == slowest
        axes.plot(
            [left, top / bandwidth], [left * bandwidth, top],
            color=INK if main else MUTED, linewidth=1.6 if main else 0.8,
            gid=f"memory-{name}", zorder=2,
        )  # fmt: skip


def _name_peaks(
    axes: Any, peaks: Sequence[Ceiling], used: set[str], width: float
) -> list[Any]:
    """Write the ceilings' names into the right margin, for the layout to see."""
    return [
        axes.annotate(
            ", ".join(c.dtypes) + (f"  {fmt.rate(c.peak)}" if width > 5 else ""),
            (1.0, c.peak), (7, 0), xycoords=axes.get_yaxis_transform(),
            textcoords="offset points", fontsize=7, va="center", zorder=4,
            color=INK if used & set(c.dtypes) else MUTED, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": GRID, "linewidth": 0.7,
                        "shrinkA": 0, "shrinkB": 0, "relpos": (0.0, 0.5)},
        )
        for c in peaks
    ]  # fmt: skip


def _spread_peaks(axes: Any, peaks: Sequence[Ceiling], texts: Sequence[Any]) -> None:
    """Move names apart where ceilings are closer than a line of text."""
    points = 72.0 / axes.figure.dpi
    heights = [axes.transData.transform((1.0, c.peak))[1] * points for c in peaks]
    for text, old, new in zip(texts, heights, spread(heights, 9.5), strict=True):
        text.set_position((7, new - old))


def _label_ridges(
    axes: Any, peaks: Sequence[Ceiling], used: set[str], bandwidth: float
) -> None:
    """Write the ridge points of the ceilings in use, or of all matrix peaks."""
    for ceiling in peaks:
        wanted = used & set(ceiling.dtypes) if used else ceiling.unit == "matrix"
        if wanted:
            axes.annotate(
                f"{fmt.count(ceiling.peak / bandwidth, 3)} FLOP/B",
                (ceiling.peak / bandwidth, ceiling.peak), (4, -4),
                textcoords="offset points", fontsize=7, color=MUTED, va="top",
            )  # fmt: skip


def _label_levels(axes: Any, levels: dict[str, float], box: Box) -> None:
    """Write each memory level's name along its line."""
    to_pixel = axes.transData.transform
    for name, bandwidth in levels.items():
        x = max(box[0], box[2] / bandwidth)
        (x0, y0), (x1, y1) = to_pixel([(x, x * bandwidth), (9 * x, 9 * x * bandwidth)])
        angle = math.degrees(math.atan2(y1 - y0, x1 - x0))
        radians = math.radians(angle)
        along, above = 14.0, 2.0  # points from the line's start, and off it
        axes.annotate(
            f"{name}  {fmt.rate(bandwidth, 'B/s')}", (x, x * bandwidth),
            (
                along * math.cos(radians) - above * math.sin(radians),
                along * math.sin(radians) + above * math.cos(radians),
            ),
            textcoords="offset points", rotation=angle, rotation_mode="anchor",
            fontsize=7, color=MUTED, va="bottom",
        )  # fmt: skip


def _size(share: float) -> float:
    """Marker size, its area in proportion to the share of time. [pt]"""
    return max(_SMALLEST, _LARGEST * math.sqrt(min(share, 1.0)))


def _draw_points(axes: Any, points: Sequence[OpPoint]) -> None:
    # The largest first, so that small ones lie on top.
    for point in sorted(points, key=lambda p: -p.share):
        axes.plot(
            point.arithmetic_intensity, point.flop_per_s, linestyle="",
            marker=_MARKERS[point.series % len(_MARKERS)],
            markersize=_size(point.share), color=family_colour(family(point.kind)),
            alpha=0.9, markeredgecolor=INK, markeredgewidth=0.6, zorder=3,
            gid=f"op-{point.name}",
        )  # fmt: skip


def _legend(
    figure: ReportFigure,
    results: Sequence[GraphResult | SavedGraph],
    points: Sequence[OpPoint],
    width: float,
) -> None:
    present = {family(p.kind) for p in points}
    handles = [
        Line2D([], [], color=INK, label="matrix peak", linewidth=1.2),
        Line2D(
            [], [], color=INK, label="vector peak", linewidth=1.2, linestyle=_DASHES
        ),
    ]
    shown = [(family_colour(n), n, "o") for n in (*FAMILIES, OTHER) if n in present]
    if len(results) > 1:
        shown += [
            (GRID, r.name, _MARKERS[i % len(_MARKERS)]) for i, r in enumerate(results)
        ]
    handles += [
        Line2D(
            [], [], color=colour, label=label, linestyle="", marker=marker,
            markersize=6, markeredgecolor=INK, markeredgewidth=0.6,
        )
        for colour, label, marker in shown
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="outside lower left", columnspacing=1.2,
        ncols=6 if width > 5 else 2, handletextpad=0.4, handlelength=1.6,
    )  # fmt: skip


def _caption(
    device: DeviceSpec,
    results: Sequence[GraphResult | SavedGraph],
    points: Sequence[OpPoint],
    left_out: Sequence[float],
    outside: int,
) -> str:
    ridge = device.bandwidth
    peak = max(c.peak for c in compute_ceilings(device))
    text = (
        f"Roofline of {device.name}: solid ceilings are matrix units, dashed ones "
        f"vector units; the highest peak meets {device.main_memory_name} at "
        f"{fmt.count(peak / ridge, 3)} FLOP/B."
    )
    if points:
        every = [p.name for p in sorted(points, key=lambda p: -p.share)]
        names = list(dict.fromkeys(every))[:3]
        text += (
            " A point is an operator, its area its share of the time"
            f"{' of its phase' if len(results) > 1 else ''}; the largest are "
            f"{fmt.listed(names)}. Intensity counts every operand moved once."
        )
    if outside:
        points_lie = "1 point lies" if outside == 1 else f"{outside} points lie"
        text += (
            f" {points_lie} outside, of under {fmt.percent(_SEEN)} of the time each."
        )
    if any(share > 1e-9 for share in left_out):
        shares = fmt.listed(
            f"{_share_text(share)} of {r.name}"
            for r, share in zip(results, left_out, strict=True)
        )
        text += (
            " Operators without arithmetic (copies, lookups, collectives: "
            f"{shares}) have no point."
        )
    return text


def _share_text(share: float) -> str:
    return fmt.percent(share) if share >= 5e-4 else "under 0.1 %"
