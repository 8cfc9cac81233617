"""Every command that answers can save its answer."""

from __future__ import annotations

from pathlib import Path

import pytest

import hwsim
from hwsim.cli.app import run_code

COMMANDS = {
    "infer": ["infer", "gpt2", "-s", "h100", "--output", "2", "--prompt", "32"],
    "train": ["train", "gpt2", "-s", "h100", "--seq", "256"],
    "training_run": ["train", "gpt2", "-s", "h100", "--seq", "256", "--tokens", "1e8"],
    "op": ["op", "matmul", "--m", "64", "--n", "64", "--k", "64", "--device", "h100"],
    "serve": ["serve", "gpt2", "-s", "h100", "--rate", "2", "--requests", "10",
              "--input-len", "fixed:32", "--output-len", "fixed:4"],
    "train_plan": ["plan", "train", "gpt2", "-s", "h100", "--devices", "1",
                   "--global-batch", "2", "--seq", "256", "--simulate", "1"],
}  # fmt: skip


@pytest.mark.parametrize("kind", COMMANDS)
def test_out_saves_what_load_result_reads(
    kind: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "answer.json"
    arguments = [*COMMANDS[kind], "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["hwsim", *arguments])
    assert run_code(arguments) == 0
    assert f"saved {out}" in capsys.readouterr().err
    loaded = hwsim.load_result(out)
    assert loaded.kind == kind
    assert loaded.command.startswith(f"hwsim {COMMANDS[kind][0]}")
    assert str(out) in loaded.command
    assert loaded.spec_hashes["device"]["id"] == "h100-80gb-sxm"


def test_serve_says_which_suffixes_it_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_code([*COMMANDS["serve"], "--out", str(tmp_path / "x.txt")]) == 2
    assert "write .json (the result) or .csv" in capsys.readouterr().err
