"""A prefix cache against a plain one; what always holds of it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings

from hwsim.schedule.batching import POLICIES
from hwsim.sim.serving.batch import Limits
from hwsim.sim.serving.prefixes import Prefixes
from tests.property.test_serving import COSTS, agree
from tests.strategies.serving import AffineCost, fast_serve, scenarios
from tests.strategies.serving_prefix import (
    fast_caching_serve,
    plain_caching_serve,
    prefix_scenarios,
)


@settings(max_examples=300, deadline=None)
@given(prefix_scenarios(), COSTS)
def test_skipping_ahead_hits_and_evicts_what_single_steps_do(drawn, cost):
    scenario, prefixes, names, unit = drawn
    requests, engines = fast_caching_serve(scenario, cost, prefixes)
    plain, engine = plain_caching_serve(scenario, cost, names, unit)
    agree(requests, engines, plain, engine.steps, engine.block_time)
    hits = [engine.hits.get(i, 0) for i in range(len(plain))]
    assert requests.cached.tolist() == hits
    assert engines[0].cache.idle == sum(map(engine.size, engine.idle))


@settings(max_examples=150, deadline=None)
@given(prefix_scenarios(), COSTS)
def test_tokens_and_blocks_are_conserved(drawn, cost):
    scenario, prefixes, _, _ = drawn
    requests, (engine,) = fast_caching_serve(scenario, cost, prefixes)
    sums, cached = engine.log.flush(), np.array(requests.cached)
    assert engine.pages.used(engine.counter) == engine.pages.claims == 0
    assert 0 <= engine.cache.idle <= scenario[4].num_blocks
    assert 0 < sums.peak_blocks <= scenario[4].num_blocks
    if not any(requests.preemptions):
        assert (cached < np.array(requests.inputs)).all()
        assert sums.prefill_tokens == sum(requests.inputs) - cached.sum()
    engine.cache.trim(scenario[4].num_blocks)
    assert engine.cache.idle == 0


@settings(max_examples=60, deadline=None)
@given(scenarios().filter(lambda s: not s[3].holds), COSTS)
def test_requests_that_share_nothing_are_served_as_without_a_cache(scenario, cost):
    count = len(scenario[0])
    prefixes = Prefixes([-1] * count, range(count))
    requests, _ = fast_caching_serve(scenario, cost, prefixes)
    other, _ = fast_serve(scenario, cost)
    if not any(other.preemptions):
        assert requests.finish == other.finish
        assert not any(requests.cached)


def test_the_least_recently_used_end_of_a_prefix_goes_first():
    # Histories 0, 1 of 8 blocks each, then 0 again, in a memory of 12 blocks:
    # the second drops the four last blocks of the first.
    limits = Limits(4, 100, True, 12, 4)
    scenario = ([32, 32, 33], [1, 1, 1], [0.0, 10.0, 20.0], POLICIES["mixed"], limits)
    prefixes = Prefixes([-1, -1, 0], [0, 1, 0])
    requests, _ = fast_caching_serve(scenario, AffineCost(), prefixes)
    assert list(requests.cached) == [0, 0, 16]


def test_a_session_stays_where_it_was():
    limits = Limits(4, 100, True, 100, 4)
    turns = np.arange(8)
    previous = np.where(turns < 3, -1, turns - 3).tolist()
    scenario = (
        (20 + turns).tolist(), [5] * 8, (turns * 0.01).tolist(), POLICIES["mixed"],
        limits,
    )  # fmt: skip
    prefixes = Prefixes(previous, (turns % 3).tolist())
    requests, _ = fast_caching_serve(
        scenario, AffineCost(), prefixes, replicas=3, router="session"
    )
    for request, before in enumerate(previous):
        if before >= 0:
            assert requests.replica[request] == requests.replica[before]
    assert len(set(requests.replica)) == 3
