"""Inference answers: keys, consistency, memory, and what is refused."""

import json
import math

import pytest

import hwsim

LLAMA = {"prompt": 512, "output": 33, "batch": 4}


@pytest.fixture(scope="module")
def result():
    return hwsim.infer("llama-2-7b", "h100-80gb-sxm", **LLAMA)


def test_json_has_the_promised_keys(result):
    answer = json.loads(result.to_json())
    for key in (
        "prefill_s", "decode_step_s", "ttft_s", "tpot_s", "tokens_per_s", "fits",
        "bound", "mfu",
    ):  # fmt: skip
        assert key in answer
    assert set(answer["memory_bytes"]) == {
        "weights", "kv_cache", "activations", "total",
    }  # fmt: skip
    assert set(answer["breakdown"]) == {
        "compute", "memory", "interconnect", "overhead", "idle",
    }  # fmt: skip


def test_parts_add_up_to_the_latency(result):
    assert math.isclose(sum(result.parts.values()), result.latency_s, rel_tol=1e-9)
    for graph in result.graphs:
        assert math.isclose(sum(graph.parts.values()), graph.time_s, rel_tol=1e-9)


def test_latency_is_first_token_and_the_steps_after_it(result):
    assert result.decode_steps == 32
    assert math.isclose(
        result.latency_s, result.ttft_s + 32 * result.tpot_s, rel_tol=1e-12
    )
    assert math.isclose(result.tokens_per_s, 4 * 33 / result.latency_s, rel_tol=1e-12)


def test_generation_from_an_empty_context_has_no_prompt_pass():
    result = hwsim.infer("llama-2-7b", "rtx-4090", prompt=0, output=128)
    assert result.prefill is None
    assert result.decode_steps == 128
    assert math.isclose(result.ttft_s, result.tpot_s)
    assert math.isclose(result.latency_s, 128 * result.tpot_s)


def test_mean_step_lies_near_the_middle_step(result):
    assert result.tpot_s == pytest.approx(result.decode_step_s, rel=0.02)


def test_simulation_and_closed_form_agree(result):
    closed = hwsim.infer("llama-2-7b", "h100-80gb-sxm", engine="closed_form", **LLAMA)
    assert math.isclose(closed.latency_s, result.latency_s, rel_tol=1e-9)


def test_decode_is_slower_than_reading_the_weights(result):
    weights = result.footprint.weights - 32000 * 4096 * 2  # the embedding is not read
    assert result.decode_step_s > weights / result.system.device.bandwidth
    assert result.bound == "memory"


def test_speed_of_light_is_never_beaten(result):
    light = hwsim.infer("llama-2-7b", "h100", fidelity="roofline", **LLAMA)
    assert light.ttft_s < result.ttft_s
    assert light.tpot_s < result.tpot_s


def test_weights_and_cache_are_exact():
    result = hwsim.infer(
        "llama-2-70b", "dgx-h100", tp=8, batch=3, prompt=100, output=28
    )
    assert result.footprint.kv_cache == 2 * 80 * 128 * 128 * 2 * 3
    whole = 68_976_648_192 * 2
    assert result.footprint.weights * 8 == pytest.approx(whole, rel=1e-3)


def test_tensor_parallel_uses_the_links(result):
    two = hwsim.infer("llama-2-7b", "dgx-h100", tp=2, **LLAMA)
    assert two.parts["interconnect"] > 0
    assert result.parts["interconnect"] == 0
    assert two.ttft_s < result.ttft_s


def test_eager_launch_makes_small_decode_wait_for_the_host():
    asked = {"prompt": 64, "output": 8}
    graph = hwsim.infer("gpt-2-124m", "h100", **asked)
    eager = hwsim.infer("gpt-2-124m", "h100", stack="pytorch-eager", **asked)
    assert eager.parts["idle"] > 0.3 * eager.latency_s
    assert graph.parts["idle"] < 0.1 * graph.latency_s
    assert eager.tpot_s > 1.5 * graph.tpot_s


@pytest.mark.parametrize("model", ["bert-large", "t5-base", "mixtral-8x7b",
                                   "deepseek-v2-lite", "gpt-oss-20b"])  # fmt: skip
def test_other_architectures_are_answered(model):
    result = hwsim.infer(model, "h200-sxm", prompt=128, output=16)
    assert 0 < result.latency_s < 10
    if model == "bert-large":
        assert result.tpot_s is None
        assert result.to_dict()["decode_step_s"] is None


def test_what_does_not_fit_says_by_how_much_and_what_would_help():
    result = hwsim.infer("llama-2-70b", "a100-80gb-sxm", prompt=128, output=8)
    assert not result.fits
    assert result.memory.missing == pytest.approx(
        result.footprint.total - result.memory.usable
    )
    sentence = result.to_dict()["memory_verdict"]
    assert "too much" in sentence
    assert "tp 2" in sentence
    for remedy in ("tp 2", "weight-dtype int4"):
        if remedy in sentence and remedy.startswith("tp"):
            helped = hwsim.infer(
                "llama-2-70b", "dgx-a100-80gb", tp=2, prompt=128, output=8
            )
            assert helped.fits


def test_narrow_weights_make_decode_faster():
    wide = hwsim.infer("llama-2-7b", "rtx-4090", prompt=64, output=9)
    narrow = hwsim.infer(
        "llama-2-7b", "rtx-4090", prompt=64, output=9, weight_dtype="q4_k_m"
    )
    assert narrow.tpot_s < 0.5 * wide.tpot_s
    assert narrow.footprint.weights == pytest.approx(
        wide.footprint.weights * 4.8944 / 16, rel=0.1
    )


def test_overrides_change_the_answer_and_are_labelled():
    base = hwsim.infer("llama-2-7b", "h100", prompt=64, output=9)
    faster = hwsim.infer(
        "llama-2-7b", "h100", prompt=64, output=9,
        overrides=["device.memory.hbm.bandwidth=x2"],
    )  # fmt: skip
    assert faster.tpot_s < 0.7 * base.tpot_s
    source = faster.system.device.source_of("memory.hbm.bandwidth")
    assert source.kind == "assumed"


def test_tables_have_a_row_per_operator_and_record(result):
    ops = result.ops
    assert set(ops["graph"]) == {"prefill", "decode"}
    assert (ops["time_s"] > 0).all()
    timeline = result.timeline
    assert len(timeline) == sum(len(g.graph) for g in result.graphs)
    assert (timeline["end"] >= timeline["start"]).all()
    assert result.breakdown["share"].sum() == pytest.approx(1.0)
    assert "<table>" in result._repr_html_()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"batch": 1.5}, "whole number"),
        ({"batch": float("nan")}, "whole number"),
        ({"prompt": 0, "output": 0}, "prompt is 0"),
        ({"output": -1}, "output is -1"),
        ({"prompt": 5000}, "4096"),
        ({"tp": 2}, "has 1"),
        ({"dtype": "fp4"}, "fp4"),
        ({"kv_dtype": "bf61"}, "bf16"),
        ({"fidelity": "perfect"}, "roofline"),
        ({"engine": "guess"}, "closed_form"),
    ],
)
def test_impossible_questions_are_refused(change, message):
    with pytest.raises(hwsim.HwsimError, match=message):
        hwsim.infer("llama-2-7b", "h100", **{"prompt": 64, "output": 4, **change})
