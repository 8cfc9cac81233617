"""Reading tables of published inference figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsim.errors import SpecError
from hwsim.specs.published.inference import (
    InferenceRow,
    inference_row,
    load_words,
    metric_words,
    read_inference,
)
from hwsim.specs.published.inference_map import (
    InferenceCondition,
    load_inference_mappings,
    mapped_inference,
)


@pytest.mark.parametrize(
    ("words", "load", "size", "requests"),
    [
        ("64", "", 64.0, None),
        ("batch 8", "fixed", 8.0, None),
        ("concurrency 250", "closed", 250.0, None),
        ("QPS 4", "open", 4.0, None),
        ("0.5 req/s", "open", 0.5, None),
        ("QPS INF", "max", None, None),
        ("max load (3000 requests queued)", "max", None, 3000),
        ("offline, 1,000 prompts", "max", None, 1000),
        ("", "", None, None),
        ("-", "", None, None),
    ],
)
def test_load_words(
    words: str, load: str, size: float | None, requests: int | None
) -> None:
    assert load_words(words) == {"load": load, "size": size, "requests": requests}


@pytest.mark.parametrize("words", ["many", "batch 0", "2.5"])
def test_load_words_that_say_nothing_are_refused(words: str) -> None:
    with pytest.raises(ValueError, match=r"no number|whole number"):
        load_words(words)


@pytest.mark.parametrize(
    ("metric", "unit", "kind", "quantile", "counts", "per_device", "phase"),
    [
        ("mean_ttft", "ms", "ttft", None, "", False, ""),
        ("p99_ttft", "ms", "ttft", 0.99, "", False, ""),
        ("time_to_first_token", "ms", "ttft", None, "", False, ""),
        ("median_itl", "ms", "tpot", 0.5, "", False, ""),
        ("mean_tpot", "s", "tpot", None, "", False, ""),
        ("p90_next_token_latency", "ms", "tpot", 0.9, "", False, ""),
        ("time_per_output_token", "ms", "tpot", None, "", False, ""),
        ("decode_latency_per_token", "ms/token", "tpot", None, "", False, "decode"),
        ("mean_e2e_latency", "s", "latency", None, "", False, ""),
        ("forward_latency", "ms", "latency", None, "", False, "prefill"),
        (
            "output_throughput", "tokens/s (whole system)", "throughput", None,
            "output", False, "",
        ),
        ("output_throughput", "tok/s/chip", "throughput", None, "output", True, ""),
        ("output_throughput", "tok/s/GPU", "throughput", None, "output", True, ""),
        ("total_throughput", "tokens/s", "throughput", None, "total", False, ""),
        ("total_token_throughput", "tok/s", "throughput", None, "total", False, ""),
        ("request_throughput", "req/s", "throughput", None, "requests", False, ""),
        ("throughput", "sequences/s", "throughput", None, "requests", False, ""),
        ("prefill_throughput", "t/s", "throughput", None, "input", False, "prefill"),
        ("decode_throughput", "t/s", "throughput", None, "output", False, "decode"),
        ("tokens_per_s", "", "throughput", None, "output", False, ""),
        ("accuracy", "%", "", None, "", False, ""),
    ],
)  # fmt: skip
def test_metric_words(
    metric: str, unit: str, kind: str, quantile: float | None, counts: str,
    per_device: bool, phase: str,
) -> None:  # fmt: skip
    assert metric_words(metric, unit) == {
        "kind": kind, "quantile": quantile, "counts": counts,
        "per_device": per_device, "phase": phase,
    }  # fmt: skip


def cells(**changes: str) -> dict[str, str]:
    return {
        "model": "llama-3-8b", "device": "H100-80GB-SXM", "metric": "mean_ttft",
        "value": "12.5", "unit": "ms", "isl": "1,024", "osl": "~128 (mean)",
    } | changes  # fmt: skip


def test_figures_are_in_si() -> None:
    row = inference_row("t.csv", 1, cells())
    assert (row.published, row.isl, row.osl, row.fault) == (0.0125, 1024.0, 128.0, "")
    rate = inference_row("t.csv", 1, cells(metric="throughput", unit="k tok/s"))
    assert rate.published == 12500.0
    minute = inference_row("t.csv", 1, cells(metric="throughput", unit="req/min"))
    assert minute.published == pytest.approx(12.5 / 60)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"unit": "parsecs"}, "no unit of time"),
        ({"value": "-3"}, "not above zero"),
        ({"value": "inf"}, "not a number"),
        ({"isl": "-1"}, "number of tokens"),
        ({"tp": "2.5"}, "whole number"),
        ({"batch_or_concurrency": "lots"}, "no number"),
    ],
)
def test_cells_that_cannot_be_read_are_the_rows_fault(
    change: dict[str, str], words: str
) -> None:
    row = inference_row("t.csv", 7, cells(**change))
    assert words in row.fault
    assert row.row == 7


def test_columns_that_name_a_figure_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("model,device,isl,metrics,value\nx,y,1,ttft,1\n", encoding="utf-8")
    with pytest.raises(SpecError, match="has no column 'metric'; is it 'metrics'"):
        read_inference(path)


def test_rows_of_another_width_are_kept_with_their_fault(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    text = "model,device,isl,metric,value\na,b,1,mean_ttft,1\na,b,1\n"
    path.write_text(text, encoding="utf-8")
    rows = read_inference(path)
    assert [r.row for r in rows] == [1, 2]
    assert "has 3 values" in rows[1].fault


def row(**changes: object) -> InferenceRow:
    fields: dict[str, object] = {"backend": "TensorRT-LLM 0.17", "device": "A100"}
    return InferenceRow("t.csv", 1, **(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("backend", "version"),
    [
        ("TensorRT-LLM 0.17", (0, 17)), ("vLLM v0.6.3.post1", (0, 6, 3)),
        ("llama.cpp (May 2024)", None), ("FasterTransformer", None),
        ("vllm==0.10.0", (0, 10, 0)),
    ],
)  # fmt: skip
def test_releases_are_read_from_the_backend(
    backend: str, version: tuple[int, ...] | None
) -> None:
    assert row(backend=backend).version == version


def test_conditions_compare_releases_as_numbers() -> None:
    early = InferenceCondition(backend=("tensorrt",), below_version="0.7")
    late = InferenceCondition(backend=("tensorrt",), from_version="0.14")
    assert not early.holds(row())
    assert late.holds(row())
    assert early.holds(row(backend="TensorRT-LLM 0.6.1"))
    assert not late.holds(row(backend="TensorRT-LLM 0.9"))
    assert not late.holds(row(backend="TensorRT-LLM"))


@pytest.mark.parametrize(
    ("backend", "stack"),
    [
        ("vLLM 0.6.2", "vllm"), ("llama.cpp (May 2024)", "llama-cpp"),
        ("TensorRT-LLM 0.6.1", "tensorrt-llm-2023"),
        ("FasterTransformer", "fastertransformer"),
        ("an engine of tomorrow", "default-inference"),
    ],
)  # fmt: skip
def test_backends_have_stacks(backend: str, stack: str) -> None:
    found = mapped_inference(row(backend=backend), load_inference_mappings())
    assert found.stack == stack
    assert found.engine


def test_a_row_overrules_its_mapping() -> None:
    own = row(stack="sglang", engine="vllm-v0", system="dgx-h100")
    found = mapped_inference(own, load_inference_mappings())
    assert (found.stack, found.engine, found.system) == (
        "sglang",
        "vllm-v0",
        "dgx-h100",
    )


@pytest.mark.parametrize(
    ("cell", "value"),
    [("8k", 8192.0), ("1.5k", 1500.0), ("2,048", 2048.0), ("n/a", None)],
)
def test_lengths_in_thousands_are_not_read_as_ones(
    cell: str, value: float | None
) -> None:
    assert inference_row("t.csv", 1, cells(isl=cell)).isl == value


def test_a_rate_in_tokens_is_not_read_as_trillions() -> None:
    found = inference_row(
        "t.csv", 1, cells(metric="throughput", value="12 t/s", unit="t/s")
    )
    assert found.published == 12.0
