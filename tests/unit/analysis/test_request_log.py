"""Logs of servers replayed: a log of our own gives its simulation back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwsim.analysis.serving.serve import ServeResult, run_serving
from hwsim.analysis.validation.request_log import (
    RequestLogValidation,
    validate_request_log,
)
from hwsim.errors import InputError
from hwsim.specs.catalogs import load_model, load_stack, load_system
from hwsim.specs.engine import load_engine
from hwsim.specs.traffic import Lengths, Traffic

HEAD = (
    "device,model,dtype,tp,dp,max_num_seqs,max_num_batched_tokens,input_tokens,"
    "output_tokens,arrival_s,queued_s,queue_us,ttft_us,tpot_us,latency_us"
)


def served(
    front: float = 0.0,
    slots: int = 8,
    load: tuple[int, float] = (40, 30.0),
    **changes: Any,
) -> ServeResult:
    options: dict[str, Any] = {
        "tp": 1, "seed": 3, "dtype": "bf16", "router": "least_outstanding",
    } | changes  # fmt: skip
    engine = load_engine("vllm-v1").model_copy(
        update={"max_num_seqs": slots, "max_num_batched_tokens": 512,
                "request_overhead": front, "captured_tokens": min(2 * slots, 512)}
    )  # fmt: skip
    traffic = Traffic(
        load[0], rate=load[1], inputs=Lengths("lognormal", 500.0, 0.8),
        outputs=Lengths("lognormal", 40.0, 0.8),
    )  # fmt: skip
    return run_serving(
        load_model("llama-3.1-8b"), load_system("dgx-h100"), load_stack("vllm"),
        engine, traffic, **options,
    )  # fmt: skip


def written(path: Path, result: ServeResult, dp: int = 1, **offset: float) -> Path:
    run, lines = result.run, [HEAD]
    for i in range(run.outputs.size):
        at, shift = run.arrival[i], offset.get("queue", 0.0)
        tpot = "" if run.outputs[i] < 2 else f"{run.tpot[i] * 1e6:.6f}"
        lines.append(
            f"NVIDIA H100 80GB HBM3,meta-llama/Llama-3.1-8B,bfloat16,1,{dp},8,512,"
            f"{run.inputs[i]},{run.outputs[i]},{at + 1e3:.9f},{at + 5e3:.9f},"
            f"{shift * 1e6:.6f},{(run.ttft[i] - shift) * 1e6:.6f},{tpot},"
            f"{(run.e2e[i] - shift) * 1e6:.6f}"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def largest_error(result: RequestLogValidation) -> float:
    errors = [abs(r["relative_error"]) for r in result.statistics]
    return max([*errors, result.summary.p90_ape])


@pytest.mark.parametrize("dp", [1, 2])
def test_a_log_of_a_simulation_is_recovered(tmp_path: Path, dp: int) -> None:
    path = written(tmp_path / "log.csv", served(replicas=dp), dp)
    result = validate_request_log(path)
    assert result.summary.rows >= 3 * 40 - 5
    assert largest_error(result) < 1e-6
    config = json.loads(result.to_json())["by_run"][0]["simulated"]
    assert (config["device"], config["replicas"]) == ("h100-80gb-sxm", dp)


def test_another_server_is_told_from_it(tmp_path: Path) -> None:
    path = written(tmp_path / "log.csv", served())
    slower = path.read_text(encoding="utf-8").replace(",8,512,", ",2,512,")
    path.write_text(slower, encoding="utf-8")
    assert validate_request_log(path).means()["ttft"].mape > 0.2


def test_times_from_scheduling_on_are_made_whole(tmp_path: Path) -> None:
    """A first token that comes sooner than the queue took counts from there."""
    result = served()
    shift = float(result.run.ttft.min()) * 0.9
    path = written(tmp_path / "log.csv", result, queue=shift)
    found = validate_request_log(path)
    assert largest_error(found) < 1e-6
    notes = found.runs[0].replay.notes if found.runs[0].replay else ()
    assert any("queue_us is added" in note for note in notes)


def test_what_cannot_be_replayed_says_why(tmp_path: Path) -> None:
    path = written(tmp_path / "log.csv", served())
    text = path.read_text(encoding="utf-8").splitlines()
    other = [line.replace("H100 80GB HBM3", "Z900") for line in text[1:4]]
    path.write_text("\n".join([*text, *other]) + "\n", encoding="utf-8")
    data = validate_request_log(path).to_dict()
    assert (data["requests"], data["answered"]) == (43, 40)
    assert any("unknown device" in reason for reason in data["unanswered_reasons"])
    assert data["by_run"][1]["reason"]


def test_ranks_of_a_mixture_run_together(tmp_path: Path) -> None:
    path = written(tmp_path / "log.csv", served())
    text = path.read_text(encoding="utf-8").replace("meta-llama/Llama-3.1-8B", "Q")
    text = text.replace("Q,bfloat16,1,1,", "Qwen/Qwen3-30B-A3B,bfloat16,2,2,")
    text = text.replace("device,model", "expert_parallel,device,model", 1)
    text = text.replace("\nNVIDIA", "\nTrue,NVIDIA")
    path.write_text(text, encoding="utf-8")
    config = validate_request_log(path).to_dict()["by_run"][0]["simulated"]
    assert (config["tp"], config["attention_dp"], config["ep"]) == (2, 2, 4)


def test_groups_and_requests(tmp_path: Path) -> None:
    result = validate_request_log(written(tmp_path / "log.csv", served()))
    assert list(result.by("device")) == ["NVIDIA H100 80GB HBM3"]
    assert len(result.requests) == 40
    assert np.allclose(
        result.requests["measured_ttft_s"], result.requests["predicted_ttft_s"]
    )
    assert set(result.table["statistic"]) == {"mean", "p50", "p90", "p99"}
    with pytest.raises(InputError, match="no column"):
        result.by("colour")
    with pytest.raises(InputError, match="no device L4 among"):
        validate_request_log(tmp_path / "log.csv", device=["L4"])


def logged(path: Path, *, queue: bool) -> Path:
    """Write a log with hand-overs, its times from the queue on or from arrival."""
    result = served(front=1e-3, slots=64, load=(200, 12.0))
    run, lines = result.run, [HEAD]
    assert run.scheduled is not None
    waited = run.scheduled - run.arrival - 1e-3
    before = 1e-3 + np.clip(waited, 0.0, result.itl_s["mean"])
    for i in range(run.outputs.size):
        skip = before[i] if queue else 0.0
        tpot = "" if run.outputs[i] < 2 else f"{run.tpot[i] * 1e6:.6f}"
        lines.append(
            f"NVIDIA H100 80GB HBM3,meta-llama/Llama-3.1-8B,bfloat16,1,1,64,512,"
            f"{run.inputs[i]},{run.outputs[i]},{run.arrival[i] + 1e3:.9f},"
            f"{run.arrival[i] + before[i] + 5e3:.9f},"
            f"{max(waited[i] + 1e-3 - before[i], 0.0) * 1e6:.6f},"
            f"{(run.ttft[i] - skip) * 1e6:.6f},{tpot},{(run.e2e[i] - skip) * 1e6:.6f}"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("queue", [False, True])
def test_times_are_read_from_where_they_count(tmp_path: Path, queue: bool) -> None:
    found = validate_request_log(logged(tmp_path / "log.csv", queue=queue))
    replay = found.runs[0].replay
    assert replay is not None
    assert ("times count from the queue, not from arrival" in replay.notes) == queue
    assert largest_error(found) < 1e-5


def test_defaults_of_a_server_are_those_of_its_device(tmp_path: Path) -> None:
    text = written(tmp_path / "log.csv", served()).read_text(encoding="utf-8")
    both = text.replace(",8,512,", ",,,") + "".join(
        line.replace("H100 80GB HBM3", "L40S").replace(",8,512,", ",,,") + "\n"
        for line in text.splitlines()[1:4]
    )
    (tmp_path / "both.csv").write_text(both, encoding="utf-8")
    found = validate_request_log(tmp_path / "both.csv").to_dict()["by_run"]
    limits = [
        (r["simulated"]["max_num_seqs"], r["simulated"]["max_num_batched_tokens"])
        for r in found
    ]
    assert limits == [(1024, 8192), (256, 2048)]


@pytest.mark.parametrize(
    ("name", "edition"),
    [("RTXPRO6000", "server"), ("RTX PRO 6000 Blackwell", "server"),
     ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "workstation")],
)  # fmt: skip
def test_a_server_has_the_edition_for_servers(
    tmp_path: Path, name: str, edition: str
) -> None:
    path = written(tmp_path / "log.csv", served())
    text = path.read_text(encoding="utf-8").replace("NVIDIA H100 80GB HBM3", name)
    path.write_text(text, encoding="utf-8")
    found = validate_request_log(path).to_dict()["by_run"][0]["simulated"]
    assert found["device"] == f"rtx-pro-6000-blackwell-{edition}"


def test_blank_limits_are_those_a_server_starts_with(tmp_path: Path) -> None:
    path = written(tmp_path / "log.csv", served())
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(",8,512,", ",,512,"), encoding="utf-8")
    replay = validate_request_log(path).runs[0].replay
    assert replay is not None
    engine = replay.result.engine
    assert (engine.max_num_seqs, engine.max_num_batched_tokens) == (512, 512)
    assert engine.captured_tokens == 512
    path.write_text(text.replace(",8,512,", ",16,,"), encoding="utf-8")
    replay = validate_request_log(path).runs[0].replay
    assert replay is not None
    engine = replay.result.engine
    assert (engine.max_num_seqs, engine.max_num_batched_tokens) == (16, 8192)
    assert engine.captured_tokens == 32


def test_the_version_of_a_server_tells_its_engine(tmp_path: Path) -> None:
    path = written(tmp_path / "log.csv", served())
    text = path.read_text(encoding="utf-8").replace(
        "device,model", "engine,device,model"
    )
    means = {}
    for name, engine in (("vllm 0.19.0", "vllm-v1"), ("vLLM==0.11.2", "vllm-v1-sync")):
        path.write_text(text.replace("\nNVIDIA", f"\n{name},NVIDIA"), encoding="utf-8")
        replay = validate_request_log(path).runs[0].replay
        assert replay is not None
        assert replay.result.engine.id == engine
        means[engine] = replay.result.tpot_s["mean"]
    # Of its own: 0.78 ms a step and 38 us more for each of up to eight sequences.
    extra = means["vllm-v1-sync"] - means["vllm-v1"]
    assert 0.78e-3 < extra < 1.5e-3
    path.write_text(text.replace("\nNVIDIA", "\nmystery,NVIDIA"), encoding="utf-8")
    assert "unknown engine 'mystery'" in validate_request_log(path).runs[0].reason


def test_statistics_say_how_sure_they_are(tmp_path: Path) -> None:
    path = written(tmp_path / "log.csv", served())
    sure = validate_request_log(path)
    for record in sure.statistics:
        assert record["lower"] < record["predicted"] < record["upper"]
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("H100 80GB HBM3", "RTX A6000"), encoding="utf-8")
    other = validate_request_log(path)

    def width(found: RequestLogValidation) -> float:
        means = (r for r in found.statistics if r["statistic"] == "mean")
        gap = next(r for r in means if r["metric"] == "tpot")
        return float(gap["upper"] / gap["lower"])

    # Nobody calibrated an A6000: its interval is wider.
    assert width(other) > width(sure) > 1.1
    bound = validate_request_log(path, fidelity="roofline")
    assert all(r["lower"] is None and r["upper"] is None for r in bound.statistics)
