"""The engine that skips ahead against the plain one; what always holds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hwsim.schedule.batching import POLICIES, policy_named
from hwsim.sim.serving.batch import Limits
from tests.strategies.serving import (
    AffineCost,
    BrokenCost,
    fast_joint_serve,
    fast_serve,
    plain_joint_serve,
    plain_serve,
    scenarios,
)

COSTS = st.one_of(
    st.builds(
        AffineCost,
        step=st.floats(1e-3, 0.1),
        sequence=st.floats(0.0, 1e-2),
        context=st.sampled_from([0.0, 1e-5, 1e-3]),
        token=st.floats(0.0, 1e-3),
    ),
    st.builds(BrokenCost, kink=st.floats(5.0, 400.0)),
)


def agree(requests, engines, plain, steps, block_time):
    first = [r.times[0] for r in plain]
    last = [r.times[-1] for r in plain]
    assert np.array(requests.first) == pytest.approx(first, rel=1e-9)
    assert np.array(requests.finish) == pytest.approx(last, rel=1e-9)
    assert list(requests.preemptions) == [r.preempted for r in plain]
    assert [len(r.times) for r in plain] == requests.outputs
    sums = [e.log.flush() for e in engines]
    assert sum(s.steps for s in sums) == steps
    gaps = np.concatenate([np.diff(r.times) for r in plain])
    assert sum(s.gaps.sum() for s in sums) == gaps.size
    assert sum(s.gap_time for s in sums) == pytest.approx(gaps.sum(), rel=1e-8)
    held = sum(s.block_time for s in sums)
    if not engines[0].policy.holds:
        # Blocks fill in steps; a line is drawn from a stretch's first to its last.
        busy = sum(s.busy_time for s in sums)
        assert held == pytest.approx(block_time, abs=busy * len(plain))


RESUMED = (  # what waits behind a request swapped back in waits anew
    [1] * 10, [1, 1, 1, 1, 1, 28, 2, 11, 9, 1], [0.0] * 10, policy_named("mixed"),
    Limits(3, 4, chunked=False, num_blocks=8, block_size=4, watermark_blocks=2,
           wait_steps=1, wait_tokens=4.0, swap_time=0.0),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(scenarios(), COSTS)
@example(RESUMED, BrokenCost(kink=5.0))
def test_skipping_ahead_gives_what_single_steps_give(scenario, cost):
    requests, engines = fast_serve(scenario, cost)
    plain, steps, block_time = plain_serve(*scenario[:3], cost, *scenario[3:])
    agree(requests, engines, plain, steps, block_time)


@settings(max_examples=60, deadline=None)
@given(scenarios(), COSTS, st.integers(2, 3))
def test_a_replica_behind_a_router_is_an_engine_of_its_own(scenario, cost, replicas):
    requests, _ = fast_serve(
        scenario, cost, router="least_outstanding", replicas=replicas
    )
    inputs, outputs, ready, policy, limits = scenario
    for index in range(replicas):
        mine = [i for i, r in enumerate(requests.replica) if r == index]
        plain, _, _ = plain_serve(
            [inputs[i] for i in mine], [outputs[i] for i in mine],
            [ready[i] for i in mine], cost, policy, limits,
        )  # fmt: skip
        finish = [requests.finish[i] for i in mine]
        assert finish == pytest.approx([r.times[-1] for r in plain], rel=1e-9)


@settings(max_examples=200, deadline=None)
@given(scenarios(), COSTS, st.integers(2, 4))
def test_groups_in_lock_step_give_what_single_steps_give(scenario, cost, groups):
    requests, engine, had = fast_joint_serve(scenario, cost, groups)
    plain, steps, block_time = plain_joint_serve(scenario, cost, had)
    for member in engine.groups[1:]:
        assert member.log.flush().steps == steps
        member.log.sums.steps = 0.0
    agree(requests, engine.groups, plain, steps, block_time)
    assert engine.outstanding == 0


PREEMPTED_WHILE_BARRED = (
    [1, 1, 1, 1, 1, 1, 1, 2, 1], [1, 1, 1, 1, 1, 3, 3, 2, 1], [0.0] * 9,
    policy_named("mixed"),
    Limits(
        max_num_seqs=2, max_num_batched_tokens=3, chunked=False, num_blocks=4,
        block_size=1, watermark_blocks=0,
    ),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(scenarios(), COSTS, st.integers(2, 4), st.sampled_from([1, 3, 60]))
@example(PREEMPTED_WHILE_BARRED, BrokenCost(kink=5.0), 2, 3)
def test_prompts_of_groups_in_lock_step_wait_for_each_other(
    scenario, cost, groups, most
):
    limits = replace(scenario[4], wait_steps=0, balance_steps=most)
    scenario = (*scenario[:4], limits)
    requests, engine, had = fast_joint_serve(scenario, cost, groups)
    plain, steps, block_time = plain_joint_serve(scenario, cost, had)
    for member in engine.groups[1:]:
        assert member.log.flush().steps == steps
        member.log.sums.steps = 0.0
    agree(requests, engine.groups, plain, steps, block_time)
    assert engine.outstanding == 0


@settings(max_examples=40, deadline=None)
@given(scenarios(), COSTS)
def test_one_group_in_lock_step_is_an_engine(scenario, cost):
    alone, _ = fast_serve(scenario, cost)
    joint, _, _ = fast_joint_serve(scenario, cost, 1)
    assert np.array(joint.finish) == pytest.approx(np.array(alone.finish), rel=1e-9)
    assert joint.preemptions == alone.preemptions


@settings(max_examples=60, deadline=None)
@given(scenarios(), COSTS, st.integers(1, 5))
def test_closed_loop_clients_send_when_they_are_answered(scenario, cost, clients):
    requests, _ = fast_serve(scenario, cost, concurrency=clients)
    arrival, finish = np.array(requests.arrival), np.array(requests.finish)
    for request, time in enumerate(arrival):
        under_way = np.sum((arrival[:request] <= time) & (finish[:request] > time))
        assert under_way < clients
    inputs, outputs, _, policy, limits = scenario
    plain, _, _ = plain_serve(
        inputs, outputs, list(requests.ready), cost, policy, limits
    )
    assert finish == pytest.approx([r.times[-1] for r in plain], rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(scenarios(), COSTS)
def test_tokens_blocks_and_presence_are_conserved(scenario, cost):
    requests, engines = fast_serve(scenario, cost)
    engine = engines[0]
    sums = engine.log.flush()
    assert engine.outstanding == engine.running == engine.pages.count == 0
    assert engine.pages.used(engine.counter) == engine.pages.claims == 0
    assert 0 < sums.peak_blocks <= scenario[4].num_blocks
    assert sums.gaps.sum() == sum(o - 1 for o in requests.outputs)
    if not any(requests.preemptions):
        assert sums.prefill_tokens == sum(requests.inputs)
        if not scenario[3].holds:
            decoded = sum(o - 1 for o in requests.outputs)
            assert sums.decode_tokens == decoded
    # Little's law of the decode phase: the engine's integral of its own batch
    # is the sum of what requests spend there (a stalled batch does not count).
    if scenario[3].mixed and not any(requests.preemptions):
        spent = np.array(requests.finish) - np.array(requests.first)
        assert sums.decode_slots == pytest.approx(spent.sum(), rel=1e-9, abs=1e-12)
    # Work conservation: busy from the first arrival on, but for empty times.
    span = max(requests.finish) - requests.ready[0]
    idle = _empty_time(requests)
    assert sums.busy_time == pytest.approx(span - idle, rel=1e-9, abs=1e-8)


def _empty_time(requests) -> float:
    moments = [(t, 1) for t in requests.ready] + [(t, -1) for t in requests.finish]
    idle, present, before = 0.0, 0, None
    for time, change in sorted(moments, key=lambda m: (m[0], -m[1])):
        if present == 0 and before is not None:
            idle += time - before
        present, before = present + change, time
    return idle


def test_memory_that_runs_out_preempts_the_last_and_recomputes():
    limits = Limits(4, 64, True, 10, 4)
    scenario = ([8, 8, 8], [20, 20, 20], [0.0, 0.0, 0.0], POLICIES["mixed"], limits)
    requests, engines = fast_serve(scenario, AffineCost())
    plain, steps, block_time = plain_serve(*scenario[:3], AffineCost(), *scenario[3:])
    assert sum(requests.preemptions) >= 2
    assert requests.preemptions[0] == 0
    agree(requests, engines, plain, steps, block_time)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_long_runs_agree_too(name):
    rng = np.random.default_rng(3)
    count = 300
    inputs = rng.integers(1, 120, count).tolist()
    outputs = rng.integers(1, 80, count).tolist()
    ready = np.cumsum(rng.exponential(0.05, count)).tolist()
    limits = Limits(8, 64, True, 90, 16, 1, 1.0 if name == "static" else 0.0)
    scenario = (inputs, outputs, ready, POLICIES[name], limits)
    requests, engines = fast_serve(scenario, BrokenCost(kink=300.0))
    plain, steps, blocks = plain_serve(
        *scenario[:3], BrokenCost(kink=300.0), *scenario[3:]
    )
    agree(requests, engines, plain, steps, blocks)
    held = engines[0].log.sums.block_time
    assert held == pytest.approx(blocks, rel=0.01 if name != "static" else 0.2)
    assert sum(e.log.sums.events for e in engines) < 0.6 * steps


def service(values, limits_seqs, cost, arrival, outputs):
    limits = Limits(limits_seqs, 10**9, False, 10**9, 16)
    scenario = (values, outputs, arrival, POLICIES["mixed"], limits)
    requests, _ = fast_serve(scenario, cost)
    return np.array(requests.finish) - np.array(requests.ready)


def batched_interval(values, batches=40):
    """Mean and four standard errors of it, by batch means."""
    means = values[: values.size // batches * batches].reshape(batches, -1).mean(1)
    return means.mean(), 4.0 * means.std(ddof=1) / math.sqrt(batches)


@pytest.mark.parametrize("load", [0.5, 0.8])
@pytest.mark.parametrize("kind", ["deterministic", "exponential"])
def test_one_slot_waits_as_queueing_theory_says(load, kind):
    """M/D/1 and M/M/1 (Pollaczek-Khinchine): a prompt is the whole service."""
    rng = np.random.default_rng(11)
    count, scale = 60_000, 1_000_000
    arrival = np.cumsum(rng.exponential(1.0 / load, count))
    if kind == "deterministic":
        tokens = np.full(count, scale)
    else:
        tokens = np.maximum(rng.exponential(scale, count), 1).astype(int)
    cost = AffineCost(step=1e-12, sequence=0.0, context=0.0, token=1.0 / scale)
    cost.mixed = lambda chunks, batch, contexts: sum(q for q, _ in chunks) / scale
    times = service(tokens.tolist(), 1, cost, arrival.tolist(), [1] * count)
    wait, error = batched_interval(times - tokens / scale)
    second = 1.0 if kind == "deterministic" else 2.0
    assert wait == pytest.approx(load * second / (2.0 * (1.0 - load)), abs=error)
    assert error < 0.25 * wait


@pytest.mark.parametrize(("slots", "load"), [(1, 0.7), (4, 0.8), (8, 0.8)])
def test_slots_wait_as_erlang_says(slots, load):
    """M/M/c: geometric outputs in steps of a time that the batch does not change."""
    rng = np.random.default_rng(5)
    count, mean = 60_000, 1000
    arrival = np.cumsum(rng.exponential(1.0 / (load * slots), count))
    outputs = rng.geometric(1.0 / mean, count)
    cost = AffineCost(step=1.0 / mean, sequence=0.0, context=0.0, token=0.0)
    cost.mixed = lambda chunks, batch, contexts: 1.0 / mean
    times = service([1] * count, slots, cost, arrival.tolist(), outputs.tolist())
    wait, error = batched_interval(times - outputs / mean)
    offered = load * slots
    last = offered**slots / math.factorial(slots) / (1.0 - load)
    none = sum(offered**k / math.factorial(k) for k in range(slots)) + last
    expected = last / none / (slots * (1.0 - load))
    # An arrival is seen at the end of the step that runs: half a step more.
    busy = 0.5 / mean
    assert error < 0.4 * expected
    assert wait == pytest.approx(expected + busy, abs=error + busy)


@settings(max_examples=50, deadline=None)
@given(scenarios())
@example(([1], [1], [0.0], POLICIES["static"], Limits(1, 1, False, 1, 16)))
def test_the_same_run_gives_the_same_times(scenario):
    runs = [fast_serve(scenario, AffineCost())[0] for _ in range(2)]
    assert runs[0].finish == runs[1].finish
    assert runs[0].first == runs[1].first
