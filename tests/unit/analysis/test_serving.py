"""Step costs against exact graphs; a service's figures against its requests."""

import json
import math

import numpy as np
import pytest

import hwsim
from hwsim.analysis.serving.layout import ReplicaLayout
from hwsim.analysis.serving.step_cost import Deployment, step_table
from hwsim.api.serving import serve
from hwsim.errors import InputError, UnknownNameError
from hwsim.specs.engine import load_engine

LONGEST = 6000


def deployment(
    model="llama-3.1-8b", system="h100", tp=1, engine="vllm-v1", layout=None, **changed
):
    loaded = load_engine(engine).model_copy(update=changed)
    return Deployment(
        hwsim.load_model(model), hwsim.load_system(system),
        hwsim.load_stack(loaded.stack), loaded, layout or ReplicaLayout(tp), "bf16",
        "bf16", "bf16", "auto", LONGEST,
    )  # fmt: skip


CASES = {
    "dense": {"max_num_seqs": 64, "max_num_batched_tokens": 2048},
    "tensor parallel": {
        "model": "llama-3.1-70b", "system": "dgx-h100", "tp": 8,
        "max_num_seqs": 64, "max_num_batched_tokens": 2048,
    },
    "mixture of experts": {
        "model": "gpt-oss-20b", "max_num_seqs": 64, "max_num_batched_tokens": 2048,
    },
    "latent attention": {
        "model": "deepseek-v2-lite", "max_num_seqs": 64,
        "max_num_batched_tokens": 2048,
    },
    "windowed": {
        "model": "gemma-2-9b", "max_num_seqs": 64, "max_num_batched_tokens": 2048,
    },
    "host-bound": {"engine": "llama-cpp"},
    "state space": {
        "model": "nemotron-3-nano-30b-a3b", "max_num_seqs": 64,
        "max_num_batched_tokens": 2048,
    },
    "expert parallel": {
        "model": "deepseek-v2-lite", "system": "dgx-h100",
        "layout": ReplicaLayout(4, ep=4), "max_num_seqs": 64,
        "max_num_batched_tokens": 2048,
    },
    "groups that share experts": {
        "model": "deepseek-v2-lite", "system": "dgx-h100",
        "layout": ReplicaLayout(1, ep=4, attention_dp=4), "max_num_seqs": 64,
        "max_num_batched_tokens": 2048,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def tabulated(request):
    d = deployment(**CASES[request.param])
    return d, *step_table(d)


def test_tables_give_what_exact_graphs_give(tabulated):
    d, table, _ = tabulated
    rng = np.random.default_rng(0)
    own = d.engine.sequence_overhead
    decode, prompt, chunk = [], [], []
    for _ in range(25):
        batch = int(rng.integers(1, d.engine.max_num_seqs + 1))
        padded = table.padded[batch]
        context = int(np.exp(rng.uniform(2.0, math.log(LONGEST))))
        exact = d.run(d.decode(padded, context)).time_s + own * batch
        decode.append(table.decode(batch, padded * context)[0] / exact - 1)
        most = d.engine.max_num_batched_tokens
        tokens = int(np.exp(rng.uniform(1.0, math.log(most))))
        exact = d.run(d.prefill(tokens)).time_s + own
        prompt.append(table.mixed([(tokens, 0)], 0, 0) / exact - 1)
        before = int(rng.integers(1, LONGEST - most))
        exact = d.run(d.prefill(tokens, before)).time_s + own
        chunk.append(table.mixed([(tokens, before)], 0, 0) / exact - 1)
    for errors in (decode, prompt, chunk):
        assert np.abs(errors).mean() < 0.01
    assert np.abs(decode).max() < 0.02
    assert np.abs(prompt).max() < 0.03
    assert np.abs(chunk).max() < 0.03


def test_steps_at_many_points_take_what_each_takes_alone(tabulated):
    d, _, _ = tabulated
    batch, context = np.array([1, 2, 7, 33]), np.array([1, 900, 16, 5000])
    prompt, before = np.array([1, 5, 300, 1700]), np.array([70, 0, 2600, 1])
    cases = (
        (d.runs(d.steps(batch, context)), d.decode, zip(batch, context, strict=True)),
        (d.runs(d.chunks(prompt, before)), d.prefill,
         zip(prompt, before, strict=True)),
    )  # fmt: skip
    for runs, graph_of, points in cases:
        for index, (first, second) in enumerate(points):
            exact = d.run(graph_of(int(first), int(second)))
            assert runs.time_s[index] == pytest.approx(exact.time_s, rel=1e-12)
            parts = runs.parts_at(index)
            assert list(parts) == list(exact.parts)
            for name, part in exact.parts.items():
                assert parts[name] == pytest.approx(part, rel=1e-9, abs=1e-15), name


def test_decode_times_are_lines_up_to_where_they_say(tabulated):
    _, table, _ = tabulated
    batch = min(20, len(table.padded) - 1)
    at = 7.0 * batch
    while at < LONGEST * batch:
        time, slope, limit = table.decode(batch, at)
        assert limit > at
        end = min(limit, LONGEST * batch)
        reached, _, _ = table.decode(batch, end)
        assert reached == pytest.approx(time + slope * (end - at), rel=1e-12)
        at = end


def test_a_mixed_step_costs_more_than_its_parts_and_less_than_both(tabulated):
    _, table, _ = tabulated
    batch = min(16, len(table.padded) - 1)
    alone = table.decode(batch, 1000 * batch)[0]
    prompt = table.mixed([(400, 0)], 0, 0)
    both = table.mixed([(400, 0)], batch, 1000 * batch)
    assert max(alone, prompt) < both < alone + prompt


def test_batches_are_padded_to_captured_sizes_and_not_beyond():
    d = deployment(
        captured_batches=(1, 4, 8), max_num_seqs=12, max_num_batched_tokens=256
    )
    table, _ = step_table(d)
    assert table.padded == [0, 1, 4, 4, 4, 8, 8, 8, 8, 9, 10, 11, 12]
    time, slope, _ = table.decode(3, 3000)
    padded, _, _ = table.decode(4, 3000)
    assert time == pytest.approx(padded - d.engine.sequence_overhead)
    assert slope > 0


def test_a_lone_group_among_others_waits_for_its_own_part_only():
    layout = ReplicaLayout(1, ep=1, attention_dp=4)
    d = deployment(
        "deepseek-v2-lite", "dgx-h100", layout=layout, max_num_seqs=64,
        max_num_batched_tokens=2048, captured_tokens=8192,
    )  # fmt: skip
    table, _ = step_table(d)
    prompt, nothing = ([(1000, 0)], 0, 0), ([], 0, 0)
    lone = table.joint([prompt, nothing, nothing, nothing])
    all_busy = table.joint([prompt] * 4)
    assert all_busy == pytest.approx(table.mixed(*prompt))
    quarter = table.joint([([(250, 0)], 0, 0)] * 4)
    assert quarter < lone < all_busy


def pipeline(pp, **changed):
    d = deployment(
        "llama-3.1-70b", "dgx-h100", layout=ReplicaLayout(1, pp),
        max_num_seqs=64, max_num_batched_tokens=1024, **changed,
    )  # fmt: skip
    return d, *step_table(d)


def test_a_full_pipeline_comes_round_after_a_stage_time_for_each_stage():
    d, table, power = pipeline(4)
    stage = table.stage
    time, slope, limit = table.decode(32, 32 * 900)
    once, own, knot = stage.decode(8, 8 * 900)
    assert time == pytest.approx(4 * once)
    assert slope == pytest.approx(own)
    assert limit == pytest.approx(4 * knot)
    # A sequence alone takes what the whole model takes, and the sends.
    whole = d.__class__(
        d.model, hwsim.load_system("dgx-h100"), d.stack, d.engine, ReplicaLayout(1),
        "bf16", "bf16", "bf16", "auto", LONGEST,
    )  # fmt: skip
    exact = whole.run(whole.decode(1, 900)).time_s
    steps = 3 * d.stack.launch.step_overhead
    lone = table.decode(1, 900)[0]
    assert exact < lone < exact + steps + 1e-3
    watts = power.energy(*(np.array([v]) for v in (time, 1.0, 32.0, 0.0))) / time
    assert 4 * 100 < watts < 4 * 700


def test_prompts_are_dealt_to_microbatches_and_long_ones_cut():
    _, table, _ = pipeline(4)
    stage = table.stage
    one = table.mixed([(500, 0)], 0, 0)
    several = table.mixed([(500, 0)] * 4, 0, 0)
    assert several == pytest.approx(one, rel=0.1)
    assert table.mixed([(500, 0)] * 5, 0, 0) > 1.2 * one
    cut = table.mixed([(4096, 0)], 0, 0)
    last = stage.mixed([(1024, 3072)], 0, 0)
    assert cut == pytest.approx(4 * last)


def test_layouts_hold_what_their_devices_have_room_for():
    def blocks(model, system, **layout):
        return serve(
            model, system, rate=1.0, requests=4, input_len="fixed:100",
            output_len="fixed:10", **layout,
        ).capacity.blocks  # fmt: skip

    whole = blocks("llama-3.1-8b", "dgx-h100")
    halves = blocks("llama-3.1-8b", "dgx-h100", pp=2)
    assert 2.0 < halves / whole < 2.6  # half the layers' keys, half the weights
    split = blocks("llama-3.1-8b", "dgx-h100", tp=2)
    assert halves == pytest.approx(split, rel=0.05)
    # Latent keys are whole on every device of tp, each group has its own.
    kept = {"model": "deepseek-v2-lite", "system": "dgx-h100"}
    joint = blocks(**kept, attention_dp=4, ep=4)
    tensor = blocks(**kept, tp=4)
    assert joint == pytest.approx(tensor, rel=0.1)


def answer(**changed):
    asked = {
        "rate": 6.0, "requests": 600, "input_len": "lognormal:500",
        "output_len": "lognormal:100", "max_num_seqs": 64,
        "max_num_batched_tokens": 2048,
    }  # fmt: skip
    return serve("llama-3.1-8b", "h100", **(asked | changed))


@pytest.fixture(scope="module")
def result():
    return answer(slo={"ttft": 0.1, "tpot": 0.01})


def test_the_figures_are_those_of_the_requests(result):
    table, d = result.requests, result.to_dict()
    assert d["requests"] == len(table) == 600
    assert d["ttft_s"]["p90"] == pytest.approx(table["ttft_s"].quantile(0.9))
    assert d["e2e_s"]["mean"] == pytest.approx(table["e2e_s"].mean())
    assert d["tpot_s"]["p50"] == pytest.approx(table["tpot_s"].median())
    span = table["finish_s"].max() - table["arrival_s"].min()
    assert d["tokens_per_s"] == pytest.approx(table["output_tokens"].sum() / span)
    fine = (table["ttft_s"] <= 0.1) & ~(table["tpot_s"] > 0.01)
    assert d["goodput_rps"] == pytest.approx(fine.sum() / span)
    assert 0 < fine.sum() < 600
    gaps = (table["tpot_s"] * (table["output_tokens"] - 1)).sum()
    assert d["itl_s"]["mean"] == pytest.approx(
        gaps / (table["output_tokens"] - 1).sum()
    )
    json.loads(result.to_json())


def test_what_is_busy_and_held_is_within_bounds(result):
    d = result.to_dict()
    assert 0 < d["utilisation"] <= 1
    assert 0 < d["kv_occupancy"]["mean"] <= d["kv_occupancy"]["max"] <= 1
    spent = (result.requests["finish_s"] - result.requests["first_token_s"]).sum()
    assert result.run.sums.decode_slots == pytest.approx(spent)  # Little's law
    device = result.system.device
    watts = result.run.energy / d["duration_s"]
    assert device.power.tdp * 0.1 < watts < device.power.tdp


def test_a_lone_request_takes_what_infer_says():
    alone = answer(
        requests=1, input_len="fixed:1000", output_len="fixed:200",
        engine=load_engine("vllm-v1").model_copy(
            update={"request_overhead": 0.0, "sequence_overhead": 0.0}
        ),
    )  # fmt: skip
    exact = hwsim.infer(
        "llama-3.1-8b", "h100", batch=1, prompt=1000, output=200, stack="vllm"
    )
    assert alone.ttft_s["mean"] == pytest.approx(exact.ttft_s, rel=0.02)
    assert alone.tpot_s["mean"] == pytest.approx(exact.tpot_s, rel=0.02)


@pytest.mark.parametrize(
    "layout",
    [{"tp": 2, "ep": 2}, {"attention_dp": 4, "ep": 4}, {"pp": 2},
     {"attention_dp": 2, "tp": 2}, {"pp": 2, "attention_dp": 2, "ep": 2}],
)  # fmt: skip
def test_every_layout_answers_all_and_counts_its_groups(layout):
    found = serve(
        "deepseek-v2-lite", "dgx-h100", rate=20.0, requests=300,
        input_len="lognormal:500", output_len="lognormal:50", replicas=2,
        max_num_seqs=64, max_num_batched_tokens=2048, **layout,
    )  # fmt: skip
    d = found.to_dict()
    assert d["requests"] == 300
    assert 0 < d["utilisation"] <= 1
    assert 0 < d["kv_occupancy"]["mean"] <= d["kv_occupancy"]["max"] <= 1
    assert d["config"]["attention_dp"] == layout.get("attention_dp", 1)
    watts = found.run.energy / d["duration_s"]
    devices = 2 * found.config.layout.devices
    assert 0.1 < watts / devices / found.system.device.power.tdp < 1.0
    spent = (found.requests["finish_s"] - found.requests["first_token_s"]).sum()
    assert found.run.sums.decode_slots == pytest.approx(spent)  # Little's law


def test_more_load_waits_longer_and_beyond_capacity_is_unstable():
    calm, busy = answer(rate=2.0), answer(rate=500.0)
    assert calm.stable is True
    assert busy.stable is False
    assert busy.ttft_s["p50"] > 10 * calm.ttft_s["p50"]
    assert busy.requests_per_s < 1.1 * busy.stable_rate < 500


def test_replicas_share_the_load():
    one = answer(rate=30.0)
    four = answer(rate=30.0, replicas=4)
    assert four.e2e_s["mean"] < one.e2e_s["mean"]
    assert set(four.requests["replica"]) == {0, 1, 2, 3}


def test_the_shortest_queue_beats_turns_where_requests_wait_for_each_other():
    # One request at a time, lengths that vary: queueing theory's case. Batches
    # hardly wait; there, answers under way say little about prompts in line.
    waits = [
        answer(rate=3.5, replicas=4, engine="llama-cpp", max_num_seqs=1,
               router=router, requests=1500).ttft_s
        for router in ("round_robin", "least_outstanding")
    ]  # fmt: skip
    assert waits[1]["mean"] < 0.7 * waits[0]["mean"]
    assert waits[1]["p99"] < 0.8 * waits[0]["p99"]


def test_two_choices_are_nearly_as_good_as_all():
    load = {"rate": 60.0, "replicas": 4, "requests": 4000}
    waits = {
        router: answer(**load, router=router).ttft_s["mean"]
        for router in ("round_robin", "power_of_two", "least_outstanding")
    }
    assert waits["least_outstanding"] <= waits["power_of_two"] * 1.02
    assert waits["power_of_two"] < waits["round_robin"] * 1.1
    shares = np.bincount(answer(**load, router="power_of_two").run.replica)
    assert shares.min() > 0.8 * shares.max()


def test_a_closed_loop_has_no_rate_and_keeps_its_clients():
    closed = answer(rate=None, concurrency=8)
    assert closed.stable is None
    assert closed.to_dict()["rate_rps"] is None
    present = closed.requests_per_s * closed.e2e_s["mean"]  # Little's law
    assert present == pytest.approx(8, rel=0.05)


def apart(**changed):
    asked = {"rate": 20.0, "requests": 400, "replicas": 2, "input_len": "fixed:1000",
             "output_len": "fixed:100", "prefill": {"replicas": 2}}  # fmt: skip
    return serve("llama-3.1-8b", "dgx-h100", **(asked | changed))


def test_prompts_apart_keep_gaps_short_and_move_what_they_should():
    length = {"output_len": "fixed:150"}
    together = apart(replicas=4, prefill=None, **length)
    found = apart(prefill={"replicas": 2, "kv_bandwidth": 10e9}, **length)
    assert found.itl_s["p99"] < together.itl_s["p99"]
    pool = found.prefill_pool
    # 8 key-value heads of 128, keys and values, 32 layers, two bytes each.
    alone = 1000 * 2 * 8 * 128 * 32 * 2 / 10e9
    assert pool["kv_transfer_s"]["p50"] == pytest.approx(alone, rel=1e-6)
    assert pool["kv_transfer_s"]["p99"] > alone
    assert pool["prefill_tokens"] == 400 * 1000
    assert found.to_dict()["config"]["prefill"]["replicas"] == 2
    assert found.run.sums.prefill_tokens == 0
    assert found.requests["kv_transfer_s"].min() == pytest.approx(alone, rel=1e-6)
    own = apart()  # over NVLink
    assert own.prefill_pool["kv_transfer_s"]["p50"] < 0.2 * alone
    assert together.prefill_pool is None


def test_clients_have_the_first_token_when_the_other_pool_takes_a_request():
    length = {"input_len": "fixed:1000", "output_len": "fixed:50"}
    calm = {"rate": 0.5, "requests": 40}
    quick, slow = (
        apart(prefill={"replicas": 2, "kv_bandwidth": speed}, **length | calm)
        for speed in (10e9, 0.5e9)
    )
    waited = slow.run.moving.mean() - quick.run.moving.mean()
    assert waited > 0.1
    later = slow.ttft_s["mean"] - quick.ttft_s["mean"]
    assert later == pytest.approx(waited, rel=0.05)
    assert slow.tpot_s["mean"] == pytest.approx(quick.tpot_s["mean"], rel=0.02)
    few = apart(prefill={"replicas": 2}, max_num_seqs=1, rate=None, concurrency=8)
    many = apart(prefill={"replicas": 2}, max_num_seqs=8, rate=None, concurrency=8)
    assert few.ttft_s["p50"] > 5 * many.ttft_s["p50"]  # waits for a slot
    assert few.tpot_s["p50"] < many.tpot_s["p50"]


def test_pools_apart_are_as_strong_as_the_weaker():
    busy = apart(rate=500.0)
    assert busy.stable is False
    assert busy.requests_per_s < 1.2 * busy.stable_rate
    assert apart(rate=2.0).stable is True


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"replicas": 8}, InputError, "no network is known"),
        ({"prefill": {"system": "dgx-a100-80gb"}}, InputError, "dgx-a100"),
        ({"prefill": {"replicas": 0}}, InputError, "prefill replicas is 0"),
        ({"prefill": {"tp": 3}}, InputError, "tp 3"),
        ({"prefill": {"tops": 3}}, UnknownNameError, "tops"),
        ({"prefill": {"kv_bandwidth": -1.0}}, InputError, "kv_bandwidth"),
    ],
)  # fmt: skip
def test_pools_apart_that_cannot_be(changed, error, message):
    with pytest.raises(error, match=message):
        apart(**changed)


@pytest.mark.parametrize("engine", ["vllm-v0", "sglang", "tensorrt-llm", "static"])
def test_every_engine_answers_all(engine):
    found = answer(engine=engine, requests=200)
    assert found.to_dict()["requests"] == 200
    assert found.run.sums.gaps.sum() == (found.requests["output_tokens"] - 1).sum()


def test_prompts_first_trades_gaps_for_first_tokens():
    load = {"rate": 12.0, "input_len": "fixed:1500", "output_len": "fixed:150"}
    mixed, first = answer(**load), answer(**load, engine="sglang")
    assert first.itl_s["p99"] > mixed.itl_s["p99"] * 0.9
    assert first.itl_s["p50"] < first.itl_s["p99"] / 2


def test_an_interrupted_run_keeps_what_it_has():
    def stop(done, total):
        if done > 300:
            raise KeyboardInterrupt

    cut = answer(progress=stop)
    assert cut.complete is False
    d = cut.to_dict()
    assert 300 < d["requests"] < 600 == d["requests_asked"]
    assert d["ttft_s"]["p50"] > 0


def test_the_same_seed_gives_the_same_answer(result):
    again = answer(slo={"ttft": 0.1, "tpot": 0.01}).to_dict()
    other = answer(seed=2).to_dict()
    assert again["ttft_s"] == result.to_dict()["ttft_s"] != other["ttft_s"]


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"rate": 0.0}, InputError, "rate is 0"),
        ({"rate": None}, InputError, "rate, concurrency or a trace"),
        ({"concurrency": 4}, InputError, "exclude"),
        ({"requests": 0}, InputError, "requests is 0"),
        ({"replicas": 0}, InputError, "replicas is 0"),
        ({"tp": 16}, InputError, "tp 16"),
        ({"pp": 0}, InputError, "pp is 0"),
        ({"pp": 4}, InputError, "needs 4 devices"),
        ({"ep": 2}, InputError, "no experts"),
        ({"router": "random"}, UnknownNameError, "router"),
        ({"engine": "vlm"}, UnknownNameError, "vllm"),
        ({"arrival": "weibull"}, InputError, "poisson"),
        ({"slo": {"p99": 1.0}}, InputError, "ttft"),
        ({"burstiness": -1.0}, InputError, "burstiness"),
        (
            {"input_len": "fixed:200000", "output_len": "5"},
            InputError,
            "takes at most 131072",
        ),
        ({"max_num_batched_tokens": 16}, InputError, "less than max_num_seqs"),
        ({"max_num_seqs": 0}, InputError, "max_num_seqs is 0"),
        ({"dtype": "fp4"}, InputError, "fp4"),
    ],
)
def test_bad_input_is_one_line_that_names_it(changed, error, message):
    with pytest.raises(error, match=message) as caught:
        answer(**changed)
    assert "\n" not in str(caught.value)


def test_a_model_that_leaves_no_room_and_a_request_too_large_are_said():
    with pytest.raises(InputError, match="no memory for keys and values"):
        serve("llama-3.1-70b", "h100", rate=1.0, requests=10)
    with pytest.raises(InputError, match="tokens of KV cache"):
        serve(
            "llama-2-13b", "l40s", rate=1.0, requests=10, input_len="fixed:3000",
            output_len="fixed:10", overrides=["device.memory.gddr.size=31GB"],
        )  # fmt: skip


def test_prompts_that_are_not_captured_take_what_the_host_takes():
    launch = hwsim.load_stack("vllm").launch
    small, large = launch.captured_tokens, launch.captured_tokens + 1
    one = deployment("llama-3.2-1b", max_num_batched_tokens=2048)
    table, _ = step_table(one)
    kernels = sum(
        node.op.kernels * repeat for *_, node, repeat in one.prefill(9).distinct()
    )
    issued = kernels * launch.prompt_time
    assert table.mixed([(small, 0)], 0, 0.0) < 0.8 * issued
    assert table.mixed([(large, 0)], 0, 0.0) == pytest.approx(issued, rel=0.1)
    everything = deployment(
        "llama-3.2-1b", max_num_batched_tokens=2048, captured_tokens=2048
    )
    assert step_table(everything)[0].mixed([(large, 0)], 0, 0.0) < 0.8 * issued


def test_an_estimate_of_a_prompt_waits_for_the_host_too():
    asked = {"batch": 1, "output": 1, "stack": "vllm"}
    short = hwsim.infer("llama-3.2-1b", "h100", prompt=512, **asked)
    longer = hwsim.infer("llama-3.2-1b", "h100", prompt=513, **asked)
    assert longer.prefill.parts["idle"] > 3.0 * short.prefill.parts["idle"]


def test_a_request_joins_the_step_after_the_next():
    asked = {
        "rate": 2.0, "requests": 60, "input_len": "fixed:64",
        "output_len": "fixed:200", "seed": 2,
    }  # fmt: skip
    late = serve("llama-3.1-8b", "h100", engine=load_engine("vllm-v1"), **asked)
    soon = load_engine("vllm-v1").model_copy(update={"lookahead": False})
    at_once = serve("llama-3.1-8b", "h100", engine=soon, **asked)
    gain = late.ttft_s["mean"] - at_once.ttft_s["mean"]
    assert 0.3 * late.tpot_s["mean"] < gain < 1.2 * late.tpot_s["mean"]
