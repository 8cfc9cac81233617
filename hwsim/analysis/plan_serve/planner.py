"""Searches deployments of a service: closed forms first, then simulation."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from hwsim.analysis.check import positive_int
from hwsim.analysis.economy import Economy
from hwsim.analysis.plan_serve.answer import Rejected, ServePlan
from hwsim.analysis.plan_serve.confirm import Confirmed, Confirmer
from hwsim.analysis.plan_serve.space import Choice, Space
from hwsim.analysis.plan_serve.split import disaggregated
from hwsim.analysis.plan_serve.steady import Demand, Steady, steady_state
from hwsim.analysis.plan_serve.words import impossible, why_not
from hwsim.analysis.serving.serve import ServeResult
from hwsim.errors import HwsimError, InputError
from hwsim.sim.serving.arrivals import draw_requests
from hwsim.specs.model import ModelSpec
from hwsim.specs.traffic import Traffic

RATES = (0.25, 0.5, 0.75, 1.0, 1.1, 1.25, 1.5)  # of the demanded one
_SAMPLE = 4000
Progress = Callable[[str, int, int], None]
Runner = Callable[[Callable[[Choice], Steady | str], Sequence[Choice]], Any]


@dataclass
class ServePlanner:
    """Answers one question; see :func:`hwsim.plan_serve`."""

    model: ModelSpec
    space: Space
    confirmer: Confirmer
    economy: Economy
    config: dict[str, Any]
    simulate: int
    runner: Runner
    progress: Progress | None = None
    rejected: list[Rejected] = field(default_factory=list)
    confirmed: list[Confirmed] = field(default_factory=list)
    interrupted: bool = False

    def plan(self) -> ServePlan:
        """Work out all in closed form, simulate the best, say why not others."""
        started = time.perf_counter()
        choices = list(self.space.choices())
        if not choices:
            why = self.space.passed_over[:1] or ["leave out a choice"]
            raise InputError(f"no deployment to choose from: {why[0]}")
        steady = self._steady(choices)
        if self.space.disaggregated:
            confirmer = self.confirmer
            steady += disaggregated(
                [one for one in steady if one.holds(confirmer.demand)],
                confirmer.demand, confirmer.slo,
            )  # fmt: skip
        searched = time.perf_counter()
        viable = self._viable(steady)
        try:
            self._confirm(viable)
        except KeyboardInterrupt:
            if not self.confirmed:
                raise
            self.interrupted = True
        if not self.confirmed:
            raise InputError(
                impossible(self.confirmer, steady, [r.why for r in self.rejected])
            )
        self.confirmed.sort(
            key=lambda c: (
                self._paid(c), c.devices, c.result.e2e_s["mean"],
            )
        )  # fmt: skip
        curve = () if self.interrupted else self._curve(self.confirmed[0])
        return ServePlan(
            self.model, self.confirmer.demand, dict(self.confirmer.slo),
            self.confirmer.traffic, self.config, self._priced(steady),
            tuple(self.confirmed), tuple(self.rejected), tuple(steady), tuple(curve),
            tuple(self.space.passed_over), len(choices) + sum(
                one.choice.prompts is not None for one in steady
            ), searched - started,
            time.perf_counter() - searched, self.interrupted,
        )  # fmt: skip

    def _steady(self, choices: Sequence[Choice]) -> list[Steady]:
        confirmer, found = self.confirmer, []
        work = _Work(confirmer.demand, confirmer.fidelity)
        for done, (choice, answer) in enumerate(self.runner(work, choices), start=1):
            self._tell("closed form", done, len(choices))
            if isinstance(answer, str):
                self.rejected.append(Rejected(choice, answer))
            else:
                found.append(answer)
        if not found:
            raise InputError("no deployment can run: " + self.rejected[-1].why)
        return found

    def _viable(self, steady: Sequence[Steady]) -> list[Steady]:
        confirmer, found = self.confirmer, []
        for one in steady:
            count = one.replicas(confirmer.demand, confirmer.slo)
            if 0 < count <= confirmer.most and one.holds(confirmer.demand):
                found.append(one)
            else:
                why = why_not(one, confirmer, count)
                self.rejected.append(Rejected(one.choice, why))
        return found

    def _least(self, one: Steady) -> int:
        return one.replicas(self.confirmer.demand, self.confirmer.slo)

    def _price(self, one: Steady) -> float:
        """Price of one device; NaN where none is known. [USD/h]"""
        device = one.choice.system.device.id
        price = self.economy.price
        if price is None:
            price = self.economy.reference.prices.get(device)
        return math.nan if price is None else price

    def _priced(self, steady: Sequence[Steady]) -> bool:
        return not any(math.isnan(self._price(one)) for one in steady)

    @cached_property
    def _by_price(self) -> bool:
        return all(
            self.economy.price is not None
            or system.device.id in self.economy.reference.prices
            for system, _, _ in self.space.served
        )

    def _cost(self, one: Steady, replicas: int) -> float:
        each = self._price(one) if self._by_price else 1.0
        return each * one.choice.devices(replicas)

    def _paid(self, confirmed: Confirmed) -> float:
        return confirmed.hourly if self._by_price else float(confirmed.devices)

    def _confirm(self, viable: Sequence[Steady]) -> None:
        """Simulate the most promising by each objective."""
        demand, seen = self.confirmer.demand, dict[int, bool]()
        power = {
            id(one): one.choice.devices(self._least(one))
            * (one.choice.system.device.power.tdp or math.inf)
            for one in viable
        }  # fmt: skip
        orders = {
            "cheapest": lambda s: self._cost(s, self._least(s)),
            "fastest": lambda s: (
                s.first["mean"]
                + demand.output * s.tpot_at(demand.rate / self._least(s))
            ),
            "frugal": lambda s: power[id(s)],
        }
        shared = [one for one in viable if one.choice.prompts is None]
        split = [one for one in viable if one.choice.prompts is not None]
        for (objective, key), (some, most) in itertools.product(
            orders.items(), ((shared, self.simulate), (split, -(-self.simulate // 3)))
        ):
            for done, one in enumerate(sorted(some, key=key)):
                if done >= most:
                    break
                if objective == "cheapest" and self._too_dear(one):
                    break
                if id(one) not in seen:
                    seen[id(one)] = True
                    self._try(one)
                    self._tell("simulated", len(seen), len(viable))
        for one in viable:
            if id(one) not in seen:
                self.rejected.append(Rejected(one.choice, self._passed(one)))

    def _too_dear(self, one: Steady) -> bool:
        best = min(map(self._paid, self.confirmed), default=math.inf)
        return self._cost(one, self._least(one)) >= best

    def _try(self, one: Steady) -> None:
        try:
            answer = self.confirmer.confirm(one, self._price(one))
        except HwsimError as error:
            if one.choice.prompts is None:
                raise
            answer = str(error)  # its pools may have no network between them
        if isinstance(answer, str):
            self.rejected.append(Rejected(one.choice, answer))
        else:
            self.confirmed.append(answer)

    def _passed(self, one: Steady) -> str:
        least = self._least(one)
        if self._by_price:
            return f"needs at least {self._cost(one, least):,.2f} USD/h"
        return f"needs at least {one.choice.devices(least)} devices"

    def _curve(self, best: Confirmed) -> list[dict[str, Any]]:
        if self.confirmer.traffic.trace is not None:
            return []
        rows = []
        for factor in RATES:
            rate = factor * self.confirmer.demand.rate
            result = self.confirmer.run(best.choice, best.replicas, rate)
            rows.append(
                {"rate_rps": rate, "goodput_rps": met_rate(result, rate),
                 "ttft_p99_s": result.ttft_s["p99"], "tpot_p99_s": result.tpot_s["p99"],
                 "stable": result.stable}
            )  # fmt: skip
        return rows

    def _tell(self, what: str, done: int, whole: int) -> None:
        if self.progress is not None:
            self.progress(what, done, whole)


def met_rate(result: ServeResult, rate: float) -> float:
    """Return the requests per second that meet all limits, in the long run. [1/s]

    The share of requests that do, times the rate: a run's own goodput counts
    the time in which the last answers run out.
    """
    share = (result.goodput_rps or 0.0) / result.requests_per_s
    return share * min(rate, result.stable_rate or rate)


@dataclass(frozen=True)
class _Work:
    """The closed form of one choice; any process can work it out."""

    demand: Demand
    fidelity: Any

    def __call__(self, choice: Choice) -> Steady | str:
        try:
            return steady_state(choice, self.demand, self.fidelity)
        except HwsimError as error:
            return str(error)


def in_this_process(
    work: Callable[[Choice], Steady | str], choices: Sequence[Choice]
) -> Any:
    """Yield each choice with its closed form."""
    for choice in choices:
        yield choice, work(choice)


def demand_of(model: ModelSpec, traffic: Traffic, seed: int) -> Demand:
    """Return the mean request of traffic, from a sample of it."""
    count = min(traffic.requests or _SAMPLE, _SAMPLE)
    sample = replace(traffic, requests=count)
    rng = np.random.default_rng(positive_int("seed", seed, minimum=0))
    drawn = draw_requests(sample, rng, model.max_context)
    inputs, outputs = drawn.inputs.astype(float), drawn.outputs.astype(float)
    rate = traffic.rate
    if rate is None:
        if drawn.arrival is None or len(drawn.arrival) < 2:
            raise InputError("plan serve needs open-loop arrivals; give a rate")
        rate = (len(drawn.arrival) - 1) / float(drawn.arrival[-1] - drawn.arrival[0])
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

    def spread(values: Any) -> dict[str, float]:
        return {"mean": float(values.mean())} | {
            stat: float(np.quantile(values, share)) for stat, share in shares.items()
        }

    context = float((outputs * (inputs + outputs / 2.0)).sum() / outputs.sum())
    largest = int((drawn.inputs + drawn.outputs).max())
    longest = 1 << (largest - 1).bit_length()
    return Demand(rate, spread(inputs), spread(outputs), context, longest, largest)
