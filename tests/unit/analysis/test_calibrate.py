import json
from dataclasses import replace

import numpy as np
import pytest

import hwsim
from hwsim.analysis.fitting import calibrate as module
from hwsim.analysis.fitting.calibrate import calibrate, dump_calibration
from hwsim.analysis.fitting.rows import fit_rows, folds
from hwsim.analysis.fitting.trees import Boosting, factors, grow
from hwsim.cost.elementwise import elementwise_cost
from hwsim.errors import HwsimError, InputError, SpecError
from hwsim.specs.calibration import (
    FAMILIES,
    calibration_for,
    calibration_path,
    load_calibration_file,
    resolved_fidelity,
    with_parameters,
)
from hwsim.specs.catalogs import load_device
from hwsim.specs.measurement.read import read_measurements

DEVICE = "a40"
TRUE = {
    "elementwise.memory_efficiency": 0.6,
    "elementwise.overhead": 6e-6,
    "elementwise.memory_ramp": 0.2e-6,
}


@pytest.fixture(scope="module")
def truth():
    return with_parameters(calibration_for(load_device(DEVICE)), TRUE)


@pytest.fixture(scope="module")
def tables(tmp_path_factory, truth):
    """Measurements of a device whose parameters are known, 2 % noise."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("tables") / "adds.csv"
    lines = ["source,device,op,dtype,m,n,latency_us"]
    for m in 2 ** np.arange(0, 15):
        for n in (1000, 3000, 5000, 7000, 9000, 11000):
            cost = elementwise_cost(
                float(m * n * 6), float(m * n), device=load_device(DEVICE),
                calibration=truth,
            )  # fmt: skip
            time = float(cost.time) * np.exp(rng.normal(0.0, 0.02)) * 1e6
            lines.append(f"lab,{DEVICE},add,bf16,{m},{n},{time:.4f}")
    lines.append("lab,h100-80gb-sxm,add,bf16,1,1000,1000000")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def result(tables):
    return calibrate(DEVICE, [tables], families=["elementwise"])


def test_a_fit_finds_the_parameters_that_made_the_measurements(result):
    fit = result.file.families["elementwise"]
    assert fit.parameters["elementwise.memory_efficiency"].value == pytest.approx(
        0.6, rel=0.03
    )
    assert fit.parameters["elementwise.overhead"].value == pytest.approx(6e-6, rel=0.1)
    assert fit.held_out.median_ape < 0.03
    assert fit.held_out.rows == 90  # the other device's row is left alone


def test_values_stay_within_their_bounds(result):
    for path, figure in result.file.families["elementwise"].parameters.items():
        assert figure.lower <= figure.value <= figure.upper, path


def test_intervals_cover_the_noise_and_not_much_more(result):
    interval = result.file.families["elementwise"].interval
    assert 0.84 <= interval.coverage <= 0.96
    assert interval.width < 0.2


def test_trees_that_learn_only_noise_stay_out(result):
    assert result.file.families["elementwise"].residual is None


def test_the_file_says_what_it_was_made_of(result, tables):
    import hashlib

    fit = result.file.families["elementwise"]
    digest = hashlib.sha256(tables.read_bytes()).hexdigest()
    assert fit.data[0].file == "adds.csv"
    assert fit.data[0].sha256 == digest
    assert fit.data[0].sources == ("lab",)
    assert fit.data[0].rows == 90
    assert "shapes" in fit.split
    assert result.to_dict()["families"]["elementwise"]["coverage_90"] > 0


def test_a_second_run_gives_the_same_file(result, tables):
    again = calibrate(DEVICE, [tables], families=["elementwise"])
    assert again.file_text() == result.file_text()


def test_a_written_file_is_used_and_structured_ignores_it(
    result, tmp_path, monkeypatch
):
    folder = tmp_path / "devices" / "gpu" / DEVICE
    folder.mkdir(parents=True)
    path = folder / "calibration.json"
    path.write_text(result.file_text())
    assert load_calibration_file(path) == result.file
    device = load_device(DEVICE)
    before = calibration_for(device, "auto")
    assert before.calibrated == ()
    monkeypatch.setenv("HWSIM_PATH", str(tmp_path))
    used = calibration_for(device, "auto")
    assert used.calibrated == ("elementwise",)
    assert used.elementwise.memory_efficiency == pytest.approx(0.6, rel=0.03)
    assert used.matmul == before.matmul
    assert used.fidelities()["gemm"] == "structured"
    plain = calibration_for(device, "structured")
    assert plain.elementwise == before.elementwise
    answer = hwsim.op("rmsnorm", device=DEVICE, m=4096, n=4096)
    assert answer.fidelity == "calibrated"
    assert hwsim.op("matmul", device=DEVICE, m=64, n=64, k=64).fidelity == "structured"
    plain = hwsim.op("rmsnorm", device=DEVICE, m=4096, n=4096, fidelity="structured")
    assert plain.time_s < answer.time_s


def test_a_changed_file_is_read_again(result, tmp_path, monkeypatch):
    import os

    folder = tmp_path / "devices" / "gpu" / DEVICE
    folder.mkdir(parents=True)
    path = folder / "calibration.json"
    path.write_text(result.file_text())
    monkeypatch.setenv("HWSIM_PATH", str(tmp_path))
    first = calibration_for(load_device(DEVICE), "calibrated")
    table = json.loads(result.file_text())
    name = "elementwise.memory_efficiency"
    table["families"]["elementwise"]["parameters"][name]["value"] = 0.5
    path.write_text(json.dumps(table))
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))
    second = calibration_for(load_device(DEVICE), "calibrated")
    assert first.elementwise.memory_efficiency != 0.5
    assert second.elementwise.memory_efficiency == 0.5


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"device": "h100-80gb-sxm"}, "is not 'a40'"),
        ({"schema_version": 2}, "schema_version"),
        ({"families": 3}, "families"),
    ],
)
def test_a_faulty_file_is_named(result, tmp_path, monkeypatch, change, fault):
    folder = tmp_path / "devices" / "gpu" / DEVICE
    folder.mkdir(parents=True)
    table = json.loads(result.file_text()) | change
    (folder / "calibration.json").write_text(json.dumps(table))
    monkeypatch.setenv("HWSIM_PATH", str(tmp_path))
    with pytest.raises(SpecError, match=fault) as caught:
        calibration_for(load_device(DEVICE), "auto")
    assert "calibration.json" in str(caught.value)


def test_an_uncalibrated_device_says_how_to_calibrate_it():
    device = load_device("t4")
    assert resolved_fidelity(device, "auto") == "structured"
    with pytest.raises(InputError, match="hwsim calibrate t4"):
        resolved_fidelity(device, "calibrated")
    with pytest.raises(InputError, match="best"):
        resolved_fidelity(device, "best")


def test_an_interrupt_keeps_the_families_finished(tables, monkeypatch):
    def stopped(*arguments):
        yield "elementwise", fit
        raise KeyboardInterrupt

    fit = calibrate(
        DEVICE, [tables], families=["elementwise"], holdout="none"
    ).file.families["elementwise"]
    monkeypatch.setattr(module, "_each", stopped)
    result = calibrate(DEVICE, [tables])
    assert result.interrupted
    assert list(result.file.families) == ["elementwise"]


def test_without_holdout_errors_are_in_sample_and_said_to_be(tables, tmp_path):
    result = calibrate(DEVICE, [tables], families=["elementwise"], holdout="none")
    fit = result.file.families["elementwise"]
    assert fit.held_out is None
    assert "in-sample" in fit.split
    place = tmp_path / "calibration.json"
    place.write_text(result.file_text(), encoding="utf-8")
    assert load_calibration_file(place).families["elementwise"] == fit


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"families": ["gem"]}, "gemm"),
        ({"families": ["moe"]}, "nothing to fit.*0 rows"),
        ({"holdout": "rows"}, "blocks or none"),
    ],
)
def test_what_cannot_be_fitted_is_said(tables, arguments, fault):
    with pytest.raises(HwsimError, match=fault):
        calibrate(DEVICE, [tables], **arguments)


def test_folds_keep_blocks_whole_and_even(tables):
    rows = fit_rows(
        read_measurements([tables]), load_device(DEVICE), [DEVICE], "elementwise"
    )
    fold = folds(rows.block, 4, seed=3)
    assert all(len(set(fold[rows.block == b])) == 1 for b in set(rows.block))
    assert np.bincount(fold).max() - np.bincount(fold).min() <= 1
    assert not np.array_equal(fold, folds(rows.block, 4, seed=4))


def test_some_of_the_rows_are_predicted_as_among_all(tables, truth):
    rows = fit_rows(
        read_measurements([tables]), load_device(DEVICE), [DEVICE], "elementwise"
    )
    index = np.array([3, 8, 70])
    some = rows.take(index)
    np.testing.assert_allclose(some.predict(truth), rows.predict(truth)[index])
    np.testing.assert_allclose(some.time, rows.time[index])


def test_trees_learn_what_a_form_misses():
    rng = np.random.default_rng(1)
    table = rng.uniform(0, 10, (2, 600))
    error = np.where(table[0] > 5, 0.3, -0.1)
    grown = grow(("a", "b"), table, error, Boosting())
    left = error - np.log(factors(grown, table))
    assert np.abs(left).mean() < 0.02
    assert grow(("a",), np.ones((1, 50)), np.zeros(50), Boosting()).feature == ()


def test_a_calibration_file_survives_writing(result, tmp_path):
    path = tmp_path / "calibration.json"
    fit = result.file.families["elementwise"]
    grown = grow(
        ("bytes",), np.arange(50.0)[np.newaxis], np.arange(50.0) / 100, Boosting()
    )
    file = result.file.model_copy(
        update={"families": {"elementwise": fit.model_copy(update={"residual": grown})}}
    )
    path.write_text(dump_calibration(file))
    assert load_calibration_file(path) == file


SHAPES = {
    "matmul": {"m": [1, 64, 4096], "n": 4096, "k": [128, 4096, 8192]},
    "prefill": {"heads": 8, "seq_q": [16, 512, 4096], "seq_kv": [16, 512, 4096]},
    "decode": {"heads": 8, "seq_kv": [16, 4096, 65536], "batch": [1, 16, 64]},
    "rmsnorm": {"m": [1, 512, 65536], "n": [128, 4096, 8192]},
    "moe": {"m": [1, 64, 8192], "n": 1024, "k": 2048, "experts": 64, "topk": 4},
}


@pytest.mark.parametrize("kind", SHAPES)
def test_no_model_is_faster_than_light(kind):
    for name in hwsim.device_ids():
        asked = {"device": name, **SHAPES[kind]}
        light = np.asarray(hwsim.op(kind, fidelity="roofline", **asked).time_s)
        for fidelity in ("structured", "auto"):
            time = np.asarray(hwsim.op(kind, fidelity=fidelity, **asked).time_s)
            assert np.all(time >= light * (1 - 1e-12)), (name, fidelity)


@pytest.mark.parametrize("system", ["dgx-h100", "dgx-a100-80gb", "l40s-pcie-8"])
def test_no_collective_is_faster_than_light(system):
    for kind in ("all_reduce", "all_gather", "all_to_all", "send_recv"):
        asked = {"device": system, "bytes": [1e3, 1e6, 1e9], "group": 8}
        light = np.asarray(hwsim.op(kind, fidelity="roofline", **asked).time_s)
        for fidelity in ("structured", "auto"):
            time = np.asarray(hwsim.op(kind, fidelity=fidelity, **asked).time_s)
            assert np.all(time >= light * (1 - 1e-12))


def test_results_carry_intervals_and_what_they_rest_on():
    result = hwsim.infer("llama-3.1-8b", "a40", prompt=64, output=8)
    table = json.loads(result.to_json())
    for key in ("ttft_s", "tpot_s", "latency_s", "tokens_per_s"):
        low, high = table["interval_90"][key]
        assert low < table[key] < high
    assert set(table["fidelity_by_family"]) >= {"gemm", "attention_decode"}
    trained = json.loads(hwsim.train("gpt2", "a40", seq=128).to_json())
    low, high = trained["interval_90"]["step_s"]
    assert low < trained["step_s"] < high
    light = hwsim.infer("llama-3.1-8b", "a40", output=8, fidelity="roofline")
    assert light.interval_90 is None
    assert light.fidelity_by_family["gemm"] == "roofline"


def test_an_unmeasured_kind_is_less_sure_than_a_measured_one():
    names = ("h100-80gb-sxm", "v100-sxm2-32gb", "tpu-v4")
    found = [calibration_for(load_device(name)) for name in names]
    assert [c.origin for c in found] == ["generation", "kind", "assumed"]
    for family in FAMILIES:
        every = [c.spread[family].table.regimes["every"] for c in found]
        widths = [regime.high - regime.low for regime in every]
        assert widths == sorted(widths), family


@pytest.mark.parametrize(
    "name", ["a100-80gb-sxm", "h100-80gb-sxm", "h200-sxm", "l40s", "b200-sxm"]
)
def test_shipped_calibrations_state_what_they_are_worth(name):
    calibration = calibration_for(load_device(name), "calibrated")
    assert "gemm" in calibration.calibrated
    path = calibration_path(load_device(name))
    assert path is not None
    file = load_calibration_file(path)
    assert "Apache-2.0" in " ".join(s.title for s in file.sources)
    for fit in file.families.values():
        assert fit.held_out is not None
        assert fit.physics_held_out is not None
        assert fit.held_out.mape <= fit.physics_held_out.mape
        assert 0.84 <= fit.interval.coverage <= 0.96


def test_a_plan_without_trees_has_none(tables):
    from hwsim.analysis.fitting.family import FitPlan, fit_family

    rows = fit_rows(
        read_measurements([tables]), load_device(DEVICE), [DEVICE], "elementwise"
    )
    plan = replace(FitPlan(), trees=None, folds=0)
    outcome = fit_family(rows, calibration_for(load_device(DEVICE)), plan)
    assert outcome.fitted.residual is None
    assert outcome.held_out is None
