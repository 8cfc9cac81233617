"""Predictions of measured rows and their errors."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwsim.analysis.measured.collective import _with_devices
from hwsim.analysis.measured.predict import DeviceModel, device_model, predict_rows
from hwsim.analysis.measured.work import (
    STREAMS,
    attention_work,
    elementwise_work,
    row_work,
)
from hwsim.analysis.validation.metrics import regimes, summarise
from hwsim.analysis.validation.validate import Validation, validate
from hwsim.cost.collective import collective_cost
from hwsim.cost.elementwise import elementwise_cost
from hwsim.cost.matmul import matmul_cost
from hwsim.errors import InputError, UnknownNameError
from hwsim.report.page import render_page
from hwsim.specs.calibration import calibration_for
from hwsim.specs.catalogs import load_device, load_system
from hwsim.specs.measurement.names import OPS
from hwsim.specs.measurement.read import read_table
from hwsim.specs.measurement.table import FamilyRows

COMMON = "source,device,op,dtype"


def rows_of(folder: Path, columns: str, *lines: str) -> FamilyRows:
    path = folder / "rows.csv"
    text = "\n".join((f"{COMMON},{columns}", *lines)) + "\n"
    path.write_text(text, encoding="utf-8")
    return next(iter(read_table(path).families.values()))


def times(rows: FamilyRows, fidelity: Any = "structured") -> Any:
    found = predict_rows(rows, fidelity=fidelity)
    assert not any(found.reason), set(found.reason)
    return found.time


def gemm_rows(folder: Path, *conditions: str) -> FamilyRows:
    names = ",".join(c.split("=")[0] for c in conditions)
    values = ",".join(c.split("=")[1] for c in conditions)
    columns = "m,n,k,latency_us" + (f",{names}" if names else "")
    line = "lab,h100,linear,bf16,64,2048,2048,8" + (f",{values}" if values else "")
    return rows_of(folder, columns, line)


def test_gemm_is_the_cost_function(tmp_path: Path) -> None:
    device = load_device("h100")
    cost = matmul_cost(
        64, 2048, 2048, device=device, calibration=calibration_for(device), dtype="bf16"
    )
    assert times(gemm_rows(tmp_path))[0] == pytest.approx(float(cost.time))


def test_conditions_of_a_row_are_used(tmp_path: Path) -> None:
    usual = times(gemm_rows(tmp_path))[0]
    hot = times(gemm_rows(tmp_path, "hot=1"))[0]
    assert hot < usual
    assert times(gemm_rows(tmp_path, "resident=1"))[0] == pytest.approx(hot)
    assert times(gemm_rows(tmp_path, "copies=1"))[0] == pytest.approx(hot)
    assert times(gemm_rows(tmp_path, "copies=1000"))[0] == pytest.approx(usual)
    assert times(gemm_rows(tmp_path, "hot=0"))[0] == pytest.approx(usual)
    eager = times(gemm_rows(tmp_path, "launch=eager"))[0]
    assert eager == pytest.approx(usual + 20e-6)  # a framework, for all we know


def test_own_tables_have_the_launch_of_the_device_alone(tmp_path: Path) -> None:
    columns = "m,n,k,latency_us,launch"
    line = "hwsim-measure:0,h100,linear,bf16,64,4096,4096,8"
    rows = rows_of(tmp_path, columns, f"{line},graph", f"{line},eager")
    graph, eager = times(rows)
    launch = load_device("h100").launch
    assert launch is not None
    assert eager == pytest.approx(graph + launch.eager)


def test_a_known_source_brings_its_conditions(tmp_path: Path) -> None:
    columns = "m,n,k,latency_us"
    line = "h100_sxm,linear,bf16,64,1024,1024,8"
    plain = times(rows_of(tmp_path, columns, f"lab,{line}"))[0]
    known = times(rows_of(tmp_path, columns, f"aiconfigurator:x,{line}"))[0]
    assert known < plain  # six copies of 2.4 MB stay in the cache


def test_activation_quantisation_adds_a_kernel(tmp_path: Path) -> None:
    line = "lab,h100,linear,fp8,512,4096,4096,9,"
    rows = rows_of(
        tmp_path, "m,n,k,latency_us,includes_act_quant", line + "0", line + "1"
    )
    without, including = times(rows)
    device = load_device("h100")
    kernel = elementwise_cost(
        3.0 * 512 * 4096,
        device=device,
        calibration=calibration_for(device),
        rows=512,
    )
    assert including - without == pytest.approx(float(kernel.time))


def test_collective_runs_on_the_usual_node(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path, "bytes,world_size,latency_us", "lab,h100,alltoall,bf16,1e6,8,50"
    )
    system = load_system("dgx-h100")
    cost = collective_cost(
        "all_to_all", 1e6, 8, system=system, calibration=calibration_for(system.device)
    )
    assert times(rows)[0] == pytest.approx(float(cost.time))


def test_integers_are_not_added_up_by_switches(tmp_path: Path) -> None:
    line = "lab,h100,all_reduce,{},268435456,8,1000"
    rows = rows_of(
        tmp_path, "bytes,world_size,latency_us", line.format("fp16"),
        line.format("int8"),
    )  # fmt: skip
    floats, integers = times(rows)
    assert integers > floats


def test_collectives_across_nodes(tmp_path: Path) -> None:
    columns = "bytes,world_size,gpus_per_node_used,gpus_per_node_max,latency_us"
    line = "lab,h100,all_reduce,bf16,67108864,{},{},8,9"
    rows = rows_of(
        tmp_path, columns, line.format(8, 8), line.format(16, 8), line.format(16, 4)
    )
    inside, across, spread = times(rows)
    assert inside < across
    assert spread > inside
    named = "lab,h100,all_reduce,bf16,64,4,4,{},9,dgx-h100"
    wrong = rows_of(tmp_path, f"{columns},system", named.format(4), named.format(8))
    assert "gpus_per_node_max" in predict_rows(wrong).reason[0]
    assert predict_rows(wrong).reason[1] == ""


def test_nodes_of_another_size_and_devices_without_a_cluster(tmp_path: Path) -> None:
    columns = "device,op,dtype,bytes,world_size,gpus_per_node_used,gpus_per_node_max"
    line = "{},all_reduce,bf16,67108864,{},{},{},9"
    path = tmp_path / "rows.csv"
    lines = [
        line.format(*cells)
        for cells in (
            ("h100", 4, 4, 4), ("a100", 16, 4, 4), ("a40", 16, 8, 8),
            ("ascend-910b", 8, "", ""), ("tpu-v5p", 16, 8, 8),
        )
    ]  # fmt: skip
    path.write_text("\n".join([f"{columns},latency_us", *lines]), encoding="utf-8")
    predicted = predict_rows(read_table(path).families["collective"])
    assert list(predicted.reason[:4]) == [""] * 4
    assert "is a torus, not nodes of 8" in predicted.reason[4]


def test_a_partly_filled_node_keeps_its_nics() -> None:
    whole = load_system("dgx-h100-ndr-128")
    half = _with_devices(whole, 4)
    assert half.num_devices == whole.num_devices // 2
    outer, before = half.networks[-1], whole.networks[-1]
    assert outer.bandwidth * 4 == pytest.approx(before.bandwidth * 8)


def test_a_system_column_goes_first(tmp_path: Path) -> None:
    columns = "bytes,world_size,latency_us,system"
    line = "lab,l40s,all_reduce,bf16,67108864,8,9,"
    rows = rows_of(tmp_path, columns, line, line + "l40s-pcie-8-no-p2p")
    usual, named = times(rows)
    assert named > usual


def test_mixed_attention_is_both_parts_started_once(tmp_path: Path) -> None:
    columns = "batch,heads,kv_heads,seq_q,seq_kv,n_decode,seq_kv_decode,latency_us"
    rows = rows_of(
        tmp_path, columns,
        "lab,h100,mixed,bf16,1,32,8,512,2048,16,4096,90",
        "lab,h100,mixed,bf16,1,32,8,512,2048,0,0,90",
        "lab,h100,prefill,bf16,1,32,8,512,2048,0,0,90",
        "lab,h100,decode,bf16,16,32,8,1,4096,0,0,90",
    )  # fmt: skip
    both, alone, prefill, decode = times(rows)
    assert alone == pytest.approx(prefill)
    assert max(prefill, decode) < both < prefill + decode


def test_attention_counts_the_pairs_that_are_seen(tmp_path: Path) -> None:
    columns = "batch,heads,head_dim,seq_q,seq_kv,window,causal,latency_us"
    line = "lab,h100,prefill,bf16,1,1,1,{},1"
    shapes = [(4, 4, 0, 1), (4, 4, 0, 0), (2, 5, 0, 1), (6, 6, 3, 1), (3, 8, 2, 1)]
    rows = rows_of(
        tmp_path, columns, *(line.format(",".join(map(str, s))) for s in shapes)
    )
    expected = []
    for queries, keys, window, causal in shapes:
        pairs = 0
        for q in range(keys - queries, keys):
            seen = [k for k in range(keys) if not causal or k <= q]
            pairs += len([k for k in seen if not window or q - k < window])
        expected.append(2.0 * 2 * pairs)
    np.testing.assert_allclose(attention_work(rows).flop, expected)


def test_traffic_follows_the_operator_where_bytes_are_not_given(
    tmp_path: Path,
) -> None:
    rows = rows_of(
        tmp_path, "m,n,bytes,latency_us",
        "lab,h100,add,bf16,8,16,,1", "lab,h100,rmsnorm,fp32,8,16,,1",
        "lab,h100,quantize_fp8,bf16->fp8,8,16,,1", "lab,h100,relu,bf16,8,16,99,1",
    )  # fmt: skip
    expected = [3 * 128 * 2, 2 * 128 * 4 + 16 * 4, 128 * 3, 99]
    np.testing.assert_allclose(elementwise_work(rows).nbytes, expected)


ALL_FAMILIES = """\
device,op,dtype,m,n,k,batch,heads,seq_q,seq_kv,experts,topk,bytes,world_size,latency_us
h100,bmm,fp16,128,128,64,96,,,,,,,,20
h100,linear,fp32,1024,1024,1024,,,,,,,,,200
h100,prefill,bf16,,,,2,32,512,512,,,,,60
h100,decode,bf16,,,,8,32,,2048,,,,,30
h100,gelu,bf16,1024,4096,,,,,,,,,,9
h100,moe_ffn,bf16,256,2048,4096,,,,,64,4,,,500
h100,send_recv,bf16,,,,,,,,,,1e8,2,400
h100,copy,fp32,,,,,,,,,,1e9,,400
h100,load_latency,fp32,,,,,,,,,,1e6,,0.3
h100,launch_eager,,,,,,,,,,,,,3
h100,h2d,,,,,,,,,,,1e8,,2000
"""


@pytest.mark.parametrize("fidelity", ["roofline", "structured"])
def test_every_family_is_predicted(tmp_path: Path, fidelity: Any) -> None:
    path = tmp_path / "all.csv"
    path.write_text(ALL_FAMILIES, encoding="utf-8")
    result = validate(path, fidelity=fidelity)
    left = [str(row) for row in result.skipped if "memory latency" not in str(row)]
    assert not left
    assert result.fidelities == {fidelity: result.summary.rows}
    if fidelity == "structured":
        assert np.all(result.columns["predicted"][result.columns["reason"] == ""] > 0)


def test_no_prediction_beats_the_speed_of_light(tmp_path: Path) -> None:
    path = tmp_path / "all.csv"
    path.write_text(ALL_FAMILIES, encoding="utf-8")
    light = validate(path, fidelity="roofline").columns["predicted"]
    real = validate(path, fidelity="structured").columns["predicted"]
    known = np.isfinite(light) & np.isfinite(real)
    assert known.sum() >= 10
    assert np.all(light[known] <= real[known] * (1 + 1e-9))


def test_end_to_end_rows_are_run(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(
        "device,model,op,metric,value,unit,batch,isl,osl,global_batch,seq_len,layers\n"
        "h100,gpt2,infer,ttft,9,ms,4,256,8,,,\n"
        "h100,gpt2,infer,tpot,1,ms,4,256,8,,,\n"
        "h100,gpt2,infer,latency,20,ms,4,256,8,,,\n"
        "h100,gpt2,infer,throughput,1500,tokens/s,4,256,8,,,\n"
        "h100,gpt2,infer,latency,1,ms,4,256,1,,,1\n"
        "h100,gpt2,train,step_time,0.1,s,,,,8,1024,\n"
        "h100,gpt2,train,throughput,9e4,tokens/s/device,,,,8,1024,\n"
        "h100,no-such-model,infer,ttft,9,ms,4,256,8,,,\n",
        encoding="utf-8",
    )
    result = validate(path)
    predicted = result.columns["predicted"]
    ttft, tpot, latency, rate, layer, step, per_device = predicted[:7]
    assert latency == pytest.approx(ttft + 7 * tpot)
    assert rate == pytest.approx(4 * 8 / latency)
    assert layer < ttft / 2
    assert per_device == pytest.approx(8 * 1024 / step)
    assert set(result.by("metric")) == {
        "ttft", "tpot", "latency", "throughput", "step_time",
    }  # fmt: skip
    assert [row.row for row in result.skipped] == [8]
    assert "no-such-model" in result.skipped[0].reason


def table(folder: Path, *lines: str) -> Path:
    path = folder / "t.csv"
    head = f"{COMMON},m,n,k,latency_us"
    path.write_text("\n".join((head, *lines)) + "\n", encoding="utf-8")
    return path


def test_errors_and_groups(tmp_path: Path) -> None:
    line = "lab,{},linear,bf16,4096,4096,4096,{}"
    first = table(tmp_path, line.format("h100", 1), line.format("a100_sxm", 1))
    times = validate(first).columns["predicted"] * 1e6
    path = table(
        tmp_path,
        line.format("h100", times[0] / 1.1),
        line.format("h100", times[0] / 0.8),
        line.format("a100_sxm", times[1]),
    )
    result = validate(path)
    assert result.summary.rows == 3
    assert result.summary.median_ape == pytest.approx(0.1, rel=1e-6)
    assert result.summary.mape == pytest.approx(0.1, rel=1e-6)
    assert result.summary.bias == pytest.approx(0.0, abs=1e-6)
    by = result.by("device")
    assert list(by) == ["a100-80gb-sxm", "h100-80gb-sxm"]
    assert by["h100-80gb-sxm"].p90_ape == pytest.approx(0.19, rel=1e-6)
    worst = result.worst(2)["gemm"]
    assert list(worst["row"]) == [2, 1]
    only = validate(path, device="a100")
    assert only.summary.rows == 1
    with pytest.raises(InputError, match="no row is of b200"):
        validate(path, device="b200")
    with pytest.raises(UnknownNameError):
        validate(path, device="no-such-device")
    with pytest.raises(InputError, match="group by"):
        result.by("colour")


def test_rows_that_cannot_be_predicted_are_listed(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "lab,h100,linear,bf16,64,64,64,5",
        "lab,warp9,linear,bf16,64,64,64,5",
        "lab,a100,linear,fp8,64,64,64,5",
        "lab,h100,linear,bf16,0,64,64,5",
    )
    result = validate(path, skip_bad=True)
    assert result.summary.rows == 1
    assert sorted(row.row for row in result.skipped) == [2, 3, 4]
    data = result.to_dict()
    assert data["skipped"] == 3
    assert sum(data["skipped_reasons"].values()) == 3
    text = " ".join(data["skipped_reasons"])
    assert "warp9" in text
    assert "no fp8 rate" in text
    # The unknown device stays listed when another one is asked for.
    assert {r.row for r in validate(path, device="h100", skip_bad=True).skipped} >= {2}


def test_a_calibration_that_is_missing_is_said(tmp_path: Path) -> None:
    path = table(tmp_path, "lab,p4,linear,fp32,64,64,64,5")
    result = validate(path, fidelity="calibrated")
    assert result.summary.rows == 0
    assert "hwsim calibrate p4" in result.skipped[0].reason
    assert result.to_dict()["median_ape"] is None


def test_json_has_the_promised_keys(tmp_path: Path) -> None:
    result = validate(table(tmp_path, "lab,h100,linear,bf16,64,64,64,5"))
    data = json.loads(result.to_json())
    assert {
        "rows", "skipped", "median_ape", "mape", "p90_ape", "bias", "coverage_90",
        "interval_width", "by_op", "by_device", "by_metric", "by_source", "by_family",
        "by_dtype", "by_regime",
    } <= set(data)  # fmt: skip
    assert data["by_op"]["linear"]["rows"] == 1
    assert data["by_metric"]["kernel_time"]["rows"] == 1
    assert len(result.table) == 1
    assert "gemm" in result._repr_html_()


def test_coverage_counts_measurements_inside() -> None:
    measured = np.array([1.0, 1.0, 1.0, 1.0])
    predicted = np.array([1.0, 2.0, 1.0, np.nan])
    found = summarise(
        predicted, measured, np.array([0.9, 1.5, np.nan, 0.0]),
        np.array([1.1, 2.5, np.nan, 9.0]),
    )  # fmt: skip
    assert found.rows == 3
    assert found.coverage_90 == pytest.approx(0.5)
    assert found.interval_width == pytest.approx((0.2 + 0.5) / 2)
    assert summarise(np.array([np.nan]), np.array([1.0])).rows == 0


def test_regimes_are_of_the_datasheet() -> None:
    found = regimes(
        np.array([1e-6, 1e-5, 0.0, np.nan]), np.array([2e-6, 1e-6, 0.0, 1.0]),
        np.array([0.0, 0.0, 1e-3, 0.0]),
    )  # fmt: skip
    assert list(found) == [
        "small memory-bound", "medium compute-bound", "large link-bound", "unknown",
    ]  # fmt: skip


def test_another_model_may_predict(tmp_path: Path) -> None:
    def slower(device: Any, fidelity: Any) -> DeviceModel:
        model = device_model(device, fidelity)
        assert model.calibration is not None
        matmul = model.calibration.matmul.model_copy(update={"overhead": 1.0})
        changed = model.calibration.model_copy(update={"matmul": matmul})
        return dataclasses.replace(model, calibration=changed)

    path = table(tmp_path, "lab,h100,linear,bf16,64,64,64,5")
    assert validate(path, models=slower).columns["predicted"][0] > 0.5


def test_page_shows_groups_worst_and_skipped(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        *(f"lab,h100,linear,bf16,{m},1024,1024,{5 + m / 100}" for m in range(1, 30)),
        "lab,warp9,linear,bf16,64,64,64,5",
    )
    page = render_page(validate(path), command="hwsim validate")
    for text in (
        "Predicted against measured", "Worst rows", "Errors by regime", "warp9",
        "t.csv", "small memory-bound",
    ):  # fmt: skip
        assert text in page
    assert "nan" not in page.casefold().replace("nanosecond", "")


def test_nothing_is_predicted_without_rows() -> None:
    empty = Validation((), (), ())
    assert empty.summary.rows == 0
    assert empty.to_dict()["by_op"] == {}


def test_twenty_thousand_rows_take_seconds(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    sizes = 2 ** generator.integers(4, 15, size=(20_000, 3))
    path = table(
        tmp_path,
        *(f"lab,h100,linear,bf16,{m},{n},{k},{m + n}" for m, n, k in sizes),
    )
    start = time.process_time()
    result = validate(path)
    assert time.process_time() - start < 5.0
    assert result.summary.rows == 20_000


def test_work_of_unknown_families_is_not_guessed(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "latency_us", "lab,h100,launch_eager,bf16,3")
    assert np.all(np.isnan(row_work(rows).flop))


def test_every_elementwise_operator_has_its_traffic() -> None:
    assert set(OPS["elementwise"]) == set(STREAMS)


def test_layers_alone_leave_out_embedding_and_output(tmp_path: Path) -> None:
    path = tmp_path / "layers.csv"
    path.write_text(
        "device,model,op,metric,value,unit,batch,prompt,context,layers,launch\n"
        "h100,llama-3.2-1b-layer,infer,ttft,1,ms,4,1024,,1,graph\n"
        "h100,llama-3.2-1b-layer,infer,ttft,1,ms,4,1024,,4,graph\n"
        "h100,llama-3.2-1b,infer,ttft,1,ms,4,1024,,1,graph\n"
        "h100,llama-3.2-1b,infer,tpot,1,ms,4,,1024,,graph\n"
        "h100,llama-3.2-1b,infer,tpot,1,ms,4,,1024,,eager\n",
        encoding="utf-8",
    )
    one, four, whole, step, eager = validate(path).columns["predicted"]
    assert four == pytest.approx(4 * one, rel=0.05)
    assert one < whole
    assert step < eager
