"""Saved results: what is saved is loaded, whatever version wrote it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import hwsim
from hwsim.analysis.packing import pack_records, unpack_records
from hwsim.analysis.result import RECORD, RESULT_SCHEMA, Result, finite
from hwsim.analysis.saved import SavedResult, as_saved
from hwsim.sim.records import Record

OLD = Path(__file__).parent / "results_v1"
MODEL, SYSTEM = "gpt2", "h100-80gb-sxm"


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    step = hwsim.train(MODEL, SYSTEM, micro_batch=2, seq=512)
    return {
        "infer": hwsim.infer(MODEL, SYSTEM, batch=2, prompt=64, output=4),
        "train": step,
        "training_run": hwsim.training_run(step, tokens=1e9),
        "op": hwsim.op("matmul", device=SYSTEM, m=512, n=512, k=[512, 1024]),
        "graph": hwsim.simulate(MODEL, SYSTEM, phase="decode", batch=1, context=64),
        "serve": hwsim.serve(
            MODEL, SYSTEM, rate=2.0, requests=20, input_len="fixed:64",
            output_len="fixed:8",
        ),
        "train_plan": hwsim.plan_train(
            MODEL, SYSTEM, devices=1, global_batch=4, seq=512, simulate=1
        ),
    }  # fmt: skip


@pytest.fixture(scope="module", params=[
    "infer", "train", "training_run", "op", "graph", "serve", "train_plan",
])  # fmt: skip
def pair(
    request: pytest.FixtureRequest,
    results: dict[str, Result],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Result, SavedResult]:
    result = results[request.param]
    path = tmp_path_factory.mktemp("saved") / f"{request.param}.json"
    hwsim.save_result(result, path, command="hwsim something")
    return result, hwsim.load_result(path)


def test_what_is_saved_is_loaded(pair: tuple[Result, SavedResult]) -> None:
    result, loaded = pair
    assert loaded.to_dict() == finite(json.loads(json.dumps(result.to_dict())))
    assert loaded.kind == result.kind
    assert loaded.command == "hwsim something"
    assert loaded.schema_version == RESULT_SCHEMA


def test_a_file_says_what_it_was_made_from(pair: tuple[Result, SavedResult]) -> None:
    result, loaded = pair
    assert loaded.specs() == as_saved(result).specs()
    assert {"system", "calibration"} <= set(loaded.specs())
    assert loaded.specs()["system"] == result.specs()["system"]
    for role, told in loaded.spec_hashes.items():
        assert len(told["sha256"]) == 64, role
    assert loaded.environment["python"]
    assert all(row["source"] and row["figure"] for row in loaded.assumptions)


def test_the_record_never_hides_a_figure(pair: tuple[Result, SavedResult]) -> None:
    result, _ = pair
    assert not set(RECORD) & set(result.to_dict())


def test_evidence_is_of_the_families_used(results: dict[str, Result]) -> None:
    told = as_saved(results["infer"]).evidence
    used = results["infer"].fidelity_by_family  # type: ignore[attr-defined]
    assert {f["family"] for f in told["families"]} == set(used)
    for family in told["families"]:
        if family["basis"] == "calibrated":
            assert family["rows"] > 0
            assert 0 < family["median_ape"] < 1
            assert family["measured_device"] == SYSTEM
        else:
            assert family["note"]
    assert told["whole_runs"]["rows"] > 0
    bound = hwsim.infer(MODEL, SYSTEM, output=0, fidelity="roofline")
    assert "whole_runs" not in as_saved(bound).evidence


def test_graphs_come_back(results: dict[str, Result]) -> None:
    live: Any = results["infer"]
    loaded = as_saved(live)
    assert [g.name for g in loaded.graphs] == [g.graph.name for g in live.graphs]
    for ours, theirs in zip(loaded.graphs, live.graphs, strict=True):
        assert ours.op_rows() == theirs.op_rows()
        assert ours.parts == theirs.parts
        assert [r.name for r in ours.records] == [r.name for r in theirs.records]
        assert math.isclose(ours.records[-1].end, theirs.records[-1].end, rel_tol=1e-8)


def test_figures_are_attributes(results: dict[str, Result]) -> None:
    loaded = as_saved(results["infer"])
    assert loaded.ttft_s == results["infer"].ttft_s  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="kind 'infer' has no 'rubbish'"):
        _ = loaded.rubbish


@pytest.mark.parametrize("path", sorted(OLD.glob("*.json")), ids=lambda p: p.stem)
def test_files_of_schema_1_still_load(path: Path) -> None:
    before = json.loads(path.read_text(encoding="utf-8"))
    assert before["schema_version"] == 1
    loaded = hwsim.load_result(path)
    assert loaded.kind == before["kind"]
    changed = {"schema_version"}
    assert {k: v for k, v in loaded.to_dict().items() if k not in changed} == {
        k: v for k, v in before.items() if k not in changed
    }
    assert loaded.graphs == []
    assert loaded.specs() == {}
    assert loaded._repr_html_().startswith("<table>")


BAD = {
    "not json": ("{", "line 1: no JSON"),
    "a list": ("[1]", "it has no kind"),
    "no kind": ('{"schema_version": 1}', "it has no kind"),
    "no version": ('{"kind": "infer"}', "schema_version is None"),
    "a bool": ('{"kind": "infer", "schema_version": true}', "schema_version is True"),
    "newer": ('{"kind": "infer", "schema_version": 99}', "newer than this hwsim"),
    "no figure": ('{"kind": "infer", "schema_version": NaN}', "NaN is no figure"),
    "deep": ("[" * 100_000, "nested too deeply"),
}


@pytest.mark.parametrize("fault", BAD)
def test_what_is_no_result_is_refused(tmp_path: Path, fault: str) -> None:
    text, said = BAD[fault]
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(hwsim.InputError, match=said) as caught:
        hwsim.load_result(path)
    assert str(path) in str(caught.value)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(hwsim.InputError, match="no such file"):
        hwsim.load_result(tmp_path / "none.json")
    with pytest.raises(hwsim.InputError, match="cannot be read"):
        hwsim.load_result(tmp_path)
    binary = tmp_path / "b.json"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(hwsim.InputError, match="no text"):
        hwsim.load_result(binary)


def test_a_damaged_timeline_is_named(results: dict[str, Result]) -> None:
    data = json.loads(results["infer"].saved_text())
    del data["detail"]["graphs"][0]["ops"]
    with pytest.raises(hwsim.InputError, match=r"detail\.graphs is damaged"):
        _ = SavedResult(data, "here.json").graphs
    with pytest.raises(hwsim.InputError, match=r"config\.nothing is missing"):
        SavedResult(data, "here.json").need("config", "nothing")


def test_a_result_must_say_what_it_is() -> None:
    class Empty(Result):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Empty()  # type: ignore[abstract]


def test_long_timelines_keep_whole_ranks() -> None:
    rows = [
        Record(rank, "compute", "b", 0, "op", "matmul", "forward", i * 1.0, i + 1.0)
        for rank in range(5)
        for i in range(6000)
    ]
    packed = pack_records(rows)
    kept = unpack_records(packed)
    assert kept == tuple(rows[:18_000])
    assert packed["left_out"] == 12_000


def test_a_frame_has_a_row_for_each_result(results: dict[str, Result]) -> None:
    frame = hwsim.results_frame(results.values())
    assert list(frame["kind"]) == [r.kind for r in results.values()]
    first = frame.iloc[0]
    infer: Any = results["infer"]
    assert first["config.batch"] == 2
    assert first["breakdown.memory"] == infer.parts["memory"]
    assert first["interval_90.ttft_s.low"] == infer.interval_90["ttft_s"][0]
    assert list(frame.columns[:3]) == ["kind", "model", "system"]
    with pytest.raises(hwsim.InputError, match="takes results and files, not int"):
        hwsim.results_frame([3])  # type: ignore[list-item]


def test_scenarios_join_across_systems() -> None:
    def asked(system: str) -> list[Result]:
        return [
            hwsim.infer(MODEL, system, batch=b, prompt=64, output=4) for b in (1, 2, 4)
        ]

    joined = hwsim.join_results(asked(SYSTEM), reversed(asked("a100-80gb-sxm")))
    assert list(joined["config.batch"]) == [1, 2, 4]
    assert set(joined["system_left"]) == {SYSTEM}
    assert set(joined["system_right"]) == {"a100-80gb-sxm"}
    assert (joined["latency_s_left"] != joined["latency_s_right"]).all()
    with pytest.raises(hwsim.InputError, match="apart names 'colour'"):
        hwsim.join_results(asked(SYSTEM), asked(SYSTEM), apart=("colour",))


def test_notebooks_show_units_and_escape_names(results: dict[str, Result]) -> None:
    shown = results["infer"]._repr_html_()
    assert "ms" in shown
    assert "GB" in shown
    evil = SavedResult({**as_saved(results["infer"]).data, "model": "<script>"})
    assert "<script>" not in evil._repr_html_()
