"""Training answers: keys, closed forms, scaling, memory."""

import json
import math

import pytest

import hwsim
from hwsim.errors import HwsimError, InputError

GPT = {"seq": 1024, "micro_batch": 8}


@pytest.fixture(scope="module")
def result():
    return hwsim.train("gpt-2-124m", "dgx-a100-80gb", global_batch=256, **GPT)


def test_json_has_the_promised_keys(result):
    answer = json.loads(result.to_json())
    for key in (
        "step_s", "tokens_per_s_per_device", "model_flop_per_s_per_device", "mfu",
        "hfu", "fits", "bound",
    ):  # fmt: skip
        assert key in answer
    assert set(answer["breakdown"]) == {
        "compute", "memory", "interconnect", "overhead", "idle",
    }  # fmt: skip
    assert answer["memory_bytes"]["total"] == pytest.approx(
        sum(v for k, v in answer["memory_bytes"].items() if k != "total")
    )


def test_parts_add_up_to_the_step(result):
    assert math.isclose(sum(result.parts.values()), result.step_s, rel_tol=1e-9)


def test_microbatches_follow_one_another():
    one = hwsim.train("gpt-2-124m", "a100-80gb-sxm", global_batch=8, **GPT)
    many = hwsim.train("gpt-2-124m", "a100-80gb-sxm", global_batch=80, **GPT)
    overhead = many.stack.launch.step_overhead
    before = many.made.runs[1][0]
    expected = one.step_s + 9 * (before.time_s - overhead)
    assert math.isclose(many.step_s, expected, rel_tol=1e-9)
    assert len(one.made.runs) == 1


def test_model_flop_follow_the_palm_convention(result):
    model = result.model
    matmul = model.num_parameters - 1024 * 768  # positions do not multiply
    tokens = 256 * 1024
    attention = 12 * model.layers * model.hidden * 1024
    expected = (6 * matmul + attention) * tokens / 8
    assert result.work("full_flop") == pytest.approx(expected, rel=2e-3)
    causal = (6 * matmul + attention / 2) * tokens / 8
    assert result.work("model_flop") == pytest.approx(causal, rel=2e-3)
    assert result.mfu <= result.hfu <= 1.0


def test_recomputation_costs_time_and_saves_memory(result):
    full = hwsim.train(
        "gpt-2-124m", "dgx-a100-80gb", global_batch=256, recompute="full", **GPT
    )
    assert full.step_s > 1.15 * result.step_s
    assert full.hfu / full.mfu > 1.15 * result.hfu / result.mfu
    # Beside the logits, which both have: cast, log-softmax and its gradients.
    logits = 14 * 8 * 1024 * 50257
    kept = result.footprint.activations - logits
    assert full.footprint.activations - logits < 0.3 * kept


def test_sharding_the_optimizer_saves_its_memory(result):
    sharded = hwsim.train(
        "gpt-2-124m", "dgx-a100-80gb", global_batch=256, zero_stage=1, **GPT
    )
    assert sharded.footprint.optimizer_states == pytest.approx(
        result.footprint.optimizer_states / 8, rel=1e-6
    )


def test_more_devices_shorten_the_step_but_not_ideally():
    steps = [
        hwsim.train(
            "gpt-2-1.5b", "dgx-h100", devices=n, global_batch=64, seq=1024,
            micro_batch=4,
        ).step_s
        for n in (1, 2, 4, 8)
    ]  # fmt: skip
    assert steps == sorted(steps, reverse=True)
    assert steps[0] / steps[3] <= 8.0


def test_tensor_and_data_parallel_answers_use_links(result):
    tp = hwsim.train("llama-2-7b", "dgx-h100", tp=8, seq=1024)
    assert tp.parts["interconnect"] > 0
    assert result.parts["interconnect"] >= 0
    streams = {r.stream for r in result.step.records}
    assert "dp" in streams


def test_stragglers_hold_the_step_back():
    shapes = {"phase": "train", "micro_batch": 2, "seq": 512, "dp": 2}
    even = hwsim.simulate("gpt-2-124m", "dgx-h100", ranks=2, **shapes)
    slow = hwsim.simulate(
        "gpt-2-124m", "dgx-h100", ranks=2, slowdown=(1.0, 1.3), **shapes
    )
    assert even.time_s < slow.time_s < 1.35 * even.time_s


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tp": 3}, "does not divide 8"),
        ({"dp": 4, "tp": 1}, "must equal devices"),
        ({"devices": 0}, "devices is 0"),
        ({"devices": 12}, "8"),
        ({"global_batch": 10}, "8 and 16"),
        ({"seq": 0}, "seq is 0"),
        ({"seq": 4096}, "1024"),
        ({"recompute": "some"}, "none"),
        ({"optimizer": "adamm"}, "adam"),
        ({"zero_stage": 4}, "0, 1, 2 or 3"),
        ({"dtype": "fp8"}, "fp8"),
        ({"micro_batch": 0}, "micro_batch is 0"),
    ],
)
def test_impossible_questions_are_refused(change, message):
    with pytest.raises(hwsim.HwsimError, match=message):
        hwsim.train("gpt-2-124m", "dgx-a100-80gb", **change)


def test_what_does_not_fit_says_what_would_help():
    result = hwsim.train("llama-2-7b", "dgx-a100-40gb", seq=4096, micro_batch=4)
    assert not result.fits
    sentence = result.memory.sentence()
    assert "too much" in sentence
    assert "would fit with" in sentence or "no single change" in sentence


PIPELINE = {
    "devices": 64, "tp": 8, "pp": 8, "micro_batch": 1, "global_batch": 64,
    "seq": 2048, "recompute": "full",
}  # fmt: skip


def test_a_pipeline_adds_its_bubble():
    result = hwsim.train("gpt-3-175b", "selene", **PIPELINE)
    assert result.bubble_fraction == pytest.approx(7 / (64 + 7), rel=0.25)
    assert math.isclose(sum(result.parts.values()), result.step_s, rel_tol=1e-9)
    streams = {(r.rank, r.stream) for r in result.made.records}
    assert {(rank, "compute") for rank in range(8)} <= streams
    assert len(result.timeline) == len(result.made.records)


def test_a_pipeline_does_the_work_of_the_whole():
    piped = hwsim.train("gpt-3-175b", "selene", **PIPELINE)
    flat = hwsim.train("gpt-3-175b", "selene", **{**PIPELINE, "pp": 1, "devices": 8})
    assert piped.work("full_flop") * 64 == pytest.approx(
        flat.work("full_flop") * 8, rel=1e-9
    )


def test_interleaving_shrinks_the_bubble():
    plain = hwsim.train("gpt-3-175b", "selene", **PIPELINE)
    chunks = hwsim.train("gpt-3-175b", "selene", vpp=3, **PIPELINE)
    assert chunks.config.schedule == "interleaved"
    assert chunks.bubble_fraction < 0.6 * plain.bubble_fraction
    assert chunks.step_s < plain.step_s


def test_zero_bubble_is_faster_than_1f1b():
    plain = hwsim.train("gpt-3-175b", "selene", **PIPELINE)
    split = hwsim.train("gpt-3-175b", "selene", schedule="zero_bubble", **PIPELINE)
    assert split.bubble_fraction < plain.bubble_fraction


def test_the_fullest_rank_is_told():
    result = hwsim.train("gpt-3-175b", "selene", **{**PIPELINE, "recompute": "none"})
    assert result.memory_rank == 0  # it holds most microbatches and the embedding


@pytest.mark.parametrize("axis", [{"cp": 4}, {"ep": 8, "dp": 16}])
def test_context_and_expert_parallel_steps_are_answered(axis):
    model = "mixtral-8x7b" if "ep" in axis else "llama-3.1-8b"
    result = hwsim.train(model, "dgx-h100-ndr-64", devices=16, seq=8192, **axis)
    assert result.step_s > 0
    nodes = [n for g in result.graphs for _, _, n, _ in g.graph.distinct()]
    assert {node.stream for node in nodes} & {"cp", "ep"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pp": 3}, "does not divide"),
        ({"pp": 2, "dp": 64}, "must equal devices"),
        ({"pp": 200, "tp": 1, "devices": 200}, "pp"),
        ({"vpp": 40}, "vpp"),
        ({"schedule": "interleved"}, "interleaved"),
        ({"ep": 4}, "no experts"),
    ],
)
def test_impossible_pipelines_are_refused(change, message):
    with pytest.raises(hwsim.HwsimError, match=message):
        hwsim.train("gpt-3-175b", "selene", **{**PIPELINE, **change})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"devices": 100, "tp": 8}, "use 96 or 104 devices"),
        ({"tp": 8, "pp": 8, "dp": 3}, "use dp 2 or 192 devices"),
        ({"tp": 8, "global_batch": 10, "micro_batch": 1}, "use 16"),
        ({"tp": 8, "global_batch": 50, "micro_batch": 2}, "are 32 and 64"),
        ({"tp": 1, "pp": 128}, "pp 128 is more than the 98 layers .* use pp 64"),
        ({"tp": 8, "pp": 8, "vpp": 5, "global_batch": 64}, "use vpp 4, or say the l"),
        ({"tp": 8, "pp": 16, "vpp": 7, "global_batch": 64}, "use vpp=6 or fewer"),
        ({"tp": 8, "pp": 8, "vpp": 3, "global_batch": 30}, "num_.*=15; use 16"),
        ({"tp": 8, "ep": 2}, "gpt-3-175b has no experts; use ep 1"),
        ({"devices": 1 << 20}, "ask for at most 3072"),
        ({"devices": 3072, "tp": 5}, "use 3070 devices, or tp 4"),
        ({"recompute_every": 2}, "recompute none runs nothing again"),
        ({"cp_mode": "all_to_all"}, "cp is 1; give cp 2"),
        ({"lora_targets": ("up",)}, "lora_rank is 0; give for example lora_rank 16"),
        ({"schedule": "1f1c"}, "did you mean 1f1b"),
        ({"recompute": "some"}, "choose none, selective, operators, full"),
    ],
)  # fmt: skip
def test_layouts_that_do_not_fit_name_the_nearest_that_does(asked, said):
    options = {"devices": 128, **asked}
    with pytest.raises(HwsimError, match=said) as caught:
        hwsim.train("gpt-3-175b", "selene", **options)
    assert "\n" not in str(caught.value)


def test_uneven_chunks_are_played_when_each_is_given():
    layers = [3] * 16 + [2] * 24
    found = hwsim.train(
        "gpt-3-175b", "selene", devices=128, tp=8, pp=8, vpp=5, global_batch=64,
        stage_layers=layers,
    )  # fmt: skip
    assert found.config.stage_layers == tuple(layers)
    # The embedding and the head count as layers where that makes parts alike.
    assert hwsim.train(
        "llama-3.1-405b", "dgx-h100-ndr-128", devices=128, tp=8, pp=16, vpp=8,
        global_batch=16,
    ).config.vpp == 8  # fmt: skip


def test_training_in_int8_is_as_fast_as_in_fp8_where_both_multiply_alike():
    options = {"devices": 8, "tp": 2, "seq": 1024, "micro_batch": 2}
    eight, float8, wide = (
        hwsim.train("llama-2-7b", "dgx-h100", dtype=d, **options)
        for d in ("int8", "fp8", "bf16")
    )
    assert eight.step_s == pytest.approx(float8.step_s, rel=1e-9)
    assert eight.step_s < wide.step_s
    old = hwsim.train("llama-2-7b", "dgx-a100-80gb", dtype="int8", **options)
    assert old.step_s < hwsim.train("llama-2-7b", "dgx-a100-80gb", **options).step_s
    with pytest.raises(HwsimError, match="fp8"):
        hwsim.train("llama-2-7b", "dgx-a100-80gb", dtype="fp8", **options)


def test_a_pipeline_that_mostly_waits_is_bound_by_its_bubble():
    options = {"devices": 64, "tp": 8, "pp": 8}
    few = hwsim.train("gpt-3-175b", "selene", global_batch=2, **options)
    assert few.bound == "bubble"
    assert few.to_dict()["bound"] == "bubble"
    many = hwsim.train("gpt-3-175b", "selene", global_batch=64, **options)
    assert many.bound == "compute"


def test_a_shorter_decoder_sequence_takes_less_of_everything():
    options = {"devices": 8, "dp": 8, "micro_batch": 8, "seq": 512, "dtype": "bf16"}
    equal = hwsim.train("t5-v1.1-large", "dgx-a100-80gb", **options)
    same = hwsim.train("t5-v1.1-large", "dgx-a100-80gb", decoder_seq=512, **options)
    short = hwsim.train("t5-v1.1-large", "dgx-a100-80gb", decoder_seq=114, **options)
    assert same.step_s == equal.step_s
    assert short.step_s < equal.step_s
    assert short.memory.needed < equal.memory.needed
    assert short.work("full_flop") < equal.work("full_flop")


def test_a_decoder_sequence_needs_an_encoder():
    with pytest.raises(InputError, match="has no encoder; leave it out"):
        hwsim.train("gpt-2-124m", "a100-80gb-sxm", decoder_seq=64, dtype="bf16")
