"""The plan command."""

from __future__ import annotations

import importlib.util
import json
import shlex
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


def printed_command(out: str) -> list[str]:
    line = next(text for text in out.splitlines() if text.startswith("hwsim train "))
    return shlex.split(line)[1:]


@pytest.mark.parametrize(
    "asked",
    [
        ("gpt-3-1.3b", "-s", "dgx-a100-80gb", "--tp", "2,4", "--pp", "2", "--vpp", 2),
        ("olmoe-1b-7b", "-s", "dgx-h100", "--ep", "4", "--dtype", "fp8"),
        ("bert-large", "-s", "tpu-v4-16", "--seq", 512, "--optimizer", "lamb"),
        ("t5-3b", "-s", "mi300x-platform", "--recompute", "full", "--seq", 512),
        ("gpt2", "-s", "dgx-h100-ndr-4", "--zero-stage", 3, "--dp-shard", 8),
        ("gpt2", "-s", "dgx-h100", "--set", "device.memory.hbm.bandwidth=x2",
         "--stack", "pytorch-fsdp", "--fidelity", "roofline"),
        ("gpt2", "-s", "a100", "--memory", "3GB", "--zero-stage", 0),
    ],
)  # fmt: skip
def test_the_command_it_prints_gives_the_step_it_promises(
    hwsim_cli: Any, asked: Any
) -> None:
    usual = () if "--seq" in asked else ("--seq", 1024)
    asked = ("plan", "train", *asked, "--global-batch", 16, "--simulate", 2, *usual)
    told = json.loads(hwsim_cli(*asked, "--json").out)
    best = shlex.split(told["train_command"])[1:]
    assert printed_command(hwsim_cli(*asked).out) == best
    for row in told["ranking"]:
        again = shlex.split(row["train_command"])[1:]
        alone = json.loads(hwsim_cli(*again, "--json").out)
        assert alone["step_s"] == row["step_s"]
        assert alone["memory_bytes"]["total"] == row["memory_bytes"]
        assert alone["fits"]


def test_each_system_is_trained_in_what_it_computes_in(hwsim_cli: Any) -> None:
    asked = (
        "plan", "train", "gpt2", "-s", "dgx-h100", "-s", "dgx-2", "--global-batch", 16,
        "--seq", 1024, "--pp", 1, "--tp", 1, "--no-offload",
    )  # fmt: skip
    done = hwsim_cli(*asked, "--json")
    told = json.loads(done.out)
    assert told["config"]["dtype"] == {"dgx-h100": "bf16", "dgx-2": "fp16"}
    assert {c["value"] for c in told["one_change"] if c["choice"] == "system"} == {
        "dgx-2"
    }
    assert "dgx-2" in hwsim_cli(*asked, "--top", 99).out
    held = hwsim_cli(*asked, "--dtype", "bf16", "--json")
    assert json.loads(held.out)["systems"] == ["dgx-h100"]
    assert "v100-sxm2-32gb does not compute in it" in held.err


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("--objective", "money"), "no price of gaudi3 is known; give price"),
        (("--tokens", "1B", "--budget", 1e6), "no price of gaudi3 is known"),
        (("--objective", "energy"), "tpu-v5p quotes no power; set device.power.tdp"),
        (("--power", "1MW"), "tpu-v5p quotes no power"),
    ],
)
def test_systems_of_unknown_price_or_power_are_passed_over(
    hwsim_cli: Any, asked: Any, told: str
) -> None:
    other = "gaudi3-node" if "price" in told else "tpu-v5p-16"
    args = (
        "plan", "train", "gpt2", "--global-batch", 16, "--seq", 1024, "--tp", 1,
        "--pp", 1, "--no-offload", "--json", *asked, "-s",
    )  # fmt: skip
    alone = hwsim_cli(*args, other)
    assert alone.code == 2
    assert told in alone.err
    both = hwsim_cli(*args, "dgx-h100", "-s", other)
    assert both.code == 0
    assert told in both.err
    assert json.loads(both.out)["systems"] == ["dgx-h100"]


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
        (("--tp", 3, "--devices", 8), "use tp 2"),
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
