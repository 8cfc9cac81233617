"""The steady state of a replica, in closed form: how fast, at which load.

In a long run a group of ``b`` running requests gives each a token per step, and
each token that it gives brings ``b / output`` prompts with it. With D(b) the time
of a decode step and E what a prompt adds to the steps it rides on::

    tpot(b) = D(b) + E b / output          time per output token
    rate(b) = b / (output tpot(b))         Little's law

Prompts ride on steps that read the weights anyway: E is the time of a prompt
alone less a decode step of one, the least it can add; the host's time to issue a step
is left out, as prompts and answers may share it. So tpot is a lower bound of
what a simulation gives, and no deployment is turned down that could do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from hwsim.analysis.check import dtype_on
from hwsim.analysis.plan_serve.space import Choice
from hwsim.analysis.serving.pool import Capacity, capacity_of
from hwsim.analysis.serving.step_cost import Deployment
from hwsim.cost.cost import FloatArray
from hwsim.cost.evaluate import Fidelity

_ALL = 10**7  # tokens: every step is captured
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True)
class Demand:
    """The requests that are to be served.

    Attributes
    ----------
    rate : float
        All together. [1/s]
    prompts, outputs : dict of str to float
        Tokens: ``mean`` and percentiles.
    context : float
        Mean tokens before a decoded one.
    longest : int
        Most tokens of any request, rounded up to a power of two.
    largest : int
        Most tokens of any request.
    """

    rate: float
    prompts: Mapping[str, float]
    outputs: Mapping[str, float]
    context: float
    longest: int
    largest: int

    @property
    def prompt(self) -> float:
        """Mean tokens of a prompt."""
        return self.prompts["mean"]

    @property
    def output(self) -> float:
        """Mean tokens of an answer."""
        return self.outputs["mean"]


@dataclass(frozen=True)
class Steady:
    """One replica at every batch.

    Attributes
    ----------
    batch, tpot, rate : ndarray, shape (n_batch,)
        Running requests of one group; time per token [s]; requests per
        second of the whole replica [1/s].
    steps : ndarray, shape (n_batch,)
        Time of a token where no prompt comes between. [s]
    first : dict of str to float
        Prompts alone, from arrival to token: of mean length, and of each
        percentile of lengths. [s]
    alone : float
        A decode step of one request. [s]
    capacity : Capacity
        Memory for keys and values of a group.
    """

    choice: Choice
    batch: FloatArray
    tpot: FloatArray
    rate: FloatArray
    first: Mapping[str, float]
    alone: float
    capacity: Capacity
    steps: FloatArray

    @property
    def prompt_rate(self) -> float:
        """Prompts per second that a replica with nothing else can take. [1/s]"""
        layout = self.choice.layout
        return layout.attention_dp * layout.pp / self.first["mean"]

    def holds(self, demand: Demand) -> bool:
        """Whether the largest request finds room for its keys and values."""
        return self.capacity.tokens >= demand.largest

    @property
    def most(self) -> float:
        """Most requests per second that a replica can answer for ever. [1/s]"""
        return float(self.rate[-1])

    def within(self, tpot: float) -> float:
        """Return the most requests per second at no more time per token. [1/s]"""
        if tpot >= self.tpot[-1]:
            return self.most
        if tpot < self.tpot[0]:
            return 0.0
        return float(np.interp(tpot, self.tpot, self.rate))

    def tpot_at(self, rate: float) -> float:
        """Return the time per token of a replica that gets so many requests. [s]"""
        if rate > self.most:
            return math.inf
        return float(np.interp(rate, self.rate, self.tpot))

    def replicas(self, demand: Demand, slo: Mapping[tuple[str, str], float]) -> int:
        """Return the fewest replicas that may do; 0 if no number does."""
        if self.broken(demand, slo):
            return 0
        limit = min((v for (key, _), v in slo.items() if key == "tpot"), default=np.inf)
        each = self.within(limit)
        return max(math.ceil(demand.rate / each * (1 - 1e-9)), 1) if each > 0 else 0

    def broken(
        self, demand: Demand, slo: Mapping[tuple[str, str], float]
    ) -> tuple[str, float, float] | None:
        """Return what even an idle replica breaks: key, least, limit. [s]

        A percentile of latencies is no less than the latency of a prompt (or
        an answer) of that percentile's length that nothing disturbs.
        """
        over = [
            (key, least, limit)
            for (key, stat), limit in slo.items()
            if (least := self.least(key, stat, demand)) > limit
        ]
        return max(over, key=lambda found: found[1] / found[2], default=None)

    def least(self, key: str, stat: str, demand: Demand) -> float:
        """Return the least that a latency can be, whatever the load. [s]"""
        if key in {"tpot", "itl"}:
            return self.alone
        if key == "ttft":
            return self.first[stat]
        answer = max(demand.outputs[stat] - 1.0, 0.0) * self.alone
        return answer + (self.first[stat] if stat == "mean" else 0.0)


def steady_state(choice: Choice, demand: Demand, fidelity: Fidelity) -> Steady:
    """Return the steady state of a choice.

    Raises
    ------
    InputError
        If weights and activations leave no memory for keys and values.
    """
    layout, precision, engine = choice.layout, choice.precision, choice.engine
    dtype_on(choice.system.device, precision.dtype)
    group = choice.system.subsystem(layout.devices)
    capacity = capacity_of(choice.model, group, choice.stack, engine, layout, precision)
    deployment = Deployment(
        choice.model, choice.system, choice.stack, engine, layout, precision.dtype,
        precision.weight_dtype, precision.kv_dtype, fidelity, demand.longest,
    )  # fmt: skip
    each = demand.prompt + demand.output / 2.0
    most = max(min(engine.max_num_seqs, int(capacity.tokens // each)), 1)
    batches = [b for b in _BATCHES if b < most] + [most]
    context = max(round(demand.context), 1)
    stages = layout.pp
    batch = np.array(batches, dtype=np.float64)
    # Each stage has its share of the batch; a token takes a round of them.
    stage = np.array(
        [deployment.run(deployment.decode(-(-b // stages), context)).time_s
         for b in batches]
    )  # fmt: skip
    prompts = {
        stat: deployment.run(deployment.prefill(max(round(tokens), 1))).time_s
        for stat, tokens in demand.prompts.items()
    }
    # What the host takes to issue a step with prompts, all of them share.
    issued = replace(
        deployment, engine=engine.model_copy(update={"captured_tokens": _ALL})
    )
    mean = issued.run(issued.prefill(max(round(demand.prompt), 1))).time_s
    added = max(mean - stage[0], 0.0)
    steps = stage * stages + engine.sequence_overhead * batch
    tpot = steps + added * batch * layout.attention_dp / demand.output
    rate = np.maximum.accumulate(batch / (demand.output * tpot))
    return Steady(
        choice, batch, np.maximum.accumulate(tpot), rate * layout.attention_dp,
        {k: v * stages + engine.request_overhead for k, v in prompts.items()},
        float(steps[0]), capacity, steps,
    )  # fmt: skip
