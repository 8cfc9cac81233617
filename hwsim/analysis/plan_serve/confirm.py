"""Confirms deployments by simulation: do they meet the limits, how surely."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwsim.analysis.plan_serve.space import Choice
from hwsim.analysis.plan_serve.steady import Demand, Steady
from hwsim.analysis.serving.ask import PrefillAsked
from hwsim.analysis.serving.serve import ServeResult, run_serving
from hwsim.cost.cost import FloatArray
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import InputError
from hwsim.specs.traffic import Traffic

Slo = Mapping[tuple[str, str], float]
STATS = {"mean": None, "p50": 0.5, "p90": 0.9, "p99": 0.99}
KEYS = ("ttft", "tpot", "itl", "e2e")
SURE = 0.95  # of the bound on a percentile, one-sided
_PER_REPLICA = 200  # requests, at least
_MOST_REQUESTS = 40_000
_GROW = 1.4
_TRIES = 24  # simulations of one deployment until it does


def upper_bound(values: FloatArray, stat: str) -> float:
    """Return what a statistic of the latencies is below, with 95 % confidence.

    Percentiles by order statistics, which need no distribution; neighbours in
    a queue are alike, so that the bound is somewhat too sure.

    Examples
    --------
    >>> upper_bound(np.arange(100.0), "p50")
    58.0
    """
    from scipy.special import bdtrik, ndtri

    values = np.sort(values[~np.isnan(values)])
    if not values.size:
        return math.nan
    share = STATS[stat]
    if share is None:
        if values.size < 2:
            return float(values[0])
        wide = float(ndtri(SURE)) * values.std(ddof=1) / math.sqrt(values.size)
        return float(values.mean() + wide)
    place = math.ceil(bdtrik(SURE, values.size, share))
    return float(values[min(place, values.size - 1)])


@dataclass(frozen=True)
class Check:
    """One limit and what a run says of it.

    Attributes
    ----------
    value, bound, limit : float
        Simulated; below this with 95 % confidence; allowed. [s]
    model_upper : float or None
        The same requests served with every step at the upper end of the step
        times' 90 % interval; None where it has none. [s]
    """

    key: str
    stat: str
    value: float
    bound: float
    limit: float
    model_upper: float | None = None

    @property
    def margin(self) -> float:
        """Share of the limit that is left."""
        return 1.0 - self.value / self.limit

    def to_dict(self) -> dict[str, Any]:
        """Return the check with keys in SI."""
        return {
            "limit_of": f"{self.key}.{self.stat}", "limit_s": self.limit,
            "value_s": self.value, "upper_95_s": self.bound, "margin": self.margin,
            "at_upper_model_s": self.model_upper,
            "holds_at_upper_model": self.holds,
        }  # fmt: skip

    @property
    def holds(self) -> bool | None:
        """Whether the limit is met where every step is slower, if that is known."""
        return None if self.model_upper is None else self.model_upper <= self.limit


@dataclass(frozen=True)
class Confirmed:
    """A deployment that meets all limits in simulation.

    Attributes
    ----------
    hourly : float
        Price of all replicas; NaN where unknown. [USD/h]
    """

    choice: Choice
    steady: Steady
    replicas: int
    result: ServeResult
    checks: tuple[Check, ...]
    hourly: float

    @property
    def devices(self) -> int:
        """Devices of all replicas."""
        return self.choice.devices(self.replicas)

    @property
    def prompt_replicas(self) -> int | None:
        """Replicas for prompts; None where each replica does both."""
        prompts = self.choice.prompts
        return None if prompts is None else prompts.count(self.replicas)

    @property
    def usd_per_million_tokens(self) -> float:
        """Price of a million output tokens; NaN where unknown. [USD]"""
        return self.hourly / 3600.0 / self.result.tokens_per_s * 1e6

    def to_dict(self) -> dict[str, Any]:
        """Return the deployment and its service with keys in SI."""
        return {
            **self.choice.to_dict(),
            "replicas": self.replicas,
            "prompt_replicas": self.prompt_replicas,
            "devices": self.devices,
            "usd_per_hour": self.hourly,
            "usd_per_million_tokens": self.usd_per_million_tokens,
            "checks": [check.to_dict() for check in self.checks],
            "service": self.result.to_dict(),
        }


@dataclass(frozen=True)
class Confirmer:
    """Simulates deployments against the limits.

    Attributes
    ----------
    margin : float
        Share of each limit that is to be left.
    requests : int
        Least requests of a run.
    most : int
        Most replicas.
    """

    traffic: Traffic
    demand: Demand
    slo: Slo
    router: str
    fidelity: Fidelity
    margin: float
    requests: int
    most: int
    seed: int

    def run(
        self, choice: Choice, replicas: int, rate: float | None = None
    ) -> ServeResult:
        """Simulate a number of replicas at a rate, the demanded one by default."""
        count = min(max(self.requests, _PER_REPLICA * replicas), _MOST_REQUESTS)
        if self.traffic.trace is not None:
            traffic = self.traffic
        else:
            traffic = replace(
                self.traffic, requests=count, rate=rate or self.demand.rate
            )
        layout, precision = choice.layout, choice.precision
        return run_serving(
            choice.model, choice.system, choice.stack, choice.engine, traffic,
            tp=layout.tp, pp=layout.pp, ep=layout.ep,
            attention_dp=layout.attention_dp, replicas=replicas, router=self.router,
            dtype=precision.dtype, weight_dtype=precision.weight_dtype,
            kv_dtype=precision.kv_dtype, fidelity=self.fidelity, seed=self.seed,
            slo=self.per_request, prefill=self._prompts(choice, replicas),
        )  # fmt: skip

    def _prompts(self, choice: Choice, replicas: int) -> PrefillAsked | None:
        """Return the replicas for prompts, if they have their own."""
        if choice.prompts is None:
            return None
        layout = choice.prompts.layout
        return PrefillAsked(
            choice.system, choice.stack, choice.engine, layout.tp, layout.pp, layout.ep,
            layout.attention_dp, choice.prompts.count(replicas), self.router,
        )  # fmt: skip

    @property
    def per_request(self) -> dict[str, float]:
        """Limits as each request must meet them to count as goodput. [s]"""
        found: dict[str, float] = {}
        for (key, _), limit in self.slo.items():
            if key != "itl":
                found[key] = min(limit, found.get(key, math.inf))
        return found

    def checks(self, result: ServeResult) -> tuple[Check, ...]:
        """Return what a run says of each limit."""
        found = []
        for (key, stat), limit in self.slo.items():
            value = float(getattr(result, f"{key}_s")[stat])
            values = getattr(result.run, key, None)
            bound = value if values is None else upper_bound(values, stat)
            found.append(Check(key, stat, value, bound, limit))
        return tuple(found)

    def sure(self, result: ServeResult, checks: tuple[Check, ...]) -> tuple[Check, ...]:
        """Return checks with what they are where every step is slower."""
        ends = result.interval_90
        if ends is None:
            return checks
        return tuple(
            replace(check, model_upper=ends[f"{check.key}_s"][check.stat][1])
            for check in checks
        )

    def worst(self, checks: tuple[Check, ...]) -> Check | None:
        """Return the limit that is broken most, if any."""
        room = 1.0 - self.margin
        over = [check for check in checks if check.bound > check.limit * room]
        return max(over, key=lambda c: c.bound / c.limit, default=None)

    def broken(self, result: ServeResult, checks: tuple[Check, ...]) -> str:
        """Return what a run breaks, in words; empty if nothing."""
        if result.stable is False:
            return "queues grow without end"
        check = self.worst(checks)
        if check is None:
            return ""
        told = f"{check.key}.{check.stat} is {check.value:.4g} s"
        if check.value <= check.limit * (1.0 - self.margin):
            told += (
                f", but only below {check.bound:.4g} s for sure (95 %; more requests "
                "tell it more closely)"
            )
        return told

    def confirm(
        self, steady: Steady, price: float, enough: int | None = None
    ) -> Confirmed | str:
        """Return the fewest replicas that do; else why none does, in words.

        Parameters
        ----------
        price : float
            Of one device; NaN where unknown. [USD/h]
        enough : int, optional
            More replicas than these are of no interest.
        """
        most = min(self.most, enough or self.most)
        low, count, why = 0, steady.replicas(self.demand, self.slo), ""
        start, choice = count, steady.choice
        good: tuple[int, ServeResult, tuple[Check, ...]] | None = None
        for _ in range(_TRIES):
            if count > most:
                break
            result = self.run(choice, count)
            checks = self.checks(result)
            why = self.broken(result, checks)
            if not why:
                good = (count, result, checks)
                break
            low = count
            if count > 4 * start + 4:
                break  # waiting is not what takes the time
            choice, count = self._grown(choice, count, result, checks)
        if good is None:
            return self._short(low, most, why)
        replicas, result, checks = self._fewer(choice, low, good)
        checks = self.sure(result, checks)
        return Confirmed(
            choice, steady, replicas, result, checks, price * choice.devices(replicas)
        )

    def _grown(
        self,
        choice: Choice,
        count: int,
        result: ServeResult,
        checks: tuple[Check, ...],
    ) -> tuple[Choice, int]:
        """Return more replicas of the sort that a run lacks."""
        worst, prompts = self.worst(checks), choice.prompts
        late = worst is not None and worst.key == "ttft" and result.stable is not False
        if prompts is None or not late:
            return choice, max(count + 1, math.ceil(count * _GROW))
        now = prompts.count(count)
        more = max(now + 1, math.ceil(now * _GROW))
        return replace(
            choice, prompts=replace(prompts, per_replica=more / count)
        ), count

    def _fewer(
        self,
        choice: Choice,
        low: int,
        good: tuple[int, ServeResult, tuple[Check, ...]],
    ) -> tuple[int, ServeResult, tuple[Check, ...]]:
        """Return the least number that does, above one that does not."""
        while good[0] - low > 1 and low:
            middle = (low + good[0]) // 2
            result = self.run(choice, middle)
            checks = self.checks(result)
            if self.broken(result, checks):
                low = middle
            else:
                good = (middle, result, checks)
        return good

    def _short(self, tried: int, most: int, why: str) -> str:
        if not tried:
            return f"needs more than {most} replicas"
        return f"with {tried} replicas {why}"


def parse_limits(limits: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """Return limits by (latency, statistic) from ``ttft.p99`` and the like. [s]

    Examples
    --------
    >>> parse_limits({"ttft": 0.5, "tpot.mean": 0.04})
    {('ttft', 'p99'): 0.5, ('tpot', 'mean'): 0.04}
    """
    found: dict[tuple[str, str], float] = {}
    for name, limit in limits.items():
        key, _, stat = str(name).partition(".")
        stat = stat or "p99"
        if key not in KEYS or stat not in STATS:
            raise InputError(
                f"slo {name!r} is unknown; write one of {', '.join(KEYS)} and, after "
                f"a point, {', '.join(STATS)}: ttft.p99"
            )
        if not (isinstance(limit, int | float) and 0 < limit < math.inf):
            raise InputError(f"slo {name} is {limit}; give seconds above 0")
        found[key, stat] = float(limit)
    if not found:
        raise InputError("no limit is given; write slo ttft.p99=500ms,tpot.p99=40ms")
    return found
