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


def test_the_page_of_a_whole_run_is_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "run.html"
    assert run_code([*COMMANDS["training_run"], "--report", str(page)]) == 0
    assert ": the whole run</h1>" in page.read_text(encoding="utf-8")
    assert run_code([*COMMANDS["train"], "--price", "3"]) == 0
    assert "--price: of the whole run; give --tokens" in capsys.readouterr().err


def test_serve_says_which_suffixes_it_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_code([*COMMANDS["serve"], "--out", str(tmp_path / "x.txt")]) == 2
    assert "write .json (the result) or .csv" in capsys.readouterr().err


def test_report_writes_pages_of_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, out = tmp_path / "a.json", tmp_path / "out"
    assert run_code([*COMMANDS["op"], "--out", str(saved)]) == 0
    asked = ["report", str(saved), "-o", str(out), "--format", "html,md"]
    assert run_code(asked) == 0
    assert f"wrote {out / 'a.html'}" in capsys.readouterr().err
    assert "hwsim op matmul" not in (out / "a.md").read_text(encoding="utf-8")[:50]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.json"], "none.json: there is no such file"),
        (["x.toml"], "no JSON"),
        (["--format", "docx", "none.json"], "'docx' is unknown"),
        (["--templates", "nowhere", "none.json"], "no such folder of templates"),
    ],
)
def test_report_refuses_in_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.toml").write_text("a = 1\n", encoding="utf-8")
    assert run_code(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "reports").exists()
