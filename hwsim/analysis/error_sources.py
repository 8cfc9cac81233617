"""What predictions of two cells have wrong in common, and what not.

The error of an operator family on one calibration (a device's own, or a
generation's) in one precision is one number that every graph which uses it
shares. Two cells that rest on the same calibration err the same way, so that
most of it cancels in their ratio; cells on different ones err independently.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwsim.analysis.graph_result import GraphResult, outside
from hwsim.cost.interval import LogInterval, family_changes
from hwsim.specs.calibration import calibration_for
from hwsim.specs.stack import StackSpec

Key = tuple[str, ...]


@dataclass(frozen=True)
class Errors:
    """How far each independent source may move a time, as logarithms.

    Attributes
    ----------
    sources : dict of key to LogInterval
        By calibration, family and precision; and the stack's own.
    """

    sources: Mapping[Key, LogInterval]


def errors_of(
    graphs: Iterable[tuple[GraphResult, float]], stack: StackSpec, precision: Key
) -> Errors | None:
    """Return the error sources of a sum of graphs' times; a bound has none.

    Parameters
    ----------
    graphs : iterable of (GraphResult, float)
        Graphs, and how often each runs.
    precision : tuple of str
        Dtypes of the arithmetic and of what is stored.
    """
    runs = [(graph, times) for graph, times in graphs if times > 0]
    total = sum(graph.time_s * times for graph, times in runs)
    if not runs or total <= 0 or runs[0][0].fidelity == "roofline":
        return None
    changes: dict[Key, list[float]] = {}
    for graph, times in runs:
        weight = graph.exposed_calls * (times / total)
        calibration = calibration_for(graph.system.device, graph.fidelity)
        found = family_changes(graph.costs.ops, graph.costs.time, weight, calibration)
        for family, (down, up) in found.items():
            key = (_anchor(graph, family), family, *precision)
            at = changes.setdefault(key, [0.0, 0.0])
            at[0] += down
            at[1] += up
    sources = {key: _log(down, up) for key, (down, up) in changes.items()}
    anchor = _anchor(runs[0][0], "")
    sources[(anchor, "host and framework", stack.id)] = outside(runs[0][0].graph)
    return Errors(sources)


def _log(down: float, up: float) -> LogInterval:
    return LogInterval(float(np.log1p(max(down, -0.95))), float(np.log1p(up)))


def _anchor(graph: GraphResult, family: str) -> str:
    """Return whose parameters a family's costs rest on."""
    device, used = graph.system.device, graph.fidelity_by_family.get(family)
    own = used in {"calibrated", "borrowed"} or not family
    return calibration_for(device, graph.fidelity if own else "structured").id


def ratio_interval(a: Errors, b: Errors, shared: float) -> LogInterval:
    """Return the 90 % interval of ln(time of b / time of a) around its prediction.

    Parameters
    ----------
    shared : float
        Correlation of two cells' errors that have the same source. [1]
    """
    middle, variance = 0.0, 0.0
    for key in dict.fromkeys([*a.sources, *b.sources]):
        mid_a, half_a = _middle(a.sources.get(key))
        mid_b, half_b = _middle(b.sources.get(key))
        middle += mid_b - mid_a
        variance += half_a**2 + half_b**2 - 2.0 * shared * half_a * half_b
    half = math.sqrt(max(variance, 0.0))
    return LogInterval(middle - half, middle + half)


def _middle(interval: LogInterval | None) -> tuple[float, float]:
    if interval is None:
        return 0.0, 0.0
    return (interval.low + interval.high) / 2, (interval.high - interval.low) / 2


def common(a: Errors, b: Errors) -> list[str]:
    """Return the families whose errors two cells share."""
    return [key[1] for key in a.sources if key in b.sources]


def graphs_of(result: Any) -> list[tuple[GraphResult, float]]:
    """Return the graphs behind an answer and how often each runs."""
    if result.kind == "infer":
        runs = [(result.prefill, 1.0), (result.decode, float(result.decode_steps))]
        return [(graph, times) for graph, times in runs if graph is not None]
    if result.kind == "train":
        return list(result.made.runs)
    return []


def precision_of(result: Any) -> Key:
    """Return the dtypes that the errors of an answer depend on."""
    config = result.config
    kept = (getattr(config, name, "") for name in ("weight_dtype", "kv_dtype"))
    return (config.dtype, *(text for text in kept if text))
