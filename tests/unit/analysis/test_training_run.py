"""Whole runs: published totals, accounting, refusals."""

import math

import pytest

import hwsim
from hwsim.specs.economics import load_economics


@pytest.fixture(scope="module")
def step():
    return hwsim.train("llama-2-7b", "dgx-h100", zero_stage=1, seq=4096)


def test_device_hours_are_tokens_over_rate_without_failures(step):
    run = hwsim.training_run(
        step, tokens=1e12, device_mtbf=math.inf, node_mtbf=math.inf, write_time=0.0
    )
    expected = 1e12 / step.tokens_per_s_per_device / 3600
    assert run.device_hours == pytest.approx(expected, rel=1e-6)
    assert run.goodput == pytest.approx(1.0)


def test_energy_money_and_carbon_follow_from_hours(step):
    run = hwsim.training_run(step, tokens=1e12, price=2.5, pue=1.2, grid="france")
    watts = run.power_per_device_w
    device = step.system.device
    assert device.power.idle < watts <= device.power.tdp
    watts += run.host_share * device.power.tdp
    kwh = run.device_hours * watts * 1.2 / 1e3
    assert run.to_dict()["energy_kwh"] == pytest.approx(kwh)
    assert run.cost_usd == pytest.approx(2.5 * run.device_hours)
    assert run.carbon_kg == pytest.approx(kwh * 56 / 1e3)


def test_interruptions_of_a_large_job_match_the_published_rate():
    # Llama 3 report: 419 unexpected interruptions of 16,384 devices in 54 days.
    from hwsim.cost.reliability import job_mtbf

    known = load_economics().reliability
    mtbf = float(job_mtbf(16_384, known.device_mtbf, 2_048, known.node_mtbf))
    assert 54 * 86_400 / mtbf == pytest.approx(419, rel=0.02)


def test_more_failures_lower_the_goodput(step):
    calm = hwsim.training_run(step, tokens=1e12, device_mtbf=1e9, node_mtbf=1e9)
    rough = hwsim.training_run(
        step, tokens=1e12, device_mtbf=1e6, node_mtbf=1e6, spares=1000
    )
    assert rough.goodput < calm.goodput
    assert rough.goodput == pytest.approx(rough.expected_goodput, rel=0.02)


def test_same_seed_same_answer(step):
    asked = {"tokens": 1e12, "device_mtbf": 1e7, "seed": 5}
    once, again = (hwsim.training_run(step, **asked) for _ in range(2))
    assert once.to_dict() == again.to_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 0}, "tokens"),
        ({"tokens": math.nan}, "tokens"),
        ({"price": -1.0}, "price"),
        ({"pue": 0.5}, "pue"),
        ({"grid": "atlantis"}, "grid"),
        ({"spares": -1}, "spares"),
        ({"replications": 0}, "replications"),
        ({"device_mtbf": -5.0}, "device_mtbf"),
        ({"device_mtbf": 100.0}, "hardly get on"),
        ({"checkpoint_interval": -1.0}, "checkpoint_interval"),
    ],
)
def test_impossible_runs_are_refused(step, change, message):
    with pytest.raises(hwsim.HwsimError, match=message):
        hwsim.training_run(step, **{"tokens": 1e12, **change})


def test_a_device_without_power_has_days_and_money_alone():
    step = hwsim.train(
        "llama-3.1-8b", "tpu-v5p-8", zero_stage=3, seq=2048, recompute="full"
    )
    run = hwsim.training_run(step, tokens=1e10)
    told = run.to_dict()
    assert told["energy_kwh"] is told["carbon_kg"] is told["energy_j"] is None
    assert run.cost_usd == pytest.approx(run.device_hours * 4.20)


def test_a_checkpoint_of_adapters_holds_the_adapters():
    asked = {"zero_stage": 3, "seq": 1024}
    whole = hwsim.train("llama-3.1-8b", "dgx-h100", **asked)
    tuned = hwsim.train("llama-3.1-8b", "dgx-h100", lora_rank=8, **asked)
    times = [
        hwsim.training_run(s, tokens=1e9).config.write_time for s in (whole, tuned)
    ]
    # Rank 8 beside the fused product (4096 to 6144) and the output's, 32 layers.
    adapters = 32 * 8 * (4096 + 6144 + 4096 + 4096)
    assert times[1] / times[0] == pytest.approx(adapters / whole.model.num_parameters)
