"""What if: one or two parameters varied, and where the bound changes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hwsim.analysis.case import TIMES, Case, figure_of
from hwsim.analysis.comparing.cell import CompareCell, Money, answered
from hwsim.analysis.evidence import case_accuracy
from hwsim.analysis.result import Result
from hwsim.analysis.varying.vary import Axis, grid_size, parse_axis
from hwsim.errors import InputError
from hwsim.registry import draw
from hwsim.specs.base import Spec

if TYPE_CHECKING:
    import pandas as pd

MOST_POINTS = 20_000
DEFAULT_POINTS = {1: 17, 2: 9}
Interval = tuple[float, float] | None
_KNEE = 0.005  # a knee is found to half a percent
# Figures that follow the rate, and the power that they go with.
_AS_RATE = {
    "tokens_per_s_per_device": 1, "tokens_per_usd": 1, "usd_per_mtok": -1, "time_s": -1,
}  # fmt: skip
_KEPT = (
    "time_s", "tokens_per_s", "ttft_s", "tpot_s", "bound", "breakdown",
    "memory_headroom", "power_w", "kwh_per_mtok", "usd_per_mtok", "mfu",
    "interval_90", "goodput_rps", "stable_rate_rps",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One combination of values and its answer.

    Attributes
    ----------
    values : tuple
        One for each axis. [SI]
    metric : float or None
        None where it cannot run.
    status, reason : str
        ``ok``, or why there is no answer.
    bound : str
        What most of the time goes to.
    figures : dict
        Time, rate, memory, energy and money. [SI]
    interval : (float, float) or None
        90 % prediction interval of the metric, where it is known. [SI]
    """

    values: tuple[float | str, ...]
    metric: float | None
    status: str
    reason: str
    bound: str
    figures: dict[str, Any]
    interval: Interval = None


@dataclass(frozen=True)
class Knee:
    """Where the bound changes along the first axis.

    Attributes
    ----------
    at : float
        Value of the parameter, found by bisection. [SI]
    before, after : str
        Bound below and above it.
    """

    at: float
    before: str
    after: str


@dataclass(frozen=True, repr=False)
class WhatIf(Result):
    """A sweep over one or two parameters.

    Attributes
    ----------
    case : Case
        The question as it stands.
    axes : tuple of Axis
        What is varied.
    metric : str
        Which figure is told: a key of the answer.
    points : tuple of Point
        All combinations, the last axis fastest.
    knees : tuple of Knee
        Of one axis: where the bound changes.
    """

    case: Case
    axes: tuple[Axis, ...]
    metric: str
    now: Point
    points: tuple[Point, ...]
    knees: tuple[Knee, ...]
    complete: bool = True

    kind = "whatif"

    @property
    def title(self) -> str:
        """What is asked."""
        what = " and ".join(axis.parameter.key for axis in self.axes)
        return f"{self.case.model.name} on {self.case.name}: {self.metric} over {what}"

    def specs(self) -> dict[str, Spec]:
        """Return the specs of the question as it stands."""
        case = self.case
        return {"model": case.model, "system": case.system, "stack": case.stack}

    def accuracy(self) -> dict[str, Any]:
        """Return what is known of the accuracy of the question's answer."""
        return case_accuracy(self.case)

    def to_dict(self) -> dict[str, Any]:
        """Return axes, points and knees with keys in SI."""
        return {
            **self.header(),
            "question": {"text": self.title, **self.case.to_dict()},
            "metric": self.metric,
            "axes": [axis.to_dict() for axis in self.axes],
            "now": _point(self.now),
            "points": [_point(point) for point in self.points],
            "knees": [vars(knee) for knee in self.knees],
            "complete": self.complete,
        }

    @property
    def table(self) -> pd.DataFrame:
        """One row per point: the values by key, then the figures."""
        import pandas as pd

        keys = [axis.parameter.key for axis in self.axes]
        rows = [
            dict(zip(keys, p.values, strict=True))
            | {"metric": p.metric, "metric_interval_90": p.interval}
            | {"status": p.status, "reason": p.reason}
            | p.figures
            for p in self.points
        ]
        return pd.json_normalize(rows)

    def plot(self, path: str | None = None) -> Any:
        """Draw a curve, or of two parameters a heat map; return the figure."""
        return draw("whatif", self, path=path)


def _point(point: Point) -> dict[str, Any]:
    return {
        "values": list(point.values), "metric": point.metric,
        "metric_interval_90": point.interval, "status": point.status,
        "reason": point.reason, "bound": point.bound, **point.figures,
    }  # fmt: skip


def sweep(
    case: Case,
    vary: Sequence[str],
    money: Money,
    *,
    metric: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> WhatIf:
    """Answer a question for all values of one or two parameters.

    Raises
    ------
    InputError, SpecError
        If a parameter or a value is wrong, or the question cannot be answered
        for any of them.
    """
    if not 1 <= len(vary) <= 2:
        raise InputError("vary one or two parameters: --vary KEY=FROM..TO")
    axes = tuple(parse_axis(case, text, DEFAULT_POINTS[len(vary)]) for text in vary)
    if len({axis.parameter.key for axis in axes}) < len(axes):
        raise InputError(f"{axes[0].parameter.key} is varied twice; vary it once")
    size = grid_size(axes)
    if size > MOST_POINTS:
        raise InputError(f"{size:,} points; take at most {MOST_POINTS:,}")
    key = metric or TIMES[case.task][0]
    points, complete = _points(case, axes, key, money, progress)
    if not any(p.metric is not None for p in points):
        raise InputError(f"no value can run: {points[0].reason if points else ''}")
    knees = _knees(case, axes[0], points, key, money) if len(axes) == 1 else ()
    now = _at(case, (), (), key, money)
    return WhatIf(case, axes, key, now, tuple(points), tuple(knees), complete)


def _points(
    case: Case,
    axes: Sequence[Axis],
    key: str,
    money: Money,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[Point], bool]:
    """Return all points; those found so far where somebody interrupts."""
    total, points = grid_size(axes), []
    try:
        for done, values in enumerate(itertools.product(*(a.values for a in axes))):
            if progress is not None:
                progress(done, total)
            points.append(_at(case, axes, values, key, money))
    except KeyboardInterrupt:
        if not points:
            raise
        return points, False
    return points, True


def _at(
    case: Case,
    axes: Sequence[Axis],
    values: Sequence[float | str],
    key: str,
    money: Money,
) -> Point:
    for axis, value in zip(axes, values, strict=True):
        case = axis.parameter.set(case, value)
    cell = answered(case, money)
    if not cell.ok:
        return Point(tuple(values), None, cell.status, cell.reason, "", {})
    return Point(
        tuple(values), metric_of(cell, key), "ok", "", cell.bound, kept(cell),
        interval_of(cell, key),
    )  # fmt: skip


def kept(cell: CompareCell) -> dict[str, Any]:
    """Return the figures of a cell that sweeps keep."""
    figures = cell.figures()
    return {k: figures[k] for k in _KEPT if figures.get(k) is not None}


def metric_of(cell: CompareCell, key: str) -> float:
    """Return a figure of a cell, or of its answer. [SI]"""
    figures = cell.figures()
    value = figures.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return figure_of(cell.result, key)


def interval_of(cell: CompareCell, key: str) -> Interval:
    """Return the 90 % interval of a figure, if times and rates give it. [SI]"""
    known = cell.interval_90
    if known is None:
        return None
    found = (cell.result.interval_90 or {}).get(key) or known.get(key)
    if found is None and key in _AS_RATE and known.get("tokens_per_s"):
        scale, ends = cell.tokens_per_s, known["tokens_per_s"]
        factors = sorted((end / scale) ** _AS_RATE[key] for end in ends)
        found = tuple(metric_of(cell, key) * factor for factor in factors)
    return None if found is None else (float(found[0]), float(found[1]))


def _knees(
    case: Case, axis: Axis, points: Sequence[Point], key: str, money: Money
) -> list[Knee]:
    if not axis.numeric:
        return []
    found = []
    for a, b in itertools.pairwise(p for p in points if p.metric is not None):
        if a.bound != b.bound:
            found.append(_bisected(case, axis, (a, b), key, money))
    return found


def _bisected(
    case: Case, axis: Axis, ends: tuple[Point, Point], key: str, money: Money
) -> Knee:
    """Return where the bound changes between two points that differ in it."""
    a, b = ends
    low, high = float(a.values[0]), float(b.values[0])
    whole = axis.parameter.whole
    while high - low > (1.0 if whole else _KNEE * abs(high)):
        log = low > 0 and not whole
        middle = math.sqrt(low * high) if log else (low + high) / 2
        middle = float(round(middle)) if whole else middle
        point = _at(case, (axis,), (middle,), key, money)
        if point.metric is None:
            break
        if point.bound == a.bound:
            low = middle
        else:
            high, b = middle, point
    return Knee(high, a.bound, b.bound)
