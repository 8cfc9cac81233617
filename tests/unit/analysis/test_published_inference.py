"""Predictions beside tables of published inference figures."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

import hwsim
from hwsim.analysis.fitting.outside import table_rows
from hwsim.analysis.published.inference import (
    InferencePredictor,
    layout,
    spread_out,
)
from hwsim.analysis.published.setting import precisions
from hwsim.analysis.validation.published import PublishedValidation, validate_published
from hwsim.errors import InputError
from hwsim.specs.catalogs import load_device
from hwsim.specs.published.inference import InferenceRow

COLUMNS = (
    "source", "model", "isl", "osl", "batch_or_concurrency", "device", "num_devices",
    "tp", "pp", "dp", "dtype", "kv_dtype", "backend", "metric", "value", "unit",
    "notes",
)  # fmt: skip
BASE = {
    "source": "lab", "model": "llama-3-8b", "isl": "128", "osl": "16",
    "batch_or_concurrency": "batch 4", "device": "H100-80GB-SXM", "num_devices": "1",
    "tp": "1", "dtype": "fp16", "backend": "", "metric": "end_to_end_latency",
    "value": "100", "unit": "ms", "notes": "",
}  # fmt: skip


def table(path: Path, *rows: dict[str, str]) -> Path:
    lines = [",".join(COLUMNS)]
    for changes in rows:
        cells = BASE | changes
        lines.append(",".join(f'"{cells.get(name, "")}"' for name in COLUMNS))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def compared(tmp_path: Path, *rows: dict[str, str]) -> PublishedValidation:
    return validate_published(table(tmp_path / "rows.csv", *rows))


def answer(**options: Any) -> Any:
    shapes = {"batch": 4, "prompt": 128, "output": 16, "dtype": "fp16"} | options
    return hwsim.infer("llama-3-8b", "h100-80gb-sxm", engine="closed_form", **shapes)


@pytest.mark.parametrize(
    ("cells", "key"),
    [
        ({}, "latency_s"),
        ({"metric": "time_to_first_token"}, "ttft_s"),
        ({"metric": "prefill_latency"}, "ttft_s"),
        ({"metric": "mean_tpot"}, "tpot_s"),
    ],
)
def test_a_fixed_batch_is_what_infer_answers(
    tmp_path: Path, cells: dict[str, str], key: str
) -> None:
    row = compared(tmp_path, cells).records[0]
    assert row["predicted"] == pytest.approx(answer().to_dict()[key])
    assert row["measured"] == pytest.approx(0.1)
    assert row["lower"] < row["predicted"] < row["upper"]


@pytest.mark.parametrize(
    ("metric", "unit", "count"),
    [
        ("output_throughput", "tokens/s", 4 * 16),
        ("total_throughput", "tokens/s", 4 * 144),
        ("throughput", "sequences/s", 4),
    ],
)
def test_a_rate_counts_what_its_words_say(
    tmp_path: Path, metric: str, unit: str, count: int
) -> None:
    row = compared(tmp_path, {"metric": metric, "unit": unit}).records[0]
    assert row["predicted"] == pytest.approx(count / answer().latency_s)
    assert row["metric"] == "throughput"
    assert row["lower"] < row["predicted"] < row["upper"]


def test_a_rate_of_one_device_is_its_share(tmp_path: Path) -> None:
    cells = {"metric": "output_throughput", "tp": "2", "num_devices": "2"}
    rows = compared(
        tmp_path, cells | {"unit": "tokens/s"}, cells | {"unit": "tokens/s/gpu"}
    ).records
    assert rows[0]["predicted"] == pytest.approx(2 * rows[1]["predicted"])


def test_single_stream_phases(tmp_path: Path) -> None:
    rows = compared(
        tmp_path,
        {"metric": "decode_throughput", "unit": "tokens/s", "isl": "0", "osl": "64",
         "batch_or_concurrency": "1"},
        {"metric": "prefill_throughput", "unit": "tokens/s", "isl": "512", "osl": "0",
         "batch_or_concurrency": "1"},
    ).records  # fmt: skip
    tpot = answer(batch=1, prompt=0, output=64).tpot_s
    assert rows[0]["predicted"] == pytest.approx(1.0 / tpot)
    prompt = answer(batch=1, prompt=512, output=1).ttft_s
    assert rows[1]["predicted"] == pytest.approx(512.0 / prompt)
    assert [r["op"] for r in rows] == ["decode", "prefill"]


def test_loads_are_served(tmp_path: Path) -> None:
    load = {"backend": "vLLM 0.6", "metric": "output_throughput", "unit": "tokens/s"}
    rows = compared(
        tmp_path,
        load | {"batch_or_concurrency": "max load (200 requests queued)"},
        load | {"batch_or_concurrency": "concurrency 8"},
        load | {"batch_or_concurrency": "QPS 2"},
    ).records
    served = hwsim.serve(
        "llama-3-8b", "h100-80gb-sxm", rate=float("inf"), requests=200,
        input_len="fixed:128", output_len="fixed:16", dtype="fp16", engine="vllm-v1",
    )  # fmt: skip
    assert rows[0]["predicted"] == pytest.approx(served.tokens_per_s)
    assert rows[0]["predicted"] > rows[1]["predicted"] > rows[2]["predicted"]
    # An open loop below capacity gives what comes in.
    assert rows[2]["predicted"] == pytest.approx(2 * 16, rel=0.3)
    assert {r["op"] for r in rows} == {"serve"}
    assert all(r["lower"] < r["predicted"] < r["upper"] for r in rows)


def test_clients_count_once_they_fell_out_of_step(tmp_path: Path) -> None:
    load = {
        "backend": "vLLM 0.6", "batch_or_concurrency": "concurrency 16",
        "isl": "2048", "metric": "mean_ttft",
    }  # fmt: skip
    row = compared(tmp_path, load).records[0]
    served = hwsim.serve(
        "llama-3-8b", "h100-80gb-sxm", concurrency=16, requests=128,
        input_len="fixed:2048", output_len="fixed:16", dtype="fp16", engine="vllm-v1",
    )  # fmt: skip
    # All sixteen ask at once in the first round: the mean of all rounds is longer.
    assert row["predicted"] < served.ttft_s["mean"]
    assert row["predicted"] == pytest.approx(float(served.run.ttft[32:-16].mean()))


def test_the_decode_rate_of_clients_is_that_between_tokens(tmp_path: Path) -> None:
    load = {
        "backend": "vLLM 0.6", "batch_or_concurrency": "concurrency 4",
        "isl": "2048", "osl": "64", "unit": "tokens/s",
    }  # fmt: skip
    rate, tpot, whole = compared(
        tmp_path,
        load | {"metric": "decode_throughput"},
        load | {"metric": "mean_tpot", "unit": "ms"},
        load | {"metric": "output_throughput"},
    ).records
    assert rate["predicted"] == pytest.approx(4.0 / tpot["predicted"])
    assert rate["predicted"] > 1.2 * whole["predicted"]


@pytest.mark.parametrize(
    ("cells", "stack", "assumed"),
    [
        ({"backend": "llama.cpp (May 2024)"}, "llama-cpp", ""),
        ({"backend": "llama.cpp b8460 (Vulkan)"}, "llama-cpp-graph", ""),
        ({"backend": "llama.cpp", "notes": "fa 1"}, "llama-cpp-graph", ""),
        ({"backend": "Ollama", "device": "M2 Ultra"}, "llama-cpp-own", ""),
        ({"backend": "vLLM 0.2.7"}, "vllm-2023", ""),
        ({"backend": "Transformers 4.44"}, "transformers", ""),
        ({"backend": "PyTorch/XLA", "device": "TPU v5e"}, "compiled-inference", ""),
        ({"backend": "JAX, Pathways", "device": "TPU v4"}, "xla-inference", ""),
        ({"backend": "vLLM 0.10.1"}, "vllm", "max_num_seqs = 1024"),
        ({"backend": "vLLM 0.10.1", "notes": "--max-num-seqs 64"}, "vllm",
         "max_num_seqs = 64"),
        ({"backend": "vLLM 0.7", "source": "x docs/dev-docker/README.md",
          "batch_or_concurrency": "max load (48 requests)"}, "vllm",
         "max_num_seqs = 48"),
    ],
)  # fmt: skip
def test_backends_are_known_by_release_and_device(
    tmp_path: Path, cells: dict[str, str], stack: str, assumed: str
) -> None:
    row = compared(tmp_path, cells).records[0]
    assert (row["reason"], row["stack"]) == ("", stack)
    assert assumed in row["assumed"]


def test_mixtures_of_later_releases_attend_apart(tmp_path: Path) -> None:
    cells = {
        "model": "qwen3-30b-a3b", "num_devices": "4", "tp": "4", "dtype": "fp8",
        "batch_or_concurrency": "max load (64 requests)", "unit": "tokens/s",
        "metric": "output_throughput",
    }  # fmt: skip
    new, old = compared(
        tmp_path,
        cells | {"backend": "TensorRT-LLM 1.0"},
        cells | {"backend": "TensorRT-LLM 0.17"},
    ).records
    assert "attention_dp = 4" in new["assumed"]
    assert "attention_dp" not in old["assumed"]
    assert new["predicted"] != pytest.approx(old["predicted"], rel=1e-3)


@pytest.mark.parametrize(
    ("words", "device"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100-40gb-sxm"), ("AMD Instinct MI300X", "mi300x"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"), ("RTX-A6000-48GB", "rtx-a6000"),
        ("Apple M2-Ultra (76-core GPU)", "m2-ultra"), ("M1-7-Core-GPU", "m1-7core"),
        ("EPYC-9654 (2 sockets)", "epyc-9654"),
        ("Ryzen AI Max+ 395 (Radeon 8060S)", "ryzen-ai-max+-395"),
    ],
)  # fmt: skip
def test_devices_as_tables_print_them(words: str, device: str) -> None:
    assert load_device(words).id == device


def test_rows_give_the_terms_of_intervals(tmp_path: Path) -> None:
    path = table(
        tmp_path / "rows.csv",
        {"value": "150"},
        {"backend": "vLLM", "batch_or_concurrency": "QPS 2", "metric": "mean_ttft"},
        {"backend": "HuggingFace", "model": "gpt-2-124m"},
        {"model": "ResNet-50"},
        {"backend": "vLLM", "batch_or_concurrency": "QPS 30", "metric": "mean_ttft"},
    )
    fixed, served, busy = table_rows([path])
    assert (fixed.task, served.task, busy.task) == ("infer", "serve", "serve")
    # The busier a service, the more first tokens move with the steps.
    predictor = InferencePredictor("auto")
    rows = list(predictor.read(path))
    figures = [predictor.figure(rows[i]) for i in (0, 1, 4)]
    stretches = [f.stretch for f in figures if f is not None]
    assert stretches[0] == 1.0
    assert 0.5 < stretches[1] < stretches[2]
    for row, figure, stretch in zip(
        (served, busy), figures[1:], stretches[1:], strict=True
    ):
        assert row.ratio == pytest.approx(figure.ratio / stretch)
    assert fixed.ratio == pytest.approx(math.log(0.15 / answer().latency_s))
    assert fixed.inside.low < 0 < fixed.inside.high


def test_unanswered_rows_say_why(tmp_path: Path) -> None:
    result = compared(
        tmp_path,
        {},
        {"metric": "accuracy", "unit": "%"},
        {"isl": "", "osl": ""},
        {"model": "ResNet-50"},
        {"device": "Z99"},
        {"dtype": "fp3"},
        {"num_devices": "3", "tp": "2"},
        {"value": "x"},
        {"model": "nobody"},
    )
    reasons = {r["row"]: r["reason"] for r in result.unanswered}
    words = {
        2: "accuracy", 3: "lengths", 4: "out of scope", 5: "Z99", 6: "fp3",
        7: "does not divide", 8: "'x'", 9: "nobody",
    }  # fmt: skip
    assert set(reasons) == set(words)
    for row, word in words.items():
        assert word in reasons[row]
    assert json.loads(result.to_json())["skipped"] == 8


def test_tables_of_several_kinds_go_together(tmp_path: Path) -> None:
    training = tmp_path / "runs.csv"
    training.write_text(
        "model,seq_len,global_batch,micro_batch,device,num_devices,iter_time_s\n"
        "gpt-2-124m,1024,32,4,A100-80GB-SXM,8,0.1\n",
        encoding="utf-8",
    )
    inference = table(tmp_path / "rows.csv", {})
    data = validate_published([inference, training]).to_dict()
    assert data["rows"] == 2
    assert set(data["by_metric"]) == {"latency", "step_time"}
    assert set(data["by_op"]) == {"generate", "train"}


@pytest.mark.parametrize(
    ("cells", "degrees"),
    [
        ({"num_devices": 8}, (8, 1, 1)),
        ({"num_devices": 8, "tp": 2}, (2, 1, 4)),
        ({"num_devices": 8, "pp": 8, "tp": 1}, (1, 8, 1)),
        ({"tp": 4, "dp": 2}, (4, 1, 2)),
        ({}, (1, 1, 1)),
    ],
)
def test_degrees_fill_the_devices(
    cells: dict[str, int], degrees: tuple[int, int, int]
) -> None:
    row, _ = layout(InferenceRow("t.csv", 1, **cells))  # type: ignore[arg-type]
    assert (row.tp, row.pp, row.dp) == degrees


@pytest.mark.parametrize(
    ("words", "device", "expected"),
    [
        ("fp8", "h100-80gb-sxm", ("fp8", None)),
        ("fp8", "a100-80gb-sxm", ("bf16", "fp8")),
        ("Q4_K_M", "rtx-4090", ("fp16", "q4_k_m")),
        ("F16", "rtx-4090", ("fp16", None)),
        ("int8 weights", "tpu-v4", ("bf16", "int8")),
        ("bf16 weights", "tpu-v4", ("bf16", "bf16")),
        ("W4A16 (AWQ)", "h100-80gb-sxm", ("bf16", "int4")),
        ("int8-v2", "t4", ("int8", None)),
        ("q4_k_m", "m2-ultra", ("fp16", "q4_k_m")),
    ],
)
def test_words_of_precision(
    words: str, device: str, expected: tuple[str, str | None]
) -> None:
    found, _ = precisions(InferenceRow("t.csv", 1, dtype=words), load_device(device))
    dtype, weight = expected
    assert (found.dtype, found.weight_dtype) == (
        dtype,
        None if weight == dtype else weight,
    )


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match="int99"):
        precisions(InferenceRow("t.csv", 1, dtype="int99"), load_device("t4"))


@pytest.mark.parametrize(
    "name",
    [
        "meta-llama/Meta-Llama-3-8B-Instruct", "Llama-3-8B-FP8", "llama-3-8b-chat-hf",
        "Meta-Llama-3-8B-Instruct-AWQ-INT4",
    ],
)  # fmt: skip
def test_checkpoints_are_models(tmp_path: Path, name: str) -> None:
    rows = compared(tmp_path, {}, {"model": name}).records
    assert rows[1]["predicted"] == pytest.approx(rows[0]["predicted"])


def test_a_rate_without_batch_is_of_a_loaded_server(tmp_path: Path) -> None:
    rate = {"metric": "output_throughput", "unit": "tokens/s", "value": "2000"}
    rate |= {"batch_or_concurrency": ""}
    loaded, single = compared(
        tmp_path, rate | {"backend": "vLLM 0.6"}, rate | {"backend": "transformers"}
    ).records
    assert "load = max" in loaded["assumed"]
    assert "batch = 1" in single["assumed"]
    assert loaded["predicted"] > 10 * single["predicted"]


def test_full_load_is_laid_out_in_as_many_servers_as_hold_the_model() -> None:
    row = InferenceRow("t.csv", 1, model="m", device="H100", dtype="fp8", load="max")
    many = dataclasses.replace(row, num_devices=8)
    large, small = hwsim.load_model("llama-2-70b"), hwsim.load_model("llama-3-8b")
    assert (spread_out(many, large).tp, spread_out(many, large).dp) == (2, 4)
    assert (spread_out(many, small).tp, spread_out(many, small).dp) == (1, 8)
    told = dataclasses.replace(many, tp=8)
    assert spread_out(told, large) == told
    assert spread_out(row, small) == row


def test_an_encoder_under_load_runs_batches(tmp_path: Path) -> None:
    rate = {
        "model": "bert-large", "osl": "0", "metric": "throughput", "unit": "samples/s",
        "batch_or_concurrency": "Offline", "value": "2000",
    }  # fmt: skip
    row = compared(tmp_path, rate).records[0]
    assert row["reason"] == ""
    assert "batch = 64 of an encoder" in row["assumed"]


def test_devices_that_no_system_joins_stand_in_an_assumed_node(tmp_path: Path) -> None:
    cells = {"device": "Ascend 910B", "num_devices": "4", "tp": "4", "dtype": "bf16"}
    row = compared(tmp_path, cells).records[0]
    assert row["system"] == "ascend-910b-assumed-4"
    odd = compared(tmp_path, cells | {"num_devices": "19", "tp": "1"}).records[0]
    assert "do not fill nodes of 8" in odd["reason"]


def test_a_model_of_which_the_size_alone_is_known_says_so(tmp_path: Path) -> None:
    row = compared(tmp_path, {"model": "nobody-7b"}).records[0]
    assert row["reason"] == ""
    assert "architecture = usual decoder with 6.9 billion parameters" in row["assumed"]
