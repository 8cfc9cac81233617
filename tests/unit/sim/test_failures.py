"""Runs with failures: limits, closed form, spares, going on after a stop."""

import copy
import math

import numpy as np
import pytest

from hwsim.cost.reliability import daly_interval, expected_goodput, young_interval
from hwsim.sim.failures import FailurePlan, RunState, run_with_failures

PLAN = FailurePlan(
    work=3e6, interval=1800.0, write_time=30.0, restart_time=300.0, repair_time=1e4,
    mtbf=2e4, spares=1000,
)  # fmt: skip


def run(plan, seed=0, **options):
    return run_with_failures(plan, np.random.default_rng(seed), **options)


def test_without_failures_only_checkpoints_cost_time():
    calm = FailurePlan(10_000.0, 1000.0, 5.0, 1.0, 1.0, math.inf)
    state = run(calm)
    # The end of the run needs no checkpoint of its own.
    assert state.now == pytest.approx(10_000.0 + 9 * 5.0)
    assert state.failures == 0


def test_without_checkpoints_and_failures_time_is_work():
    state = run(FailurePlan(500.0, math.inf, 5.0, 1.0, 1.0, math.inf))
    assert state.now == 500.0


def test_goodput_equals_theory_in_the_limit():
    expected = float(
        expected_goodput(PLAN.interval, PLAN.write_time, PLAN.restart_time, PLAN.mtbf)
    )
    walls = [run(PLAN, seed).now for seed in range(60)]
    mean = PLAN.work / np.array(walls)
    error = mean.std(ddof=1) / math.sqrt(len(walls))
    assert mean.mean() == pytest.approx(expected, abs=4 * error)
    assert error < 0.005


def test_time_is_accounted_for():
    state = run(PLAN)
    spent = state.done + state.lost + state.writing + state.restarting + state.waiting
    assert spent == pytest.approx(state.now, rel=1e-9)
    assert state.done == pytest.approx(PLAN.work)


def test_stopping_and_going_on_loses_nothing():
    whole = run(PLAN, seed=3)
    state = RunState()
    for stop in (5, 20, 21, None):
        saved = copy.deepcopy(state.to_dict())
        state = run(PLAN, seed=99, state=RunState(**saved), until_failures=stop)
        if stop == 5:  # the first part must come from the same seed
            state = run(PLAN, seed=3, until_failures=5)
    assert state.to_dict() == whole.to_dict()


def test_same_seed_same_run():
    assert run(PLAN, 7).to_dict() == run(PLAN, 7).to_dict()


def test_missing_spares_make_the_job_wait():
    bare = FailurePlan(**{**_fields(PLAN), "spares": 0, "repair_time": 5000.0})
    few = FailurePlan(**{**_fields(PLAN), "spares": 1, "repair_time": 5000.0})
    assert run(PLAN).waiting == 0.0
    waited, with_one = run(bare), run(few)
    assert waited.waiting > with_one.waiting > 0.0
    assert waited.waiting <= 5000.0 * waited.failures


def _fields(plan):
    return {name: getattr(plan, name) for name in plan.__dataclass_fields__}


def test_optimum_interval_is_best_on_a_grid():
    write, mtbf, restart = 60.0, 36_000.0, 600.0
    grid = np.geomspace(100, 30_000, 4000)
    best = grid[np.argmax(expected_goodput(grid, write, restart, mtbf))]
    assert float(daly_interval(write, mtbf)) == pytest.approx(best, rel=0.01)
    assert float(young_interval(write, mtbf)) == pytest.approx(best, rel=0.06)


def test_goodput_falls_with_failures():
    mtbf = np.array([1e3, 1e4, 1e5, np.inf])
    goodput = expected_goodput(1000.0, 10.0, 60.0, mtbf)
    assert np.all(np.diff(goodput) > 0)
    assert goodput[-1] == pytest.approx(1000 / 1010)
