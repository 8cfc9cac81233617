"""Prompts and answers on replicas apart, and what clients and failures do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hwsim.schedule.batching import POLICIES
from hwsim.sim.serving.batch import Limits
from hwsim.sim.serving.service import Handover
from tests.strategies.serving import (
    AffineCost,
    fast_disagg_serve,
    plain_answers,
    plain_serve,
    scenarios,
)

COSTS = st.builds(
    AffineCost,
    step=st.floats(1e-3, 0.1),
    sequence=st.floats(0.0, 1e-2),
    context=st.sampled_from([0.0, 1e-5, 1e-3]),
    token=st.floats(0.0, 1e-3),
)


def mine(requests, index):
    return [i for i, replica in enumerate(requests.replica) if replica == index]


@settings(max_examples=150, deadline=None)
@given(
    scenarios(), COSTS, st.integers(1, 3), st.integers(1, 3),
    st.sampled_from([0.0, 1e-4, 1e-2]), st.sampled_from([0.0, 1e-3]),
)  # fmt: skip
def test_pools_apart_give_what_single_steps_give(
    scenario, cost, prompts, answers, per_token, latency
):
    inputs, outputs, ready, policy, limits = scenario
    assume(not policy.holds)
    requests, first, service = fast_disagg_serve(
        scenario, cost, prompts=prompts, answers=answers,
        handover=Handover(latency, per_token),
    )  # fmt: skip
    for index in range(prompts):
        numbers = mine(first, index)
        plain, steps, _ = plain_serve(
            [inputs[i] for i in numbers], [1] * len(numbers),
            [ready[i] for i in numbers], cost, policy, limits,
        )  # fmt: skip
        ended = [first.finish[i] for i in numbers]
        assert ended == pytest.approx([r.times[0] for r in plain], rel=1e-9)
        assert service.engines[index].log.flush().steps == steps
    moved = [i for i, o in enumerate(outputs) if o > 1]
    for index in range(answers):
        numbers = service.had[index]  # in the order in which they came
        plain, engine = plain_answers(numbers, scenario, cost, requests)
        ended = [requests.finish[i] for i in numbers]
        expected = [plain[i].times[-1] for i in numbers]
        assert ended == pytest.approx(expected, rel=1e-9)
        begun = [requests.first[i] for i in numbers]
        assert begun == pytest.approx([plain[i].times[0] for i in numbers], rel=1e-9)
        sums = service.engines[prompts + index].log.flush()
        assert sums.steps == engine.steps
        assert sums.gaps.sum() == sum(outputs[i] - 1 for i in numbers)
        gaps = sum(plain[i].times[-1] - plain[i].times[0] for i in numbers)
        assert sums.gap_time == pytest.approx(gaps, rel=1e-8, abs=1e-12)
    assert sorted(i for had in service.had for i in had) == moved
    # A transfer takes at least its time alone; all of them together share.
    for i in moved:
        alone = per_token * inputs[i] + latency
        assert requests.moving[i] >= alone * (1 - 1e-9)
        begun = first.finish[i] + requests.moving[i]
        assert requests.ready[i] == pytest.approx(begun, rel=1e-9, abs=1e-9)
    assert all(requests.moving[i] == 0 for i in range(len(outputs)) if outputs[i] == 1)
    assert not np.isnan(np.array(requests.finish)).any()


def test_transfers_at_once_share_the_link():
    limits = Limits(8, 1000, True, 1000, 16)
    scenario = ([100, 100], [5, 5], [0.0, 0.0], POLICIES["mixed"], limits)
    requests, _, _ = fast_disagg_serve(
        scenario, AffineCost(), prompts=1, answers=1, handover=Handover(0.0, 0.01)
    )
    assert list(requests.moving) == pytest.approx([2.0, 2.0])
    apart, _, _ = fast_disagg_serve(
        scenario, AffineCost(), prompts=2, answers=2, handover=Handover(0.0, 0.01)
    )
    assert list(apart.moving) == pytest.approx([1.0, 1.0])
    shared, _, _ = fast_disagg_serve(
        scenario, AffineCost(), prompts=2, answers=1, handover=Handover(0.0, 0.01)
    )
    assert list(shared.moving) == pytest.approx([2.0, 2.0])  # the receiver's link


@settings(max_examples=60, deadline=None)
@given(scenarios(), COSTS, st.integers(1, 4))
def test_closed_loop_clients_of_pools_apart(scenario, cost, clients):
    assume(not scenario[3].holds)
    requests, _, _ = fast_disagg_serve(
        scenario, cost, prompts=1, answers=2, handover=Handover(1e-3, 1e-4),
        concurrency=clients,
    )  # fmt: skip
    arrival, finish = np.array(requests.arrival), np.array(requests.finish)
    for request, time in enumerate(arrival):
        under_way = np.sum((arrival[:request] <= time) & (finish[:request] > time))
        assert under_way < clients
