"""How sure predictions of published serving points are."""

from __future__ import annotations

from hwsim.cost.interval import LogInterval, beside
from hwsim.specs.calibration import load_intervals

METRICS = ("ttft", "tpot", "throughput")
_RECIPES = ("no recipe", "one recipe", "several recipes")


def serving_group(disaggregated: bool, recipes: int) -> str:
    """Return what is known of a point's layout.

    Parameters
    ----------
    recipes : int
        Published recipes that fit a disaggregated row.
    """
    return _RECIPES[min(recipes, 2)] if disaggregated else "aggregated"


def serving_intervals(steps: LogInterval | None, group: str) -> dict[str, LogInterval]:
    """Return 90 % intervals by metric, as logarithms around a prediction.

    In a loop of clients that never think all times go with those of the steps,
    whose operators' errors stand beside what published points of a group were
    off by all the same: how clients fell into step, and what their layout was.

    Parameters
    ----------
    steps : LogInterval or None
        Of step times, by the errors of operators; None has no interval.
    """
    if steps is None:
        return {}
    known, found = load_intervals(), {}
    rest = known.end_to_end.get("serve", known.end_to_end["every"])
    for metric in METRICS:
        term = known.serving.get(f"{group} {metric}", rest)
        time = steps.inverse() if metric == "throughput" else steps
        found[metric] = beside(time, LogInterval(-term.low, term.high))
    return found
