"""Request logs in the validate command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hwsim.resources import builtin_path

LOG = builtin_path("workloads") / "logs" / "synthetic-vllm.csv"


def test_command_prints_and_writes(hwsim_cli: Any) -> None:
    done = hwsim_cli("validate", "--request-log", LOG)
    assert done.code == 0
    assert "Llama-3.1-8B-Instruct" in done.out
    assert "replayed as qwen2.5-7b on dgx-a100-80gb" in done.out
    data = json.loads(hwsim_cli("validate", "--request-log", LOG, "--json").out)
    assert data["kind"] == "request_log_validation"
    assert (data["runs"], data["answered"], data["skipped"]) == (2, 24, 0)


def test_bad_rows_are_refused_or_listed(hwsim_cli: Any, tmp_path: Path) -> None:
    text = LOG.read_text(encoding="utf-8").splitlines()
    text[3] = text[3].replace(",460,", ",none,", 1)
    path = tmp_path / "log.csv"
    path.write_text("\n".join(text), encoding="utf-8")
    done = hwsim_cli("validate", "--request-log", path)
    assert done.code == 2
    assert "row 3: input_tokens: is blank" in done.err
    assert done.err.count("\n") == 1
    done = hwsim_cli("validate", "--request-log", path, "--skip-bad")
    assert done.code == 0
    assert "1 bad row" in done.err


def test_one_sort_of_table_at_a_time(hwsim_cli: Any) -> None:
    done = hwsim_cli("validate", "gemm.csv", "--request-log", LOG)
    assert done.code == 2
    assert "--request-log" in done.err


def test_a_log_of_which_nothing_can_be_replayed_is_refused(
    hwsim_cli: Any, tmp_path: Path
) -> None:
    path = tmp_path / "log.csv"
    text = LOG.read_text(encoding="utf-8")
    for device in ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"):
        text = text.replace(device, "Z99")
    path.write_text(text, encoding="utf-8")
    done = hwsim_cli("validate", "--request-log", path, "--json")
    assert done.code == 2
    assert json.loads(done.out)["answered"] == 0
    assert "no run of the log could be replayed" in done.err.splitlines()[-1]
    assert "Z99" in done.err
