"""A service under load: latencies, throughput, goodput, memory, energy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hwsim.analysis.check import context_within, dtype_on, known_dtype, positive_int
from hwsim.analysis.result import Result
from hwsim.analysis.serving_details import (
    quantiles_of,
    request_runs,
    step_interval,
    traffic_words,
)
from hwsim.analysis.serving_layout import ReplicaLayout, checked_layout
from hwsim.analysis.serving_run import Capacity, Run, capacity_of, play, saturated_rate
from hwsim.analysis.step_cost import Deployment, TableOf, step_table
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import InputError
from hwsim.schedule.batching import policy_named
from hwsim.sim.arrivals import Arrivals, draw_requests
from hwsim.sim.serving_cluster import router_named
from hwsim.sim.serving_records import gap_quantiles
from hwsim.specs.calibration import resolved_fidelity
from hwsim.specs.engine import EngineSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec
from hwsim.specs.traffic import ARRIVALS, Traffic

if TYPE_CHECKING:
    import pandas as pd

FloatArray = npt.NDArray[np.float64]
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
SLO_KEYS = ("ttft", "tpot", "e2e")
_SHARED = 8192  # tokens of a request that every table reaches
_SUSPECT = 0.8  # busier than this, the stable maximum is worked out


@dataclass(frozen=True)
class ServeConfig:
    """What is asked: layout of a replica, engine by id, dtypes by name, traffic."""

    tp: int
    pp: int
    ep: int
    attention_dp: int
    replicas: int
    router: str
    engine: str
    dtype: str
    weight_dtype: str
    kv_dtype: str
    seed: int
    slo: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return dict(vars(self))

    @property
    def layout(self) -> ReplicaLayout:
        """How the devices of a replica share the model."""
        return ReplicaLayout(self.tp, self.pp, self.ep, self.attention_dp)

    @property
    def devices(self) -> int:
        """Devices of all replicas."""
        return self.replicas * self.layout.devices

    @property
    def groups(self) -> int:
        """Groups of all replicas, each with requests and memory of its own."""
        return self.replicas * self.layout.attention_dp


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

    kind = "serve"

    @property
    def duration_s(self) -> float:
        """First arrival to last token. [s]"""
        return self.run.duration

    @property
    def ttft_s(self) -> dict[str, float]:
        """Arrival to first token, queueing included. [s]"""
        return _summary(self.run.ttft)

    @property
    def tpot_s(self) -> dict[str, float]:
        """Mean gap between a request's tokens; requests of one token have none. [s]"""
        tpot = self.run.tpot
        return _summary(tpot[~np.isnan(tpot)])

    @property
    def itl_s(self) -> dict[str, float]:
        """Gaps between tokens, of all requests together. [s]"""
        sums = self.run.sums
        count = float(sums.gaps.sum())
        values = gap_quantiles(sums.gaps, list(SHARES.values()))
        mean = sums.gap_time / count if count else math.nan
        return {"mean": mean, **dict(zip(SHARES, values, strict=True))}

    @property
    def e2e_s(self) -> dict[str, float]:
        """Arrival to last token. [s]"""
        return _summary(self.run.e2e)

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of answered requests per second, all replicas. [1/s]"""
        return _ratio(float(self.run.outputs.sum()), self.duration_s)

    @property
    def requests_per_s(self) -> float:
        """Answered requests per second. [1/s]"""
        return _ratio(float(self.run.outputs.size), self.duration_s)

    @property
    def goodput_rps(self) -> float | None:
        """Requests per second that met the SLO; None without one. [1/s]"""
        if not self.config.slo:
            return None
        met = np.ones(self.run.ttft.size, dtype=bool)
        for key, limit in self.config.slo.items():
            values = getattr(self.run, key)
            met &= np.isnan(values) | (values <= limit)
        return _ratio(float(met.sum()), self.duration_s)

    @property
    def utilisation(self) -> float:
        """Share of the time in which replicas ran steps."""
        return _ratio(self.run.sums.busy_time, self.config.groups * self.duration_s)

    @property
    def kv_occupancy(self) -> dict[str, float]:
        """Share of blocks in use: mean over time, and at most."""
        sums, blocks = self.run.sums, self.capacity.blocks
        span = self.duration_s * self.config.groups * blocks
        return {"mean": _ratio(sums.block_time, span), "max": sums.peak_blocks / blocks}

    @property
    def energy_j_per_token(self) -> float | None:
        """Energy of all devices, idle time included, per output token. [J]"""
        energy = self.run.energy
        return None if energy is None else _ratio(energy, float(self.run.outputs.sum()))

    @property
    def stable(self) -> bool | None:
        """Whether the service keeps up with open-loop arrivals."""
        rate = self.run.rate
        if rate is None or math.isinf(rate):
            return None
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
        """Return quantiles of the latencies [s], the traffic, the interval of steps."""
        runs = request_runs(self) if self.run.outputs.size else []
        return {
            "step_interval_90": step_interval(runs),
            "quantiles": quantiles_of(self.run),
            "traffic": traffic_words(self.traffic),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the answer with keys in SI."""
        run, sums = self.run, self.run.sums
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
            "complete": self.complete,
            "duration_s": self.duration_s,
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "itl_s": self.itl_s,
            "e2e_s": self.e2e_s,
            "requests_per_s": self.requests_per_s,
            "tokens_per_s": self.tokens_per_s,
            "goodput_rps": self.goodput_rps,
            "rate_rps": run.rate,
            "stable": self.stable,
            "stable_rate_rps": self.stable_rate,
            "utilisation": self.utilisation,
            "mean_batch": _ratio(sums.decode_slots, sums.busy_time),
            "preemptions": int(run.preemptions),
            "kv_occupancy": self.kv_occupancy,
            "kv_blocks": self.capacity.blocks,
            "kv_tokens": self.capacity.tokens,
            "energy_j_per_token": self.energy_j_per_token,
            "engine_steps": sums.steps,
            "simulated_events": sums.events,
            "wall_s": self.wall_s,
            "simulated_requests_per_wall_s": _ratio(run.outputs.size, self.wall_s),
        }


def _ratio(value: float, by: float) -> float:
    return value / by if by > 0 else math.nan


def _summary(values: FloatArray) -> dict[str, float]:
    if not values.size:
        return dict.fromkeys(("mean", *SHARES), math.nan)
    found = np.quantile(values, list(SHARES.values())).tolist()
    return {"mean": float(values.mean()), **dict(zip(SHARES, found, strict=True))}


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
    arrivals: Arrivals | None = None,
    tables: Callable[[Deployment], TableOf] = step_table,
) -> ServeResult:
    """Serve traffic, or given arrivals; see :func:`hwsim.serve`."""
    traffic = checked_traffic(traffic)
    _check_model(model)
    layout = checked_layout(model, system, tp, pp, ep, attention_dp)
    config = _checked(
        system, engine, layout, replicas, router, dtype, weight_dtype, kv_dtype,
        slo or {}, seed,
    )  # fmt: skip
    group = system.subsystem(layout.devices)
    capacity = capacity_of(model, group, stack, engine, config)
    longest = min(capacity.tokens, model.max_context or capacity.tokens)
    if arrivals is None:
        rng = np.random.default_rng(config.seed)
        arrivals = draw_requests(traffic, rng, longest)
    _check_lengths(model, arrivals, capacity)
    # Rounded up, so that runs with other seeds share their tables.
    longest_asked = int((arrivals.inputs + arrivals.outputs).max())
    most = max(_SHARED, 1 << (longest_asked - 1).bit_length())
    deployment = Deployment(
        model, system, stack, engine, layout, dtype, config.weight_dtype,
        config.kv_dtype, fidelity, most,
    )  # fmt: skip
    table, power = tables(deployment)
    begun = time.perf_counter()
    run, complete = play(
        arrivals, table, power, engine, capacity, config, traffic, progress
    )
    wall = time.perf_counter() - begun
    stable = None
    if run.rate is not None and run.busy_share(config.groups) > _SUSPECT:
        one = saturated_rate(arrivals, table, engine, capacity, layout)
        stable = one * config.replicas
    return ServeResult(
        model, group, stack, engine, config, traffic,
        resolved_fidelity(system.device, fidelity), run, capacity, stable, wall,
        complete,
    )  # fmt: skip


def checked_traffic(traffic: Traffic) -> Traffic:
    """Refuse traffic that says too little or contradicts itself."""
    if traffic.arrival not in ARRIVALS:
        raise InputError(
            f"arrival {traffic.arrival!r} is unknown; choose {', '.join(ARRIVALS)}"
        )
    if not 0.0 < traffic.burstiness <= 1e3:
        raise InputError(f"burstiness is {traffic.burstiness}; give 0 to 1000")
    closed = traffic.concurrency is not None
    if traffic.rate is not None and closed:
        raise InputError("rate and concurrency exclude each other; give one of them")
    if traffic.rate is not None and not traffic.rate > 0:
        raise InputError(f"rate is {traffic.rate}; give requests per second above 0")
    if closed:
        positive_int("concurrency", traffic.concurrency)
    if traffic.trace is not None:
        if traffic.rate is not None:
            raise InputError("a trace brings its own arrivals; leave rate out")
        return traffic
    if traffic.rate is None and not closed:
        raise InputError(
            "how requests arrive is missing; give rate, concurrency or a trace"
        )
    count = positive_int("requests", traffic.requests)
    if count > 10**8:
        raise InputError(f"requests is {count}; give at most {10**8}")
    return replace(traffic, requests=count)


def _check_model(model: ModelSpec) -> None:
    if model.kind != "decoder":
        raise InputError(f"{model.id} is no decoder; only decoders are served")


def _checked(
    system: SystemSpec,
    engine: EngineSpec,
    layout: ReplicaLayout,
    replicas: Any,
    router: str,
    dtype: str,
    weight_dtype: str | None,
    kv_dtype: str | None,
    slo: Mapping[str, float],
    seed: Any,
) -> ServeConfig:
    replicas = positive_int("replicas", replicas)
    if replicas > 10**4:
        raise InputError(f"replicas is {replicas}; give at most {10**4}")
    policy_named(engine.policy)
    router_named(router)
    if engine.policy == "mixed" and engine.max_num_batched_tokens < engine.max_num_seqs:
        raise InputError(
            f"max_num_batched_tokens {engine.max_num_batched_tokens} is less than "
            f"max_num_seqs {engine.max_num_seqs}: not every sequence could get a "
            "token; raise the first or lower the second"
        )
    for key, limit in slo.items():
        if key not in SLO_KEYS or not 0 < limit < math.inf:
            raise InputError(
                f"slo {key}={limit}: choose {', '.join(SLO_KEYS)}, in seconds above 0"
            )
    dtype_on(system.device, dtype)
    wide = dtype if dtype in {"fp32", "bf16", "fp16"} else "bf16"
    return ServeConfig(
        layout.tp, layout.pp, layout.ep, layout.attention_dp, replicas, router,
        engine.id, dtype,
        known_dtype("weight_dtype", weight_dtype or dtype),
        known_dtype("kv_dtype", kv_dtype or wide),
        positive_int("seed", seed, minimum=0), dict(slo),
    )  # fmt: skip


def _check_lengths(model: ModelSpec, arrivals: Arrivals, capacity: Capacity) -> None:
    """Refuse requests that could never be served, naming the longest."""
    tokens = arrivals.inputs + arrivals.outputs
    worst = int(tokens.argmax())
    what = (
        f"request {worst + 1} ({arrivals.inputs[worst]} in, "
        f"{arrivals.outputs[worst]} out)"
    )
    context_within(model, int(tokens[worst]), what)
    if tokens[worst] > capacity.tokens:
        raise InputError(
            f"{what} needs {tokens[worst]} tokens of KV cache, but a replica holds "
            f"{capacity.tokens}; raise tp, or store keys and values in fp8 (kv_dtype)"
        )
