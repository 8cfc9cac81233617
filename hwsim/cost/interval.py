"""Prediction intervals: of operators, and of what is made of them.

The half width of an operator's interval is a logarithm, ln(upper / time),
found from the errors on measurements that fits had not seen. Errors of one
family go together: if one product of a graph is slower than predicted, its
neighbours are too, so that their shares add up. Errors of different families
are independent and combine in quadrature, together with a term for what
operators do not explain at all: host, framework, scheduling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwsim.cost.cost import FloatArray
from hwsim.graph.op import Attention, Collective, Matmul, MoeExperts, Op
from hwsim.specs.calibration import Calibration

# Where no spread is known: a factor of two and a half either way.
_UNKNOWN = 0.9


@dataclass(frozen=True, slots=True)
class LogInterval:
    """A 90 % interval as logarithms of lower and upper over the prediction."""

    low: float
    high: float

    def around(self, value: float) -> tuple[float, float]:
        """Return the interval of a predicted value."""
        return value * float(np.exp(self.low)), value * float(np.exp(self.high))

    def inverse(self) -> LogInterval:
        """Return the interval of a rate that goes as one over the time."""
        return LogInterval(-self.high, -self.low)


def family_of(op: Op) -> str:
    """Return the family whose calibration and spread an operator uses."""
    if isinstance(op, Matmul):
        return "gemm"
    if isinstance(op, Attention):
        return f"attention_{op.mode}"
    if isinstance(op, MoeExperts):
        return "moe"
    if isinstance(op, Collective):
        return "collective"
    return "elementwise"


def op_logs(
    family: str, time: FloatArray, calibration: Calibration
) -> tuple[FloatArray, FloatArray]:
    """Return ln(lower / time) and ln(upper / time) of operators of a family."""
    spread = calibration.spread.get(family)
    if spread is None:
        wide = np.full(np.shape(time), _UNKNOWN)
        return -wide, wide
    return spread.logs(time)


def graph_interval(
    ops: Sequence[Op],
    time: FloatArray,
    weight: FloatArray,
    total: float,
    calibration: Calibration,
    outside: LogInterval | None,
) -> LogInterval:
    """Return the interval of a graph's time.

    Parameters
    ----------
    ops : sequence of Op
        Distinct operators.
    time : ndarray of float64
        Predicted time of one call of each. [s]
    weight : ndarray of float64
        Calls of each whose time nothing hides.
    total : float
        Predicted time of the graph, waiting for the host included. [s]
    outside : LogInterval or None
        What operators do not explain; None leaves it out.
    """
    if total <= 0:
        return LogInterval(0.0, 0.0)
    changes = family_changes(ops, time, weight / total, calibration).values()
    return quadrature([down for down, _ in changes], [up for _, up in changes], outside)


def family_changes(
    ops: Sequence[Op], time: FloatArray, weight: FloatArray, calibration: Calibration
) -> dict[str, tuple[float, float]]:
    """Return how far each family may move a sum of weighted times, down and up.

    The unit is that of ``time * weight``; errors of one family go together.
    """
    index: dict[str, list[int]] = {}
    for i, op in enumerate(ops):
        index.setdefault(family_of(op), []).append(i)
    found = {}
    for family, where in index.items():
        low, high = op_logs(family, time[where], calibration)
        share = time[where] * weight[where]
        found[family] = (
            float(share @ np.expm1(low)),
            float(share @ np.expm1(high)),
        )
    return found


def quadrature(
    down: Sequence[float], up: Sequence[float], outside: LogInterval | None
) -> LogInterval:
    """Return relative changes of independent parts as one interval.

    A family may be biased: both ends of its interval may lie on one side.
    The middles then add up, and the half widths combine in quadrature.
    """
    lows = np.log1p(np.maximum(down, -0.95))
    highs = np.log1p(np.maximum(up, -0.95))
    if outside is not None:
        lows, highs = np.append(lows, outside.low), np.append(highs, outside.high)
    middle = (lows + highs) / 2
    half = float(np.sqrt(np.sum((highs - middle) ** 2)))
    centre = float(np.sum(middle))
    return LogInterval(centre - half, centre + half)


def beside(inside: LogInterval, outside: LogInterval) -> LogInterval:
    """Return an interval widened by errors independent of it, on each side."""
    return LogInterval(
        -float(np.hypot(min(inside.low, 0.0), outside.low)),
        float(np.hypot(max(inside.high, 0.0), outside.high)),
    )


def weighted(parts: Sequence[tuple[LogInterval, float]]) -> LogInterval:
    """Return the interval of a sum of times whose errors go together."""
    total = sum(time for _, time in parts)
    if total <= 0:
        return LogInterval(0.0, 0.0)
    low = sum(np.exp(p.low) * time for p, time in parts) / total
    high = sum(np.exp(p.high) * time for p, time in parts) / total
    return LogInterval(float(np.log(low)), float(np.log(high)))
