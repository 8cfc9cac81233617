"""A service's course over time against its sums over steps."""

import json

import numpy as np
import pytest

import hwsim
from hwsim.analysis.serving.series import BINS, mean_present, merged, series_of

ASKED = {"input_len": "lognormal:400", "output_len": "lognormal:80", "requests": 400}


def served(model="llama-3.2-3b", **asked):
    return hwsim.serve(model, "dgx-h100", **{**ASKED, **asked})


CASES = {
    "busy": {"rate": 60.0},
    "idle at times": {"rate": 1.0},
    "two replicas": {"rate": 10.0, "replicas": 2, "router": "least_outstanding"},
    "closed loop": {"concurrency": 8},
    "all at once": {"rate": float("inf")},
    "prompts apart": {"rate": 10.0, "prefill": {"replicas": 1}},
}


@pytest.mark.parametrize("case", CASES)
def test_means_over_time_are_those_of_the_steps(case):
    result = served(**CASES[case])
    found = result.details()["series"]
    busy = np.mean(found["replica_busy"])
    assert busy == pytest.approx(result.utilisation, rel=1e-3)
    assert np.mean(found["kv_needed"]) == pytest.approx(
        result.kv_occupancy["mean"], rel=0.1
    )
    slots = result.run.sums.decode_slots / result.duration_s
    running, steps = np.mean(found["running"]), result.run.outputs.mean()
    if case == "prompts apart":
        # A request that is handed over joins the step after the next: between its
        # first two tokens it runs for up to two steps in which it has no slot.
        assert slots < running < slots * (1 + 2 / steps)
    else:
        assert running == pytest.approx(slots, rel=0.01)
    # Little's law.
    waiting = result.ttft_s["mean"] * result.requests_per_s
    assert np.mean(found["waiting"]) == pytest.approx(waiting, rel=1e-3)


def test_means_are_of_every_bin_and_plain_json():
    found = series_of(served(rate=20.0))
    lists = [found["waiting"], found["running"], found["kv_needed"]]
    assert [len(v) for v in (*lists, *found["replica_busy"])] == [BINS] * 4
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_what_the_answered_requests_do_not_tell_is_left_out():
    assert series_of(served(rate=20.0, engine="static"))["kv_needed"] is None
    failing = {"mtbf": 5.0, "repair": 1.0}
    assert series_of(served(rate=40.0, operations=failing))["replica_busy"] is None
    assert series_of(served(rate=20.0, replicas=33))["replica_busy"] is None


def test_ramps_against_a_plain_sum():
    rng = np.random.default_rng(5)
    start = rng.uniform(0.0, 8.0, 50)
    end, edges = start + rng.exponential(1.0, 50), np.linspace(0.0, 10.0, 11)
    height, slope = rng.uniform(0.0, 9.0, 50), rng.uniform(0.0, 9.0, 50)
    fine = (np.arange(200_000) + 0.5) / 20_000
    there = np.zeros_like(fine)
    for t0, t1, a, s in zip(start, end, height, slope, strict=True):
        there += np.where((t0 <= fine) & (fine < t1), a + s * (fine - t0), 0.0)
    plain = there.reshape(10, -1).mean(axis=1)
    found = mean_present(start, end, edges, height, slope)
    assert found == pytest.approx(plain, rel=1e-3)


def test_spans_that_touch_are_one():
    start, end = merged(np.array([3.0, 0.0, 1.0, 6.0]), np.array([4.0, 2.0, 3.0, 7.0]))
    assert (start.tolist(), end.tolist()) == ([0.0, 6.0], [4.0, 7.0])


WATCHED = {
    "apart": {"rate": 20.0, "replicas": 2},
    "routed": {"rate": 20.0, "replicas": 2, "router": "power_of_two"},
    "closed loop": {"concurrency": 8},
    "prompts apart": {"rate": 10.0, "prefill": {"replicas": 1}},
    "groups in step": {
        "model": "deepseek-v2-lite", "rate": 20.0, "attention_dp": 2, "ep": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("case", WATCHED)
def test_a_watcher_sees_what_the_requests_say(case, monkeypatch):
    monkeypatch.setattr("hwsim.analysis.serving.watch._EVERY", 0.0)
    seen = []
    run = served(**WATCHED[case], watch=seen.append).run
    assert len(seen) > 20
    assert any(s.running for s in seen)
    assert any(s.kv_occupancy for s in seen)
    for at in seen:
        # An engine may not yet have been brought up to the clock.
        assert at.done <= np.count_nonzero(run.finish <= at.time)
        # A client that asks again at this very time may not have done so.
        come = at.done + at.running + at.waiting
        assert come >= np.count_nonzero(run.arrival < at.time)
        assert come <= np.count_nonzero(run.arrival <= at.time)
        assert 0.0 <= at.kv_occupancy <= 1.0
    assert served(**WATCHED[case]).run.finish.tolist() == run.finish.tolist()
