"""A prefix cache against a plain one; what always holds of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from hwsim.schedule.batching import POLICIES
from hwsim.sim.serving.batch import Limits
from hwsim.sim.serving.plan import SAME_TIME
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


def common(names, unit, tokens, one, other):
    """Return the tokens that two prompts begin with in common, in whole units."""
    count = 0
    while (
        (count + 1) * unit <= min(tokens[one], tokens[other])
        and names(one, count) is not None
        and names(one, count) == names(other, count)
    ):
        count += 1
    return count * unit


@settings(max_examples=200, deadline=None)
@given(prefix_scenarios(), COSTS)
def test_prompts_go_where_most_of_them_went_before(drawn, cost):
    scenario, prefixes, names, unit = drawn
    # Histories are remembered by token, chains by unit.
    step = 1 if prefixes.chains is None else unit
    inputs, _, ready = scenario[:3]
    requests, _ = fast_caching_serve(
        scenario, cost, prefixes, replicas=3, router="longest_prefix"
    )
    for one in range(len(inputs)):
        at = ready[one] - SAME_TIME
        before = [j for j in range(one) if requests.replica[j] >= 0]
        loads = [
            sum(requests.replica[j] == i and requests.finish[j] >= at for j in before)
            for i in range(3)
        ]
        known = [
            max((common(names, step, inputs, one, j) for j in before
                 if requests.replica[j] == i), default=0)
            for i in range(3)
        ]  # fmt: skip
        choice = [i for i in range(3) if known[i] == max(known)]
        if max(known) <= 0.3 * inputs[one]:
            choice = [0, 1, 2]
        assert requests.replica[one] == min(choice, key=lambda i: loads[i])


@settings(max_examples=100, deadline=None)
@given(prefix_scenarios(), COSTS)
def test_each_replica_behind_a_router_serves_as_single_steps_do(drawn, cost):
    (inputs, outputs, ready, policy, limits), prefixes, names, unit = drawn
    requests, _ = fast_caching_serve(
        (inputs, outputs, ready, policy, limits), cost, prefixes,
        replicas=2, router="longest_prefix",
    )  # fmt: skip
    for index in range(2):
        own = [i for i in range(len(inputs)) if requests.replica[i] == index]
        if not own:
            continue
        part = [[column[i] for i in own] for column in (inputs, outputs, ready)]
        plain, engine = plain_caching_serve(
            (*part, policy, limits),
            cost,
            lambda r, at, own=own: names(own[r], at),
            unit,
        )
        finish = [requests.finish[i] for i in own]
        assert finish == pytest.approx([r.times[-1] for r in plain], rel=1e-9)
        hits = [engine.hits.get(i, 0) for i in range(len(own))]
        assert [requests.cached[i] for i in own] == hits
