"""Planning: the deployment of a service."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hwsim.analysis.check import positive_int
from hwsim.analysis.economy import economy_of
from hwsim.analysis.plan_serve.answer import ServePlan
from hwsim.analysis.plan_serve.confirm import Confirmer, parse_limits
from hwsim.analysis.plan_serve.planner import (
    Progress,
    ServePlanner,
    demand_of,
    in_this_process,
)
from hwsim.analysis.plan_serve.space import DEGREES, Precision, Space, degrees
from hwsim.analysis.resolve import default_dtype, named, resolve
from hwsim.analysis.serving.ask import checked_traffic
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import InputError
from hwsim.specs.device import DeviceSpec
from hwsim.specs.engine import EngineSpec, load_engine
from hwsim.specs.model import ModelSpec
from hwsim.specs.system import SystemSpec
from hwsim.specs.traffic import Traffic, parse_lengths, trace_path

System = str | SystemSpec | DeviceSpec
Degree = int | Iterable[int] | None


def plan_serve(
    model: str | ModelSpec,
    system: System | Sequence[System],
    *,
    slo: Mapping[str, float],
    rate: float | None = None,
    trace: str | os.PathLike[str] | None = None,
    input_len: str = "lognormal:1000",
    output_len: str = "lognormal:250",
    arrival: str = "poisson",
    burstiness: float = 1.0,
    engine: str | EngineSpec | Sequence[str | EngineSpec] = "vllm-v1",
    precision: str | Sequence[str] | None = None,
    tp: Degree = None,
    pp: Degree = None,
    ep: Degree = None,
    attention_dp: Degree = None,
    max_num_seqs: Degree = None,
    disaggregated: bool = True,
    router: str = "least_outstanding",
    margin: float = 0.0,
    max_replicas: int = 1000,
    simulate: int = 4,
    requests: int = 2000,
    price: float | None = None,
    pue: float | None = None,
    fidelity: Fidelity = "auto",
    seed: int = 1,
    cluster: str | None = None,
    overrides: Iterable[str] = (),
    progress: Progress | None = None,
) -> ServePlan:
    """Find the cheapest, fastest and most frugal deployment that meets limits.

    Every deployment is worked out in closed form; the most promising are then
    simulated as :func:`hwsim.serve` does, with the fewest replicas that do.

    Parameters
    ----------
    model : str or ModelSpec
        Name, path or loaded spec.
    system : str, spec or sequence of them
        Where it may run; each replica has a system of its own where one does
        not hold several.
    slo : mapping of str to float
        Limits: ``{"ttft.p99": 0.5, "tpot.p99": 0.04}``, of ``ttft``, ``tpot``,
        ``itl`` and ``e2e``, each ``mean``, ``p50``, ``p90`` or ``p99`` (where
        nothing is said). [s]
    rate : float or None
        Requests to answer, all together [1/s]; else a ``trace`` says.
    input_len, output_len, arrival, burstiness, trace, router
        As for :func:`hwsim.serve`.
    engine : str, EngineSpec or sequence of them
        Serving engines to try.
    precision : str, sequence of str or None
        ``DTYPE[/WEIGHTS[/KV]]`` to try, for example ``bf16``, ``fp8``,
        ``bf16/int4``; None is the usual one of the first device.
    tp, pp, ep, attention_dp, max_num_seqs : int, iterable of int or None
        Degrees, and limits on running requests, to try. By default: all
        divisors of a node, as many stages as nodes, experts split or shared
        out, the engine's own limit.
    disaggregated : bool
        Try replicas of their own for prompts too.
    margin : float
        Share of each limit that is to be left unused.
    max_replicas : int
        Most replicas.
    simulate : int
        How many are simulated for each objective.
    requests : int
        Least requests of a simulation.
    price, pue : float or None
        Of one device [USD/h]; facility over computer power.
    cluster : str or None
        Address of a Dask scheduler whose workers do the closed forms.
    progress : callable or None
        Told what is done, how many are, and how many there are.

    Returns
    -------
    ServePlan
        ``cheapest``, ``fastest``, ``frugal``, ``table``, ``pareto``, ``curve``,
        ``rejected``.

    Raises
    ------
    InputError, UnknownNameError, SpecError
        If nothing can meet the limits; the message says which and why.
    """
    traffic = checked_traffic(
        Traffic(
            requests, rate, arrival, float(burstiness), None,
            parse_lengths("input_len", input_len),
            parse_lengths("output_len", output_len),
            None if trace is None else trace_path(named("trace", trace)),
        )
    )  # fmt: skip
    if not 0.0 <= margin < 1.0:
        raise InputError(f"margin is {margin}; give a share from 0 to below 1")
    given = _several(system, (str, SystemSpec, DeviceSpec))
    if not given:
        raise InputError("no system is given; name at least one")
    engines = [e if isinstance(e, EngineSpec) else load_engine(e)
               for e in _several(engine, (str, EngineSpec))]  # fmt: skip
    served = []
    for one in given:
        for each in engines:
            spec, place, stack = resolve(model, one, each.stack, overrides)
            served.append((place, stack, each))
    words = _several(precision, str) if precision is not None else [
        default_dtype(served[0][0].device)
    ]  # fmt: skip
    held = dict(zip(DEGREES, (tp, pp, ep, attention_dp), strict=True))
    space = Space(
        spec, served, [Precision.parse(word) for word in words],
        {name: degrees(name, values) for name, values in held.items()},
        degrees("max_num_seqs", max_num_seqs) or (), disaggregated,
    )  # fmt: skip
    confirmer = Confirmer(
        traffic, demand_of(spec, traffic, seed), parse_limits(slo), router, fidelity,
        margin, positive_int("requests", requests),
        positive_int("max_replicas", max_replicas), seed,
    )  # fmt: skip
    config = {
        "precisions": [str(p) for p in space.precisions], "router": router,
        "engines": [e.id for e in engines], "margin": margin, "seed": seed,
        "arrival": arrival, "input_len": input_len, "output_len": output_len,
        "mean_prompt": confirmer.demand.prompt, "mean_output": confirmer.demand.output,
        "max_replicas": max_replicas,
    }  # fmt: skip
    return ServePlanner(
        spec, space, confirmer, economy_of(price, pue), config,
        positive_int("simulate", simulate), _runner(cluster), progress,
    ).plan()  # fmt: skip


def _several(given: Any, one: Any) -> list[Any]:
    return [given] if isinstance(given, one) else list(given)


def _runner(cluster: str | None) -> Any:
    if cluster is None:
        return in_this_process
    from hwsim.analysis.plan_train.cluster import cluster_map

    return cluster_map(cluster)
