"""Comparisons: cells, shared errors, waterfalls that add up."""

import json
import math
import statistics
from pathlib import Path

import pytest

import hwsim
from hwsim.analysis.comparing.compare import pair_of
from hwsim.analysis.comparing.error_sources import (
    OTHER_WORK,
    SAME_GENERATION,
    ratio_interval,
)
from hwsim.analysis.comparing.waterfall import shapley
from hwsim.errors import InputError, UnknownNameError


@pytest.fixture(scope="module")
def kinds():
    return hwsim.compare(
        ["h100", "h200", "xeon-8488c", "tpu-v5p", "gaudi2", "t4"], "llama-3.1-8b",
        batch=8,
    )  # fmt: skip


def test_cells_are_what_infer_answers(kinds):
    for cell in kinds.cells:
        alone = hwsim.infer("llama-3.1-8b", cell.case.system, batch=8)
        assert cell.result.latency_s == pytest.approx(alone.latency_s, rel=1e-9)
        if cell.ok:
            assert cell.interval_90["time_s"] == pytest.approx(
                alone.interval_90["latency_s"]
            )


def test_what_does_not_fit_is_a_cell_with_its_reason(kinds):
    t4 = kinds.cells[-1]
    assert t4.status == "does_not_fit"
    assert "too much" in t4.reason
    assert t4.label not in {name for p in kinds.pairs for name in (p.a, p.b)}
    assert "time_s" not in t4.figures()


def test_a_question_that_no_system_can_answer_is_refused():
    with pytest.raises(InputError, match="batch is 0"):
        hwsim.compare(["h100", "h200"], "llama-3.1-8b", batch=0)


def test_interrupted_comparisons_keep_what_was_answered():
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    found = hwsim.compare(["h100", "h200", "a100"], "gpt2", progress=stop)
    assert not found.complete
    assert [c.ok for c in found.cells] == [True, True]
    assert len(found.pairs) == 1


def test_a_dtype_that_a_device_lacks_is_a_cell_with_its_reason():
    found = hwsim.compare(["h100", "a100"], "llama-3.1-8b", dtype="fp8")
    assert [c.status for c in found.cells] == ["ok", "cannot_run"]
    assert "does not compute in it" in found.cells[1].reason


def test_waterfalls_add_up_across_kinds_of_device(kinds):
    assert len(kinds.waterfalls) == 4
    for fall in kinds.waterfalls:
        assert not fall.reason
        assert math.fsum(fall.steps.values()) == pytest.approx(
            fall.to_s - fall.from_s, rel=1e-9, abs=1e-15
        )
        ends = [c.time_s for c in kinds.cells if c.label in (fall.source, fall.target)]
        assert [fall.from_s, fall.to_s] == pytest.approx(ends)


def test_faster_memory_alone_is_all_of_the_difference():
    found = hwsim.compare(
        ["h100", {"system": "h100", "overrides": ["device.memory.hbm.bandwidth=x2"]}],
        "llama-3.1-8b",
    )
    (fall,) = found.waterfalls
    assert set(fall.steps) == {"memory bandwidth"}
    assert fall.steps["memory bandwidth"] < 0
    assert "(assumed)" in found.cells[1].label
    said = [a["figure"] for a in found.to_dict()["rests_on"]]
    assert "device.memory.hbm.bandwidth=x2" in said


def test_waterfall_backwards_is_the_same_with_the_sign_turned():
    a, b = ["h100", "mi300x"], ["mi300x", "h100"]
    there = hwsim.compare(a, "llama-3.1-8b").waterfalls[0].steps
    back = hwsim.compare(b, "llama-3.1-8b").waterfalls[0].steps
    assert {k: -v for k, v in back.items()} == pytest.approx(dict(there))


def test_shapley_of_a_sum_is_its_terms():
    worth = {m: 3.0 * (m & 1) + 5.0 * (m >> 1 & 1) + 7.0 * (m >> 2) for m in range(8)}
    assert shapley(worth, "abc") == pytest.approx({"a": 3.0, "b": 5.0, "c": 7.0})


def test_shapley_shares_an_interaction_equally():
    worth = {0: 0.0, 1: 0.0, 2: 0.0, 3: 8.0}
    assert shapley(worth, "ab") == {"a": 4.0, "b": 4.0}


def test_per_unit_figures_follow_from_rate_power_and_price(kinds):
    f = kinds.cells[0].figures()
    assert f["usd_per_mtok"] == pytest.approx(
        f["usd_per_hour"] / 3600 / f["tokens_per_s"] * 1e6
    )
    assert f["tokens_per_usd"] == pytest.approx(1e6 / f["usd_per_mtok"])
    assert f["kwh_per_mtok"] == pytest.approx(
        f["power_w"] * 1e6 / f["tokens_per_s"] / 3.6e6
    )
    assert f["kg_co2e_per_mtok"] == pytest.approx(f["kwh_per_mtok"] * 0.480)
    xeon = kinds.cells[2].figures()
    assert xeon["usd_per_mtok"] is None  # no price is known, none is made up


def test_price_can_be_given_for_one_and_for_all():
    found = hwsim.compare(
        [{"system": "mi300x", "price": 2.5}, "h100"], "llama-3.1-8b", price=4.0
    )
    assert [c.price for c in found.cells] == [2.5, 4.0]


def test_shared_errors_make_cells_easier_to_tell_apart(kinds):
    found = hwsim.compare("h100", "llama-3.1-8b", stack=["vllm", "pytorch-eager"])
    a, b = found.cells
    assert pair_of(a, b).shared
    apart = ratio_interval(a.errors, b.errors, 0.0)
    joint = ratio_interval(a.errors, b.errors)
    assert joint.high - joint.low < apart.high - apart.low


def test_errors_go_together_as_far_as_was_measured(kinds):
    h100, h200, xeon = (cell.errors for cell in kinds.cells[:3])
    assert h100.correlation(h200) == 0.5
    assert h100.correlation(xeon) == 0.0
    more = hwsim.compare("h100", "llama-3.1-8b", batch=64).cells[0].errors
    assert h100.correlation(more) == 0.0
    assert h100.correlation(h100) == 1.0


def test_correlations_used_are_not_above_what_was_measured():
    root = Path(__file__).resolve().parents[3]
    stored = (root / "docs" / "error_correlations.json").read_text("utf-8")
    by_kind = {}
    for one in json.loads(stored)["correlations"]:
        by_kind.setdefault(one["kind"], []).append(one["correlation"])
    assert min(by_kind["generation"]) >= SAME_GENERATION
    assert statistics.median(by_kind["work"]) >= OTHER_WORK


def test_what_only_memory_tells_apart_is_distinguishable():
    faster = {"system": "h100", "overrides": ["device.memory.hbm.bandwidth=x1.5"]}
    (pair,) = hwsim.compare(["h100", faster], "llama-3.1-8b").pairs
    assert pair.distinguishable
    assert pair.correlation == 1.0


def test_a_cell_is_not_distinguishable_from_itself():
    found = hwsim.compare(["h100", "h100"], "llama-3.1-8b")
    (pair,) = found.pairs
    assert pair.distinguishable is False
    assert pair.ratio == 1.0
    assert len({cell.label for cell in found.cells}) == 2


def test_a_speed_of_light_has_no_interval():
    found = hwsim.compare(["h100", "h200"], "llama-3.1-8b", fidelity="roofline")
    assert found.pairs[0].distinguishable is None
    assert found.cells[0].interval_90 is None


def test_training_compares_layouts():
    found = hwsim.compare(
        [{"system": "dgx-a100-80gb", "tp": 2}, {"system": "dgx-h100", "tp": 4}],
        "gpt2", task="train", global_batch=64, seq=1024,
    )  # fmt: skip
    assert [c.devices for c in found.cells] == [8, 8]
    (fall,) = found.waterfalls
    assert "layout and interconnect" in fall.steps
    assert math.fsum(fall.steps.values()) == pytest.approx(fall.to_s - fall.from_s)


def test_serving_explains_the_work_of_a_request():
    found = hwsim.compare(
        ["h100", "a100-80gb-sxm"], "llama-3.1-8b", task="serve", rate=2.0, requests=100
    )
    a = found.cells[0]
    assert a.time_s == a.result.e2e_s["mean"]
    (fall,) = found.waterfalls
    assert fall.steps
    assert math.fsum(fall.steps.values()) == pytest.approx(fall.to_s - fall.from_s)
    assert "answers soonest" in found.answer


def test_scenario_gives_the_work():
    found = hwsim.compare(
        ["dgx-h100", "dgx-a100-80gb"], scenario="llama-3.1-70b-on-8-h100"
    )
    assert found.cells[0].result.config.batch == 16
    assert found.cells[1].case.system.id == "dgx-a100-80gb"


def test_saved_comparison_says_what_it_is(kinds):
    d = json.loads(kinds.to_json())
    assert d["kind"] == "comparison"
    assert d["question"]["text"].startswith("Answering Llama 3.1 8B")
    price = next(a for a in d["rests_on"] if a["figure"] == "price")
    assert price["source"]["date"]
    assert price["source"]["title"]
    assert len(d["cells"][0]["spec_sha256"]["system"]) == 64


def test_table_has_a_row_for_each_cell(kinds):
    frame = kinds.table
    assert list(frame["label"]) == [c.label for c in kinds.cells]
    assert frame["interval_90.time_s"].notna().sum() == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"systems": ["h100"]}, "no model is given"),
        ({"systems": [], "model": "gpt2"}, "no system is given"),
        ({"systems": ["h100"], "model": "gpt2", "tpp": 2}, "tpp"),
        ({"systems": ["h100"], "model": "gpt2", "price": -1.0}, "price is -1"),
        ({"systems": ["h100"], "model": "gpt2", "grid": "atlantis"}, "atlantis"),
        ({"systems": ["h100"], "model": "gpt2", "task": "guess"}, "guess"),
        ({"systems": ["h101x"], "model": "gpt2"}, "h101x"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, message):
    with pytest.raises((InputError, UnknownNameError), match=message):
        hwsim.compare(**arguments)
