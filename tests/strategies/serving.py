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
from hwsim.sim.serving.batch import Limits
from hwsim.sim.serving.cluster import Cluster
from hwsim.sim.serving.joint import JointReplica
from hwsim.sim.serving.records import Requests, StepLog
from hwsim.sim.serving.replica import Replica
from hwsim.sim.serving.routers import router_named
from hwsim.sim.serving.service import Fleet, Rules, Service

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

    def joint(self, parts):
        return max(self.mixed(*part) for part in parts)


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
    handed: int = 0
    times: list[float] = field(default_factory=list)
    preempted: int = 0

    @property
    def done(self):
        return self.generated == self.out


class PlainEngine:
    """Steps one at a time, all requests looked at in each."""

    def __init__(self, everyone, cost, policy, limits):
        self.coming, self.waiting, self.running = list(everyone), [], []
        self.cost, self.policy, self.limits = cost, policy, limits
        self.now, self.steps, self.block_time, self.stall = 0.0, 0, 0.0, 0.0
        self.decoded, self.waited, self.before = math.inf, 0, 0.0

    def blocks(self, tokens):
        return math.ceil(tokens / self.limits.block_size)

    def used(self):
        held = [r.inp + r.generated if r.decoding else r.target for r in self.running]
        return sum(self.blocks(tokens) for tokens in held)

    def decoders(self):
        return [r for r in self.running if r.decoding]

    def make_room(self):
        fine = True
        while not self.policy.holds and self.used() > self.limits.num_blocks:
            fine = False
            victim = self.running.pop()
            if victim.decoding and self.limits.swap_time is not None:
                victim.handed = 2
                self.swapped(victim)
            victim.decoding, victim.prefilled = False, 0
            victim.preempted += 1
            self.release(victim)
            self.waiting.insert(0, victim)
        return fine

    def swapped(self, r):
        self.stall += self.blocks(r.inp + r.generated) * self.limits.swap_time

    def admissible(self, r):
        limits = self.limits
        r.target = r.inp + r.generated
        r.claim = max(
            self.blocks(r.target), self.blocks(r.inp + limits.reserve * r.out)
        )
        most = limits.num_blocks - limits.watermark_blocks
        claims = sum(o.claim for o in self.running) + r.claim
        used = self.used() + self.blocks(r.target)
        return not self.running or (claims <= most and used <= most)

    def see_arrivals(self):
        coming = self.coming
        empty = not self.running and not self.waiting
        if empty and coming and coming[0].ready > self.now + SAME_TIME:
            self.now = coming[0].ready
        self.queue_up()

    def queue_up(self):
        """Look at arrivals, if it is time for it."""
        coming = self.coming
        if self.running and self.decoded < self.limits.intake_interval:
            return
        self.decoded = 0
        late = self.limits.lookahead and self.limits.intake_interval == 1
        latest = self.before if late and self.running else self.now
        while coming and coming[0].ready <= latest + SAME_TIME:
            self.waiting.append(coming.pop(0))

    def choose_prompts(self, room):
        """Return (request, tokens, tokens before) of the step."""
        mixed = self.policy.mixed
        decoding = len(self.decoders())
        budget = self.limits.max_num_batched_tokens - (decoding if mixed else 0)
        chunks = []
        for r in self.running:
            if not r.decoding and budget > 0:
                chunks.append((r, min(r.target - r.prefilled, budget), r.prefilled))
                budget -= chunks[-1][1]
        if not room or (self.policy.holds and self.running):
            return chunks
        if chunks or not self.lets_wait(decoding, budget):
            self.admit(chunks, budget, decoding)
        return chunks

    def admit(self, chunks, budget, decoding):
        mixed = self.policy.mixed
        while self.waiting and budget > 0:
            r = self.waiting[0]
            whole = r.inp + r.generated
            known = self.known(r)
            long = not self.limits.chunked and whole - known > budget
            if len(self.running) >= self.limits.max_num_seqs:
                break
            if not r.handed and long and (chunks or (mixed and decoding)):
                break
            if not self.admissible(r):
                break
            self.waited = 0
            self.running.append(self.waiting.pop(0))
            if r.handed:
                if r.handed == 2:
                    self.swapped(r)
                else:
                    r.times.append(self.now)
                r.handed, r.decoding = 0, True
                budget -= mixed
                continue
            self.pin(r, known)
            r.prefilled, whole = known, whole - known
            chunks.append((r, whole if long else min(whole, budget), known))
            budget = 0 if long else budget - chunks[-1][1]

    def known(self, r):
        return 0

    def pin(self, r, tokens):
        pass

    def release(self, r):
        pass

    def lets_wait(self, decoding, budget):
        limits = self.limits
        slots = limits.max_num_seqs - len(self.running)
        tokens = sum(r.inp + r.generated for r in self.waiting[:slots])
        if not (limits.wait_steps and decoding and tokens):
            return False
        if self.waiting[0].handed:
            return False
        enough = min(tokens, budget) + decoding >= limits.wait_tokens
        if enough or self.waited >= limits.wait_steps:
            return False
        self.waited += 1
        return True

    def step(self):
        mixed = self.policy.mixed
        self.see_arrivals()
        chunks = self.choose_prompts(self.make_room() if mixed else True)
        if not mixed and not chunks:
            self.make_room()
        stepping = self.decoders() if mixed or not chunks else []
        contexts = sum(r.inp + r.generated for r in stepping)
        if chunks:
            sizes = [(q, h) for _, q, h in chunks]
            time = self.cost.mixed(sizes, len(stepping), contexts)
        else:
            time = self.cost.decode(len(stepping), contexts)[0]
        time += self.stall
        self.stall = 0.0
        self.block_time += time * self.used()
        self.before = self.now
        self.now += time
        self.steps += 1
        self.decoded = math.inf if chunks else self.decoded + 1
        self.give_tokens(stepping, chunks)
        self.let_go()

    def give_tokens(self, stepping, chunks):
        for r in stepping:
            if len(r.times) < r.out:
                r.times.append(self.now)
            r.generated += 1
        for r, q, _ in chunks:
            r.prefilled += q
            if r.prefilled == r.target:
                r.decoding = True
                r.generated += 1
                r.times.append(self.now)

    def let_go(self):
        running = self.running
        if not self.policy.holds:
            running[:] = [r for r in running if not r.done]
        elif all(r.generated >= r.out for r in running):
            running.clear()
        else:
            running[:] = [r for r in running if r.out > 1 or not r.decoding]


class PlainJoint:
    """Plain engines whose steps are one: the slowest of them sets its time."""

    def __init__(self, engines):
        self.engines, self.now, self.steps = engines, 0.0, 0
        self.since = 0

    @property
    def busy(self):
        return any(e.coming or e.waiting or e.running for e in self.engines)

    def bars(self):
        """Whether prompts wait until every engine has one, or for their turn."""
        most = self.engines[0].limits.balance_steps
        if not most:
            return False
        offers = [
            e.waiting
            and len(e.running) < e.limits.max_num_seqs
            and not (e.policy.holds and e.running)
            for e in self.engines
        ]
        together = all(offers) or not all(e.running for e in self.engines)
        if not together and self.since < most:
            return any(offers)
        self.since = 0
        return False

    def step(self):
        engines, mixed = self.engines, self.engines[0].policy.mixed
        if not any(e.waiting or e.running for e in engines):
            first = min(e.coming[0].ready for e in engines if e.coming)
            self.now = max(self.now, first)
        for e in engines:
            e.now = self.now
            e.queue_up()
        free = not self.bars()
        self.since += 1
        chunks = [
            e.choose_prompts((e.make_room() if mixed else True) and free)
            for e in engines
        ]
        prompts = any(chunks)
        if not mixed and not prompts:
            for e in engines:
                e.make_room()
        stepping = [e.decoders() if mixed or not prompts else [] for e in engines]
        contexts = [sum(r.inp + r.generated for r in s) for s in stepping]
        if prompts:
            parts = [
                ([(q, h) for _, q, h in c], len(s), t)
                for c, s, t in zip(chunks, stepping, contexts, strict=True)
            ]
            time = engines[0].cost.joint(parts)
        else:
            time = engines[0].cost.decode(max(map(len, stepping)), max(contexts))[0]
        time += max(e.stall for e in engines)
        for e in engines:
            e.stall = 0.0
        start, self.now = self.now, self.now + time
        self.steps += 1
        for e, s, c in zip(engines, stepping, chunks, strict=True):
            e.block_time += time * e.used()
            e.before, e.now = start, self.now
            e.decoded = math.inf if prompts else e.decoded + 1
            e.give_tokens(s, c)
            e.let_go()


def plain_joint_serve(scenario, cost, groups):
    """Serve with groups in lock step; ``groups`` lists the requests of each."""
    inputs, outputs, ready, policy, limits = scenario
    rows = zip(inputs, outputs, ready, strict=True)
    everyone = [One(number, *row) for number, row in enumerate(rows)]
    joint = PlainJoint(
        [PlainEngine([everyone[i] for i in g], cost, policy, limits) for g in groups]
    )
    while joint.busy:
        joint.step()
    return everyone, joint.steps, sum(e.block_time for e in joint.engines)


def fast_joint_serve(scenario, cost, groups):
    """Serve with the engine under test; return columns, engine, who had what."""
    inputs, outputs, ready, policy, limits = scenario
    requests = Requests(inputs, outputs, np.array(ready, dtype=float))
    members = [
        Replica(requests, cost, policy, limits, StepLog()) for _ in range(groups)
    ]
    had = [[] for _ in members]
    for group, mine in zip(members, had, strict=True):
        group.enqueue = _noting(group.enqueue, mine)
    engine = JointReplica(members)
    cluster = Cluster(simpy.Environment(), [engine], router_named("round_robin"))
    cluster.run(requests)
    return requests, engine, had


def fast_disagg_serve(scenario, cost, *, prompts, answers, handover, concurrency=None):
    """Serve prompts and answers apart; return both columns and who moved when."""
    inputs, outputs, ready, policy, limits = scenario
    arrival = None if concurrency else np.array(ready, dtype=float)
    requests = Requests(inputs, outputs, arrival)
    first = Requests(inputs, [1] * len(inputs), arrival)

    def pool(columns, count):
        return [
            Replica(columns, cost, policy, limits, StepLog(), index=i)
            for i in range(count)
        ]

    fleet = Fleet(pool(requests, answers), router_named("least_outstanding"), requests)
    door = Fleet(pool(first, prompts), router_named("round_robin"), first)
    service = Service(simpy.Environment(), fleet, Rules(concurrency), door, handover)
    service.had = [[] for _ in fleet.engines]
    for engine, mine in zip(fleet.engines, service.had, strict=True):
        engine.enqueue = _noting(engine.enqueue, mine)
    service.run()
    return requests, first, service


def plain_answers(numbers, scenario, cost, requests):
    """Serve, one step at a time, requests whose keys and values come ready."""
    inputs, outputs, _, policy, limits = scenario
    everyone = {}
    for i in numbers:
        one = One(i, inputs[i], outputs[i], requests.ready[i], generated=1, handed=1)
        everyone[i] = one
    engine = PlainEngine(list(everyone.values()), cost, policy, limits)
    while engine.coming or engine.waiting or engine.running:
        engine.step()
    return everyone, engine


def _noting(enqueue, mine):
    def note(request):
        mine.append(request)
        enqueue(request)

    return note


def plain_serve(inputs, outputs, ready, cost, policy, limits):
    """Serve and return the requests, the steps and the integral of blocks."""
    rows = zip(inputs, outputs, ready, strict=True)
    everyone = [One(number, *row) for number, row in enumerate(rows)]
    engine = PlainEngine(everyone, cost, policy, limits)
    while engine.coming or engine.waiting or engine.running:
        engine.step()
    return everyone, engine.steps, engine.block_time


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
    gap = st.one_of(st.just(0.0), st.floats(1e-6, 0.5), st.floats(1e-6, 0.01))
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
        draw(st.sampled_from([1, 1, 1, 2, 7])), draw(st.sampled_from([0, 0, 1, 9])),
        draw(st.sampled_from([0.5, 1.0])) * tokens,
        draw(st.sampled_from([None, None, 0.0, 1e-3])), draw(st.booleans()),
    )  # fmt: skip
    return inputs, outputs, ready, policy, limits
