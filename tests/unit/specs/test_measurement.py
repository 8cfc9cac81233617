"""Measurement tables: schema, reading, refusal of bad rows."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from hwsim.errors import SpecError
from hwsim.specs.benchmark import BENCHMARKS, benchmark_of, load_benchmark
from hwsim.specs.catalogs import load_device, load_system
from hwsim.specs.measurement.names import (
    OP_ALIASES,
    OPS,
    canonical_dtype,
    family_of,
)
from hwsim.specs.measurement.read import read_measurements, read_table
from hwsim.specs.measurement.row import ROWS
from hwsim.specs.measurement.table import joined

GEMM = "source,device,op,dtype,m,n,k,batch,latency_us\n"
ROW = "lab,h100_sxm,linear,bf16,128,256,512,1,12.5\n"


def write(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_gemm_rows_become_si_columns(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, GEMM + ROW))
    rows = table.families["gemm"]
    assert len(table) == len(rows) == 1
    assert rows["time"][0] == pytest.approx(12.5e-6)
    assert (rows["m"][0], rows["n"][0], rows["k"][0]) == (128, 256, 512)
    assert rows["dtype"][0] == "bf16"
    assert rows.row[0] == 1
    assert rows["includes_act_quant"][0] == 0
    assert np.isnan(rows["copies"][0])


def test_gzip_equals_plain_text(tmp_path: Path) -> None:
    plain = read_table(write(tmp_path, GEMM + ROW))
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress((GEMM + ROW).encode()))
    again = read_table(packed)
    for name, values in plain.families["gemm"].columns.items():
        if values.dtype == object:
            assert list(values) == list(again.families["gemm"][name])
        else:
            np.testing.assert_array_equal(values, again.families["gemm"][name])


def test_extra_columns_are_kept(tmp_path: Path) -> None:
    text = GEMM.strip() + ",driver\n" + ROW.strip() + ",550.1\n"
    rows = read_table(write(tmp_path, text)).families["gemm"]
    assert list(rows.extra["driver"]) == ["550.1"]


def test_one_file_may_hold_several_families(tmp_path: Path) -> None:
    text = (
        "device,op,dtype,m,n,k,bytes,world_size,latency_us\n"
        "h100,gemm,float16,64,64,64,,,3\n"
        "h100,All-Reduce,fp16,,,,1e6,8,40\n"
        "h100,rms_norm,bf16,64,4096,,,,4\n"
    )
    families = read_table(write(tmp_path, text)).families
    assert set(families) == {"gemm", "collective", "elementwise"}
    assert families["gemm"]["op"][0] == "linear"
    assert families["gemm"]["dtype"][0] == "fp16"
    assert families["collective"]["op"][0] == "all_reduce"
    assert families["collective"]["nbytes"][0] == 1e6
    assert families["collective"].row[0] == 2
    assert np.isnan(families["elementwise"]["nbytes"][0])


@pytest.mark.parametrize(
    ("row", "column", "says"),
    [
        ("lab,h100,linear,bf16,0,256,512,1,12.5", "m", "greater than or equal to 1"),
        ("lab,h100,linear,bf16,x,256,512,1,12.5", "m", "'x'"),
        ("lab,h100,linear,bf16,1.5,256,512,1,12.5", "m", "integer"),
        ("lab,h100,linear,bf17,1,256,512,1,12.5", "dtype", "'bf17' is none of"),
        ("lab,h100,linear,bf16,1,256,512,1,-3", "latency_us", "greater than 0"),
        ("lab,h100,linear,bf16,1,256,512,1,inf", "latency_us", "finite"),
        ("lab,h100,linear,bf16,1,256,512,1,", "latency_us", "is empty; fill it in"),
        ("lab,,linear,bf16,1,256,512,1,12.5", "device", "is empty"),
        ("lab,h100,linaer,bf16,1,256,512,1,12.5", "op", "did you mean linear"),
        ("lab,h100,linear,bf16,1,256,512,12.5", "", "has 8 values, the heading 9"),
    ],
)
def test_bad_rows_are_refused_or_listed(
    tmp_path: Path, row: str, column: str, says: str
) -> None:
    path = write(tmp_path, GEMM + ROW + row + "\n" + row + "\n")
    with pytest.raises(SpecError) as caught:
        read_table(path)
    message = str(caught.value)
    assert f"{path}: row 2" in message
    assert says in message
    assert "2 in all" in message
    assert "--skip-bad" in message
    table = read_table(path, skip_bad=True)
    assert len(table) == 1
    assert [(b.row, b.column) for b in table.bad] == [(2, column), (3, column)]
    assert says in table.bad[0].reason


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        (
            "device,op,batch,heads,kv_heads,head_dim,seq_q,seq_kv,latency_us\n"
            "h100,prefill,1,32,5,128,64,64,9\n",
            "kv_heads", "does not divide heads",
        ),
        (
            "device,op,batch,heads,seq_q,seq_kv,latency_us\n"
            "h100,prefill,1,32,65,64,9\n",
            "seq_q", "exceeds seq_kv",
        ),
        (
            "device,op,batch,heads,seq_q,seq_kv,latency_us\nh100,mixed,1,32,,64,9\n",
            "seq_q", "prefill and mixed rows need it",
        ),
        (
            "device,op,m,n,k,experts,topk,latency_us\nh100,moe_ffn,4,64,64,4,8,9\n",
            "topk", "exceeds experts",
        ),
        (
            "device,op,bytes,world_size,gpus_per_node_used,latency_us\n"
            "h100,all_reduce,64,6,4,9\n",
            "gpus_per_node_used", "does not divide world_size",
        ),
        (
            "device,op,model,global_batch,seq_len,metric,value,unit\n"
            "h100,train,gpt2,8,1024,step_time,9,tokens/s\n",
            "unit", "is no rate",
        ),
    ],
)  # fmt: skip
def test_columns_are_checked_together(
    tmp_path: Path, text: str, column: str, says: str
) -> None:
    bad = read_table(write(tmp_path, text), skip_bad=True).bad
    assert [b.column for b in bad] == [column]
    assert says in bad[0].reason


def test_missing_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, "device,op,m,n,latency_us\nh100,linear,1,2,3\n")
    with pytest.raises(SpecError, match="k: is missing; gemm rows need it"):
        read_table(path)
    path = write(tmp_path, "device,m\nh100,1\n")
    with pytest.raises(SpecError, match="op: is missing"):
        read_table(path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"\xff\xfe\x00", "not UTF-8"),
        ("a.csv.gz", b"nope", "cannot be read"),
        ("a.txt", b"x", "no known kind of table"),
        ("a.csv", b"op,op\n1,2\n", "twice"),
    ],
)
def test_broken_files_say_so(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SpecError, match=says):
        read_table(path)


def test_missing_file_and_empty_pattern(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="does not exist"):
        read_measurements([tmp_path / "no.csv"])
    with pytest.raises(SpecError, match="matches no file"):
        read_measurements([tmp_path / "*.csv"])


def test_pattern_reads_all(tmp_path: Path) -> None:
    write(tmp_path, GEMM + ROW, "a.csv")
    write(tmp_path, GEMM.strip() + ",x\n" + ROW.strip() + ",1\n", "b.csv")
    table = read_measurements([tmp_path / "*.csv"])
    rows = table.families["gemm"]
    assert len(rows) == 2
    assert len(table.files) == 2
    assert list(rows.extra["x"]) == ["", "1"]


def test_end_to_end_metrics_are_si(tmp_path: Path) -> None:
    text = (
        "device,model,metric,value,unit,batch,isl,osl,global_batch,seq_len\n"
        "h100,gpt2,mean_ttft,15,ms,4,128,16,,\n"
        "h100,gpt2,output_throughput,900,tokens/s (whole system),4,128,16,,\n"
        "h100,gpt2,iteration_time,0.5,s,,,,8,1024\n"
    )
    rows = read_table(write(tmp_path, text)).families["end_to_end"]
    assert list(rows["metric"]) == ["ttft", "throughput", "step_time"]
    assert list(rows["op"]) == ["infer", "infer", "train"]
    np.testing.assert_allclose(rows.measured, [0.015, 900.0, 0.5])


def test_the_fast_reader_agrees_with_the_row_models(tmp_path: Path) -> None:
    """Each cell of a table is good exactly where its pydantic model says so."""
    cells: dict[str, list[str]] = {
        "m": ["1", "16.0", "0", "-2", "1e3", "4096", "x", "99999999999999"],
        "latency_us": ["1", "0.001", "0", "1e13", "nan", "9"],
        "dtype": ["bf16", "torch.float16", "E4M3", "fp8_block", "bf99"],
        "resident": ["0", "0.5", "1.0", "1.1", "-0.1"],
        "includes_act_quant": ["0", "1", "yes", "no", "maybe", "true"],
        "launch": ["eager", "graph", "Eager"],
    }
    good: dict[str, Any] = {
        "device": "h100", "op": "linear", "m": "1", "n": "2", "k": "3",
        "latency_us": "4", "dtype": "bf16", "resident": "0",
        "includes_act_quant": "0", "launch": "graph",
    }  # fmt: skip
    for column, values in cells.items():
        for value in values:
            raw = {**good, column: value}
            try:
                ROWS["gemm"].model_validate(raw)
                fine = True
            except ValidationError:
                fine = False
            text = ",".join(raw) + "\n" + ",".join(raw.values()) + "\n"
            table = read_table(write(tmp_path, text), skip_bad=True)
            assert (len(table) == 1) == fine, (column, value)


def test_vocabulary_is_unambiguous() -> None:
    ops = [op for names in OPS.values() for op in names]
    assert len(ops) == len(set(ops))
    assert set(OP_ALIASES.values()) <= set(ops)
    assert set(ROWS) == set(OPS)
    assert family_of("no such thing") is None
    assert canonical_dtype("torch.float8_e4m3fn") == "fp8"


def test_taking_and_grouping_keep_rows(tmp_path: Path) -> None:
    lines = "".join(
        f"lab,h100,linear,{dtype},{m},8,8,1,{m}\n"
        for m, dtype in enumerate(["bf16", "fp8", "bf16", "fp16"], start=1)
    )
    rows = read_table(write(tmp_path, GEMM + lines)).families["gemm"]
    groups = {key[0]: list(part["m"]) for key, part in rows.groups("dtype")}
    assert groups == {"bf16": [1.0, 3.0], "fp8": [2.0], "fp16": [4.0]}
    assert list(rows.take(rows["m"] > 2).row) == [3, 4]
    assert len(joined([])) == 0


def test_benchmarks_name_known_devices_and_systems() -> None:
    for name in BENCHMARKS:
        benchmark = load_benchmark(name)
        for table in (benchmark.systems, benchmark.clusters):
            for device, system in table.items():
                assert load_system(system).device.id == load_device(device).id
    assert benchmark_of("aiconfigurator:vllm-0.24.0").copies["gemm"] == 6
    assert benchmark_of("somebody").id == "any"


def test_the_page_of_the_schema_names_everything() -> None:
    page = Path(__file__).parents[3] / "docs" / "measurements.md"
    text = page.read_text(encoding="utf-8")
    names = {op for ops in OPS.values() for op in ops}
    names |= {name for row in ROWS.values() for name in row.model_fields}
    assert not [name for name in sorted(names) if f"`{name}`" not in text]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("device,op,m,n,k,latency_us\n", "has a heading but no rows"),
        ("device;op;m\nh100;linear;4\n", "is not separated by commas"),
    ],
)
def test_a_table_without_rows_or_commas_says_so(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=words):
        read_measurements([path])
