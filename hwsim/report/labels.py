"""Places text where it covers neither other text nor points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.text import Text
from matplotlib.transforms import Bbox

from hwsim.report.style import INK, MUTED, SURFACE

# Where a label may stand around its point: direction, alignment.
_PLACES = (
    (1.0, 0.0, "left", "center"), (-1.0, 0.0, "right", "center"),
    (0.0, 1.0, "center", "bottom"), (0.0, -1.0, "center", "top"),
    (0.7, 0.7, "left", "bottom"), (0.7, -0.7, "left", "top"),
    (-0.7, 0.7, "right", "bottom"), (-0.7, -0.7, "right", "top"),
)  # fmt: skip
_DISTANCES = (3.0, 13.0)


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Return positions moved as little as needed to stand ``gap`` apart.

    Groups of crowded positions are centred on their mean; order is kept.

    Examples
    --------
    >>> spread([10.0, 10.0, 40.0], 6.0)
    [7.0, 13.0, 40.0]
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    groups: list[list[float]] = []  # [centre, number of members]
    for index in order:
        groups.append([positions[index], 1.0])
        while len(groups) > 1 and _crowded(groups[-2], groups[-1], gap):
            centre, size = groups.pop()
            last = groups[-1]
            last[0] = (last[0] * last[1] + centre * size) / (last[1] + size)
            last[1] += size
    placed = [
        centre + (i - (size - 1) / 2) * gap
        for centre, size in groups
        for i in range(int(size))
    ]
    result = [0.0] * len(positions)
    for index, position in zip(order, placed, strict=True):
        result[index] = position
    return result


def _crowded(below: Sequence[float], above: Sequence[float], gap: float) -> bool:
    return above[0] - below[0] < gap * (below[1] + above[1]) / 2 - 1e-9


def place_labels(
    axes: Any,
    points: Sequence[tuple[float, float, str]],
    sizes: Sequence[float],
    fontsize: float = 7.5,
) -> list[str]:
    """Label points, the first ones first; one that finds no room gets none.

    Parameters
    ----------
    axes : Axes
        With its layout settled: text is measured in place. Text that stands
        in it already is kept clear of.
    points : sequence of (x, y, text)
        In data coordinates, the most important first.
    sizes : sequence of float
        Diameter of each point's marker. [pt]

    Returns
    -------
    list of str
        The texts that found a place.
    """
    figure = axes.figure
    renderer = figure.canvas.get_renderer()
    pixel = figure.dpi / 72.0
    frame = axes.get_window_extent(renderer)
    taken = [t.get_window_extent(renderer) for t in axes.texts]
    for (x, y, _), size in zip(points, sizes, strict=True):
        px, py = axes.transData.transform((x, y))
        half = size * pixel / 2
        taken.append(Bbox.from_extents(px - half, py - half, px + half, py + half))
    placed = []
    for (x, y, text), size in zip(points, sizes, strict=True):
        if _place(axes, (x, y, text), size, fontsize, taken, frame, renderer):
            placed.append(text)
    return placed


def _place(
    axes: Any,
    point: tuple[float, float, str],
    size: float,
    fontsize: float,
    taken: list[Bbox],
    frame: Bbox,
    renderer: Any,
) -> bool:
    x, y, text = point
    for distance in _DISTANCES:
        for dx, dy, ha, va in _PLACES:
            away = size / 2 + distance
            line = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6}
            label = axes.annotate(
                text, (x, y), (dx * away, dy * away), textcoords="offset points",
                ha=ha, va=va, fontsize=fontsize, color=INK, zorder=4,
                bbox={"facecolor": SURFACE, "edgecolor": "none", "alpha": 0.8,
                      "pad": 0.6},
                arrowprops=line if distance > _DISTANCES[0] else None,
            )  # fmt: skip
            # The text alone; the extent of an annotation includes its line.
            label.update_positions(renderer)
            box = Text.get_window_extent(label, renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            inside = inside and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                return True
            label.remove()
    return False
