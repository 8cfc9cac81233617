"""Deployments whose prompts have replicas of their own, from those that share.

A replica for answers is never held up by a prompt: a token of it takes a decode
step. Replicas for prompts are as many as keep them busy for ``BUSY`` of the time at
the most that those for answers can take within the limits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from hwsim.analysis.plan_serve.space import Choice, Prompts
from hwsim.analysis.plan_serve.steady import Demand, Steady

ROOM = 0.4
BUSY = 0.7  # of replicas for prompts: fuller, prompts queue for longer than they take
Slo = Mapping[tuple[str, str], float]


def disaggregated(
    steady: Sequence[Steady], demand: Demand, slo: Slo
) -> Iterator[Steady]:
    """Yield each replica as one for answers, with the best replicas for prompts.

    Best are those that take the fewest device seconds for a prompt among those
    whose prompts, alone, leave ``ROOM`` of the limits to queues (else the fastest);
    they are of the same system, engine and precision.

    Parameters
    ----------
    steady : sequence of Steady
        Replicas that do both, all that fit in memory.
    """
    limits = {stat: v for (key, stat), v in slo.items() if key == "ttft"}
    groups: dict[object, list[Steady]] = {}
    for one in steady:
        groups.setdefault(_place(one.choice), []).append(one)
    for group in groups.values():
        if demand.output > 1.0:
            prompts = _for_prompts(group, limits)
            pairs = (_paired(one, prompts, demand, slo) for one in group)
            # Keys and values move over one system's network.
            yield from (
                pair for pair in pairs
                if pair.choice.devices(1) <= pair.choice.system.num_devices
            )  # fmt: skip


def _for_prompts(group: Sequence[Steady], limits: Mapping[str, float]) -> Steady:
    able = [
        one for one in group
        if all(one.first[s] <= (1.0 - ROOM) * most for s, most in limits.items())
    ]  # fmt: skip
    if not able:
        return min(group, key=lambda s: s.first["p99"])
    return min(able, key=lambda s: s.choice.layout.devices / s.prompt_rate)


def _place(choice: Choice) -> object:
    return (
        choice.system.id, choice.engine.id, choice.engine.max_num_seqs,
        choice.precision,
    )  # fmt: skip


def _paired(answers: Steady, prompts: Steady, demand: Demand, slo: Slo) -> Steady:
    """Return a replica for answers with its share of those for prompts."""
    tpot = np.maximum.accumulate(answers.steps)
    groups = answers.choice.layout.attention_dp
    rate = np.maximum.accumulate(answers.batch / ((demand.output - 1.0) * tpot))
    alone = replace(answers, tpot=tpot, rate=rate * groups, first=prompts.first)
    limit = min((v for (key, _), v in slo.items() if key == "tpot"), default=np.inf)
    # No replica gets more than all there is.
    each = min(alone.within(limit), demand.rate)
    share = max(each / (BUSY * prompts.prompt_rate), 1e-3)
    choice = replace(
        answers.choice, prompts=Prompts(prompts.choice.layout, share)
    )  # fmt: skip
    return replace(alone, choice=choice)
