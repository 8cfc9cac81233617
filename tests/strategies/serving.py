"""A plain serving engine, one step and one request at a time, and scenarios for it.

It follows the written rules and shares no code with the fast engine but the
policies' names: every running request is looked at in every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import simpy
from hypothesis import strategies as st

from hwsim.schedule.batching import POLICIES
from hwsim.sim.serving import Replica
from hwsim.sim.serving_batch import Limits
from hwsim.sim.serving_cluster import Cluster, router_named
from hwsim.sim.serving_records import Requests, StepLog

SAME_TIME = 1e-9


@dataclass
class AffineCost:
    """Step time: affine in everything, so that stretches sum exactly."""

    step: float = 1e-2
    sequence: float = 1e-3
    context: float = 1e-5
    token: float = 1e-4

    def decode(self, batch, contexts):
        time = self.step + self.sequence * batch + self.context * contexts
        return time, self.context, math.inf

    def mixed(self, chunks, batch, contexts):
        time = self.step + self.sequence * batch + self.context * contexts
        return time + sum(self.token * q + 1e-8 * q * h for q, h in chunks)


@dataclass
class BrokenCost(AffineCost):
    """As affine, with a kink in context: stretches end there."""

    kink: float = 40.0

    def decode(self, batch, contexts):
        if contexts < self.kink:
            slope, limit = self.context, self.kink
            extra = 0.0
        else:
            slope, limit = 3.0 * self.context, math.inf
            extra = 2.0 * self.context * (contexts - self.kink)
        base = self.step + self.sequence * batch + self.context * contexts
        return base + extra, slope, limit


@dataclass
class One:
    """A request as the plain engine sees it."""

    number: int
    inp: int
    out: int
    ready: float
    generated: int = 0
    prefilled: int = 0
    target: int = 0
    claim: int = 0
    decoding: bool = False
    times: list[float] = field(default_factory=list)
    preempted: int = 0

    @property
    def done(self):
        return self.generated == self.out


def plain_serve(inputs, outputs, ready, cost, policy, limits):
    """Serve and return the requests, the steps and the integral of blocks."""
    everyone = [
        One(i, *row) for i, row in enumerate(zip(inputs, outputs, ready, strict=True))
    ]
    coming, waiting, running = list(everyone), [], []
    now, steps, block_time = 0.0, 0, 0.0
    bs = limits.block_size

    def blocks(tokens):
        return math.ceil(tokens / bs)

    def used():
        return sum(
            blocks(r.inp + r.generated) if r.decoding else blocks(r.target)
            for r in running
        )

    def make_room():
        fine = True
        while not policy.holds and used() > limits.num_blocks:
            fine = False
            victim = running.pop()
            victim.decoding, victim.prefilled = False, 0
            victim.preempted += 1
            waiting.insert(0, victim)
        return fine

    def admissible(r):
        r.target = r.inp + r.generated
        r.claim = max(blocks(r.target), blocks(r.inp + limits.reserve * r.out))
        if not running:
            return True
        most = limits.num_blocks - limits.watermark_blocks
        return (
            sum(o.claim for o in running) + r.claim <= most
            and used() + blocks(r.target) <= most
        )

    while coming or waiting or running:
        if not running and not waiting and coming[0].ready > now + SAME_TIME:
            now = coming[0].ready
        while coming and coming[0].ready <= now + SAME_TIME:
            waiting.append(coming.pop(0))
        room = make_room() if policy.mixed else True
        decoders = [r for r in running if r.decoding]
        budget = limits.max_num_batched_tokens
        if policy.mixed:
            budget -= len(decoders)
        chunks = []
        for r in running:
            if not r.decoding and budget > 0:
                q = min(r.target - r.prefilled, budget)
                chunks.append((r, q, r.prefilled))
                budget -= q
        opened = room and (not policy.holds or not running)
        while opened and waiting and budget > 0:
            r = waiting[0]
            if len(running) >= limits.max_num_seqs:
                break
            whole = r.inp + r.generated
            long = not limits.chunked and whole > budget
            if long and (chunks or (policy.mixed and decoders)):
                break
            if not admissible(r):
                break
            running.append(waiting.pop(0))
            q = whole if long else min(whole, budget)
            chunks.append((r, q, 0))
            budget = 0 if long else budget - q
        if not policy.mixed and not chunks:
            make_room()
            decoders = [r for r in running if r.decoding]
        stepping = decoders if policy.mixed or not chunks else []
        contexts = sum(r.inp + r.generated for r in stepping)
        if chunks:
            time = cost.mixed(
                [(q, h) for _, q, h in chunks], len(stepping), contexts
            )
        else:
            time = cost.decode(len(stepping), contexts)[0]
        block_time += time * used()
        now += time
        steps += 1
        for r in stepping:
            if not (policy.holds and len(r.times) == r.out):
                r.times.append(now)
            r.generated += 1
        for r, q, _ in chunks:
            r.prefilled += q
            if r.prefilled == r.target:
                r.decoding = True
                r.generated += 1
                r.times.append(now)
        if policy.holds:
            if all(r.generated >= r.out for r in running):
                running.clear()
            else:
                running[:] = [r for r in running if r.out > 1 or not r.decoding]
        else:
            running[:] = [r for r in running if not r.done]
    return everyone, steps, block_time


def fast_serve(scenario, cost, *, router="round_robin", replicas=1, concurrency=None):
    """Serve with the engine under test; return columns and replicas."""
    inputs, outputs, ready, policy, limits = scenario
    arrival = None if concurrency else np.array(ready, dtype=float)
    requests = Requests(inputs, outputs, arrival)
    engines = [
        Replica(requests, cost, policy, limits, StepLog(), index=i)
        for i in range(replicas)
    ]
    cluster = Cluster(simpy.Environment(), engines, router_named(router))
    cluster.run(requests, concurrency)
    return requests, engines


@st.composite
def scenarios(draw, most=12):
    """Draw requests, a policy and limits that can serve them."""
    count = draw(st.integers(1, most))
    inputs = draw(st.lists(st.integers(1, 60), min_size=count, max_size=count))
    outputs = draw(st.lists(st.integers(1, 40), min_size=count, max_size=count))
    gap = st.one_of(st.just(0.0), st.floats(0.0, 0.5), st.floats(0.0, 0.01))
    gaps = draw(st.lists(gap, min_size=count, max_size=count))
    ready = np.cumsum(gaps).tolist()
    policy = POLICIES[draw(st.sampled_from(sorted(POLICIES)))]
    block_size = draw(st.sampled_from([1, 4, 16]))
    seqs = draw(st.integers(1, 8))
    tokens = draw(st.integers(seqs, 80))
    longest = max(i + o for i, o in zip(inputs, outputs, strict=True))
    least = math.ceil(longest / block_size)
    total = least + draw(st.integers(0, 3 * least))
    reserve = draw(st.sampled_from([0.0, 0.0, 0.5, 1.0]))
    limits = Limits(
        seqs, tokens, draw(st.booleans()), total, block_size,
        draw(st.integers(0, 2)), 1.0 if policy.holds else reserve,
    )  # fmt: skip
    return inputs, outputs, ready, policy, limits
