"""The validate command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

HEAD = "source,device,op,dtype,m,n,k,latency_us\n"
GOOD = "lab,h100_sxm,linear,bf16,4096,4096,4096,220\n"
BAD = "lab,h100_sxm,linear,bf16,many,4096,4096,220\n"


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Path]:
    found = {}
    for name, text in {"good": GOOD, "bad": GOOD + BAD, "worse": BAD + BAD}.items():
        found[name] = tmp_path / f"{name}.csv"
        found[name].write_text(HEAD + text, encoding="utf-8")
    return found


def test_prints_errors(hwsim_cli: Any, tables: dict[str, Path]) -> None:
    done = hwsim_cli("validate", "--measurements", tables["good"])
    assert done.code == 0
    assert "gemm" in done.out
    assert "Median" in done.out
    assert done.err == ""


def test_json_is_alone_on_stdout(hwsim_cli: Any, tables: dict[str, Path]) -> None:
    done = hwsim_cli(
        "validate", "-m", tables["good"], "--fidelity", "roofline", "--json"
    )
    data = json.loads(done.out)
    assert done.code == 0
    assert data["rows"] == 1
    assert data["fidelities"] == {"roofline": 1}
    assert data["by_device"]["h100-80gb-sxm"]["bias"] < 0


def test_bad_rows_stop_it(hwsim_cli: Any, tables: dict[str, Path]) -> None:
    done = hwsim_cli("validate", "-m", tables["bad"])
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "row 2: m" in done.err
    assert "'many'" in done.err


def test_bad_rows_can_be_skipped(hwsim_cli: Any, tables: dict[str, Path]) -> None:
    done = hwsim_cli("validate", tables["bad"], "--skip-bad")
    assert done.code == 0
    assert "skipped 1 row" in done.err
    assert "row 2" in done.err
    data = json.loads(hwsim_cli("validate", tables["bad"], "--skip-bad", "--json").out)
    assert (data["rows"], data["skipped"]) == (1, 1)


def test_nothing_left_is_said(hwsim_cli: Any, tables: dict[str, Path]) -> None:
    done = hwsim_cli("validate", tables["worse"], "--skip-bad")
    assert done.code == 0
    assert "No row could be predicted" in done.out


def test_writes_page_and_result(
    hwsim_cli: Any, tables: dict[str, Path], tmp_path: Path
) -> None:
    page, saved = tmp_path / "v.html", tmp_path / "v.json"
    done = hwsim_cli(
        "validate", tables["good"], "--report", page, "--out", saved, "-d", "h100"
    )
    assert done.code == 0
    assert "Predictions beside measurements" in page.read_text(encoding="utf-8")
    assert json.loads(saved.read_text(encoding="utf-8"))["kind"] == "validation"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-d", "no-such-device"), "unknown device"),
        (("--fidelity", "guess"), "guess"),
        (("no-such-file.csv",), "does not exist"),
    ],
)
def test_wrong_input_is_one_line(
    hwsim_cli: Any, tables: dict[str, Path], arguments: tuple[str, ...], says: str
) -> None:
    done = hwsim_cli("validate", tables["good"], *arguments)
    assert done.code == 2
    assert says in done.err
    assert done.err.count("\n") == 1
