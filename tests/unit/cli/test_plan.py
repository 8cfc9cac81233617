"""The plan command."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pandas as pd
import pytest

from hwsim.cli.plan import _counts
from hwsim.errors import InputError

SMALL = (
    "plan", "train", "gpt-3-1.3b", "-s", "dgx-a100-80gb", "--global-batch", 16,
    "--seq", 1024, "--pp", 1, "--micro-batch", "1,2", "--no-offload",
)  # fmt: skip


def test_json_is_alone_on_stdout(hwsim_cli: Any) -> None:
    done = hwsim_cli(*SMALL, "--devices", 8, "--simulate", 2, "--json")
    data = json.loads(done.out)
    assert done.code == 0
    assert done.err == ""
    assert data["layouts"] > 50
    assert 0.0 < data["search_s"] < 60.0
    assert len(data["ranking"]) == 2
    assert data["step_s"] == data["ranking"][0]["step_s"]
    assert data["why"]
    assert {r["devices"] for r in data["pareto"]} == {8}


def test_people_get_the_ranking_and_the_reasons(hwsim_cli: Any) -> None:
    done = hwsim_cli(*SMALL, "--devices", 8, "--simulate", 2, "--top", 3)
    assert done.code == 0
    assert "best layout" in done.out
    assert "layouts/s" in done.out
    assert "What the runner-up lacks" in done.out


def test_whole_ranking_goes_to_csv_and_out(hwsim_cli: Any, tmp_path: Any) -> None:
    table, saved = tmp_path / "ranking.csv", tmp_path / "plan.json"
    done = hwsim_cli(
        *SMALL, "--devices", "4-8", "--simulate", 1, "--csv", table, "--out", saved,
        "--json",
    )  # fmt: skip
    data, frame = json.loads(saved.read_text()), pd.read_csv(table)
    assert done.code == 0
    assert len(frame) == data["timed"]
    assert set(frame["devices"]) == {4, 8}
    assert frame["step_s"].is_monotonic_increasing


def test_parquet_without_pyarrow_says_what_to_do(
    hwsim_cli: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = hwsim_cli(*SMALL, "--parquet", tmp_path / "r.parquet")
    assert done.code == 2
    assert "pip install pyarrow" in done.err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--devices", 99), "at most 8"),
        (("--devices", "8-4"), "is empty"),
        (("--devices", "many"), "not a whole number"),
        (("--tp", "x"), "--tp"),
        (("--tp", 3, "--devices", 8), "use 2"),
        (("--memory", "70"), "--memory"),
        (("--memory", "1MB"), "the least needs"),
        (("--deadline", "24h"), "tokens"),
        (("--recompute", "some"), "recompute"),
        (("--schedule", "2f2b"), "schedule"),
        (("--stack", "none-such"), "stack"),
    ],
)
def test_bad_input_is_one_line(hwsim_cli: Any, extra: Any, message: str) -> None:
    done = hwsim_cli(*SMALL, *extra)
    assert done.code == 2
    assert done.out == ""
    assert message in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("512", [512]),
        ("8,64", [8, 64]),
        ("64-512", [64, 128, 256, 512]),
        ("64-192/64", [64, 128, 192]),
        ("8,64-128", [8, 64, 128]),
    ],
)
def test_device_counts(text: str, counts: list[int]) -> None:
    assert _counts(text) == counts


def test_a_step_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="64-512/64"):
        _counts("64-512/0")
