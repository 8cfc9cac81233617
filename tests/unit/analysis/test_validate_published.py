"""Predictions beside tables of published training runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hwsim.analysis.published.filled import (
    completed,
    layouts,
    open_choices,
    run_options,
)
from hwsim.analysis.published.flop import counted_flop
from hwsim.analysis.published.rows import RunPredictor, attending
from hwsim.analysis.training.train import run_training
from hwsim.analysis.validation.published import PublishedValidation, validate_published
from hwsim.errors import InputError
from hwsim.report.page import render_page
from hwsim.specs.catalogs import load_model, load_stack, load_system
from hwsim.specs.published.training import PublishedRun, PublishedTable
from hwsim.specs.published.training_map import load_mappings, mapped

MAPPINGS = load_mappings()
GPT = {
    "source": "lab", "model": "gpt-2-124m", "seq_len": 1024, "global_batch": 32,
    "micro_batch": 4, "device": "A100-80GB-SXM", "num_devices": 8, "dtype": "bf16",
    "recompute": "none", "stack": "nanogpt-compile",
}  # fmt: skip


def run(row: int = 1, **cells: Any) -> PublishedRun:
    return PublishedRun("runs.csv", row, **(GPT | cells))


def compared(*runs: PublishedRun) -> PublishedValidation:
    return validate_published(PublishedTable(runs, ("runs.csv",)))


def step_s(**options: Any) -> float:
    options = {
        "devices": 8, "tp": 1, "dp": 8, "micro_batch": 4, "global_batch": 32,
        "seq": 1024, "dtype": "bf16", "recompute": "none", "optimizer": "adamw",
        "zero_stage": 0, "sequence_parallel": False,
    } | options  # fmt: skip
    return run_training(
        load_model("gpt-2-124m"),
        load_system("dgx-a100-80gb-hdr-128"),
        load_stack("nanogpt-compile"),
        engine="closed_form",
        **options,
    ).step_s


def test_the_prediction_is_that_of_the_run() -> None:
    row = compared(run(iter_time_s=0.1)).records[0]
    assert row["predicted"] == pytest.approx(step_s())
    assert row["measured"] == 0.1
    assert row["metric"] == "step_time"
    assert row["relative_error"] == pytest.approx(step_s() / 0.1 - 1.0)
    assert "dp = 8" in row["assumed"]


def test_a_rate_is_of_the_whole_batch() -> None:
    row = compared(run(tokens_per_s_per_device=1e5)).records[0]
    assert row["predicted"] == pytest.approx(32 * 1024 / 8 / step_s())
    assert row["published_step_s"] == pytest.approx(32 * 1024 / 8 / 1e5)


def test_interval_holds_the_prediction_whichever_way_it_counts() -> None:
    for cells in ({"iter_time_s": 0.1}, {"tokens_per_s_per_device": 1e5}):
        row = compared(run(**cells)).records[0]
        assert row["lower"] < row["predicted"] < row["upper"]


def test_open_micro_batch_is_the_fastest_that_fits() -> None:
    row = compared(run(iter_time_s=0.1, micro_batch=None)).records[0]
    sizes = {m: step_s(micro_batch=m) for m in (1, 2, 4)}
    assert row["predicted"] == pytest.approx(min(sizes.values()))
    best = min(sizes, key=lambda m: sizes[m])
    assert f"micro_batch = {best}" in row["assumed"]


def test_unanswered_rows_are_kept_with_their_reason() -> None:
    result = compared(
        run(1, iter_time_s=0.1),
        run(2, iter_time_s=0.1, device="Z99"),
        run(3),
        run(4, iter_time_s=0.1, fault="tp: 'x' is not a number"),
        run(5, iter_time_s=0.1, model="ResNet-50"),
        run(6, iter_time_s=0.1, seq_len=None),
        run(7, iter_time_s=0.1, dtype="fp3"),
    )
    reasons = {r["row"]: r["reason"] for r in result.unanswered}
    assert set(reasons) == {2, 3, 4, 5, 6, 7}
    for row, words in {
        2: "Z99", 3: "neither", 4: "'x'", 5: "out of scope", 6: "seq_len", 7: "fp3",
    }.items():  # fmt: skip
        assert words in reasons[row]
    data = result.to_dict()
    assert (data["rows"], data["answered"], data["unanswered"]) == (1, 1, 6)
    assert data["skipped"] == 6
    assert sum(data["unanswered_reasons"].values()) == 6
    assert len(data["table"]) == 7


def test_groups_and_worst() -> None:
    result = compared(
        run(1, iter_time_s=step_s() / 1.5),
        run(2, iter_time_s=step_s() * 1.1, source="other lab"),
    )
    by = result.by("source")
    assert by["lab"].bias == pytest.approx(0.5)
    assert by["other lab"].mape == pytest.approx(1.0 - 1.0 / 1.1)
    assert result.worst(1)[0]["row"] == 1
    assert result.time_bias == pytest.approx((0.5 + 1.0 / 1.1 - 1.0) / 2)
    with pytest.raises(InputError, match="no column 'colour'"):
        result.by("colour")
    assert json.loads(result.to_json())["by_source"]["lab"]["rows"] == 1


def test_equal_runs_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from hwsim.analysis.published import rows as published_rows

    calls = []
    real = published_rows.run_training

    def counting(*args: Any, **options: Any) -> Any:
        calls.append(options)
        return real(*args, **options)

    monkeypatch.setattr(published_rows, "run_training", counting)
    predictor = RunPredictor()
    for row in (1, 2, 3):
        assert predictor.predict(mapped(run(row, iter_time_s=row), MAPPINGS)).value
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("cells", "dp", "pp"),
    [
        ({"tp": 2}, 4, 1),
        ({"tp": 2, "dp": 4}, 4, 1),
        ({"tp": 2, "pp": 2, "dp": 1}, 2, 2),
        ({"tp": 4, "pp": 4, "dp": 1}, 1, 2),
    ],
)
def test_degrees_are_made_to_fit_the_devices(
    cells: dict[str, int], dp: int, pp: int
) -> None:
    filled, notes = completed(run(**cells))
    assert (filled.dp, filled.pp) == (dp, pp)
    changed = (filled.dp, filled.pp) != (cells.get("dp"), cells.get("pp", 1))
    assert bool(notes) == changed
    assert (filled.tp or 1) * (filled.pp or 1) * (filled.dp or 1) == 8


def test_a_batch_that_does_not_divide_is_rounded() -> None:
    filled, notes = completed(run(global_batch=1538, num_devices=12))
    assert (filled.global_batch, notes[-1]) == (1536, "global_batch = 1536")


def test_only_rows_that_say_so_keep_states_on_the_host() -> None:
    plain = run_options(run(dp=8), {"micro_batch": 4, "recompute": "none"})
    assert "offload_optimizer" not in plain
    offloaded = run_options(run(dp=8, offload_optimizer=True), {"micro_batch": 4})
    assert offloaded["offload_optimizer"] is True


def test_degrees_that_cannot_fit_are_said() -> None:
    with pytest.raises(InputError, match="does not divide 8 devices"):
        completed(run(tp=3))


def test_flop_conventions() -> None:
    model, seq, tokens = load_model("megatron-1.7b"), 2048, 16.0 * 2048
    result = run_training(
        model,
        load_system("a100-80gb-sxm"),
        load_stack("megatron-2021"),
        devices=1, tp=1, dp=1, micro_batch=4, global_batch=16, seq=seq, dtype="fp16",
        recompute="full", optimizer="adam", zero_stage=0, sequence_parallel=False,
        engine="closed_form",
    )  # fmt: skip

    def flop(convention: str) -> float:
        return counted_flop(convention, model, result, tokens, seq)

    width, layers = float(model.hidden), model.layers
    attention = 12.0 * tokens * seq * width * layers
    # Narayanan et al. 2021, equation 3, counts the forward pass twice.
    assert flop("hardware_full_recompute") == pytest.approx(
        flop("model") * 4.0 / 3.0, rel=0.02
    )
    assert flop("model") - flop("model_causal") == pytest.approx(attention / 2.0)
    assert flop("parameters_6") == pytest.approx(6.0 * model.num_parameters * tokens)
    assert flop("parameters_8") / flop("parameters_6") == pytest.approx(4.0 / 3.0)


def test_utilisation_is_over_the_peak_of_its_dtype() -> None:
    both = compared(run(1, mfu=0.3), run(2, tflops_per_device=90.0)).records
    assert both[0]["predicted"] == pytest.approx(both[1]["predicted"] / 312e12)
    assert both[1]["measured"] == 90e12


def test_a_binned_batch_is_computed_shorter_and_counted_whole() -> None:
    cells = {
        "source": "github NVIDIA/DeepLearningExamples PyTorch/LanguageModeling/BERT",
        "model": "BERT-Large", "notes": "pre-training (LAMB)", "seq_len": 512,
        "stack": "", "dtype": "fp16", "tokens_per_s_per_device": 1e5,
    }  # fmt: skip
    row = compared(run(**cells)).records[0]
    assert "computed sequence = 288" in row["assumed"]
    assert row["published_step_s"] == pytest.approx(32 * 512 / 8 / 1e5)


def test_the_page_says_what_is_missing() -> None:
    page = render_page(compared(run(1, iter_time_s=0.1), run(2)))
    assert "neither a step time" in page
    assert "Errors by source" in page


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(InputError, match="no row"):
        compared()


def test_a_rate_is_answered_without_batch_and_length() -> None:
    blank = {"global_batch": None, "micro_batch": None, "seq_len": None}
    row = compared(run(tokens_per_s_per_device=1e5, **blank)).records[0]
    assert row["reason"] == ""
    assert "seq_len = 1024" in row["assumed"]  # what the model is made for
    assert f"global_batch = {16384 // 1024 * 8}" in row["assumed"]
    for name in ("global_batch", "seq_len"):
        told = compared(run(iter_time_s=0.1, **{"micro_batch": None, name: None}))
        assert (
            f"{name} is not given, and a step time goes with it"
            in (told.records[0]["reason"])
        )


def test_a_model_too_large_for_a_device_is_split_by_tensor_first() -> None:
    cells = {
        "model": "llama-2-70b", "global_batch": 16, "micro_batch": None,
        "recompute": "", "stack": "", "num_devices": 16, "seq_len": 4096,
    }  # fmt: skip
    row = compared(run(mfu=0.4, **cells)).records[0]
    assert row["fits"] is True
    ranks = dict(part.split(" = ")[:2] for part in row["assumed"].split("; "))
    assert int(ranks.get("tp", 1)) * int(ranks.get("dp", 1)) <= 16


def test_fewer_sequences_than_devices_need_ranks_that_share_them() -> None:
    row = compared(
        run(tokens_per_s_per_device=1e4, global_batch=4, micro_batch=None)
    ).records[0]
    assert row["reason"] == ""
    assert "tp = 2" in row["assumed"]


def test_layouts_begin_with_what_stands_and_keep_what_is_given() -> None:
    asked = run(num_devices=16)
    degrees = [(r.tp, r.pp) for r in layouts(asked, 8, 12)]
    assert degrees[:4] == [(None, None), (2, 1), (1, 2), (4, 1)]
    assert all(r.tp == 4 for r in layouts(run(num_devices=16, tp=4), 8, 12))
    assert len(list(layouts(run(tp=2, pp=2), 8, 12))) == 1


def test_interleaving_is_chosen_where_a_source_is_not_known() -> None:
    cells = {"pp": 4, "tp": 1, "dp": 2, "stack": "default-training", "micro_batch": 1}
    row = compared(run(mfu=0.4, **cells)).records[0]
    assert "vpp = 3" in row["assumed"]
    known = run(mfu=0.4, **(cells | {"source": "Megatron-Bridge"}))
    assert mapped(known, MAPPINGS).choose_vpp is False


@pytest.mark.parametrize(
    ("model", "pp", "parts"),
    [("llama-3.1-405b", 16, {1, 2, 4, 8}), ("llama-2-70b", 8, {1, 2, 5}),
     ("llama-2-70b", 7, {1})],
)  # fmt: skip
def test_interleaving_divides_layers_or_these_with_embedding_and_head(
    model: str, pp: int, parts: set[int]
) -> None:
    asked = run(pp=pp, vpp=None, micro_batch=1)
    found = open_choices(asked, load_model(model), choose_vpp=True)
    assert {choice["vpp"] for choice in found} == parts


def test_what_fits_in_no_way_is_interleaved_as_the_fastest_is() -> None:
    cells = {"model": "Llama-3.1-405B", "global_batch": 64, "seq_len": 8192,
             "device": "H100-80GB-SXM", "num_devices": 128, "tp": 8, "pp": 16,
             "dp": 1, "micro_batch": 1, "recompute": "none", "stack": "llama-3",
             "tokens_per_s_per_device": 100.0}  # fmt: skip
    shape = dict.fromkeys(("layers", "hidden", "heads", "ffn", "vocab", "params_b"))
    row = compared(run(**(shape | cells))).records[0]
    assert not row["fits"]
    assert "vpp = 8" in row["assumed"]


def test_attention_is_what_the_row_says() -> None:
    stack = load_stack("default-training")
    assert attending(stack, run(flash_attention="yes (v2)")) is stack
    assert attending(stack, run()) is stack
    old = attending(stack, run(flash_attention="no"))
    assert old.fusion.attention == "unfused"
    split = run(mfu=0.4, flash_attention="no", cp=2, tp=1, pp=1, dp=4, stack="")
    assert compared(split).records[0]["reason"] == ""  # heads go round, not keys


def test_a_dtype_that_a_device_lacks_is_done_in_its_usual_one() -> None:
    row = compared(run(mfu=0.4, dtype="fp8")).records[0]
    assert row["reason"] == ""
    assert "dtype = bf16: a100-80gb-sxm has no fp8 rate" in row["assumed"]


def test_a_model_of_which_the_size_alone_is_known_is_a_usual_decoder() -> None:
    row = compared(run(mfu=0.4, model="Novel-7B-base", micro_batch=1)).records[0]
    assert row["reason"] == ""
    assert "architecture = usual decoder with 6.9 billion parameters" in row["assumed"]
    mixed = compared(run(mfu=0.4, model="Novel-8x7B")).records[0]
    assert "is not in the catalog" in mixed["reason"]


def test_nodes_that_nothing_joins_stand_on_ethernet() -> None:
    cells = {"device": "MI250", "num_devices": 16, "global_batch": 64, "stack": ""}
    row = compared(run(mfu=0.4, **cells)).records[0]
    assert row["reason"] == ""
    assert "network = Ethernet, 100 Gbit/s a device" in row["assumed"]


def test_a_step_of_one_micro_batch_is_its_own_batch() -> None:
    row = compared(run(iter_time_s=0.1, global_batch=None)).records[0]
    assert "global_batch = 32" in row["assumed"]


@pytest.mark.parametrize(
    ("word", "extents"),
    [
        ("minimal_flash", {"operators"}), ("save_dot_except_mlp", {"full"}),
        ("disabled", {"none"}), ("save_qkv_proj", {"full"}), ("AC", {"full"}),
        ("gradient checkpointing", {"full"}), ("every 4 layers", {"full"}),
        ("layernorm, moe_act", {"layernorm+moe_act"}), ("attention", {"selective"}),
        ("n/a", {"none", "selective", "full"}), ("", {"none", "selective", "full"}),
    ],
)  # fmt: skip
def test_words_of_recomputation(word: str, extents: set[str]) -> None:
    model = load_model("gpt-2-124m")
    given = run(dp=8, micro_batch=1, recompute=word)
    found = {o["recompute"] for o in open_choices(given, model, choose_vpp=False)}
    assert found == extents


def test_a_share_of_the_layers_is_recomputed() -> None:
    def every(word: str) -> int | None:
        open_ = {"micro_batch": 1, "recompute": "full"}
        return run_options(run(dp=8, recompute=word), open_).get("recompute_every")

    assert [every(w) for w in ("every 4 layers", "half", "full")] == [4, 2, None]
