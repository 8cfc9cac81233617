"""How far published serving points lie from their predictions."""

from __future__ import annotations

from hwsim.cost.interval import LogInterval

# 90 % of 242 aggregated rows, and of 560 disaggregated ones by how many recipes fit,
# lie so far, as logarithms, from their predictions; all were in sight.
_SPREAD = {
    "aggregated": {
        "ttft": LogInterval(-0.53, 1.36), "tpot": LogInterval(-0.37, 0.29),
        "throughput": LogInterval(-0.27, 0.38),
    },
    "one recipe": {
        "ttft": LogInterval(-1.2, 2.9), "tpot": LogInterval(-0.35, 0.4),
        "throughput": LogInterval(-0.32, 0.45),
    },
    "several recipes": {
        "ttft": LogInterval(-0.5, 3.0), "tpot": LogInterval(-0.75, 0.42),
        "throughput": LogInterval(-0.66, 0.65),
    },
    "no recipe": {
        "ttft": LogInterval(-3.5, 2.4), "tpot": LogInterval(-0.9, 1.3),
        "throughput": LogInterval(-1.1, 1.5),
    },
}  # fmt: skip
_RECIPES = ("no recipe", "one recipe", "several recipes")


def serving_intervals(disaggregated: bool, recipes: int) -> dict[str, LogInterval]:
    """Return 90 % intervals by metric, as logarithms around a prediction.

    Parameters
    ----------
    recipes : int
        Published recipes that fit a disaggregated row.
    """
    if not disaggregated:
        return _SPREAD["aggregated"]
    return _SPREAD[_RECIPES[min(recipes, 2)]]
