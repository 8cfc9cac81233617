"""Intervals of a service: requests played again with slower and faster steps."""

import math

import numpy as np
import pytest

import hwsim
from hwsim.analysis.serving import interval

ASKED = {"input_len": "lognormal:500", "output_len": "lognormal:60", "seed": 3}


def served(**asked):
    return hwsim.serve("llama-3.1-8b", "h100", **{"requests": 300, **ASKED, **asked})


def test_a_light_load_has_the_interval_of_its_steps():
    """Requests that never meet wait for steps only: latencies go with them."""
    result = served(rate=0.01, requests=40)
    steps = interval.step_interval(result)
    low, high = result.interval_90["tpot_s"]["mean"]
    assert low == pytest.approx(result.tpot_s["mean"] * math.exp(steps.low), rel=1e-4)
    assert high == pytest.approx(result.tpot_s["mean"] * math.exp(steps.high), rel=1e-4)


def test_all_at_once_turns_throughput_by_the_inverse_of_step_times():
    result = served(rate=math.inf)
    steps = interval.step_interval(result)
    low, high = result.interval_90["tokens_per_s"]
    assert low == pytest.approx(result.tokens_per_s * math.exp(-steps.high), rel=0.02)
    assert high == pytest.approx(result.tokens_per_s * math.exp(-steps.low), rel=0.02)


def test_queues_make_more_of_an_error():
    """Near the most that can be served, the first token's interval is far wider."""
    result = served(rate=60.0, requests=3000)
    low, high = result.interval_90["ttft_s"]["mean"]
    light = served(rate=0.01, requests=40).interval_90["ttft_s"]["mean"]
    assert high / low > 5 * light[1] / light[0]


def test_every_figure_lies_in_its_interval():
    result = served(rate=10.0, slo={"ttft": 0.05})
    found = result.interval_90
    for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        for key, value in getattr(result, name).items():
            low, high = found[name][key]
            assert low <= value <= high, (name, key)
    for name in ("tokens_per_s", "requests_per_s", "goodput_rps"):
        low, high = found[name]
        assert low <= getattr(result, name) <= high
    assert result.to_dict()["interval_90"] == found


def test_playing_again_at_the_same_speed_gives_the_same_run():
    result = served(rate=8.0, replicas=2, router="least_outstanding")
    again = result.replay.at(1.0)
    np.testing.assert_array_equal(again.finish, result.run.finish)


def test_sessions_and_prompt_replicas_play_again():
    turns = served(rate=2.0, turns=3, think_time=1.0)
    apart = served(rate=4.0, prefill={"replicas": 1, "kv_bandwidth": 50e9})
    for result in (turns, apart):
        low, high = result.interval_90["e2e_s"]["mean"]
        assert low < result.e2e_s["mean"] < high


def test_a_part_of_a_long_run_stands_for_all(monkeypatch):
    whole = served(rate=8.0).interval_90["tpot_s"]["mean"]
    monkeypatch.setattr(interval, "_MOST", 150)
    part = served(rate=8.0)
    low, high = part.interval_90["tpot_s"]["mean"]
    assert part.replay.at(1.0).outputs.size == 150
    assert (low, high) == pytest.approx(whole, rel=0.1)


def test_a_speed_of_light_has_none():
    assert served(rate=5.0, fidelity="roofline").interval_90 is None


def test_the_answer_says_when_it_may_not_keep_up(capsys):
    from hwsim.cli.serve_show import serve_notes, show_service

    result = served(rate=60.0, requests=3000)
    assert result.stable
    show_service(result)
    serve_notes(result)
    out, err = capsys.readouterr()
    assert "90 % interval of the mean" in out
    assert "may be all that can be served for long" in err


def test_a_plan_confirms_at_the_slow_end_by_playing_again():
    plan = hwsim.plan_serve(
        "llama-3.1-8b", ["h100"], slo={"ttft.p99": 2.0, "tpot.p99": 0.1}, rate=10.0,
        simulate=1, requests=600,
    )  # fmt: skip
    best = plan.cheapest
    for check in best.checks:
        ends = best.result.interval_90[f"{check.key}_s"][check.stat]
        assert check.model_upper == ends[1] > check.value
