"""Playing a service: pools of replicas, columns of results."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import simpy

from hwsim.analysis.serving.ask import rules_of
from hwsim.analysis.serving.handover import Before
from hwsim.analysis.serving.pool import Capacity, Pool
from hwsim.analysis.serving.watch import Snapshot, Watcher
from hwsim.sim.serving.arrivals import Arrivals
from hwsim.sim.serving.cluster import Cluster
from hwsim.sim.serving.fleet import Autoscaler, failures
from hwsim.sim.serving.records import Requests, StepSums
from hwsim.sim.serving.routers import Engine, router_named
from hwsim.sim.serving.service import LOST, Fleet, Service
from hwsim.specs.operations import Operations
from hwsim.specs.traffic import Traffic

if TYPE_CHECKING:
    import pandas as pd

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PoolRun:
    """What one pool of replicas did.

    Attributes
    ----------
    sums : StepSums
        Over all its steps.
    groups : int
        Groups with queue and memory of their own.
    present : float
        Time that they were there, all together. [s]
    energy : float or None
        Of its devices, while they were there. [J]
    """

    name: str
    sums: StepSums
    capacity: Capacity
    groups: int
    present: float
    energy: float | None

    @property
    def utilisation(self) -> float:
        """Share of the time in which groups ran steps."""
        return self.sums.busy_time / self.present if self.present > 0 else math.nan

    @property
    def mean_batch(self) -> float:
        """Running requests that decode, over the time in steps."""
        busy = self.sums.busy_time
        return self.sums.decode_slots / busy if busy > 0 else math.nan

    @property
    def kv_occupancy(self) -> dict[str, float]:
        """Share of blocks in use: mean over time, and at most."""
        blocks, span = self.capacity.blocks, self.present * self.capacity.blocks
        mean = self.sums.block_time / span if span > 0 else math.nan
        return {"mean": mean, "max": self.sums.peak_blocks / blocks}

    def to_dict(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "utilisation": self.utilisation,
            "mean_batch": self.mean_batch,
            "kv_occupancy": self.kv_occupancy,
            "kv_blocks": self.capacity.blocks,
            "kv_tokens": self.capacity.tokens,
            "engine_steps": self.sums.steps,
            "prefill_tokens": self.sums.prefill_tokens,
            "energy_j": self.energy,
        }


@dataclass(frozen=True)
class Run:
    """Columns of answered requests, in order of arrival, and sums over steps.

    Attributes
    ----------
    arrival, first, finish : ndarray
        Times. [s]
    inputs, outputs, replica, preempted : ndarray of int
        Tokens; who served it; how often it was preempted.
    moving : ndarray
        Time that keys and values of each were on their way. [s]
    pools : tuple of PoolRun
        Replicas that answer; those that run prompts only, if there are any.
    asked : int
        Requests there were.
    rate : float or None
        Mean open-loop arrivals. [1/s]
    energy : float or None
        Of all devices, over the run. [J]
    lost : dict of str to int
        Requests given up, by why.
    retries : int
        How often requests began anew because replicas failed.
    mean_replicas : float or None
        Of a fleet that changes with the load.
    scheduled : ndarray or None
        When each was first chosen to join a step. [s]
    cached : ndarray of int or None
        Tokens of each prompt that were not computed, where prefixes are kept.
    """

    arrival: FloatArray
    first: FloatArray
    finish: FloatArray
    inputs: IntArray
    outputs: IntArray
    replica: IntArray
    preempted: IntArray
    moving: FloatArray
    pools: tuple[PoolRun, ...]
    asked: int
    rate: float | None
    energy: float | None
    lost: dict[str, int] = dataclasses.field(default_factory=dict)
    retries: int = 0
    mean_replicas: float | None = None
    cached: IntArray | None = None
    scheduled: FloatArray | None = None

    @property
    def duration(self) -> float:
        """First arrival to last token. [s]"""
        if not self.finish.size:
            return 0.0
        return float(self.finish.max() - self.arrival.min())

    @property
    def prefix_hit_rate(self) -> float | None:
        """Share of all prompts' tokens that were not computed."""
        if self.cached is None or not self.inputs.size:
            return None
        return float(self.cached.sum() / self.inputs.sum())

    @property
    def preemptions(self) -> int:
        """How often a request was preempted."""
        return int(self.preempted.sum())

    @property
    def ttft(self) -> FloatArray:
        """Time to first token of each. [s]"""
        return self.first - self.arrival

    @property
    def e2e(self) -> FloatArray:
        """Time to last token of each. [s]"""
        return self.finish - self.arrival

    @property
    def tpot(self) -> FloatArray:
        """Mean gap between tokens of each; NaN where there is one token. [s]"""
        gaps = np.where(self.outputs > 1, self.outputs - 1, np.nan)
        return (self.finish - self.first) / gaps

    @property
    def sums(self) -> StepSums:
        """Sums over the steps of the replicas that answer."""
        return self.pools[0].sums

    @property
    def busiest(self) -> float:
        """Share of the time in which the busier pool runs steps."""
        return max(p.utilisation for p in self.pools) if self.finish.size else 0.0

    def frame(self) -> pd.DataFrame:
        """Return one row per request."""
        import pandas as pd

        columns = {
            "arrival_s": self.arrival,
            "input_tokens": self.inputs,
            "output_tokens": self.outputs,
            "replica": self.replica,
            "preemptions": self.preempted,
            "first_token_s": self.first,
            "finish_s": self.finish,
            "ttft_s": self.ttft,
            "tpot_s": self.tpot,
            "e2e_s": self.e2e,
        }
        if len(self.pools) > 1:
            columns["kv_transfer_s"] = self.moving
        if self.cached is not None:
            columns["cached_tokens"] = self.cached
        return pd.DataFrame(columns)


def play(
    arrivals: Arrivals,
    pool: Pool,
    router: str,
    traffic: Traffic,
    progress: Callable[[int, int], None] | None,
    before: Before | None = None,
    operations: Operations | None = None,
    seed: int = 1,
    watch: Callable[[Snapshot], None] | None = None,
) -> tuple[Run, bool]:
    """Play the requests; an interrupt ends the run and keeps what is done.

    Parameters
    ----------
    before : Before or None
        Replicas that run prompts only, and how their keys and values move.
    operations : Operations or None
        Rules at the door and in the fleet.
    seed : int
        Of failures.
    watch : callable or None
        Told a few times a second how the service stands.
    """
    overhead = pool.engine.request_overhead
    size = arrivals.inputs.size
    inputs, outputs = arrivals.inputs.tolist(), arrivals.outputs.tolist()
    known = arrivals.prefixes
    requests = Requests(inputs, outputs, arrivals.arrival, overhead, known)
    engines = pool.engines(requests)
    env, played = simpy.Environment(), [(pool, engines)]
    fleet = Fleet(engines, router_named(router), requests)
    door = None
    if before is not None:
        opening = before.pool.engine.request_overhead
        first = Requests(inputs, [1] * size, arrivals.arrival, opening, known)
        door = Fleet(before.pool.engines(first), router_named(before.router), first)
        played.append((before.pool, door.engines))

    watcher = None if watch is None else Watcher(watch)

    def tell(now: float) -> None:
        if watcher is not None:
            watcher.look(now, requests, engines)
        if progress is not None:
            left = sum([r.outstanding for r in engines])
            progress(max(size - left, 0), size)

    scaler, complete = None, True
    try:
        alone = operations is None or not operations.any
        if door is None and alone and arrivals.think is None:
            Cluster(env, engines, fleet.router, tell).run(requests, traffic.concurrency)
        else:
            rules = rules_of(traffic, operations, arrivals)
            handover = None if before is None else before.handover
            service = Service(env, fleet, rules, door, handover)
            service.progress = partial(_told, service, progress, watcher)
            scaler = _staff(service, operations, seed)
            service.run()
    except KeyboardInterrupt:
        complete = False
    run = _collect(requests, played, traffic, scaler)
    if known is not None and played[-1][0].engine.prefix_caching:
        run = _with_hits(run, requests, requests if door is None else door.requests)
    return run, complete


def _told(
    service: Service,
    progress: Callable[[int, int], None] | None,
    watcher: Watcher | None,
    now: float,
) -> None:
    """Say how a service with rules of its own stands."""
    if watcher is not None:
        watcher.look(now, service.fleet.requests, service.fleet.engines)
    if progress is not None:
        size = len(service.fleet.requests)
        progress(size - service.left, size)


def _answered(requests: Requests) -> npt.NDArray[np.bool_]:
    status = np.frombuffer(requests.status, np.uint8)
    unfinished = np.isnan(np.array(requests.finish))
    answered: npt.NDArray[np.bool_] = ~(unfinished | (status != 0))
    return answered


def _with_hits(run: Run, requests: Requests, prompts: Requests) -> Run:
    cached = np.array(prompts.cached, dtype=np.int64)[_answered(requests)]
    return dataclasses.replace(run, cached=cached)


def _staff(
    service: Service, operations: Operations | None, seed: int
) -> Autoscaler | None:
    """Let replicas fail, and come and go with the load, as asked."""
    if operations is None:
        return None
    if operations.mtbf is not None:
        for number, engine in enumerate(service.engines):
            own = seed * 10_007 + number
            service.env.process(
                failures(service, engine, operations.mtbf, operations.repair, own)
            )
    if operations.min_replicas is None:
        return None
    scaler = Autoscaler(
        service, operations.min_replicas, operations.target, operations.startup,
        operations.interval,
    )  # fmt: skip
    service.env.process(scaler.run())
    return scaler


def _collect(
    requests: Requests,
    played: list[tuple[Pool, list[Engine]]],
    traffic: Traffic,
    scaler: Autoscaler | None = None,
) -> Run:
    status = np.frombuffer(requests.status, np.uint8)
    done = _answered(requests)
    times = [
        np.array(c)[done]
        for c in (requests.arrival, requests.first, requests.finish, requests.moving)
    ]
    whole = [
        np.array(c, dtype=np.int64)[done]
        for c in (requests.inputs, requests.outputs, requests.replica,
                  requests.preemptions)
    ]  # fmt: skip
    span = float(times[2].max() - times[0].min()) if done.any() else 0.0
    names = ("", "prefill")
    pools = tuple(
        _pool_run(name, pool, engines, span)
        for name, (pool, engines) in zip(names, played, strict=False)
    )
    if scaler is not None and done.any():
        there = scaler.present(float(times[2].max())) * (pools[0].groups)
        pools = (
            _present(pools[0], played[0][0], there / len(played[0][1])),
            *pools[1:],
        )
    energies = [p.energy for p in pools if p.energy is not None]
    energy = sum(energies) if len(energies) == len(pools) and done.any() else None
    inputs, outputs, replica, preempted = whole
    arrival, first, last, moving = times
    return Run(
        arrival, first, last, inputs, outputs, replica, preempted, moving, pools,
        len(requests), _rate(requests, traffic), energy,
        {name: int((status == code).sum()) for name, code in LOST.items()},
        int(np.array(requests.retries).sum()),
        None if scaler is None else pools[0].present / max(span, 1e-300)
        / (pools[0].groups / len(played[0][1])),
        scheduled=np.array(requests.scheduled)[done],
    )  # fmt: skip


def _present(run: PoolRun, pool: Pool, present: float) -> PoolRun:
    """Return what a pool did whose groups were there for so long only. [s]"""
    energy = run.energy
    if energy is not None and pool.power is not None:
        energy += (present - run.present) * pool.power.idle
    return dataclasses.replace(run, present=present, energy=energy)


def _pool_run(name: str, pool: Pool, engines: list[Engine], span: float) -> PoolRun:
    sums = StepSums()
    logs = [log for engine in engines for log in engine.logs]
    for log in logs:
        sums.merge(log.flush())
    # Groups in lock step all count the steps that they run together.
    sums.steps *= len(engines) / len(logs)
    sums.events = sums.events * len(engines) // len(logs)
    present, energy = span * len(logs), None
    if pool.power is not None:
        slack = max(present - sums.busy_time, 0.0)
        energy = sums.energy + slack * pool.power.idle
    return PoolRun(name, sums, pool.capacity, len(logs), present, energy)


def _rate(requests: Requests, traffic: Traffic) -> float | None:
    if traffic.concurrency is not None:
        return None
    if traffic.rate is not None:
        return traffic.rate
    span = requests.arrival[-1] - requests.arrival[0]
    return (len(requests) - 1) / span if span > 0 else math.inf
