"""A plain engine with a prefix cache: a list of what is idle, looked through."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import simpy
from hypothesis import strategies as st

from hwsim.sim.serving.cluster import Cluster
from hwsim.sim.serving.prefix import CachingReplica
from hwsim.sim.serving.prefixes import Prefixes
from hwsim.sim.serving.records import Requests, StepLog
from hwsim.sim.serving.routers import router_named
from tests.strategies.serving import One, PlainEngine, scenarios


class PlainCaching(PlainEngine):
    """Units are known by all that they and those before them hold."""

    def __init__(self, everyone, cost, policy, limits, names, unit):
        super().__init__(everyone, cost, policy, limits)
        self.names, self.unit = names, unit
        self.held, self.idle, self.hits = {}, [], {}

    def keys(self, r, tokens):
        return [(self.names(r.number, i), i) for i in range(tokens // self.unit)
                if self.names(r.number, i) is not None]  # fmt: skip

    def size(self, key):
        size = self.limits.block_size
        return (key[1] + 1) * self.unit // size - key[1] * self.unit // size

    def users(self, key):
        return sum(key in keys for keys in self.held.values())

    def shared(self):
        every = {key for keys in self.held.values() for key in keys}
        return sum((self.users(key) - 1) * self.size(key) for key in every)

    def used(self):
        return super().used() - self.shared()

    def trim(self):
        room = max(self.limits.num_blocks - self.used(), 0)
        while sum(map(self.size, self.idle)) > room:
            self.idle.pop(0)

    def hit(self, r):
        found = []
        for key in self.keys(r, r.inp + r.generated - 1):
            if key not in self.idle and not self.users(key):
                break
            found.append(key)
        return found

    def known(self, r):
        self.trim()
        size = self.limits.block_size
        return len(self.hit(r)) * self.unit // size * size

    def admissible(self, r):
        limits = self.limits
        if not self.running:
            return super().admissible(r)
        super().admissible(r)  # its target and claim
        found = [] if r.handed else self.hit(r)
        fewer = sum(self.size(key) for key in found if self.users(key))
        most = limits.num_blocks - limits.watermark_blocks
        claims = sum(o.claim for o in self.running) - self.shared()
        used = self.used() + self.blocks(r.target)
        return claims + r.claim - fewer <= most and used - fewer <= most

    def pin(self, r, tokens):
        self.hits[r.number] = tokens
        self.keep(r, self.hit(r))
        self.trim()

    def keep(self, r, keys):
        self.idle = [key for key in self.idle if key not in keys]
        self.held[r.number] = keys

    def release(self, r):
        for key in reversed(self.held.pop(r.number, [])):
            if not self.users(key):
                self.idle.append(key)

    def give_tokens(self, stepping, chunks):
        self.trim()
        super().give_tokens(stepping, chunks)
        for r in sorted(stepping, key=lambda r: r.number):
            self.end(r)
        for r, _, _ in chunks:
            if r.decoding:
                self.keep(r, self.keys(r, r.target))
                self.end(r)

    def end(self, r):
        if r.done:
            self.keep(r, self.keys(r, r.inp + r.out - 1))
            self.release(r)


def plain_caching_serve(scenario, cost, names, unit):
    """Serve step by step; return requests, engine."""
    inputs, outputs, ready, policy, limits = scenario
    rows = zip(inputs, outputs, ready, strict=True)
    everyone = [One(number, *row) for number, row in enumerate(rows)]
    engine = PlainCaching(everyone, cost, policy, limits, names, unit)
    while engine.coming or engine.waiting or engine.running:
        engine.step()
    return everyone, engine


def fast_caching_serve(scenario, cost, prefixes, *, replicas=1, router="round_robin"):
    """Serve with the engine under test; return columns and engines."""
    inputs, outputs, ready, policy, limits = scenario
    requests = Requests(inputs, outputs, np.array(ready), prefixes=prefixes)
    engines = [
        CachingReplica(requests, cost, policy, limits, StepLog(), index=i)
        for i in range(replicas)
    ]
    Cluster(simpy.Environment(), engines, router_named(router)).run(requests)
    return requests, engines


@st.composite
def prefix_scenarios(draw):
    """Draw a scenario without static batches, prefixes, and names of units."""
    # Waiting for more prompts, together with swapping, is not a cache's business.
    scenario = draw(scenarios().filter(lambda s: not s[3].holds))
    limits = replace(scenario[4], wait_steps=0)
    scenario = (*scenario[:4], limits)
    count = len(scenario[0])
    if draw(st.booleans()):
        labels = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
        previous = [max((j for j in range(i) if labels[j] == labels[i]), default=-1)
                    for i in range(count)]  # fmt: skip
        prefixes = Prefixes(previous, labels)
        return scenario, prefixes, lambda r, _: labels[r], scenario[4].block_size
    span = draw(st.sampled_from([3, 4, 8, 32]))
    ids = [
        draw(st.lists(st.integers(0, 1), min_size=i // span, max_size=i // span))
        for i in scenario[0]
    ]
    trie = {}
    chains = [
        tuple(trie.setdefault(tuple(one[: n + 1]), len(trie)) for n in range(len(one)))
        for one in ids
    ]
    alone = [-1] * count

    def name(request, at):
        one = ids[request]
        return tuple(one[: at + 1]) if at < len(one) else None

    return scenario, Prefixes(alone, range(count), chains, span), name, span
