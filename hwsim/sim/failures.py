"""A long training run with failures, checkpoints and spare nodes, in SimPy.

The job computes for an interval, writes a checkpoint, and so on. A failure
throws it back to the last finished checkpoint. If a spare node is at hand it
restarts after the restart time; otherwise it waits for the first repair.
Simultaneous events: a checkpoint that ends at the instant of a failure counts.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import simpy


@dataclass(frozen=True, slots=True)
class FailurePlan:
    """What the run needs and what may befall it. [s]

    Attributes
    ----------
    work : float
        Useful compute time of the whole run.
    interval, write_time : float
        Useful work between two checkpoints, and a checkpoint's time.
    restart_time, repair_time : float
        From failure to computing again; until a failed node is back.
    mtbf : float
        Mean time between failures of the running job.
    spares : int
        Nodes beyond those that the job needs.
    """

    work: float
    interval: float
    write_time: float
    restart_time: float
    repair_time: float
    mtbf: float
    spares: int = 0


@dataclass(slots=True)
class RunState:
    """Where a simulated run stands; can be saved and gone on from."""

    now: float = 0.0
    done: float = 0.0
    failures: int = 0
    lost: float = 0.0
    writing: float = 0.0
    restarting: float = 0.0
    waiting: float = 0.0
    repairs: list[float] = field(default_factory=list)
    random: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return asdict(self)


def run_with_failures(
    plan: FailurePlan,
    rng: np.random.Generator,
    *,
    state: RunState | None = None,
    until_failures: int | None = None,
) -> RunState:
    """Simulate the run, or its next part, and return where it stands.

    Parameters
    ----------
    plan : FailurePlan
        The run.
    rng : numpy.random.Generator
        Source of failure times; set to the saved state when going on.
    state : RunState or None
        Where an earlier call stopped.
    until_failures : int or None
        Stop after so many failures in all, at the restart.
    """
    state = RunState() if state is None else state
    if state.random is not None:
        rng.bit_generator.state = state.random
    env = simpy.Environment(initial_time=state.now)
    env.process(_job(env, plan, rng, state, until_failures))
    env.run()
    state.now = env.now
    state.random = dict(rng.bit_generator.state)
    return state


def _job(
    env: simpy.Environment,
    plan: FailurePlan,
    rng: np.random.Generator,
    state: RunState,
    until_failures: int | None,
) -> Generator[simpy.Event, None, None]:
    while state.done < plan.work:
        failure_at = env.now + _draw(rng, plan.mtbf)
        yield from _compute(env, plan, state, failure_at)
        if state.done >= plan.work:
            return
        state.failures += 1
        yield from _restart(env, plan, rng, state)
        if until_failures is not None and state.failures >= until_failures:
            return


def _draw(rng: np.random.Generator, mtbf: float) -> float:
    return float(rng.exponential(mtbf)) if np.isfinite(mtbf) else np.inf


def _compute(
    env: simpy.Environment, plan: FailurePlan, state: RunState, failure_at: float
) -> Generator[simpy.Event, None, None]:
    """Compute until the work is done or the failure strikes.

    Checkpoints on the way are counted rather than played one by one.
    """
    begin, left = env.now, plan.work - state.done
    cycle = plan.interval + plan.write_time
    whole = int(left / plan.interval) if np.isfinite(plan.interval) else 0
    rest = left - whole * plan.interval if whole else left
    if whole and rest <= 1e-9 * left:  # the last checkpoint is the result itself
        whole, rest = whole - 1, plan.interval
    span = (whole * cycle if whole else 0.0) + rest
    if begin + span <= failure_at:
        state.done += left
        state.writing += whole * plan.write_time
        yield env.timeout(span)
        return
    elapsed = failure_at - begin
    kept = min(int(elapsed / cycle), whole) if whole else 0
    state.done += kept * plan.interval
    state.writing += kept * plan.write_time
    state.lost += elapsed - (kept * cycle if kept else 0.0)
    yield env.timeout(elapsed)


def _restart(
    env: simpy.Environment,
    plan: FailurePlan,
    rng: np.random.Generator,
    state: RunState,
) -> Generator[simpy.Event, None, None]:
    """Replace the failed node and load the checkpoint; it may fail again."""
    while state.repairs and state.repairs[0] <= env.now:
        heapq.heappop(state.repairs)
    heapq.heappush(state.repairs, env.now + plan.repair_time)
    if len(state.repairs) > plan.spares:
        wait = max(0.0, heapq.heappop(state.repairs) - env.now)
        state.waiting += wait
        yield env.timeout(wait)
    while True:
        struck = _draw(rng, plan.mtbf)
        if struck >= plan.restart_time:
            state.restarting += plan.restart_time
            yield env.timeout(plan.restart_time)
            return
        state.failures += 1
        state.restarting += struck
        yield env.timeout(struck)
