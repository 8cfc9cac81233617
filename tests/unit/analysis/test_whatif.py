"""Sweeps, knees, sensitivities and solutions against what single answers say."""

import json
import math

import numpy as np
import pytest

import hwsim
from hwsim.analysis.varying.solve import parse_target
from hwsim.analysis.varying.vary import parameter, parse_axis, spaced
from hwsim.errors import InputError, SpecError, UnknownNameError

HBM = "device.memory.hbm.bandwidth"


@pytest.fixture(scope="module")
def asked():
    return hwsim.question("llama-3.1-8b", "h100", batch=8)


def alone(*overrides, **options):
    return hwsim.infer("llama-3.1-8b", "h100", overrides=overrides, **options)


def test_points_are_what_single_answers_say(asked):
    found = hwsim.whatif(asked, f"{HBM}=0.5x..2x:3")
    for factor, point in zip((0.5, 1.0, 2.0), found.points, strict=True):
        assert point.values[0] == pytest.approx(3.35e12 * factor)
        single = alone(f"{HBM}=x{factor}", batch=8)
        assert point.metric == pytest.approx(single.latency_s, rel=1e-9)
        assert point.bound == single.bound
    assert found.now.metric == pytest.approx(alone(batch=8).latency_s, rel=1e-9)


def test_knee_is_where_the_bound_changes(asked):
    (knee,) = hwsim.whatif(asked, "bandwidth=1x..32x:5").knees
    assert (knee.before, knee.after) == ("memory", "compute")
    below, above = (
        alone(f"{HBM}={knee.at * f / 1e12}TB/s", batch=8) for f in (0.99, 1.01)
    )
    assert (below.bound, above.bound) == ("memory", "compute")


def test_options_vary_too(asked):
    found = hwsim.whatif(asked, ["batch=1..8", "prompt=128,1024"], metric="ttft_s")
    assert [p.values for p in found.points[:3]] == [(1, 128), (1, 1024), (2, 128)]
    assert found.points[-1].metric == pytest.approx(alone(batch=8).ttft_s, rel=1e-9)


def test_names_vary_and_what_cannot_run_says_why(asked):
    found = hwsim.whatif(asked, "dtype=bf16,fp8,fp4")
    assert [p.status for p in found.points] == ["ok", "ok", "cannot_run"]
    assert "fp4" in found.points[2].reason
    assert found.knees == ()


def test_more_bandwidth_is_never_slower(asked):
    times = [p.metric for p in hwsim.whatif(asked, "bandwidth=0.25x..8x:21").points]
    assert all(np.diff(times) <= 1e-12)


def test_link_of_a_training_step():
    step = hwsim.question(
        "gpt2", "dgx-a100-80gb", task="train", global_batch=64, seq=1024
    )
    found = hwsim.whatif(step, "link=0.1x..1x:3")
    assert found.axes[0].parameter.key == "system.networks.nvlink.bandwidth"
    assert found.points[0].metric > found.points[-1].metric


def test_service_rate_varies():
    service = hwsim.question(
        "llama-3.1-8b", "h100", task="serve", rate=4.0, requests=200
    )
    low, high = hwsim.whatif(service, "rate=1,40").points
    assert low.metric < high.metric


def test_elasticity_is_the_slope_of_logarithms(asked):
    found = hwsim.sensitivity(asked)
    row = next(r for r in found.rows if r.parameter.key == HBM)
    up, down = (alone(f"{HBM}=x{f}", batch=8).latency_s for f in (1.01, 0.99))
    assert row.elasticity == pytest.approx(
        math.log(up / down) / math.log(1.01 / 0.99), rel=1e-6
    )
    assert row.low == pytest.approx(alone(f"{HBM}=x0.8", batch=8).latency_s)
    assert row.source == "datasheet"
    assert "device.memory.hbm.size" in found.still


def test_rates_at_which_all_times_scale_sum_to_minus_one():
    """Bandwidth and peak alone bound a roofline, so elasticities add up to -1."""
    # Few tokens, so that no operator stands near its ridge, where slopes jump.
    light = hwsim.question("llama-3.1-8b", "h100", prompt=16, fidelity="roofline")
    rows = hwsim.sensitivity(light).rows
    slopes = [r.elasticity for r in rows if r.parameter.key.startswith("device.")]
    assert sum(slopes) == pytest.approx(-1.0, abs=1e-3)


def test_sobol_indices_rank_as_elasticities_do():
    light = hwsim.question("llama-3.1-8b", "h100", batch=1, fidelity="roofline")
    found = hwsim.sensitivity(light, sobol=64)
    totals = {r.parameter.key: r.st[0] for r in found.rows if r.st}
    assert max(totals, key=totals.get) == HBM
    assert totals[HBM] == pytest.approx(1.0, abs=0.1)
    again = hwsim.sensitivity(light, sobol=64)
    assert [r.st for r in again.rows] == [r.st for r in found.rows]


def test_solution_meets_the_target_exactly(asked):
    found = hwsim.solve_for(asked, "tpot_s<=5ms", by="bandwidth")
    (one,) = found.solutions
    assert not one.met_now
    assert alone(f"{HBM}={one.value / 1e12}TB/s", batch=8).tpot_s == pytest.approx(
        5e-3, rel=1e-4
    )


def test_solution_of_a_whole_number_is_the_first_that_meets_it(asked):
    (one,) = hwsim.solve_for(asked, "tokens_per_s>=3000", by="batch").solutions
    assert alone(batch=int(one.value)).tokens_per_s >= 3000
    assert alone(batch=int(one.value) - 1).tokens_per_s < 3000


def test_solution_of_what_is_met_is_how_far_it_holds(asked):
    (one,) = hwsim.solve_for(asked, "latency_s<=2", by="batch").solutions
    assert one.met_now
    assert alone(batch=int(one.value)).latency_s <= 2
    assert alone(batch=int(one.value) + 1).latency_s > 2


def test_what_nothing_meets_is_refused_with_a_reason(asked):
    found = hwsim.solve_for(asked, "tpot_s<=0.5ms")
    assert [s.value for s in found.solutions] == [None] * 3
    assert "comes no nearer than" in found.solutions[0].reason
    assert json.loads(found.to_json())["solutions"][0]["needed"] is None


def test_saved_results_load_again(asked, tmp_path):
    for number, result in enumerate(
        (
            hwsim.whatif(asked, "batch=1,2"),
            hwsim.sensitivity(asked),
            hwsim.solve_for(asked, "tpot_s<=5ms", by="peak"),
        )
    ):
        place = tmp_path / f"{number}.json"
        place.write_text(result.saved_text("hwsim"))
        assert hwsim.load_result(place).kind == result.kind


def test_scenarios_that_ship_can_be_asked():
    from hwsim.api.case import scenario_case
    from hwsim.specs.scenario import scenario_paths

    names = sorted(scenario_paths())
    assert len(names) >= 8
    for name in names:
        case = scenario_case(name)
        assert parameter(case, "bandwidth").value > 0


def test_spacing_of_axes(asked):
    assert spaced(0.5, 2.0, 3, whole=False) == pytest.approx([0.5, 1.0, 2.0])
    assert spaced(0.0, 1.0, 3, whole=False) == [0.0, 0.5, 1.0]
    assert spaced(1, 10, 4, whole=True, how="lin") == [1.0, 4.0, 7.0, 10.0]
    axis = parse_axis(asked, "bandwidth=-50%..+50%:3:lin", 9)
    assert axis.values == pytest.approx((1.675e12, 3.35e12, 5.025e12))


@pytest.mark.parametrize(
    ("text", "key", "value", "at_most"),
    [
        ("tpot_s<=5ms", "tpot_s", 5e-3, True),
        ("tokens_per_s >= 2000", "tokens_per_s", 2000.0, False),
        ("latency_s=1.5", "latency_s", 1.5, True),
        ("tokens_per_s=10", "tokens_per_s", 10.0, False),
    ],
)
def test_targets_are_read(text, key, value, at_most):
    found = parse_target(text)
    assert (found.key, found.value, found.at_most) == (key, value, at_most)


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ("batch", "is not KEY=RANGE"),
        ("bandwith=1x..2x", "no option of infer"),
        ("device.memory.hmb.size=1x..2x", "is no figure"),
        ("batch=1..x", "'x'"),
        ("bandwidth=1..2", "has no unit"),
        ("bandwidth=1x..2x:1", "1 points"),
        ("bandwidth=-1x..2x", "negative|outside|above"),
        (["batch=1,2", "batch=1,2"], "twice"),
        (["batch=1,2"] * 3, "one or two"),
        ("batch=0", "no value can run"),
        ("tp=2,4", "no value can run"),
    ],
)
def test_ranges_that_make_no_sense_are_refused(asked, vary, message):
    with pytest.raises((InputError, SpecError, UnknownNameError), match=message):
        hwsim.whatif(asked, vary)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("tpot_s", "is not FIGURE<=VALUE"),
        ("tpot_s<=fast", "fast"),
        ("tpot_s<=-1", "above 0"),
        ("tptt_s<=1", "is no figure of the answer"),
    ],
)
def test_targets_that_make_no_sense_are_refused(asked, target, message):
    with pytest.raises(InputError, match=message):
        hwsim.solve_for(asked, target)


def test_points_have_the_intervals_of_single_answers(asked):
    found = hwsim.whatif(asked, f"{HBM}=0.5x,1x", metric="tpot_s")
    for factor, point in zip((0.5, 1.0), found.points, strict=True):
        single = alone(f"{HBM}=x{factor}", batch=8).interval_90["tpot_s"]
        assert point.interval == pytest.approx(single, rel=1e-9)
    assert found.table["metric_interval_90"][0] == found.points[0].interval


def test_rent_has_the_interval_of_the_rate(asked):
    found = hwsim.whatif(asked, "batch=8", metric="usd_per_mtok").points[0]
    slow, fast = alone(batch=8).interval_90["tokens_per_s"]
    hour = found.figures["usd_per_mtok"] * found.figures["tokens_per_s"]
    assert found.interval == pytest.approx((hour / fast, hour / slow))


def test_sensitivities_have_intervals(asked):
    found = hwsim.sensitivity(asked)
    assert found.interval == pytest.approx(alone(batch=8).interval_90["latency_s"])
    row = next(r for r in found.rows if r.parameter.key == HBM)
    slower = alone(f"{HBM}=x0.8", batch=8).interval_90["latency_s"]
    assert row.low_interval == pytest.approx(slower)
    assert row.to_dict()["low_interval_90"] == row.low_interval


def test_solution_says_what_makes_it_sure(asked):
    asks = []
    found = hwsim.solve_for(asked, "tpot_s<=6ms", "bandwidth", progress=asks.append)
    (one,) = found.solutions
    good, sure = one.ends
    assert good < one.value < sure
    at = alone(f"{HBM}={sure / 1e12!r}TB/s", batch=8)
    assert at.interval_90["tpot_s"][1] == pytest.approx(6e-3, rel=1e-4)
    assert asks == list(range(1, len(asks) + 1))
    assert asks


def test_a_roofline_has_no_interval_to_be_sure_of():
    bound = hwsim.question("llama-3.1-8b", "h100", fidelity="roofline")
    found = hwsim.solve_for(bound, "tpot_s<=4ms", "bandwidth")
    assert found.interval is None
    assert found.solutions[0].ends is None


def test_wider_dtypes_do_not_move_products_in_bf16():
    found = hwsim.sensitivity(hwsim.question("gpt2", "mi300x"))
    peaks = {r.parameter.key for r in found.rows if ".matrix." in r.parameter.key}
    assert peaks == {"device.compute.matrix.bf16"}


NEWER = {
    "now_interval_90", "needed_interval_90", "metric_interval_90", "low_interval_90",
    "high_interval_90", "complete",
}  # fmt: skip


def without(value, keys):
    if isinstance(value, dict):
        return {k: without(v, keys) for k, v in value.items() if k not in keys}
    return [without(v, keys) for v in value] if isinstance(value, list) else value


def test_files_from_before_intervals_still_make_pages(asked, tmp_path):
    results = {
        "sweep": hwsim.whatif(asked, "bandwidth=1x,2x"),
        "swing": hwsim.sensitivity(asked),
        "solved": hwsim.solve_for(asked, "tpot_s<=5ms", "bandwidth"),
    }
    for name, result in results.items():
        hwsim.save_result(result, tmp_path / f"{name}.json")
        told = json.loads((tmp_path / f"{name}.json").read_text("utf-8"))
        old = tmp_path / f"{name}-old.json"
        old.write_text(json.dumps(without(told, NEWER)), encoding="utf-8")
        now, then = (
            hwsim.write_reports([path], tmp_path / "out", formats=["md"])[0].read_text()
            for path in (tmp_path / f"{name}.json", old)
        )
        assert "90 %" in now.partition("## How accurate")[0]
        assert then.startswith("# Llama 3.1 8B on")
