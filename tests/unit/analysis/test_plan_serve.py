"""Plans of services: bounds hold, limits are met, the impossible is explained."""

import math

import numpy as np
import pytest

import hwsim
from hwsim.analysis.plan_serve.confirm import parse_limits, upper_bound
from hwsim.analysis.plan_serve.planner import ServePlanner
from hwsim.analysis.plan_serve.space import Precision
from hwsim.errors import InputError

ASKED = {
    "rate": 30.0, "input_len": "lognormal:400", "output_len": "lognormal:100",
    "requests": 600, "simulate": 2, "tp": (1, 2),
}  # fmt: skip
SLO = {"ttft.p99": 0.6, "tpot.p99": 0.03}


@pytest.fixture(scope="module")
def plan():
    return hwsim.plan_serve(
        "llama-3.2-3b", ["dgx-h100", "l40s"], slo=SLO, precision=["bf16", "fp8"],
        **ASKED,
    )  # fmt: skip


def test_the_cheapest_meets_its_limits_when_it_is_served_again(plan):
    best = plan.cheapest
    choice = best.choice
    again = hwsim.serve(
        "llama-3.2-3b", choice.system, rate=30.0, requests=600,
        input_len=ASKED["input_len"], output_len=ASKED["output_len"],
        tp=choice.layout.tp, replicas=best.replicas, router="least_outstanding",
        dtype=choice.precision.dtype, weight_dtype=choice.precision.weight_dtype,
        kv_dtype=choice.precision.kv_dtype,
    )  # fmt: skip
    assert again.ttft_s == best.result.ttft_s
    assert again.ttft_s["p99"] <= SLO["ttft.p99"]
    assert again.tpot_s["p99"] <= SLO["tpot.p99"]
    assert again.stable


def test_the_order_is_by_price_and_the_others_are_better_elsewhere(plan):
    hourly = plan.table["usd_per_hour"].tolist()
    assert hourly == sorted(hourly)
    for other in plan.confirmed:
        assert plan.fastest.result.e2e_s["mean"] <= other.result.e2e_s["mean"]
        assert plan.frugal.result.energy_j_per_token <= other.result.energy_j_per_token


def test_the_closed_form_never_asks_for_more_than_simulation_does(plan):
    for c in plan.confirmed:
        assert c.steady.replicas(plan.demand, plan.slo) <= c.replicas
        each = plan.demand.rate / c.replicas
        assert c.steady.tpot_at(each) <= 1.05 * c.result.tpot_s["mean"]
        for stat in ("mean", "p50", "p99"):
            least = c.steady.least("ttft", stat, plan.demand)
            assert least <= 1.05 * c.result.ttft_s[stat]


def test_rejections_and_answers_are_all_the_candidates(plan):
    assert len(plan.confirmed) + len(plan.rejected) == plan.candidates
    assert all(r.why for r in plan.rejected)


def test_the_front_trades_users_for_devices(plan):
    front = plan.pareto
    user = front["tokens_per_s_per_user"].to_numpy()
    device = front["tokens_per_s_per_device"].to_numpy()
    assert len(front) > 3
    assert (np.diff(user) > 0).all()
    assert (np.diff(device) < 0).all()


def test_goodput_follows_the_rate_until_it_cannot(plan):
    curve = plan.curve
    assert curve[0]["goodput_rps"] == pytest.approx(curve[0]["rate_rps"], rel=0.05)
    assert all(p["goodput_rps"] <= p["rate_rps"] * 1.001 for p in curve)


def test_it_saves_and_loads(plan, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(plan.saved_text("hwsim plan serve"))
    loaded = hwsim.load_result(path)
    assert loaded.kind == "serve_plan"
    assert loaded.data["cheapest"]["replicas"] == plan.cheapest.replicas


def test_an_impossible_token_time_names_memory_and_its_bandwidth():
    with pytest.raises(InputError) as caught:
        hwsim.plan_serve("llama-3.1-8b", "h100", slo={"tpot.p99": 1e-3}, rate=1.0)
    said = str(caught.value)
    assert "no deployment meets tpot of 0.001 s" in said
    assert "3.35 TB/s" in said
    assert "narrower weights" in said


def test_an_impossible_first_token_names_the_prompt():
    with pytest.raises(InputError, match=r"no deployment meets ttft.*shorter prompts"):
        hwsim.plan_serve("llama-3.1-8b", "l4", slo={"ttft.p50": 0.01}, rate=1.0)


def test_a_model_too_large_for_all_says_what_it_needs():
    with pytest.raises(InputError, match=r"no deployment can run.*raise tp"):
        hwsim.plan_serve("llama-3.1-70b", "l4", slo=SLO, rate=1.0)


def test_too_few_replicas_are_said():
    with pytest.raises(InputError, match="more than 1"):
        hwsim.plan_serve(
            "llama-3.2-3b", "l4", slo={"tpot.p99": 0.05}, max_replicas=1,
            **{**ASKED, "tp": None, "rate": 300.0},
        )  # fmt: skip


def test_an_interrupt_keeps_what_was_confirmed(monkeypatch):
    tried = ServePlanner._try

    def interrupted(self, one):
        if self.confirmed:
            raise KeyboardInterrupt
        tried(self, one)

    monkeypatch.setattr(ServePlanner, "_try", interrupted)
    plan = hwsim.plan_serve(
        "llama-3.2-3b", "dgx-h100", slo=SLO, **{**ASKED, "simulate": 3}
    )
    assert plan.interrupted
    assert len(plan.confirmed) == 1
    assert plan.to_dict()["cheapest"]["replicas"] >= 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"slo": {}}, "no limit is given"),
        ({"slo": {"ttft.p75": 1.0}}, "slo 'ttft.p75' is unknown"),
        ({"slo": {"ttft": -1.0}}, "give seconds above 0"),
        ({"margin": 1.0}, "margin is 1.0"),
        ({"precision": "bf16//"}, "precision 'bf16//'"),
        ({"tp": ()}, "tp has no values"),
        ({"tp": 3}, "use tp 1, 2, 4, 8"),
        ({"rate": None}, "how requests arrive is missing"),
        ({"max_replicas": 0}, "max_replicas"),
        ({"engine": "no-such"}, "no-such"),
    ],
)
def test_what_cannot_be_asked_is_refused(changes, said):
    asked = {"slo": SLO, **ASKED, "tp": 1, **changes}
    with pytest.raises(hwsim.HwsimError, match=said):
        hwsim.plan_serve("llama-3.2-3b", "dgx-h100", **asked)


def test_a_bound_on_a_percentile_holds_as_often_as_it_says():
    rng = np.random.default_rng(5)
    truth = -math.log(0.1)
    held = [upper_bound(rng.exponential(size=500), "p90") >= truth for _ in range(400)]
    assert 0.91 <= np.mean(held) <= 0.99


def test_limits_and_precisions_are_read():
    assert parse_limits({"itl": 0.1}) == {("itl", "p99"): 0.1}
    assert str(Precision.parse("fp8")) == "fp8/fp8/bf16"
    assert str(Precision.parse("fp8/fp8/fp8")) == "fp8/fp8/fp8"


def test_prompts_that_wait_for_the_host_do_not_raise_the_bound():
    """A step that the host is slow to issue holds answers and prompts at once."""
    plan = hwsim.plan_serve(
        "llama-3.2-1b", ["h100"], slo={"tpot.p99": 0.05}, rate=150.0, requests=600,
        input_len="fixed:600", output_len="fixed:10", simulate=1,
    )  # fmt: skip
    best = plan.cheapest
    each = plan.demand.rate / best.replicas
    assert best.steady.tpot_at(each) <= 1.02 * best.result.tpot_s["mean"]


@pytest.fixture(scope="module")
def split():
    """Answers that prompts would hold up too often."""
    return hwsim.plan_serve(
        "llama-3.1-8b", "dgx-h100", rate=20.0, slo={"ttft.p99": 1.0, "tpot.p99": 0.01},
        tp=(1, 2), requests=400, simulate=2,
    )  # fmt: skip


def test_prompts_may_have_replicas_of_their_own(split):
    best = split.cheapest
    prompts = best.choice.prompts
    assert prompts is not None
    devices = best.replicas * best.choice.layout.devices
    devices += best.prompt_replicas * prompts.layout.devices
    assert best.devices == split.table["devices"][0] == devices
    again = hwsim.serve(
        "llama-3.1-8b", "dgx-h100", rate=20.0, requests=best.result.run.asked,
        tp=best.choice.layout.tp, replicas=best.replicas, router="least_outstanding",
        prefill={
            "tp": prompts.layout.tp, "replicas": best.prompt_replicas,
            "router": "least_outstanding",
        },
    )  # fmt: skip
    assert again.ttft_s == best.result.ttft_s
    assert again.tpot_s["p99"] == best.result.tpot_s["p99"] <= 0.01
    from hwsim.report.pages.plan_serve import deployment

    told = deployment(best.to_dict())
    assert told.endswith(f"; prompts on {best.prompt_replicas} replica of 1 device")
    each = split.demand.rate / best.replicas
    assert best.steady.tpot_at(each) <= 1.05 * best.result.tpot_s["mean"]


def test_replicas_for_prompts_pay_or_are_not_taken(split):
    shared = hwsim.plan_serve(
        "llama-3.1-8b", "dgx-h100", rate=20.0, slo={"ttft.p99": 1.0, "tpot.p99": 0.01},
        tp=(1, 2), requests=400, simulate=2, disaggregated=False,
    )  # fmt: skip
    assert all(c.choice.prompts is None for c in shared.confirmed)
    assert split.cheapest.hourly <= shared.cheapest.hourly


def test_a_replica_holds_the_largest_request_or_is_turned_down():
    with pytest.raises(InputError, match=r"find room, the largest request has"):
        hwsim.plan_serve(
            "llama-3.1-8b", "l4", rate=0.5, slo={"ttft.p99": 60.0},
            input_len="fixed:30000", output_len="fixed:10", requests=100,
        )  # fmt: skip
