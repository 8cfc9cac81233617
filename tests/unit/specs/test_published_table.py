"""Tables of published training runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwsim.errors import SpecError
from hwsim.specs.published.names import published_device
from hwsim.specs.published.training import read_published
from hwsim.specs.published.units import headline

HEAD = (
    "source,model,seq_len,device,num_devices,zero_stage,ffn,metric,value,unit,"
    "iter_time_s,tokens_per_s_per_device,mfu,tflops_per_device\n"
)


def table(tmp_path: Path, *rows: str, head: str = HEAD) -> Path:
    path = tmp_path / "runs.csv"
    path.write_text(head + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def test_blank_cells_are_none_and_remarks_are_dropped(tmp_path: Path) -> None:
    row = "lab,x,2048,A100,64,3 (ici_fsdp 64),18432 dense / 2048,t,1,s,1.5,,,"
    run = read_published([table(tmp_path, row)]).runs[0]
    assert (run.row, run.seq_len, run.zero_stage) == (1, 2048, 3)
    assert (run.ffn, run.ffn_words) == (18432, "18432 dense / 2048")
    assert run.tp is None
    assert run.fault == ""


@pytest.mark.parametrize(
    ("cells", "figure"),
    [
        ("9,8,0.4,100", "iter_time_s"),
        (",8,0.4,100", "tokens_per_s_per_device"),
        (",,0.4,100", "tflops_per_device"),
        (",,0.4,", "mfu"),
    ],
)
def test_time_and_rate_come_before_utilisation(
    tmp_path: Path, cells: str, figure: str
) -> None:
    run = read_published([table(tmp_path, f"lab,x,8,A100,1,,,t,1,s,{cells}")]).runs[0]
    assert run.figure == figure


@pytest.mark.parametrize(
    ("headline", "name", "value"),
    [
        ("t,250,ms", "iter_time_s", 0.25),
        ("t,800,tokens/s (whole system)", "tokens_per_s_per_device", 100.0),
        ("t,800,tokens/s/device", "tokens_per_s_per_device", 800.0),
        ("t,4,sequences/s (whole system)", "tokens_per_s_per_device", 64.0),
        ("mfu,0.4,fraction", "mfu", 0.4),
    ],
)
def test_headline_figure_stands_in_for_blank_columns(
    tmp_path: Path, headline: str, name: str, value: float
) -> None:
    run = read_published([table(tmp_path, f"lab,x,128,A100,8,,,{headline},,,,")])
    assert getattr(run.runs[0], name) == pytest.approx(value)


def test_a_headline_of_another_kind_is_no_figure(tmp_path: Path) -> None:
    run = read_published([table(tmp_path, "lab,x,1,A100,8,,,t,1e5,GPU-hours,,,,")])
    assert run.runs[0].figure == ""


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("lab,x,many,A100,8,,,t,1,s,1,,,", "seq_len: 'many' is not a number"),
        ("lab,x,8,A100,0,,,t,1,s,1,,,", "num_devices: '0' is not a whole"),
        ("lab,x,8,A100,1.5,,,t,1,s,1,,,", "num_devices: '1.5' is not a whole"),
        ("lab,x,8,A100,8,,,t,1,s,-1,,,", "iter_time_s: '-1' is not above zero"),
        ("lab,x,8", "has 3 values"),
    ],
)
def test_a_bad_cell_is_said_and_kept(tmp_path: Path, row: str, fault: str) -> None:
    good = "lab,x,8,A100,8,,,t,1,s,1,,,"
    runs = read_published([table(tmp_path, good, row)]).runs
    assert len(runs) == 2
    assert fault in runs[1].fault
    assert runs[0].fault == ""


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("op,m,n,k,latency_us\n", "no column 'model'"),
        ("model,device,num_device,iter_time_s\n", "is it 'num_device'"),
        ("model,device,num_devices\n", "no column 'iter_time_s'"),
        (
            "model;device;num_devices;iter_time_s\n",
            "not separated by commas, but by ';'",
        ),
    ],
)
def test_a_table_of_something_else_is_refused(
    tmp_path: Path, head: str, message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        read_published([table(tmp_path, "1", head=head)])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="does not exist"):
        read_published([tmp_path / "none.csv"])


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("NVIDIA H100-SXM5-80GB", "h100-80gb-sxm"),
        ("H100 80GB HBM3", "h100-80gb-sxm"),
        ("8xH100", "h100-80gb-sxm"),
        ("DGX A100", "a100-80gb-sxm"),
        ("NVIDIA A100 40GB", "a100-40gb-sxm"),
        ("A100 (80GB)", "a100-80gb-sxm"),
        ("Tesla V100", "v100-sxm2-32gb"),
        ("AMD Instinct MI300X", "mi300x"),
        ("Intel Gaudi 2", "gaudi2"),
        ("TPU v5p-128", "tpu-v5p"),
        ("TPUv3", "tpu-v3"),
        ("Cloud TPU v5 lite", "tpu-v5e"),
        ("Trillium", "tpu-v6e"),
        ("trn2.48xlarge", "trainium2"),
        ("GB200 NVL72", "gb200"),
        ("Fast Chip 9", "Fast Chip 9"),
    ],
)
def test_devices_by_the_names_that_tables_print(name: str, device: str) -> None:
    assert published_device(name) == device


@pytest.mark.parametrize(
    ("value", "unit", "metric", "found"),
    [
        (4000.0, "tok/s/GPU", "tps", ("tokens_per_s_per_device", 4000.0)),
        (80.0, "ktokens/s", "throughput", ("tokens_per_s_per_device", 10_000.0)),
        (4e3, "tokens/s", "tokens/s/GPU", ("tokens_per_s_per_device", 4000.0)),
        (4e3, "tok/s", "throughput per device", ("tokens_per_s_per_device", 4000.0)),
        (32.0, "images/sec", "throughput", ("tokens_per_s_per_device", 2048.0)),
        (60.0, "samples per minute", "x", ("tokens_per_s_per_device", 64.0)),
        (2.0, "sequences/s/device", "x", ("tokens_per_s_per_device", 1024.0)),
        (3.1, "s/step", "step time", ("iter_time_s", 3.1)),
        (3100.0, "ms", "", ("iter_time_s", 3.1)),
        (0.5, "steps/s", "", ("iter_time_s", 2.0)),
        (410.0, "TFLOPS", "", ("tflops_per_device", 410.0)),
        (0.41, "PFLOP/s/GPU", "", ("tflops_per_device", 410.0)),
        (3.28, "PFLOP/s", "", ("tflops_per_device", 410.0)),
        (41.0, "%", "MFU", ("mfu", 0.41)),
        (0.41, "", "mfu", ("mfu", 0.41)),
        (41.0, "%", "HFU", None),
        (5.0, "tokens/joule", "", None),
        (5.0, "tokens/s/node", "", None),
        (5.0, "", "", None),
    ],
)
def test_headline_units(value, unit, metric, found) -> None:
    answer = headline(value, unit, metric, 8, 512)
    if found is None:
        assert answer is None
    else:
        assert (answer.column, pytest.approx(answer.value)) == found


def test_cells_as_papers_write_them(tmp_path: Path) -> None:
    head = "model,device,num_devices,params_b,seq_len,global_batch,mfu,iter_time_s\n"
    cells = 'llama-7b,A100,"1,024",6.7B,4k,4M tokens,45 %,3100 ms'
    run = read_published([table(tmp_path, cells, head=head)]).runs[0]
    assert not run.fault
    assert (run.num_devices, run.params_b, run.seq_len) == (1024, 6.7, 4096)
    assert run.global_batch == round(4e6 / 4096)
    assert (run.mfu, run.iter_time_s) == (0.45, 3.1)


def test_an_unknown_unit_is_named(tmp_path: Path) -> None:
    head = "model,device,num_devices,metric,value,unit\n"
    row = "llama-7b,A100,8,speed,12,furlongs"
    run = read_published([table(tmp_path, row, head=head)]).runs[0]
    assert "unit 'furlongs' of metric 'speed' is not known" in run.fault


def test_a_spare_headline_that_cannot_be_read_is_no_fault(tmp_path: Path) -> None:
    """Blank words are blank; the headline matters where nothing else is given."""
    head = "model,device,num_devices,layers,value,unit,iter_time_s\n"
    rows = "llama-7b,A100,8,null,fast,s,3.1", "llama-7b,A100,8,not stated,fast,s,"
    good, bad = read_published([table(tmp_path, *rows, head=head)]).runs
    assert (good.fault, good.layers, good.iter_time_s) == ("", None, 3.1)
    assert bad.fault == "value: 'fast' is not a number"


@pytest.mark.parametrize("cell", ["12.345,6", "3,5", "1,2345"])
def test_a_decimal_comma_is_no_number(tmp_path: Path, cell: str) -> None:
    row = f'lab,x,2048,A100,8,,,t,"{cell}",tokens/s,,,,'
    run = read_published([table(tmp_path, row)]).runs[0]
    assert "write 1234.5" in run.fault


def test_thousands_may_be_set_apart(tmp_path: Path) -> None:
    row = 'lab,x,2048,A100,8,,,t,"1,234,567.5",tokens/s,,,,'
    run = read_published([table(tmp_path, row)]).runs[0]
    assert run.tokens_per_s_per_device == pytest.approx(1_234_567.5 / 8)


def test_rows_of_blank_cells_are_no_rows(tmp_path: Path) -> None:
    good = "lab,x,2048,A100,64,,,t,1,s,1.5,,,"
    runs = read_published([table(tmp_path, "," * 13, good, ",,", "")]).runs
    assert [(r.row, r.fault) for r in runs] == [(1, "")]


def test_a_rate_of_sequences_without_a_length_says_so(tmp_path: Path) -> None:
    row = "lab,x,,A100,8,,,,64,sequences/s,,,,"
    run = read_published([table(tmp_path, row)]).runs[0]
    assert run.fault.startswith("seq_len is not given")


@pytest.mark.parametrize(
    ("cell", "stage"),
    [("ZeRO-3", 3), ("stage 2", 2), ("FSDP", 3), ("HSDP", 3), ("DDP", 0),
     ("distributed optimizer", 1), ("1", 1)],
)  # fmt: skip
def test_sharing_of_states_goes_by_its_names(
    tmp_path: Path, cell: str, stage: int
) -> None:
    row = f"lab,x,2048,A100,8,{cell},,,1,s,1.5,,,"
    assert read_published([table(tmp_path, row)]).runs[0].zero_stage == stage


@pytest.mark.parametrize(
    ("device", "count", "devices"),
    [("A100", "2 x 8", 16), ("8xH100", "", 8), ("TPU v4-128", "", 64),
     ("TPU v5e-64", "", 64), ("A100", "1,024 GPUs", 1024)],
)  # fmt: skip
def test_devices_are_counted_where_a_cell_says_them(
    tmp_path: Path, device: str, count: str, devices: int
) -> None:
    row = f'lab,x,2048,{device},"{count}",,,,1,s,1.5,,,'
    assert read_published([table(tmp_path, row)]).runs[0].num_devices == devices


@pytest.mark.parametrize(
    ("cells", "why"),
    [("2048,A100,,", "num_devices is not given"),
     ("2048,A100,16 nodes,", "counts nodes"),
     ("128/512,A100,8,", "more than one number")],
)  # fmt: skip
def test_cells_that_say_two_things_or_none_are_refused(
    tmp_path: Path, cells: str, why: str
) -> None:
    run = read_published([table(tmp_path, f"lab,x,{cells},,,1,s,1.5,,,")]).runs[0]
    assert why in run.fault


@pytest.mark.parametrize(
    ("unit", "metric", "column", "value"),
    [("step time (s)", "", "iter_time_s", 4.0),
     ("ms", "time per iteration", "iter_time_s", 0.004),
     ("minutes", "step time", "iter_time_s", 240.0),
     ("TGS", "", "tokens_per_s_per_device", 4.0),
     ("global tokens/s", "", "tokens_per_s_per_device", 0.5),
     ("teraFLOP/s per GPU", "", "tflops_per_device", 4.0),
     ("MFU %", "", "mfu", 0.04)],
)  # fmt: skip
def test_more_units_of_headlines(
    unit: str, metric: str, column: str, value: float
) -> None:
    found = headline(4.0, unit, metric, 8, 2048)
    assert found is not None
    assert found.column == column
    assert found.value == pytest.approx(value)


@pytest.mark.parametrize(
    ("unit", "metric"), [("days", ""), ("s", "time to train"), ("hours", "total")]
)
def test_the_time_of_a_whole_run_is_not_a_steps(unit: str, metric: str) -> None:
    assert headline(4.0, unit, metric, 8, 2048) is None


def test_commas_at_the_ends_of_lines_are_no_column(tmp_path: Path) -> None:
    row = "lab,x,2048,A100,64,,,t,1,s,1.5,,,,,"
    run = read_published([table(tmp_path, row, head=HEAD.strip() + ",,\n")]).runs[0]
    assert run.iter_time_s == 1.5


@pytest.mark.parametrize("cell", ["0", "no", "False"])
def test_a_degree_that_is_not_used_is_one(tmp_path: Path, cell: str) -> None:
    head = "model,device,num_devices,iter_time_s,vpp,cp\n"
    path = table(tmp_path, f"x,A100,8,1.5,{cell},{cell}", head=head)
    run = read_published([path]).runs[0]
    assert (run.fault, run.vpp, run.cp) == ("", 1, 1)
