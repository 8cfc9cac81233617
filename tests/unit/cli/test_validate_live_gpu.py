"""The live check of a GPU, with a collector that is made up."""

import json
import os
import sys
import types

import numpy as np
import pytest

import hwsim
import hwsim.api.live_gpu as api
from hwsim.errors import InputError
from hwsim.measure.cuda.app import chosen
from hwsim.measure.cuda.runner import Outcome, row
from hwsim.measure.cuda.tables import Tables

DEVICE, SLOWER, ROWS = "l40s", 1.25, 240


def write(folder, cases, times):
    tables = Tables(folder, device=DEVICE, source="hwsim-measure:torch-2.9.0")
    for case, time in zip(cases, times, strict=True):
        tables.begin(case)
        tables.add(case, row(Outcome([time])))
        tables.end()


def predicted(folder, cases):
    """Times of cases as hwsim predicts them for the device's generation."""
    write(folder, cases, [1e-3] * len(cases))
    paths = list(folder.glob("*.csv"))
    found = hwsim.validate(paths, fidelity="structured")
    (family,) = found.families
    return family.predictions.time


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A GPU whose products take longer than its generation's, and so its models."""
    asked = []

    def collect(out, budget, number, *more):
        asked.append((out.name, budget, number, more))
        operators = "end_to_end" not in more
        cases = [
            c for c in chosen("gemm" if operators else "end_to_end", "", 1)
            if c.launch == "graph" and c.operands in ("cold", "hot")
            and c.dtype == "bf16" and (not operators or c.op == "linear")
        ]  # fmt: skip
        cases = cases[:ROWS] if operators else [
            c for c in cases if c["model"] == "gpt2" and c.op == "infer"
        ][:6]  # fmt: skip
        times = predicted(tmp_path / f"at-{out.name}", cases)
        known = np.isfinite(times)
        cases = [c for c, k in zip(cases, known, strict=True) if k]
        write(out, cases, times[known] * SLOWER)

    monkeypatch.setattr(api, "collect", collect)
    return asked


def test_models_are_predicted_from_operators_measured_there(gpu):
    before = os.environ.get("HWSIM_PATH")
    told = []
    result = api.live_check_gpu(budget=100.0, progress=told.append)
    assert told == ["measuring operators", "measuring models", "fitting the operators"]
    assert [name for name, *_ in gpu] == ["operators", "models"]
    assert sum(budget for _, budget, *_ in gpu) == pytest.approx(100.0)
    assert os.environ.get("HWSIM_PATH") == before
    (family,) = result.families
    assert family.rows.family == "end_to_end"
    assert set(family.predictions.fidelity) == {"calibrated"}
    # Products were 1.25 times slower: a fit that saw them comes nearer.
    structured = hwsim.validate(
        read(family.rows), fidelity="structured"
    ).summary.median_ape  # fmt: skip
    assert result.summary.median_ape < structured


def read(rows):
    from hwsim.specs.measurement.table import MeasurementTable

    return MeasurementTable({rows.family: rows}, (), ())


def test_tables_stay_in_a_folder_that_is_named(gpu, tmp_path):
    api.live_check_gpu(budget=100.0, folder=tmp_path / "kept")
    assert (tmp_path / "kept" / "operators" / "gemm.csv").exists()
    assert (tmp_path / "kept" / "models" / "end_to_end.csv").exists()


def test_a_short_budget_and_an_empty_table_are_refused(monkeypatch, tmp_path):
    with pytest.raises(InputError, match="too short for a GPU"):
        api.live_check_gpu(budget=10.0)
    monkeypatch.setattr(api, "collect", lambda *_: None)
    with pytest.raises(InputError, match="nothing was measured"):
        api.live_check_gpu(budget=100.0, folder=tmp_path)


def test_the_collector_says_why_it_cannot_run(tmp_path):
    with pytest.raises(InputError, match=r"PyTorch|CUDA"):
        api.collect(tmp_path, 60.0, 0, "--only", "gemm")


def test_a_gpu_is_there_where_pytorch_finds_one(monkeypatch):
    cuda = types.SimpleNamespace(is_available=lambda: True)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(api.importlib.util, "find_spec", lambda name: name)
    assert api.gpu_present()
    monkeypatch.setattr(api.importlib.util, "find_spec", lambda name: None)
    assert not api.gpu_present()


def test_the_command_checks_both(gpu, monkeypatch, hwsim_cli, tmp_path):
    import hwsim.api.live as live

    class Cpu:
        def to_dict(self):
            return {"kind": "live_check"}

        def saved_text(self, command):
            return "{}"

    monkeypatch.setattr(live, "live_check", lambda **_: Cpu())
    monkeypatch.setattr(api, "gpu_present", lambda: True)
    place = tmp_path / "r.json"
    done = hwsim_cli("validate", "--live", "--budget", "100s", "--json", "--out", place)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["gpu"]["by_family"]["end_to_end"]["rows"] > 0
    assert (tmp_path / "r-gpu.json").exists()
