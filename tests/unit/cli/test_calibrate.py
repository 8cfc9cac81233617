import json

import numpy as np
import pytest

from hwsim.cli.app import run_code


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["source,device,op,dtype,m,n,latency_us"]
    for m in 2 ** np.arange(4, 14):
        for n in (1000, 2000, 4000, 8000):
            time = 5.0 + m * n * 6 / 0.5e6
            lines.append(f"lab,t4,add,fp16,{m},{n},{time * rng.uniform(0.98, 1.02)}")
    path = tmp_path / "adds.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_calibrate_writes_a_file_and_shows_errors(table, tmp_path, capsys):
    out = tmp_path / "calibration.json"
    code = run_code(
        ["calibrate", "t4", "--measurements", str(table), "--out", str(out)]
    )
    shown, notes = capsys.readouterr()
    assert code == 0
    assert "elementwise" in shown
    assert "did not see" in shown
    assert "fitting 40 rows" in notes
    assert "gemm: not fitted (0 rows" in notes
    assert json.loads(out.read_text())["device"] == "t4"


def test_calibrate_prints_json(table, tmp_path, capsys):
    out = tmp_path / "c.json"
    code = run_code(
        ["calibrate", "T4", "-m", str(table), "--out", str(out), "--json",
         "--families", "elementwise", "--holdout", "none"]
    )  # fmt: skip
    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    family = answer["families"]["elementwise"]
    assert family["held_out"] is None
    assert family["in_sample"]["rows"] == 40
    assert family["parameters"]["elementwise.overhead"] > 0


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["nodevice"], "nodevice"),
        (["t4", "--families", "gem"], "gemm"),
        (["h100"], "nothing to fit"),
    ],
)
def test_faults_are_one_line(table, tmp_path, capsys, arguments, fault):
    out = tmp_path / "c.json"
    code = run_code(["calibrate", *arguments, "-m", str(table), "--out", str(out)])
    said = capsys.readouterr().err
    assert code == 2
    assert fault in said
    assert not out.exists()


def test_an_interrupt_keeps_what_is_finished(table, tmp_path, monkeypatch, capsys):
    from hwsim.analysis.fitting import calibrate as module

    whole = module._each

    def stopped(*arguments):
        for found in whole(*arguments):
            yield found
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_each", stopped)
    out = tmp_path / "c.json"
    code = run_code(["calibrate", "t4", "-m", str(table), "--out", str(out)])
    assert code == 130
    assert "elementwise" in json.loads(out.read_text())["families"]
    assert "interrupted" in capsys.readouterr().err
