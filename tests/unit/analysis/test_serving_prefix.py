"""Prefix caching and sessions, from the question to the answer."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hwsim.api.serving import serve
from hwsim.errors import InputError
from hwsim.sim.serving.arrivals import read_trace


def asked(**more):
    fixed = {"requests": 60, "input_len": "fixed:400", "output_len": "fixed:20"}
    return serve("llama-3.1-8b", "h100", **{"rate": 4.0, **fixed, **more})


def test_turns_hit_all_that_was_said_and_are_sooner_at_the_first_token():
    on = asked(turns=3, think_time=2.0, prefix_caching=True)
    off = asked(turns=3, think_time=2.0)
    # Contexts of 419 and 839 computed tokens, in whole blocks of 16.
    assert sorted(set(on.requests["cached_tokens"])) == [0, 416, 832]
    assert sorted(set(on.run.inputs.tolist())) == [400, 820, 1240]
    assert on.run.prefix_hit_rate == pytest.approx((416 + 832) / (400 + 820 + 1240))
    assert on.ttft_s["mean"] < off.ttft_s["mean"]
    assert off.run.prefix_hit_rate is None
    assert (on.run.inputs == off.run.inputs).all()


def test_a_turn_comes_after_the_answer_and_the_time_to_think():
    frame = asked(turns=3, think_time=2.0, prefix_caching=True).requests
    arrival, finish = frame["arrival_s"].to_numpy(), frame["finish_s"].to_numpy()
    gaps = (arrival[1:] - finish[:-1])[np.arange(59) % 3 != 2]
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(2.0, rel=0.5)


def test_sessions_that_stay_hit_more_than_those_that_move():
    common = {"turns": 3, "think_time": 2.0, "prefix_caching": True, "replicas": 2}
    stay = asked(router="session", **common).run.prefix_hit_rate
    assert stay > asked(router="round_robin", **common).run.prefix_hit_rate


def test_prompts_find_what_was_sent_before_without_a_session(tmp_path):
    """Sixteen documents, asked about again and again by nobody in particular."""
    path = tmp_path / "t.jsonl"
    rows = [
        {"timestamp": 150 * i, "input_length": 1100, "output_length": 40,
         "hash_ids": [3 * (i * 7 % 16), 3 * (i * 7 % 16) + 1, 1000 + i]}
        for i in range(96)
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    common = {"rate": None, "requests": None, "trace": path, "prefix_caching": True,
              "replicas": 3}  # fmt: skip
    found = {
        router: asked(router=router, **common).run.prefix_hit_rate
        for router in ("round_robin", "longest_prefix")
    }
    assert found["longest_prefix"] == pytest.approx(80 / 96 * 1024 / 1100, abs=0.01)
    assert found["longest_prefix"] > 1.5 * found["round_robin"]


def test_prompts_apart_keep_prefixes_too():
    apart = {"replicas": 1, "kv_bandwidth": 5e10}
    result = asked(turns=3, prefix_caching=True, prefill=apart)
    # Answers stay with those that decode: of 820 tokens 400 are known.
    assert sorted(set(result.run.cached.tolist())) == [0, 400, 816]


def test_a_trace_tells_what_prompts_share(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [
        {"timestamp": at, "input_length": tokens, "output_length": 4, "hash_ids": ids}
        for at, tokens, ids in (
            (0, 1100, [5, 6, 7]), (9000, 1600, [5, 6, 8, 9]), (19000, 600, [6, 5]),
        )
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    result = asked(rate=None, requests=None, trace=path, prefix_caching=True)
    assert result.run.cached.tolist() == [0, 1024, 0]


def test_a_session_goes_on_unless_its_prompt_is_too_short(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "arrival_s,input_tokens,output_tokens,session_id\n"
        "0,100,10,a\n9,200,10,a\n19,50,10,a\n29,300,10,\n39,300,10,\n"
    )
    prefixes = read_trace(path).prefixes
    assert prefixes.previous == [-1, 0, 1, -1, -1]
    assert prefixes.histories == [0, 0, 2, 3, 4]
    result = asked(rate=None, requests=None, trace=path, prefix_caching=True)
    assert result.run.cached.tolist() == [0, 96, 0, 0, 0]


@pytest.mark.parametrize("ids", ['"x"', "[1, 2, 3]", "[0.5]", "null", "[true]"])
def test_a_faulty_hash_is_refused_with_its_row(tmp_path, ids):
    path = tmp_path / "t.jsonl"
    good = '{"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [1]}'
    bad = good.replace("[1]", ids)
    path.write_text(f"{good}\n{bad}\n")
    with pytest.raises(InputError, match=r"row 2: hash_ids is .*512 tokens"):
        read_trace(path)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"turns": 0}, "turns"),
        ({"think_time": 3.0}, "give turns"),
        ({"turns": 2, "think_time": -1.0}, "think_time is -1"),
        ({"prefix_caching": True, "engine": "static"}, "static batch"),
    ],
)
def test_what_cannot_be_is_refused(more, says):
    with pytest.raises(InputError, match=says):
        asked(**more)
