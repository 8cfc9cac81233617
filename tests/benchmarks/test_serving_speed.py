"""Committed speed budgets of the serving simulator, on one core."""

import resource

import numpy as np
import pytest

from hwsim.api.serving import serve

LOAD = {"input_len": "lognormal:1000", "output_len": "lognormal:250"}
PER_REPLICA = 12.0  # requests per second: busy, and stable


def speed(requests, replicas, rounds):
    """Return the best simulated requests per second of several runs."""
    found = [
        serve(
            "llama-3.1-8b",
            "h100-80gb-sxm",
            rate=PER_REPLICA * replicas,
            requests=requests,
            replicas=replicas,
            **LOAD,
        )
        for _ in range(rounds)
    ]
    assert all(r.complete and r.run.outputs.size == requests for r in found)
    assert all(r.run.sums.events < 3 * requests for r in found)
    return requests / min(r.wall_s for r in found)


@pytest.mark.benchmark_budget
def test_one_replica_simulates_20000_requests_a_second():
    assert speed(20_000, 1, 5) >= 20_000


@pytest.mark.benchmark_budget
def test_the_cost_of_a_request_is_flat_from_10000_to_200000():
    few, many = speed(10_000, 1, 5), speed(200_000, 1, 1)
    assert many >= 0.6 * few


@pytest.mark.benchmark_budget
def test_a_million_requests_on_16_replicas_take_a_minute_and_2_gb():
    assert 1_000_000 / speed(1_000_000, 16, 1) <= 60.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert peak <= 2e9


@pytest.mark.benchmark_budget
def test_a_stretch_is_one_event_however_long():
    short, long = (
        serve(
            "llama-3.1-8b",
            "h100-80gb-sxm",
            rate=0.5,
            requests=500,
            input_len="fixed:100",
            output_len=f"fixed:{n}",
        ).run.sums
        for n in (100, 800)
    )
    assert long.steps > 3 * short.steps
    assert long.events < 1.6 * short.events
    assert np.isfinite(long.gap_time)
