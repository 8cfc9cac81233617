"""What is asked of a service, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hwsim.analysis.check import context_within, dtype_on, known_dtype, positive_int
from hwsim.analysis.serving.layout import ReplicaLayout
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import InputError
from hwsim.schedule.batching import policy_named
from hwsim.sim.serving.arrivals import Arrivals
from hwsim.sim.serving.routers import router_named
from hwsim.sim.serving.service import Rules
from hwsim.specs.engine import EngineSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.operations import Operations
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec
from hwsim.specs.traffic import ARRIVALS, Traffic, parse_profile

SLO_KEYS = ("ttft", "tpot", "e2e")


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
    fidelity: Fidelity = "auto"
    prefill: dict[str, object] | None = None
    operations: dict[str, object] | None = None
    speculative: dict[str, object] | None = None

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


@dataclass(frozen=True)
class PrefillAsked:
    """Replicas that run prompts only, as they are asked for.

    Attributes
    ----------
    kv_bandwidth : float or None
        Of one device's transfers; None: as the system's network has it. [B/s]
    """

    system: SystemSpec
    stack: StackSpec
    engine: EngineSpec
    tp: Any = 1
    pp: Any = 1
    ep: Any = 1
    attention_dp: Any = 1
    replicas: Any = 1
    router: str = "round_robin"
    kv_bandwidth: float | None = None


def checked_replicas(name: str, replicas: Any) -> int:
    """Return a number of replicas that can be."""
    replicas = positive_int(name, replicas)
    if replicas > 10**4:
        raise InputError(f"{name} is {replicas}; give at most {10**4}")
    return int(replicas)


def checked_engine(engine: EngineSpec, router: str) -> None:
    """Refuse an engine or router that cannot work."""
    policy_named(engine.policy)
    router_named(router)
    if engine.prefix_caching and engine.policy == "static":
        raise InputError(
            f"engine {engine.id}: a static batch frees its blocks together and has no "
            "prefix cache; leave prefix_caching out, or choose another policy"
        )
    if engine.policy == "mixed" and engine.max_num_batched_tokens < engine.max_num_seqs:
        raise InputError(
            f"max_num_batched_tokens {engine.max_num_batched_tokens} is less than "
            f"max_num_seqs {engine.max_num_seqs}: not every sequence could get a "
            "token; raise the first or lower the second"
        )


def checked_traffic(traffic: Traffic) -> Traffic:
    """Refuse traffic that says too little or contradicts itself."""
    if traffic.arrival not in ARRIVALS:
        raise InputError(
            f"arrival {traffic.arrival!r} is unknown; choose {', '.join(ARRIVALS)}"
        )
    if not 0.0 < traffic.burstiness <= 1e3:
        raise InputError(f"burstiness is {traffic.burstiness}; give 0 to 1000")
    closed = traffic.concurrency is not None
    _check_profile(traffic)
    _check_turns(traffic)
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


def _check_turns(traffic: Traffic) -> None:
    if positive_int("turns", traffic.turns) > 10**4:
        raise InputError(f"turns is {traffic.turns}; give at most {10**4}")
    if not 0.0 <= traffic.think_time < math.inf:
        raise InputError(f"think_time is {traffic.think_time}; give seconds from 0")
    if traffic.turns > 1 and traffic.trace is not None:
        raise InputError("a trace brings its own sessions; leave turns out")
    if traffic.think_time and traffic.turns == 1:
        raise InputError("think_time is between turns; give turns, 2 or more")


def _check_profile(traffic: Traffic) -> None:
    if traffic.profile is None:
        return
    parse_profile(traffic.profile)
    if traffic.rate is None or math.isinf(traffic.rate):
        raise InputError("rate_profile bends a rate; give rate too")


def check_model(model: ModelSpec) -> None:
    """Refuse models that do not generate."""
    if model.kind != "decoder":
        raise InputError(f"{model.id} is no decoder; only decoders are served")


def checked_config(
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
    fidelity: Fidelity,
) -> ServeConfig:
    """Return what is asked, with defaults filled in."""
    replicas = checked_replicas("replicas", replicas)
    checked_engine(engine, router)
    for key, limit in slo.items():
        _check_limit(key, limit)
    dtype_on(system.device, dtype)
    wide = dtype if dtype in {"fp32", "bf16", "fp16"} else "bf16"
    return ServeConfig(
        layout.tp, layout.pp, layout.ep, layout.attention_dp, replicas, router,
        engine.id, dtype,
        known_dtype("weight_dtype", weight_dtype or dtype),
        known_dtype("kv_dtype", kv_dtype or wide),
        positive_int("seed", seed, minimum=0), dict(slo), fidelity,
    )  # fmt: skip


def check_lengths(model: ModelSpec, arrivals: Arrivals, held: int) -> None:
    """Refuse requests that could never be served, naming the longest."""
    tokens = arrivals.inputs + arrivals.outputs
    worst = int(tokens.argmax())
    what = (
        f"request {worst + 1} ({arrivals.inputs[worst]} in, "
        f"{arrivals.outputs[worst]} out)"
    )
    context_within(model, int(tokens[worst]), what)
    if tokens[worst] > held:
        raise InputError(
            f"{what} needs {tokens[worst]} tokens of KV cache, but a replica holds "
            f"{held}; raise tp, or store keys and values in fp8 (kv_dtype)"
        )


def check_operations(operations: Operations, replicas: int) -> None:
    """Refuse fewer replicas than always run."""
    least = operations.min_replicas
    if least is not None and least > replicas:
        raise InputError(
            f"min_replicas {least} is more than replicas, which is {replicas}; "
            "raise replicas, the most there may be"
        )


def rules_of(
    traffic: Traffic, operations: Operations | None, arrivals: Arrivals
) -> Rules:
    """Return what clients do, and what happens at the door."""
    known, think, rules = arrivals.prefixes, arrivals.think, Rules(traffic.concurrency)
    if think is not None and known is not None:
        rules = replace(rules, follows=known.previous, think=think.tolist())
    if operations is None:
        return rules
    return replace(
        rules, max_queue=operations.max_queue, timeout=operations.timeout,
        max_retries=operations.max_retries,
    )  # fmt: skip


def _check_limit(key: str, limit: float) -> None:
    """Refuse a limit that no single request can meet or miss."""
    name, _, statistic = key.partition(".")
    if name in SLO_KEYS and statistic:
        raise InputError(
            f"slo {key}: limits are of each request, which has no {statistic}; write "
            f"{name}={limit:g}s, or ask for percentiles with plan serve"
        )
    if key not in SLO_KEYS or not 0 < limit < math.inf:
        raise InputError(
            f"slo {key}={limit:g}: choose {', '.join(SLO_KEYS)}, in seconds above 0"
        )
