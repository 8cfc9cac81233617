"""Clients that give up, replicas that fail or come and go, drafts, changing rates."""

import numpy as np
import pytest

from hwsim.analysis.serving.layout import ReplicaLayout
from hwsim.analysis.serving.speculative import Speculation
from hwsim.analysis.serving.step_cost import Deployment, step_table
from hwsim.api.serving import serve
from hwsim.errors import HwsimError, InputError
from hwsim.sim.serving.arrivals import draw_requests
from hwsim.specs.catalogs import load_model, load_stack, load_system
from hwsim.specs.engine import load_engine
from hwsim.specs.traffic import Traffic, parse_lengths


def answer(**changed):
    asked = {
        "rate": 20.0, "requests": 600, "replicas": 2, "input_len": "lognormal:500",
        "output_len": "lognormal:150", "max_num_seqs": 64,
        "max_num_batched_tokens": 2048,
    }  # fmt: skip
    return serve("llama-3.1-8b", "dgx-h100", **(asked | changed))


def counted(found):
    d = found.to_dict()
    lost = d["rejected"] + d["timed_out"] + d["failed"]
    assert d["requests"] + lost == d["requests_asked"]
    return d


def test_rules_that_never_bite_change_nothing():
    plain = answer()
    lenient = answer(operations={"timeout": 1e6, "max_queue": 10**6})
    assert np.array(lenient.run.finish) == pytest.approx(plain.run.finish, rel=1e-9)
    assert np.array(lenient.run.first) == pytest.approx(plain.run.first, rel=1e-9)


def test_clients_give_up_at_their_deadline():
    found = answer(operations={"timeout": 2.0})
    d = counted(found)
    assert 0 < d["timed_out"] < 600
    assert found.run.e2e.max() <= 2.0 + 1e-9
    patient = answer()
    assert d["timed_out"] >= 0.8 * (patient.run.e2e > 2.0).sum()
    assert d["ttft_s"]["mean"] < patient.ttft_s["mean"] * 1.05


def test_a_full_queue_turns_requests_away_and_bounds_the_wait():
    found = answer(rate=300.0, operations={"max_queue": 4})
    d = counted(found)
    assert d["rejected"] > 100
    assert d["ttft_s"]["p99"] < answer(rate=300.0).ttft_s["p99"]


@pytest.mark.parametrize("prefill", [None, {"replicas": 2}])
def test_requests_of_replicas_that_fail_begin_anew(prefill):
    found = answer(
        replicas=3, operations={"mtbf": 15.0, "repair": 5.0}, prefill=prefill
    )
    d = counted(found)
    assert d["retries"] > 0
    assert d["failed"] < 10
    assert found.run.e2e.max() >= answer(replicas=3, prefill=prefill).run.e2e.max()
    again = answer(
        replicas=3, operations={"mtbf": 15.0, "repair": 5.0}, prefill=prefill
    )
    assert list(again.run.finish) == list(found.run.finish)


def test_groups_in_lock_step_fail_and_time_out_together():
    found = serve(
        "deepseek-v2-lite", "dgx-h100", rate=30.0, requests=300, attention_dp=2, ep=2,
        replicas=2, input_len="lognormal:300", output_len="lognormal:100",
        max_num_seqs=64, max_num_batched_tokens=1024,
        operations={"mtbf": 5.0, "repair": 2.0, "timeout": 5.0},
    )  # fmt: skip
    d = counted(found)
    assert d["retries"] > 0
    assert d["requests"] > 150


def test_a_fleet_follows_its_load():
    rules = {"min_replicas": 1, "target": 10, "startup": 1.0, "interval": 1.0}
    found = answer(
        replicas=6, requests=1500, operations=rules, rate_profile="daily:0.9:40"
    )
    d = counted(found)
    assert 1.0 < d["mean_replicas"] < 6.0
    assert 0 < d["utilisation"] <= 1.0
    always = answer(replicas=6, requests=1500, rate_profile="daily:0.9:40")
    assert found.run.energy < always.run.energy
    slow = answer(
        replicas=6, requests=1500, rate_profile="daily:0.9:40",
        operations=rules | {"startup": 20.0},
    )  # fmt: skip
    assert slow.ttft_s["p99"] > found.ttft_s["p99"]


@pytest.mark.parametrize(
    ("acceptance", "mean"), [(0.0, 1.0), (0.5, 1.9375), (1.0, 5.0)]
)
def test_rounds_give_the_tokens_that_geometric_acceptance_gives(acceptance, mean):
    assert Speculation(4, acceptance).per_round == pytest.approx(mean)


def test_drafts_pay_where_they_are_accepted_and_cost_where_not():
    def gap(**drafts):
        asked = {"rate": 1.0, "requests": 50, "replicas": 1}
        return answer(**asked, speculative=drafts or None).tpot_s["p50"]

    plain = gap()
    assert gap(tokens=4, acceptance=0.8) < 0.5 * plain
    assert plain <= gap(tokens=4, acceptance=0.0) < 1.3 * plain
    free, layer = (gap(tokens=4, acceptance=0.8, draft=d) for d in ("ngram", "mtp"))
    model = gap(tokens=4, acceptance=0.8, draft="llama-3.2-1b")
    assert free < layer < model


def test_drafts_in_a_pipeline_stand_on_its_last_stage():
    def gap(**drafts):
        asked = {"rate": 1.0, "requests": 50, "replicas": 1, "pp": 2, "tp": 1}
        return answer(**asked, speculative=drafts or None).tpot_s["p50"]

    plain = gap()
    assert gap(tokens=4, acceptance=0.8) < 0.5 * plain
    assert plain <= gap(tokens=4, acceptance=0.0) < 1.3 * plain
    free, layer = (gap(tokens=4, acceptance=0.8, draft=d) for d in ("ngram", "mtp"))
    model = gap(tokens=4, acceptance=0.8, draft="llama-3.2-1b")
    assert free < layer < model


def test_what_drafts_sets_the_pace_of_all_stages():
    tables = []
    for pp in (1, 2):
        model, system = load_model("llama-3.1-8b"), load_system("dgx-h100")
        tables.append(step_table(Deployment(
            model, system, load_stack("vllm"), load_engine("vllm-v1"),
            ReplicaLayout(1, pp, 1, 1), "bf16", "bf16", "bf16", "auto", 4096,
        ))[0])  # fmt: skip
    whole, pipe = tables
    layers = 32
    for batch in (1, 2, 16, 64):
        checked, decoded = (
            pipe.check(batch, 500.0 * batch, 1),
            pipe.decode(batch, 500.0 * batch),
        )
        assert checked[0] >= decoded[0] * 0.999
        each = max(batch // 2, 1)
        one, growth = whole.one_layer(each, 500.0 * each, layers)
        rounds = 1 if batch == 1 else 2
        found, grown = pipe.one_layer(batch, 500.0 * batch, layers)
        # A stage also sends to the next one, and pays the host for its own steps.
        assert found == pytest.approx(rounds * one, rel=0.12)
        assert grown == pytest.approx(growth, rel=0.05)


def test_checking_one_token_is_a_decode_step():
    table, _ = step_table(Deployment(
        load_model("deepseek-v2-lite"), load_system("dgx-h100"), load_stack("sglang"),
        load_engine("sglang"), ReplicaLayout(1, 1, 1, 1), "bf16", "bf16", "bf16",
        "auto", 4096,
    ))  # fmt: skip
    for batch in (1, 4, 16, 64):
        contexts = 500.0 * batch
        plain = table.decode(batch, contexts)
        assert table.check(batch, contexts, 1) == pytest.approx(plain)
        # Two tokens of each sequence read keys once, not as twice as many would.
        two = table.check(batch, contexts, 2)[0]
        assert plain[0] <= two <= table.decode(2 * batch, 2 * contexts)[0]


def test_a_draft_model_takes_memory():
    with_draft = answer(
        requests=10, speculative={"acceptance": 0.5, "draft": "llama-3.2-1b"}
    )
    assert with_draft.capacity.blocks < answer(requests=10).capacity.blocks


@pytest.mark.parametrize("profile", ["ramp:0.2:1.8", "daily:0.8:100", "ramp:0:1"])
def test_changing_rates_keep_their_mean_and_follow_their_course(profile):
    count, rate = 40_000, 100.0
    lengths = parse_lengths("input_len", "fixed:1")
    traffic = Traffic(count, rate, inputs=lengths, outputs=lengths, profile=profile)
    times = draw_requests(traffic, np.random.default_rng(1)).arrival
    assert np.all(np.diff(times) >= 0)
    assert times[-1] == pytest.approx(count / rate, rel=0.02)
    share = np.searchsorted(times, count / rate / 4) / count
    expected = {"ramp:0.2:1.8": 0.1, "daily:0.8:100": 0.25, "ramp:0:1": 1 / 16}
    assert share == pytest.approx(expected[profile], abs=0.01)
    if profile.startswith("daily"):
        crest = np.sum(times % 100 < 50) / count
        assert crest == pytest.approx(0.5 + 0.8 / np.pi, abs=0.01)


def test_swapped_requests_come_back_without_their_prompt():
    def crowded(how):
        return serve(
            "llama-2-13b", "l40s", rate=2.0, requests=60, preemption=how,
            input_len="uniform:500:2000", output_len="uniform:500:2000",
        )  # fmt: skip

    swap, again = crowded("swap"), crowded("recompute")
    assert swap.run.preemptions > 0
    assert swap.run.sums.prefill_tokens == swap.run.inputs.sum()
    assert again.run.sums.prefill_tokens > again.run.inputs.sum()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"operations": {"timeout": -1.0}}, "timeout"),
        ({"operations": {"max_queue": 1.5}}, "max_queue"),
        ({"operations": {"min_replicas": 5}}, "min_replicas 5"),
        ({"operations": {"patience": 5}}, "patience"),
        ({"speculative": {"tokens": 4}}, "acceptance"),
        ({"speculative": {"acceptance": 1.5}}, "acceptance"),
        ({"speculative": {"tokens": 99, "acceptance": 0.5}}, "at most 32"),
        ({"speculative": {"acceptance": 0.5, "draft": "gtp-2"}}, "gtp-2"),
        ({"rate_profile": "weekly:1"}, "rate_profile"),
        ({"rate_profile": "daily:2"}, "rate_profile"),
        ({"rate": None, "concurrency": 4, "rate_profile": "daily:1"}, "rate_profile"),
        ({"preemption": "drop"}, "preemption"),
    ],
)
def test_what_cannot_be_is_one_line(changed, message):
    with pytest.raises(HwsimError, match=message) as caught:
        answer(**changed)
    assert "\n" not in str(caught.value)


def test_swap_needs_a_link_to_the_host():
    with pytest.raises(InputError, match="host_link"):
        serve("llama-3.2-1b", "m2-ultra", rate=1.0, requests=5,
              preemption="swap", dtype="fp16")  # fmt: skip


def test_failures_lower_the_rate_that_can_go_on():
    whole = answer(rate=100.0).stable_rate
    found = answer(rate=100.0, operations={"mtbf": 60.0, "repair": 20.0})
    assert found.stable_rate == pytest.approx(0.75 * whole)
