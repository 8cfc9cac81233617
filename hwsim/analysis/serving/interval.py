"""How sure a service's figures are: its requests played again, slower and faster.

An error of step times moves latencies by more than its own size where requests
queue, and by less where they wait for arrivals. So the same requests are played
with all steps at both ends of the 90 % interval of step times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwsim.analysis.graph_result import GraphResult
from hwsim.analysis.serving.handover import Before
from hwsim.analysis.serving.mean_request import request_runs
from hwsim.analysis.serving.pool import Pool
from hwsim.analysis.serving.run import Run, play
from hwsim.cost.interval import LogInterval, beside, weighted
from hwsim.sim.serving.arrivals import Arrivals
from hwsim.sim.serving.cost import Part, StepCost
from hwsim.sim.serving.records import StepPower
from hwsim.specs.calibration import load_intervals
from hwsim.specs.operations import Operations
from hwsim.specs.traffic import Traffic

_MOST = 20_000  # requests that are played again: their ratios stand for all
Figures = dict[str, dict[str, float] | float | None]


@dataclass(frozen=True)
class ScaledCost:
    """Step times that are all longer by a factor."""

    cost: StepCost
    factor: float

    def decode(self, batch: int, contexts: float) -> tuple[float, float, float]:
        """Return a step's time, its growth per token of context, and up to where."""
        time, growth, until = self.cost.decode(batch, contexts)
        return time * self.factor, growth * self.factor, until

    def mixed(
        self, chunks: Sequence[tuple[int, int]], batch: int, contexts: float
    ) -> float:
        """Return the time of a step with prompt chunks."""
        return self.cost.mixed(chunks, batch, contexts) * self.factor

    def joint(self, parts: Sequence[Part]) -> float:
        """Return the time of a step with prompts of groups that run it together."""
        return self.cost.joint(parts) * self.factor


@dataclass(frozen=True)
class Replay:
    """Everything that a service's run came from, to play it again."""

    arrivals: Arrivals
    pool: Pool
    router: str
    traffic: Traffic
    before: Before | None
    operations: Operations | None
    seed: int

    def at(self, factor: float) -> Run:
        """Return the run of the first requests with longer or shorter steps."""
        before = self.before
        if before is not None:
            before = replace(before, pool=_scaled(before.pool, factor))
        run, _ = play(
            self.arrivals.first(_MOST), _scaled(self.pool, factor), self.router,
            self.traffic, None, before, self.operations, self.seed,
        )  # fmt: skip
        return run


def _scaled(pool: Pool, factor: float) -> Pool:
    if pool.table is None:
        raise TypeError("the pool has no table of step times yet")
    none: StepPower | None = None
    return replace(pool, table=ScaledCost(pool.table, factor), power=none)


def operator_interval(
    runs: Sequence[tuple[GraphResult, float]],
) -> LogInterval | None:
    """Return the interval of engine time by the errors of operators alone."""
    known = [(run.operator_interval, run.time_s * times) for run, times in runs]
    found = [(log, time) for log, time in known if log is not None and time > 0]
    return weighted(found) if found else None


def step_interval(result: Any) -> LogInterval | None:
    """Return the 90 % interval of step times, as logarithms; a bound has none.

    Errors of operators, and beside them what published services of other
    sources were off by all the same.
    """
    if result.fidelity == "roofline" or not result.run.outputs.size:
        return None
    inside = operator_interval(request_runs(result))
    return None if inside is None else service_steps(inside)


def service_steps(inside: LogInterval) -> LogInterval:
    """Return the interval of a service's steps, from that of their operators."""
    terms = load_intervals().end_to_end
    term = terms.get("serve", terms["every"])
    return beside(inside, LogInterval(-term.low, term.high))


def figure_intervals(
    figures: Figures,
    steps: LogInterval,
    replay: Replay,
    of: Callable[[Run], Figures],
) -> dict[str, Any]:
    """Return the 90 % intervals of a service's figures.

    Parameters
    ----------
    figures : dict
        Predicted figures: numbers, or dicts of them.
    steps : LogInterval
        Of step times.
    replay : Replay
        Plays the requests again.
    of : callable
        Works the figures of a run out.

    Returns
    -------
    dict
        Of the same shape, with (low, high) in place of each number.
    """
    ends = [of(replay.at(math.exp(log))) for log in (steps.low, steps.high)]
    whole = replay.arrivals.inputs.size <= _MOST
    base = figures if whole else of(replay.at(1.0))
    found: dict[str, Any] = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            parts = [_dict(part[name]) for part in (base, *ends)]
            found[name] = {
                key: _span(one, *(part[key] for part in parts))
                for key, one in value.items()
            }
        else:
            found[name] = _span(value, *(_number(part[name]) for part in (base, *ends)))
    return found


def _dict(value: Any) -> dict[str, float]:
    return dict(value)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _span(
    value: float | None, base: float, low: float, high: float
) -> tuple[float, float] | None:
    """Return a figure's interval by the ratios that a part of the run shows."""
    if value is None or not np.isfinite([value, base, low, high]).all():
        return None
    if base <= 0:
        return min(low, high, value), max(low, high, value)
    scaled = (value * low / base, value * high / base)
    return min(*scaled, value), max(*scaled, value)
