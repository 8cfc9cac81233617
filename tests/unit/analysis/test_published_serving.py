"""Predictions beside tables of published serving points."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from hwsim.analysis.fitting.intervals import with_terms
from hwsim.analysis.fitting.outside import serving_rows, serving_terms
from hwsim.analysis.published.kinds import Record, table_kind
from hwsim.analysis.published.layout import (
    Degrees,
    degrees_of,
    pools_of,
    with_copies,
)
from hwsim.analysis.published.loop import loop_of
from hwsim.analysis.validation.published import PublishedValidation, validate_published
from hwsim.api.serving import serve
from hwsim.errors import InputError
from hwsim.specs.calibration import load_intervals
from hwsim.specs.catalogs import load_device, load_model
from hwsim.specs.published.serving import ServingRow, Workers, little, read_serving
from hwsim.specs.published.serving_map import load_serving_mappings, mapped_serving

HEAD = (
    "model,device,backend,backend_version,precision,mode,isl,osl,concurrency,"
    "batch_size,tp_size,attention_dp_size,moe_tp_size,moe_ep_size,ttft_ms,tpot_ms"
)
ROW = "meta-llama/Llama-3.1-70B,h100_sxm,vllm,,fp8,agg,512,64,4,4,4,1,4,1,80,9"


def table(path: Path, *rows: str, head: str = HEAD) -> Path:
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


def compared(tmp_path: Path, *rows: str) -> PublishedValidation:
    return validate_published(table(tmp_path / "serving.csv", *rows))


def by_metric(result: PublishedValidation) -> dict[str, Record]:
    return {r["metric"]: r for r in result.records}


def test_the_prediction_is_that_of_the_closed_loop(tmp_path: Path) -> None:
    found = by_metric(compared(tmp_path, ROW))
    result = serve(
        "llama-3.1-70b", "dgx-h100", tp=4, concurrency=4, requests=40, dtype="fp8",
        kv_dtype="fp8", input_len="fixed:512", output_len="fixed:64",
        max_num_seqs=4, router="least_outstanding",
    )  # fmt: skip
    assert found["ttft"]["predicted"] == pytest.approx(result.ttft_s["mean"], rel=5e-3)
    assert found["tpot"]["predicted"] == pytest.approx(result.tpot_s["mean"], rel=5e-3)
    assert found["ttft"]["measured"] == 0.08
    assert found["tpot"]["measured"] == pytest.approx(0.009)
    rate = found["throughput"]
    assert rate["measured"] == pytest.approx(4 * 64 / (0.08 + 63 * 0.009))
    assert rate["unit"] == "tokens/s"
    for row in found.values():
        assert row["lower"] < row["predicted"] < row["upper"]
    assert found["ttft"]["devices"] == 4
    assert found["ttft"]["op"] == "serve aggregated"


def test_times_of_a_row_follow_littles_law() -> None:
    assert little(8, 11, 1.0, 0.1) == pytest.approx(44.0)
    assert little(8, 11, None, 0.1) is None


def test_what_cannot_be_answered_is_kept_with_its_reason(tmp_path: Path) -> None:
    result = compared(
        tmp_path, ROW,
        ROW.replace(",4,4,4,1,4,1,80", ",4,4,7,1,7,1,80"),
        ROW.replace("h100_sxm", "z900"),
        ROW.replace(",80,9", ",fast,9"),
        ROW.replace("Llama-3.1-70B", "Nothing-900B"),
        ROW.replace(",80,9", ",,"),
    )  # fmt: skip
    data = json.loads(result.to_json())
    assert data["answered"] == 3
    assert data["total_rows"] == 3 + 3 + 3 + 1 + 3 + 1
    reasons = " ".join(data["unanswered_reasons"])
    assert "tp 7 does not divide the 64 heads" in reasons
    assert "unknown device 'z900'" in reasons
    assert "ttft_ms: 'fast' is not a number" in reasons
    assert "unknown model 'Nothing-900B'" in reasons
    assert "neither ttft_ms nor tpot_ms" in reasons


def test_tables_are_told_by_their_columns(tmp_path: Path) -> None:
    assert table_kind(table(tmp_path / "a.csv", ROW)).name == "serving"


@pytest.mark.parametrize(
    ("printed", "read"),
    [
        # (tp, attention_dp, moe_tp, moe_ep) as printed.
        ((8, 1, 8, 1), Degrees(8)),
        ((8, 1, 1, 8), Degrees(8, ep=8)),
        ((1, 8, 1, 8), Degrees(1, ep=8, attention_dp=8)),
        # Products of two degrees on a node of eight.
        ((64, 1, 8, 8), Degrees(8, ep=8)),
        ((16, 1, 4, 4), Degrees(4, ep=4)),
        ((1, 64, 8, 8), Degrees(1, ep=8, attention_dp=8)),
        # One degree printed twice.
        ((4, 4, 1, 16), Degrees(1, ep=4, attention_dp=4)),
    ],
)
def test_products_of_degrees_are_read_plainly(
    printed: tuple[int, int, int, int], read: Degrees
) -> None:
    model, device = load_model("deepseek-r1"), load_device("h200_sxm")
    tp, dp, moe_tp, ep = printed
    assumed: list[str] = []
    pool = Workers(tp=tp, attention_dp=dp, moe_tp=moe_tp, moe_ep=ep)
    assert degrees_of(pool, model, device, assumed) == read
    assert bool(assumed) == (tp * dp != read.devices)


def test_totals_of_devices_are_refused() -> None:
    pool = Workers(tp=72, moe_tp=72)
    with pytest.raises(InputError, match="looks like all devices"):
        degrees_of(pool, load_model("deepseek-r1"), load_device("gb200"), [])


def test_groups_of_a_dense_model_are_servers() -> None:
    pool = Workers(tp=2, attention_dp=4)
    found = degrees_of(pool, load_model("qwen3-32b"), load_device("h100_sxm"), [])
    assert found == Degrees(2, replicas=4)


def test_mappings_say_what_a_benchmark_does(tmp_path: Path) -> None:
    known = ROW.replace("512,64,4,4,4", "1024,1024,16,16,4").replace("vllm", "trtllm")
    rows = read_serving(table(tmp_path / "a.csv", known, ROW))
    mappings = load_serving_mappings()
    found = mapped_serving(rows[0], 4, mappings)
    assert found.maps == ("any", "inferencex")
    assert found.shortest == 0.8
    assert (found.limits["wait_steps"], found.limits["wait_share"]) == (20, 0.9)
    assert mapped_serving(rows[0], 8, mappings).limits.get("wait_steps") is None
    assert mapped_serving(rows[1], 4, mappings).shortest == 1.0


@pytest.mark.parametrize(
    ("version", "own", "steps", "tokens"),
    [("1.2.0rc6.post3", True, 60, 64), ("1.2.0rc6.post2", False, None, None)],
)
def test_launch_scripts_say_how_prompts_are_held(
    version: str, own: bool, steps: int | None, tokens: int | None
) -> None:
    row = recipe_row(
        64, mode="agg", backend_version=version, precision="fp8", model="deepseek-r1",
        pool=Workers(tp=1, attention_dp=8, moe_ep=8) if own else Workers(tp=8),
    )  # fmt: skip
    found = mapped_serving(row, 1 if own else 8, load_serving_mappings())
    assert found.limits.get("balance_steps") == steps
    assert found.limits.get("max_num_batched_tokens") == tokens
    # Prompts that wait for others do not wait for more of them besides.
    assert bool(found.limits.get("wait_steps")) is not own
    assert found.limits["chunked_prefill"] == 0


SPLIT = (
    "model,device,backend,precision,mode,isl,osl,concurrency,prefill_tp_size,"
    "prefill_moe_ep_size,prefill_num_workers,decode_tp_size,decode_moe_ep_size,"
    "decode_num_workers,decode_batch_size,ttft_ms,tpot_ms"
)


def split(tmp_path: Path, row: str) -> dict[str, Record]:
    path = table(tmp_path / "split.csv", row, head=SPLIT)
    return by_metric(validate_published(path))


def test_servers_apart_are_those_of_the_row(tmp_path: Path) -> None:
    row = "Qwen/Qwen3-32B,h100_sxm,sglang,fp8,disagg,1024,32,,1,1,2,2,1,3,4,300,9"
    found = split(tmp_path, row)
    assert found["tpot"]["op"] == "serve disaggregated"
    assert found["tpot"]["devices"] == 2 * 1 + 3 * 2
    assert "concurrency = 12" in found["tpot"]["assumed"]
    assert found["tpot"]["predicted"] > 0
    more = split(tmp_path, row.replace(",1,1,2,2,1,3,4,", ",1,1,4,2,1,3,4,"))
    assert more["ttft"]["predicted"] < found["ttft"]["predicted"]


def test_servers_of_one_device_have_no_network_of_their_own(tmp_path: Path) -> None:
    row = "Qwen/Qwen3-32B,h100_sxm,vllm,fp8,disagg,512,16,,1,1,2,1,1,2,2,300,9"
    assert split(tmp_path, row)["ttft"]["predicted"] > 0


def test_servers_that_are_not_given_are_assumed_and_said() -> None:
    model, device = load_model("deepseek-r1"), load_device("b200_sxm")
    pool = Workers(tp=8, moe_tp=2, moe_ep=4)
    row = ServingRow("a", 1, mode="disagg", concurrency=16, prefill=pool, decode=pool)
    assumed: list[str] = []
    first, second, drafted, *_ = pools_of(row, model, device, assumed)
    assert (first.replicas, first.attention_dp, first.ep) == (1, 8, 8)
    assert (second.replicas, second.tp, second.attention_dp) == (5, 8, 1)
    assert any("not given" in note for note in assumed)
    assert drafted == 0
    many = dataclasses.replace(row, concurrency=4096)
    assert pools_of(many, model, device, [])[1].attention_dp == 8


def recipe_row(clients: int, device: str = "b200_sxm", **cells: object) -> ServingRow:
    pool = Workers(tp=8, moe_tp=2, moe_ep=4)
    row = ServingRow(
        "a", 1, model="DeepSeek-R1", device=device, backend="trtllm", precision="fp4",
        mode="disagg", isl=1024, osl=1024, concurrency=clients,
        prefill=Workers(tp=4, moe_ep=4), decode=pool,
    )  # fmt: skip
    return dataclasses.replace(row, **cells)  # type: ignore[arg-type]


def test_recipes_tell_servers_and_speculation_by_the_number_of_clients() -> None:
    model, device = load_model("deepseek-r1"), load_device("b200_sxm")
    assumed: list[str] = []
    found = pools_of(recipe_row(1214), model, device, assumed)
    assert found.prompts == Degrees(1, ep=4, attention_dp=4)
    assert found.answers == Degrees(1, ep=8, attention_dp=8, replicas=2)
    assert (found.drafted, found.recipes) == (2, 1)
    assert any("2 tokens drafted" in note for note in assumed)
    plain = pools_of(recipe_row(450), model, device, [])
    assert plain.answers == Degrees(8, ep=8, replicas=6)
    assert plain.drafted == 0


def test_a_recipe_limits_the_batch_of_answers() -> None:
    loop = loop_of(recipe_row(1214), load_serving_mappings())
    assert loop.engine.max_num_seqs == 64
    assert any("at most 64 requests" in note for note in loop.assumed)
    free = loop_of(recipe_row(1215), load_serving_mappings())  # no recipe's
    assert not any("at most" in note for note in free.assumed)
    assert free.engine.max_num_seqs > -(-1215 // (5 * 8))


def test_of_two_recipes_the_one_without_drafts_is_taken_and_the_other_named() -> None:
    model, device = load_model("deepseek-r1"), load_device("b200_sxm")
    assumed: list[str] = []
    found = pools_of(recipe_row(90), model, device, assumed)
    assert (found.drafted, found.recipes) == (0, 2)
    assert any(note.startswith("or, as likely") for note in assumed)


def test_what_a_row_states_is_never_overruled_by_a_recipe() -> None:
    model, device = load_model("deepseek-r1"), load_device("b200_sxm")
    three = Workers(num_workers=3, tp=8, moe_tp=8)
    found = pools_of(recipe_row(450, decode=three), model, device, [])
    assert found.answers.replicas == 3
    other = recipe_row(450, decode=Workers(tp=4, moe_tp=4))
    assert pools_of(other, model, device, []).answers.tp == 4


def test_speculation_makes_tokens_faster(tmp_path: Path) -> None:
    head = HEAD.replace("concurrency", "concurrency,measured")
    row = (
        "deepseek-ai/DeepSeek-R1,b200_sxm,trtllm,1.2.0rc6.post2,fp8,agg,1024,1024,4,"
        "2026-02-05,4,8,1,8,1,500,9"
    )
    path = table(tmp_path / "rows.csv", row, row.replace("post2", "post3"), head=head)
    plain, drafted = (
        r for r in validate_published(path).records if r["metric"] == "tpot"
    )
    assert 0.4 < drafted["predicted"] / plain["predicted"] < 0.8


def test_degrees_of_one_that_hold_no_model_are_as_good_as_blank() -> None:
    model, device = load_model("deepseek-r1"), load_device("b200_sxm")
    one = Workers(tp=1, attention_dp=1, moe_tp=1, moe_ep=1)
    found = pools_of(recipe_row(450, prefill=one, decode=one), model, device, [])
    assert found.answers == Degrees(8, ep=8, replicas=6)


def test_experts_that_ranks_cannot_share_evenly_are_held_twice() -> None:
    model = load_model("deepseek-r1")
    assumed: list[str] = []
    found = with_copies(model, (8, 48), assumed)
    assert found.moe is not None
    assert found.moe.experts == 288
    assert assumed == ["288 experts in a layer, copies included"]
    assert with_copies(model, (8, 32), assumed) is model


def test_rounds_that_are_left_out_are_like_those_between() -> None:
    row = recipe_row(4096, osl=1024)
    loop = loop_of(row, load_serving_mappings())
    assert (loop.requests, loop.asked) == (3 * 4096, 10 * 4096)
    weights = loop.weights
    assert weights.sum() == pytest.approx(loop.asked)
    assert (weights[0], weights[4096], weights[-1]) == (1.0, 8.0, 1.0)
    few = loop_of(recipe_row(90), load_serving_mappings())
    assert set(few.weights) == {1.0}


def test_clients_beyond_a_servers_batches_are_those_of_more_servers() -> None:
    model, device = load_model("qwen3-32b"), load_device("gb200")
    assumed: list[str] = []
    pool = Workers(batch_size=8, tp=2)
    assert degrees_of(pool, model, device, assumed, 32).replicas == 4
    assert assumed == ["4 servers: clients over batch_size"]
    assert degrees_of(pool, model, device, [], 8).replicas == 1
    assert degrees_of(pool, model, device, [], 12).replicas == 1


def test_points_give_the_terms_of_their_intervals(tmp_path: Path) -> None:
    slow = ROW.replace(",80,9", ",800,90")
    path = table(tmp_path / "serving.csv", ROW, slow, ROW.replace("vllm", "sglang"))
    rows = serving_rows([path])
    assert [r.task for r in rows[:3]] == [
        "aggregated ttft", "aggregated tpot", "aggregated throughput",
    ]  # fmt: skip
    assert {r.source for r in rows} == {"vllm", "sglang"}
    # A tenth of the speed: the time's logarithm is that much larger, the rate's less.
    gaps = [r.ratio for r in rows if r.task == "aggregated tpot"]
    rates = [r.ratio for r in rows if r.task == "aggregated throughput"]
    assert gaps[1] - gaps[0] == pytest.approx(math.log(10.0))
    assert rates[1] - rates[0] == pytest.approx(-math.log(10.0), abs=0.01)
    terms = serving_terms(rows)
    assert terms["aggregated tpot"].rows == 3
    assert terms["aggregated tpot"].high > terms["aggregated tpot"].low
    file = with_terms(load_intervals(), serving=[path])
    assert file.serving["aggregated tpot"].rows == 3
    assert file.end_to_end == load_intervals().end_to_end


def test_intervals_hold_the_errors_of_operators(tmp_path: Path) -> None:
    result = compared(tmp_path, ROW)
    term = load_intervals().serving["aggregated tpot"]
    gap = next(r for r in result.records if r["metric"] == "tpot")
    assert gap["upper"] > gap["predicted"] * math.exp(term.high)
    assert gap["lower"] < gap["predicted"] * math.exp(-term.low)
    roofline = validate_published(
        table(tmp_path / "serving.csv", ROW), fidelity="roofline"
    )
    assert all(r["lower"] is None for r in roofline.records)


def test_versions_of_vllm_before_asynchronous_scheduling_wait_for_the_host(
    tmp_path: Path,
) -> None:
    rows = [ROW.replace("vllm,,", f"vllm,{v},") for v in ("0.12.0", "0.19.0")]
    result = compared(tmp_path, *rows)
    gaps = [r["predicted"] for r in result.records if r["metric"] == "tpot"]
    assert 0.9e-3 < gaps[0] - gaps[1] < 1.6e-3
    assert "asynchronous scheduling was not yet" in result.records[0]["assumed"]
