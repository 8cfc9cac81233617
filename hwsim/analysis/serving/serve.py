"""A service under load: latencies, throughput, goodput, memory, energy."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hwsim.analysis.check import dtype_on
from hwsim.analysis.result import Result
from hwsim.analysis.serving.ask import (
    PrefillAsked,
    ServeConfig,
    check_lengths,
    check_model,
    check_operations,
    checked_config,
    checked_engine,
    checked_replicas,
    checked_traffic,
)
from hwsim.analysis.serving.details import quantiles_of, traffic_words
from hwsim.analysis.serving.figures import (
    figures_of,
    gaps_of,
    goodput_of,
    ratio,
    summary_of,
)
from hwsim.analysis.serving.handover import Before, describe, handover_between
from hwsim.analysis.serving.interval import (
    Replay,
    figure_intervals,
    step_interval,
)
from hwsim.analysis.serving.layout import checked_layout
from hwsim.analysis.serving.mean_request import request_runs
from hwsim.analysis.serving.pool import Capacity, Pool, pool_of, tabulated
from hwsim.analysis.serving.run import Run, play
from hwsim.analysis.serving.series import series_of
from hwsim.analysis.serving.speculative import Speculation, draft_of, with_drafts
from hwsim.analysis.serving.step_cost import Deployment, TableOf, step_table
from hwsim.analysis.serving.watch import Snapshot
from hwsim.cost.evaluate import Fidelity
from hwsim.sim.serving.arrivals import Arrivals, draw_requests
from hwsim.sim.serving.service import LOST
from hwsim.specs.calibration import resolved_fidelity
from hwsim.specs.engine import EngineSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.operations import Operations
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec
from hwsim.specs.traffic import Traffic

if TYPE_CHECKING:
    import pandas as pd

FloatArray = npt.NDArray[np.float64]
_SHARED = 8192  # tokens of a request that every table reaches
_SUSPECT = 0.8  # busier than this, the stable maximum is worked out


@dataclass(frozen=True, repr=False)
class ServeResult(Result):
    """What a service did with the requests it was sent.

    Attributes
    ----------
    run : Run
        Columns of all requests and sums over all steps.
    capacity : Capacity
        Blocks for keys and values, and how many tokens they hold.
    stable_rate : float or None
        Most requests per second that can go on for ever, worked out where
        the service is busy. [1/s]
    wall_s : float
        Time that the simulation took, tables of step times not counted. [s]
    complete : bool
        Whether the run went to its end; else the figures are of the requests
        answered until it was interrupted.
    replay : Replay or None
        Plays the requests again, for intervals.
    """

    model: ModelSpec
    system: SystemSpec
    stack: StackSpec
    engine: EngineSpec
    config: ServeConfig
    traffic: Traffic
    fidelity: Fidelity
    run: Run
    capacity: Capacity
    stable_rate: float | None
    wall_s: float
    complete: bool
    replay: Replay | None = field(default=None, compare=False)

    kind = "serve"

    @property
    def duration_s(self) -> float:
        """First arrival to last token. [s]"""
        return self.run.duration

    @property
    def ttft_s(self) -> dict[str, float]:
        """Arrival to first token, queueing included. [s]"""
        return summary_of(self.run.ttft)

    @property
    def tpot_s(self) -> dict[str, float]:
        """Mean gap between a request's tokens; requests of one token have none. [s]"""
        return summary_of(self.run.tpot)

    @property
    def itl_s(self) -> dict[str, float]:
        """Gaps between tokens, of all requests together. [s]"""
        return gaps_of(self.run)

    @property
    def e2e_s(self) -> dict[str, float]:
        """Arrival to last token. [s]"""
        return summary_of(self.run.e2e)

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of answered requests per second, all replicas. [1/s]"""
        return ratio(float(self.run.outputs.sum()), self.duration_s)

    @property
    def requests_per_s(self) -> float:
        """Answered requests per second. [1/s]"""
        return ratio(float(self.run.outputs.size), self.duration_s)

    @property
    def goodput_rps(self) -> float | None:
        """Requests per second that met the SLO; None without one. [1/s]"""
        return goodput_of(self.run, self.config.slo)

    @functools.cached_property
    def interval_90(self) -> dict[str, Any] | None:
        """90 % intervals of the figures; none of a bound or an interrupted run.

        Latencies have one for each of mean, p50, p90 and p99.
        """
        steps = step_interval(self)
        if steps is None or self.replay is None or not self.complete:
            return None
        slo, rate = self.config.slo, self.stable_rate
        return {
            **figure_intervals(
                figures_of(self.run, slo),
                steps,
                self.replay,
                lambda r: figures_of(r, slo),
            ),
            "stable_rate_rps": rate and steps.inverse().around(rate),
        }

    @property
    def utilisation(self) -> float:
        """Share of the time in which replicas ran steps."""
        return self.run.pools[0].utilisation

    @property
    def kv_occupancy(self) -> dict[str, float]:
        """Share of blocks in use: mean over time, and at most."""
        return self.run.pools[0].kv_occupancy

    @property
    def energy_j_per_token(self) -> float | None:
        """Energy of all devices, idle time included, per output token. [J]"""
        energy = self.run.energy
        return None if energy is None else ratio(energy, float(self.run.outputs.sum()))

    @property
    def prefill_pool(self) -> dict[str, Any] | None:
        """What the replicas did that run prompts only; None without them."""
        if len(self.run.pools) < 2:
            return None
        moving = summary_of(self.run.moving[self.run.outputs > 1])
        return {**self.run.pools[1].to_dict(), "kv_transfer_s": moving}

    @property
    def stable(self) -> bool | None:
        """Whether the service keeps up with open-loop arrivals."""
        rate = self.run.rate
        if rate is None or math.isinf(rate):
            return None
        if self.run.cached is not None and self.run.busiest > _SUSPECT:
            return None  # what could be served depends on what is kept
        return self.stable_rate is None or rate <= self.stable_rate

    @property
    def requests(self) -> pd.DataFrame:
        """One row per request: times, tokens, replica, preemptions."""
        return self.run.frame()

    @property
    def fidelity_by_family(self) -> dict[str, str]:
        """What the costs of each operator family of a mean request rest on."""
        if not self.run.outputs.size:
            return {}
        return {k: v for g, _ in request_runs(self) for k, v in
                g.fidelity_by_family.items()}  # fmt: skip

    def details(self) -> dict[str, Any]:
        """Return what a page draws: latencies, load over time, traffic, spread."""
        steps = step_interval(self)
        return {
            "step_interval_90": None if steps is None else steps.around(1.0),
            "quantiles": quantiles_of(self.run),
            "series": series_of(self),
            "traffic": traffic_words(self.traffic),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the answer with keys in SI."""
        run = self.run
        return {
            **self.header(),
            "model": self.model.id,
            "system": self.system.id,
            "device": self.system.device.id,
            "stack": self.stack.id,
            "engine": self.engine.id,
            "fidelity": self.fidelity,
            "config": self.config.to_dict(),
            "requests": int(run.outputs.size),
            "requests_asked": run.asked,
            **{name: run.lost.get(name, 0) for name in LOST},
            "retries": run.retries,
            "mean_replicas": run.mean_replicas or self.config.replicas,
            "complete": self.complete,
            "duration_s": self.duration_s,
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "itl_s": self.itl_s,
            "e2e_s": self.e2e_s,
            "requests_per_s": self.requests_per_s,
            "tokens_per_s": self.tokens_per_s,
            "goodput_rps": self.goodput_rps,
            "interval_90": self.interval_90,
            "rate_rps": run.rate,
            "stable": self.stable,
            "stable_rate_rps": self.stable_rate,
            "utilisation": self.utilisation,
            "mean_batch": run.pools[0].mean_batch,
            "preemptions": int(run.preemptions),
            "prefix_hit_rate": run.prefix_hit_rate,
            "kv_occupancy": self.kv_occupancy,
            "kv_blocks": self.capacity.blocks,
            "kv_tokens": self.capacity.tokens,
            "energy_j_per_token": self.energy_j_per_token,
            "engine_steps": sum(p.sums.steps for p in run.pools),
            "simulated_events": sum(p.sums.events for p in run.pools),
            "prefill_pool": self.prefill_pool,
            "wall_s": self.wall_s,
            "simulated_requests_per_wall_s": ratio(run.outputs.size, self.wall_s),
        }


def run_serving(
    model: ModelSpec,
    system: SystemSpec,
    stack: StackSpec,
    engine: EngineSpec,
    traffic: Traffic,
    *,
    tp: int = 1,
    pp: int = 1,
    ep: int = 1,
    attention_dp: int = 1,
    replicas: int = 1,
    router: str = "round_robin",
    dtype: str,
    weight_dtype: str | None = None,
    kv_dtype: str | None = None,
    fidelity: Fidelity = "auto",
    slo: Mapping[str, float] | None = None,
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
    watch: Callable[[Snapshot], None] | None = None,
    arrivals: Arrivals | None = None,
    tables: Callable[[Deployment], TableOf] = step_table,
    prefill: PrefillAsked | None = None,
    operations: Operations | None = None,
    speculation: Speculation | None = None,
) -> ServeResult:
    """Serve traffic, or given arrivals; see :func:`hwsim.serve`."""
    traffic = checked_traffic(traffic)
    check_model(model)
    layout = checked_layout(model, system, tp, pp, ep, attention_dp)
    config = checked_config(
        system, engine, layout, replicas, router, dtype, weight_dtype, kv_dtype,
        slo or {}, seed, fidelity,
    )  # fmt: skip
    draft = draft_of(speculation)
    pool = pool_of(model, system, stack, engine, layout, config.replicas, config, draft)
    first = None if prefill is None else _prefill_pool(model, prefill, config)
    capacity = pool.capacity
    held = min(p.capacity.tokens for p in (pool, first) if p is not None)
    if arrivals is None:
        rng = np.random.default_rng(config.seed)
        longest = min(held, model.max_context or held)
        arrivals = draw_requests(traffic, rng, longest)
    check_lengths(model, arrivals, held)
    # Rounded up, so that runs with other seeds share their tables.
    longest_asked = int((arrivals.inputs + arrivals.outputs).max())
    most = max(_SHARED, 1 << (longest_asked - 1).bit_length())
    pool, before = tabulated(pool, model, config, most, tables), None
    if first is not None and prefill is not None:
        first = tabulated(first, model, config, most, tables)
        handover, rate = handover_between(first, pool, fidelity, prefill.kv_bandwidth)
        before = Before(first, prefill.router, handover, rate)
        config = replace(config, prefill=describe(before))
    if speculation is not None:
        pool = with_drafts(pool, model, speculation, config, most, tables)
        config = replace(config, speculative=speculation.to_dict())
    if operations is not None and operations.any:
        check_operations(operations, config.replicas)
        config = replace(config, operations=operations.to_dict())
    begun = time.perf_counter()
    run, complete = play(
        arrivals, pool, config.router, traffic, progress, before, operations,
        config.seed, watch,
    )  # fmt: skip
    wall = time.perf_counter() - begun
    stable = None
    up = 1.0 if operations is None else operations.availability
    if run.rate is not None and run.busiest > _SUSPECT * up and run.cached is None:
        stable = _stable_rate(arrivals, pool, first, up)
    return ServeResult(
        model, pool.group, stack, engine, config, traffic,
        resolved_fidelity(system.device, fidelity), run, capacity, stable, wall,
        complete,
        Replay(
            arrivals, pool, config.router, traffic, before, operations, config.seed
        ),
    )  # fmt: skip


def _stable_rate(
    arrivals: Arrivals, pool: Pool, first: Pool | None, up: float
) -> float:
    """Return the most requests per second that no pool falls behind at. [1/s]

    Parameters
    ----------
    up : float
        Share of the time that replicas of ``pool`` are there.
    """
    if first is None:
        return up * pool.saturated_rate(arrivals)
    return min(
        first.saturated_rate(arrivals, prompts_only=True),
        up * pool.saturated_rate(arrivals, handed=True),
    )


def _prefill_pool(model: ModelSpec, asked: PrefillAsked, config: ServeConfig) -> Pool:
    layout = checked_layout(
        model, asked.system, asked.tp, asked.pp, asked.ep, asked.attention_dp
    )
    replicas = checked_replicas("prefill replicas", asked.replicas)
    checked_engine(asked.engine, asked.router)
    dtype_on(asked.system.device, config.dtype)
    return pool_of(
        model, asked.system, asked.stack, asked.engine, layout, replicas, config
    )
