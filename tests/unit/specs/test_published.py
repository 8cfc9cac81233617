"""Published runs: every row is whole, attributed and says what it needs."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from hwsim.errors import SpecError, UnknownNameError
from hwsim.specs.catalogs import load_model, load_stack, load_system
from hwsim.specs.published.runs import (
    METRIC_UNITS,
    PUBLISHED,
    PublishedFile,
    PublishedRow,
    iter_rows,
    load_published,
)

FILES = load_published()
ROWS = [row for _, row in iter_rows(FILES)]
BY_ID = {row.id: row for row in ROWS}

TRAIN = {
    "id": "row",
    "task": "train",
    "model": "gpt-2-124m",
    "system": "dgx-a100-80gb",
    "stack": "llm-c",
    "num_devices": 8,
    "dp": 8,
    "global_batch": 64,
    "seq": 1024,
    "dtype": "bf16",
    "metric": "tokens_per_s_per_device",
    "value": 4096.0,
    "printed": "4096 tokens/s/GPU",
    "confidence": "high",
}
FILE = {
    "id": "file",
    "name": "A file",
    "licence": "MIT",
    "selection": "all of it",
    "sources": [
        {
            "kind": "measured",
            "title": "A page",
            "url": "https://example.org",
            "date": "2024-01-01",
        }
    ],
    "rows": [TRAIN],
}


def row(**changes: object) -> PublishedRow:
    return PublishedRow.model_validate({**TRAIN, **changes})


def inference(**changes: object) -> PublishedRow:
    base = {k: v for k, v in TRAIN.items() if k not in {"global_batch", "seq", "dp"}}
    return PublishedRow.model_validate({**base, "num_devices": 1, **changes})


def test_there_are_enough_rows_and_most_need_nothing_unbuilt() -> None:
    assert len(ROWS) >= 36
    assert sum(not r.needs for r in ROWS) >= 24
    assert any("pipeline parallelism" in r.needs for r in ROWS)


def test_row_ids_are_unique() -> None:
    assert len(BY_ID) == len(ROWS)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.id)
def test_every_file_is_attributed_and_named_as_its_id(file: PublishedFile) -> None:
    assert PUBLISHED.find(file.id).stem == file.id
    assert file.source.kind == "measured"
    assert str(file.source.url).startswith("https://")
    assert file.licence
    assert file.selection


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_the_model_resolves_and_the_run_fits_the_system(row: PublishedRow) -> None:
    model = load_model(row.model)
    assert model.heads % row.tp == 0
    assert load_system(row.system).num_devices >= row.num_devices


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_the_sequence_fits_the_model(row: PublishedRow) -> None:
    length = row.seq or (row.prompt or 0) + (row.output or 0)
    limit = load_model(row.model).max_context
    assert limit is None or length <= limit


@pytest.mark.parametrize("name", sorted({r.stack for r in ROWS}))
def test_the_stack_resolves(name: str) -> None:
    assert load_stack(name).id == name


def test_the_sources_span_training_inference_and_device_kinds() -> None:
    assert {r.task for r in ROWS} == {
        "train", "prefill", "decode", "generate", "forward",
    }  # fmt: skip
    systems = " ".join(r.system for r in ROWS)
    for word in ("a100", "h100", "v100", "tpu", "rtx", "xeon"):
        assert word in systems
    assert max(r.tp for r in ROWS) >= 8


_SCALE = {"K": 1e3, "ms": 1e-3}


PRINTED_AS_MEASURED = [r for r in ROWS if "TFLOP/s" not in r.printed]


@pytest.mark.parametrize("row", PRINTED_AS_MEASURED, ids=lambda r: r.id)
def test_value_agrees_with_the_printed_figure(row: PublishedRow) -> None:
    found = re.search(r"([\d.]+) ?(K|ms|s\b)?", row.printed)
    assert found is not None
    printed = float(found[1]) * _SCALE.get(found[2] or "", 1.0)
    if "whole system" in row.printed:
        printed /= row.num_devices
    assert row.value == pytest.approx(printed, rel=1e-4)


def test_converted_figures_are_all_held_by_a_formula() -> None:
    converted = {r.id for r in ROWS if "TFLOP/s" in r.printed}
    assert converted == {*_MAXTEXT, *_MEGATRON}


def _tflops(row_id: str) -> float:
    return float(BY_ID[row_id].printed.split()[0]) * 1e12


_MEGATRON = [r.id for r in ROWS if r.id.startswith("megatron-")]


@pytest.mark.parametrize("row_id", _MEGATRON)
def test_megatron_step_time_follows_from_the_printed_rate(row_id: str) -> None:
    run = BY_ID[row_id]
    model = load_model(run.model)
    tokens = float(run.global_batch or 0) * (run.seq or 0)
    core = 2.0 * tokens * 12 * model.layers * model.hidden**2
    head = 2.0 * tokens * model.vocab * model.hidden
    scores = 4.0 * tokens * (run.seq or 0) * model.hidden * model.layers
    passes = 4 if run.recompute == "full" else 3  # the head is not recomputed
    flop = passes * (core + scores) + 3 * head
    step = flop / (run.num_devices * _tflops(row_id))
    assert run.value == pytest.approx(step, rel=1e-3)


# heads x width of the queries and matrices of the feed-forward block
_MAXTEXT = {
    "maxtext-v4-22b": (6144, 2),
    "maxtext-v4-52b": (8192, 2),
    "maxtext-v5e-16b": (8192, 3),
    "maxtext-v5e-64b": (8192, 3),
}


@pytest.mark.parametrize("row_id", sorted(_MAXTEXT))
def test_maxtext_step_time_follows_from_the_printed_rate(row_id: str) -> None:
    run = BY_ID[row_id]
    model = load_model(run.model)
    width, matrices = _MAXTEXT[row_id]
    tokens = float(run.global_batch or 0) * (run.seq or 0)
    layer = 2 * model.hidden * (4 * width + matrices * model.ffn)
    layer += 4 * (run.seq or 0) * width
    flop = 3 * tokens * (model.layers * layer + 2 * model.hidden * model.vocab)
    step = flop / (run.num_devices * _tflops(row_id))
    assert run.value == pytest.approx(step, rel=1e-3)


def test_seconds_of_training_metrics() -> None:
    tokens = 64 * 1024
    assert row().seconds == pytest.approx(tokens / 8 / 4096.0)
    assert row(metric="step_time", value=0.3).seconds == 0.3
    assert row(metric="sequences_per_s", value=32.0).seconds == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({"task": "prefill", "metric": "prefill_tokens_per_s", "value": 512.0}, 4.0),
        ({"task": "decode", "metric": "decode_tokens_per_s", "value": 8.0}, 0.5),
        ({"task": "decode", "metric": "next_token_latency", "value": 0.07}, 0.07),
        ({"task": "generate", "metric": "output_tokens_per_s", "value": 64.0}, 2.0),
        (
            {
                "task": "generate",
                "metric": "output_tokens_per_s_per_device",
                "value": 64.0,
                "num_devices": 2,
                "tp": 2,
            },
            1.0,
        ),
        (
            {"task": "forward", "metric": "sequences_per_s", "value": 8.0, "seq": 9},
            0.5,
        ),
    ],
)
def test_seconds_of_inference_metrics(
    changes: dict[str, object], seconds: float
) -> None:
    run = inference(batch=4, prompt=512, output=32, **changes)
    assert run.seconds == pytest.approx(seconds)
    assert run.value_of(seconds) == pytest.approx(run.value)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_value_and_seconds_are_inverse(row: PublishedRow) -> None:
    assert row.seconds > 0.0
    assert row.value_of(row.seconds) == pytest.approx(row.value)
    assert row.relative_error(row.seconds) == pytest.approx(0.0, abs=1e-12)
    slower = row.relative_error(2.0 * row.seconds)
    assert slower == pytest.approx(-0.5 if row.is_rate else 1.0)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_value_of_refuses_a_time_that_is_none(seconds: float) -> None:
    with pytest.raises(ValueError, match="finite time above 0"):
        row().value_of(seconds)


def test_needs_name_what_is_beyond_tensor_and_data_parallelism() -> None:
    assert row().needs == ()
    assert row(dp=2, pp=4).needs == ("pipeline parallelism",)
    assert row(dp=4, cp=2, ep=4).needs == (
        "context parallelism",
        "expert parallelism",
    )


def test_every_metric_has_a_unit_and_a_task() -> None:
    assert {r.unit for r in ROWS} <= set(METRIC_UNITS.values())
    assert row().unit == "token/s"
    assert row(metric="step_time").unit == "s"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "decode_tokens_per_s"}, "does not fit task 'train'"),
        ({"seq": None}, "seq is missing"),
        ({"num_devices": 16}, "num_devices is 16"),
        ({"confidence": "medium"}, "say what is inferred"),
        ({"value": 0.0}, "greater than 0"),
        ({"value": float("nan")}, "finite"),
        ({"efficiency": 0.7}, "Extra inputs"),
    ],
)
def test_bad_rows_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        row(**changes)


def test_a_file_needs_an_address_and_unique_rows() -> None:
    PublishedFile.model_validate(FILE)
    bare = [{**FILE["sources"][0], "url": None}]  # type: ignore[index, dict-item]
    with pytest.raises(ValidationError, match=r"sources\.0\.url is missing"):
        PublishedFile.model_validate({**FILE, "sources": bare})
    with pytest.raises(ValidationError, match="no source"):
        PublishedFile.model_validate({**FILE, "sources": []})
    with pytest.raises(ValidationError, match="row id 'row' stands twice"):
        PublishedFile.model_validate({**FILE, "rows": [TRAIN, TRAIN]})


def test_loading_by_name_and_unknown_names() -> None:
    (palm,) = load_published("PaLM")
    assert [r.id for r in palm.rows] == ["palm-540b"]
    with pytest.raises(UnknownNameError, match="run 'plam': did you mean palm"):
        load_published("plam")
    with pytest.raises(SpecError, match="both have row id 'palm-540b'"):
        load_published("palm", "palm")


def test_json_round_trip_is_the_identity() -> None:
    for file in FILES:
        assert PublishedFile.model_validate_json(file.model_dump_json()) == file
