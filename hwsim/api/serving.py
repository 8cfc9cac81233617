"""The question of a service under load: serve."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hwsim.analysis.resolve import (
    ENGINE,
    TARGETS,
    as_system,
    changed,
    changed_system,
    default_dtype,
    named,
    parsed,
    resolve,
)
from hwsim.analysis.serving.ask import PrefillAsked, checked_traffic
from hwsim.analysis.serving.serve import ServeResult, run_serving
from hwsim.analysis.serving.speculative import Speculation, speculation_of
from hwsim.analysis.serving.watch import Snapshot
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import InputError, UnknownNameError
from hwsim.specs.catalogs import load_model, load_stack
from hwsim.specs.device import DeviceSpec
from hwsim.specs.engine import EngineSpec, load_engine
from hwsim.specs.model import ModelSpec
from hwsim.specs.operations import operations_of
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec
from hwsim.specs.traffic import Traffic, parse_lengths, trace_path


def serve(
    model: str | ModelSpec,
    system: str | SystemSpec | DeviceSpec,
    *,
    rate: float | None = None,
    requests: int | None = None,
    input_len: str = "lognormal:1000",
    output_len: str = "lognormal:250",
    arrival: str = "poisson",
    rate_profile: str | None = None,
    turns: int = 1,
    think_time: float = 0.0,
    burstiness: float = 1.0,
    concurrency: int | None = None,
    trace: str | os.PathLike[str] | None = None,
    tp: int = 1,
    pp: int = 1,
    ep: int = 1,
    attention_dp: int = 1,
    replicas: int = 1,
    router: str = "round_robin",
    prefill: Mapping[str, Any] | None = None,
    operations: Mapping[str, Any] | None = None,
    speculative: Mapping[str, Any] | None = None,
    engine: str | EngineSpec = "vllm-v1",
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
    chunked_prefill: bool | None = None,
    preemption: str | None = None,
    prefix_caching: bool | None = None,
    dtype: str | None = None,
    weight_dtype: str | None = None,
    kv_dtype: str | None = None,
    stack: str | StackSpec | None = None,
    fidelity: Fidelity = "auto",
    slo: Mapping[str, float] | None = None,
    seed: int = 1,
    overrides: Iterable[str] = (),
    progress: Callable[[int, int], None] | None = None,
    watch: Callable[[Snapshot], None] | None = None,
) -> ServeResult:
    """Simulate a service: requests arrive, queue, are batched and answered.

    Parameters
    ----------
    model, system : str or spec
        Names, paths or loaded specs. A replica runs on
        ``tp * pp * attention_dp`` devices of the system; every replica has a
        system of its own where one is not enough.
    rate : float or None
        Mean arrivals, all replicas together; ``inf`` is all at once. [1/s]
    requests : int or None
        How many; of a trace, at most so many.
    input_len, output_len : str
        ``fixed:N``, ``uniform:LOW:HIGH``, ``lognormal:MEAN[:SIGMA]`` or
        ``file:PATH`` (one length a line). Log-normal draws that no replica
        could hold, or the model's context not, are drawn again.
    arrival : str
        ``poisson``, ``gamma`` (with ``burstiness``, the squared coefficient of
        variation of the gaps) or ``deterministic``.
    rate_profile : str or None
        How the rate changes: ``ramp:FIRST:LAST`` (factors of it, over the run)
        or ``daily:AMPLITUDE[:PERIOD]`` (a sine around it; period in seconds).
    turns : int
        Requests of a session: each prompt has all that was said before it, and
        a new part of ``input_len``.
    think_time : float
        Mean time from an answer to the next turn, exponential. [s]
    concurrency : int or None
        Closed loop, instead of a rate: clients that each wait for an answer
        before they ask again.
    trace : path or None
        CSV or JSONL whose arrivals and lengths are replayed.
    tp, pp : int
        Tensor-parallel devices of a replica's group; pipeline stages.
    ep : int
        Ranks among which experts are shared out, of ``tp * attention_dp``
        devices; the others split each expert.
    attention_dp : int
        Groups of a replica with requests, keys and values of their own, which
        share the experts and run their steps together.
    replicas : int
        Replicas behind the router.
    router : str
        ``round_robin``, ``least_outstanding``, ``power_of_two``, ``session`` or
        ``longest_prefix``.
    prefill : mapping or None
        Replicas that run prompts only, the others then decode: ``replicas``,
        ``tp``, ``pp``, ``ep``, ``attention_dp``, ``router``, ``system``,
        ``engine``, ``max_num_seqs``, ``max_num_batched_tokens``,
        ``chunked_prefill``; what is left out is as for the others, degrees
        and replicas are 1. ``kv_bandwidth`` [B/s] of each device's transfers
        is the system's network's unless given.
    operations : mapping or None
        ``timeout`` [s] of clients, ``max_queue`` of a replica, ``mtbf`` and
        ``repair`` [s] of replicas and ``max_retries`` of their requests,
        ``min_replicas`` with ``target``, ``startup`` [s] and ``interval`` [s]
        of autoscaling; see :class:`hwsim.specs.operations.Operations`.
    speculative : mapping or None
        Speculative decoding: ``tokens`` drafted per round, ``acceptance`` of
        each, ``draft``: ``ngram``, ``mtp`` or a model.
    engine : str or EngineSpec
        Serving engine; the next five override what it says.
    dtype, weight_dtype, kv_dtype : str or None
        As for :func:`hwsim.infer`.
    stack : str, StackSpec or None
        Software stack; the engine's own by default.
    slo : mapping of str to float
        Limits that a request must meet to count in goodput: ``ttft``,
        ``tpot``, ``e2e``. [s]
    seed : int
        Of arrivals and lengths.
    overrides : iterable of str
        What-if changes, as on the command line.
    progress : callable or None
        Called now and then with requests answered and requests in all.
    watch : callable or None
        Called a few times a second with a
        :class:`hwsim.analysis.serving.watch.Snapshot`.

    Returns
    -------
    ServeResult
        Latencies, throughput, memory, energy; ``requests`` is a table with one
        row per request; ``to_dict()`` has SI keys.

    Raises
    ------
    InputError, UnknownNameError, SpecError
        If something cannot be answered; the message says what to change.
    """
    traffic = checked_traffic(
        Traffic(
            requests, _number("rate", rate), arrival,
            _number("burstiness", burstiness) or 0.0, concurrency,
            parse_lengths("input_len", input_len),
            parse_lengths("output_len", output_len),
            None if trace is None else trace_path(named("trace", trace)),
            rate_profile, turns, _number("think_time", think_time) or 0.0,
        )
    )  # fmt: skip
    changes = parsed(overrides, (*TARGETS, ENGINE))
    served = engine if isinstance(engine, EngineSpec) else load_engine(engine)
    served = changed(served, ENGINE, changes)
    served = _changed(
        served, max_num_seqs=max_num_seqs, chunked_prefill=chunked_prefill,
        max_num_batched_tokens=max_num_batched_tokens,
    )  # fmt: skip
    if preemption is not None:
        if preemption not in {"recompute", "swap"}:
            raise UnknownNameError("preemption", preemption, ["recompute", "swap"])
        served = served.model_copy(update={"preemption": preemption})
    if prefix_caching is not None:
        served = served.model_copy(update={"prefix_caching": bool(prefix_caching)})
    software = served.stack if stack is None else stack
    loaded, resolved, software = resolve(
        model, system, software, [c.label for c in changes if c.target != ENGINE]
    )
    return run_serving(
        loaded, resolved, software, served, traffic, tp=tp, pp=pp, ep=ep,
        attention_dp=attention_dp, replicas=replicas, router=router,
        dtype=dtype or default_dtype(resolved.device),
        weight_dtype=weight_dtype, kv_dtype=kv_dtype, fidelity=fidelity, slo=slo,
        seed=seed, progress=progress, watch=watch,
        operations=operations_of(operations), speculation=_drafting(speculative),
        prefill=_prefill(prefill, resolved, software, served, overrides),
    )  # fmt: skip


def _drafting(asked: Mapping[str, Any] | None) -> Speculation | None:
    """Return how tokens are drafted, the draft model loaded."""
    draft = None if asked is None else asked.get("draft")
    if asked is None or draft in (None, "ngram", "mtp"):
        return speculation_of(asked)
    return speculation_of(
        {
            **asked,
            "draft": draft
            if isinstance(draft, ModelSpec)
            else load_model(named("draft", draft)),
        }
    )


_PREFILL = {"replicas", "tp", "pp", "ep", "attention_dp", "router", "kv_bandwidth"}
_PREFILL_LIMITS = {"max_num_seqs", "max_num_batched_tokens", "chunked_prefill"}


def _prefill(
    asked: Mapping[str, Any] | None,
    system: SystemSpec,
    stack: StackSpec,
    engine: EngineSpec,
    overrides: Iterable[str],
) -> PrefillAsked | None:
    """Return the replicas for prompts, as the others are unless said."""
    if asked is None:
        return None
    fields = {name: value for name, value in asked.items() if value is not None}
    known = _PREFILL | _PREFILL_LIMITS | {"system", "engine", "stack"}
    for name in fields:
        if name not in known:
            raise UnknownNameError("prefill option", name, sorted(known))
    if "system" in fields:
        system = changed_system(as_system(fields.pop("system")), parsed(overrides))
    if "engine" in fields:
        given = fields.pop("engine")
        engine = given if isinstance(given, EngineSpec) else load_engine(given)
        stack = load_stack(engine.stack)
    if "stack" in fields:
        given = fields.pop("stack")
        stack = given if isinstance(given, StackSpec) else load_stack(given)
    limits = {n: fields.pop(n) for n in _PREFILL_LIMITS if n in fields}
    bandwidth = _number("kv_bandwidth", fields.pop("kv_bandwidth", None))
    if bandwidth is not None and not 0 < bandwidth < float("inf"):
        raise InputError(f"kv_bandwidth is {bandwidth}; give bytes per second above 0")
    return PrefillAsked(
        system, stack, _changed(engine, **limits), kv_bandwidth=bandwidth, **fields
    )


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} is {value!r}; give a number")
    if value != value:
        raise InputError(f"{name} is not a number; give one")
    return float(value)


def _changed(engine: EngineSpec, **fields: Any) -> EngineSpec:
    asked = {name: value for name, value in fields.items() if value is not None}
    for name, value in asked.items():
        whole = isinstance(value, int) and (
            name == "chunked_prefill" or not isinstance(value, bool)
        )
        if not whole or (name != "chunked_prefill" and not 1 <= value <= 10**6):
            raise InputError(f"{name} is {value!r}; give a whole number from 1 to 1e6")
    return engine.model_copy(update=asked) if asked else engine
