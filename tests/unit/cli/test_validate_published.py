"""Published runs in the validate command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

HEAD = "model,seq_len,global_batch,micro_batch,device,num_devices,iter_time_s\n"


@pytest.fixture
def runs_csv(tmp_path: Path) -> Path:
    path = tmp_path / "runs.csv"
    rows = "gpt-2-124m,1024,32,4,A100-80GB-SXM,8,0.1\nResNet-50,,,,T4,1,1\n"
    path.write_text(HEAD + rows, encoding="utf-8")
    return path


def test_command_prints_and_writes(hwsim_cli: Any, runs_csv: Path) -> None:
    done = hwsim_cli("validate", "--published", runs_csv)
    assert done.code == 0
    assert "1 of 2 rows answered" in done.out
    assert "out of scope" in done.err
    data = json.loads(hwsim_cli("validate", "--published", runs_csv, "--json").out)
    assert (data["rows"], data["unanswered"]) == (1, 1)
    assert data["kind"] == "published_validation"


def test_processes_are_for_published_rows(hwsim_cli: Any, runs_csv: Path) -> None:
    done = hwsim_cli("validate", "--published", runs_csv, "--jobs", "2", "--json")
    assert json.loads(done.out)["rows"] == 1
    refused = hwsim_cli("validate", "--jobs", "2")
    assert refused.code == 2
    assert "--published" in refused.err


def test_command_takes_one_sort_of_table(hwsim_cli: Any, runs_csv: Path) -> None:
    done = hwsim_cli("validate", "gemm.csv", "--published", runs_csv)
    assert done.code == 2
    assert "--published" in done.err
    assert done.err.count("\n") == 1


def test_a_device_without_rows_is_named(hwsim_cli: Any, runs_csv: Path) -> None:
    done = hwsim_cli("validate", "--published", runs_csv, "--device", "Z99")
    assert done.code == 2
    told = "no row of device 'Z99'; there are rows of A100-80GB-SXM, T4"
    assert told in done.err
