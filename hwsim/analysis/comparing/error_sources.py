"""What predictions of two cells have wrong in common, and what not.

How far errors go together was measured on products and decode attention of
serving kernels (aiconfigurator tables: A100, H100, H200, B200, L40S), 20,000
rows of each, as the correlation of ln(predicted / measured). The command
``docs/error_correlations.py`` measures it; ``docs/error_correlations.json``
has every figure. Used are the lower ends, so that two cells are rather called
alike than told apart in error: one half for the same operators on another
device of one generation, nothing for other shapes, precisions and
generations. The same operators on the same device have the same error.
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
SAME_GENERATION = 0.5  # the same operators on another device of the generation
OTHER_WORK = 0.0  # other shapes on the same device or generation


@dataclass(frozen=True)
class Errors:
    """How far each independent source may move a time, as logarithms.

    Attributes
    ----------
    sources : dict of key to LogInterval
        By family and precision; and the stack's own.
    device, generation : str
        Whose errors they are.
    work : tuple
        What makes operators the same.
    """

    sources: Mapping[Key, LogInterval]
    device: str
    generation: str
    work: Key

    def correlation(self, other: Errors) -> float:
        """Return how far errors of equal sources go together."""
        if self.generation != other.generation:
            return 0.0
        if self.work != other.work:
            return OTHER_WORK
        return 1.0 if self.device == other.device else SAME_GENERATION


def errors_of(
    graphs: Iterable[tuple[GraphResult, float]],
    stack: StackSpec,
    precision: Key,
    work: Key,
    rest: LogInterval | None = None,
) -> Errors | None:
    """Return the error sources of a sum of graphs' times; a bound has none.

    Parameters
    ----------
    graphs : iterable of (GraphResult, float)
        Graphs, and how often each runs.
    precision : tuple of str
        Dtypes of the arithmetic and of what is stored.
    work : tuple of str
        Model, batch, lengths and layout.
    rest : LogInterval, optional
        What operators do not explain; that of the first graph by default.
    """
    runs = [(graph, times) for graph, times in graphs if times > 0]
    total = sum(graph.time_s * times for graph, times in runs)
    if not runs or total <= 0 or runs[0][0].fidelity == "roofline":
        return None
    changes: dict[Key, list[float]] = {}
    for graph, times in runs:
        weight = graph.exposed_calls * (times / total)
        ops, time = graph.costs.ops, graph.costs.time
        found = family_changes(ops, time, weight, graph.calibration)
        for family, (down, up) in found.items():
            key = (family, *precision)
            at = changes.setdefault(key, [0.0, 0.0])
            at[0] += down
            at[1] += up
    sources = {key: _log(down, up) for key, (down, up) in changes.items()}
    rest = outside(runs[0][0].graph) if rest is None else rest
    sources["host and framework", stack.id] = rest
    device = runs[0][0].system.device
    generation = calibration_for(device, "structured").id
    return Errors(sources, device.id, generation, work)


def _log(down: float, up: float) -> LogInterval:
    return LogInterval(float(np.log1p(max(down, -0.95))), float(np.log1p(up)))


def ratio_interval(a: Errors, b: Errors, shared: float | None = None) -> LogInterval:
    """Return the 90 % interval of ln(time of b / time of a) around its prediction.

    Parameters
    ----------
    shared : float or None
        Correlation of errors of equal sources; what was measured by default.
    """
    shared = a.correlation(b) if shared is None else shared
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
    """Return the families whose errors two cells share, in part at least."""
    if not a.correlation(b):
        return []
    return [key[0] for key in a.sources if key in b.sources]


def work_of(result: Any) -> Key:
    """Return what makes the operators of two answers the same."""
    config = result.config.to_dict()
    sizes = (f"{k} {v}" for k, v in sorted(config.items()) if not k.endswith("dtype"))
    return (result.model.id, *sizes)


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
