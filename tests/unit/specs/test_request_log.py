"""Reading logs of servers: runs told apart, faulty rows named."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from hwsim.errors import SpecError
from hwsim.specs.request_log import RequestLog, read_request_log

HEAD = (
    "source,device,model,dtype,tp,dp,expert_parallel,max_num_seqs,"
    "max_num_batched_tokens,request,input_tokens,output_tokens,arrival_s,queued_s,"
    "queue_us,ttft_us,tpot_us,latency_us"
)
ROW = (
    "lab,H100,llama-3.1-8b,bfloat16,1,1,False,128,2048,{},100,10,{},{},5,20000,7000,"
    "83000"
)


def log(path: Path, *rows: str, head: str = HEAD) -> Path:
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return path


def row(name: str, arrival: str = "0.0", queued: str = "0.0") -> str:
    return ROW.format(name, arrival, queued)


def with_cell(column: str, value: str) -> str:
    cells = row("a").split(",")
    cells[HEAD.split(",").index(column)] = value
    return ",".join(cells)


def read(tmp_path: Path, *rows: str, skip_bad: bool = False) -> RequestLog:
    return read_request_log(log(tmp_path / "log.csv", *rows), skip_bad=skip_bad)


def test_runs_are_told_apart_and_sorted_by_arrival(tmp_path: Path) -> None:
    other = row("a").replace(",H100,", ",L40S,")
    found = read(tmp_path, row("b", "1002.5", "7.75"), row("a", "1001.0", "6.0"), other)
    assert [(r.device, len(r)) for r in found.runs] == [("H100", 2), ("L40S", 1)]
    run = found.runs[0]
    assert run.rows.tolist() == [2, 1]
    assert run.arrival.tolist() == [0.0, 1.5]
    # Clocks of their own: only what the hand-over differs by is known.
    assert run.handover.tolist() == pytest.approx([0.0, 0.25])
    assert run.ttft.tolist() == pytest.approx([0.02, 0.02])


def test_gzipped_logs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(f"{HEAD}\n{row('a')}\n".encode()))
    assert len(read_request_log(path).runs[0]) == 1


def test_what_is_blank_is_not_known(tmp_path: Path) -> None:
    blank = "lab,H100,llama-3.1-8b,,,,,,,,100,10,3.0,,,,,83000"
    run = read(tmp_path, blank).runs[0]
    assert (run.tp, run.max_num_seqs, run.expert_parallel) == (None, None, False)
    assert np.isnan(run.ttft[0])
    assert np.isnan(run.handover[0])


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("device", "", "device: is blank"),
        ("input_tokens", "0", "whole number of at least 1"),
        ("input_tokens", "many", "whole number of at least 1"),
        ("output_tokens", "1.5", "whole number of at least 1"),
        ("output_tokens", "", "output_tokens: is blank"),
        ("tp", "-2", "tp: '-2' is not a whole number"),
        ("arrival_s", "noon", "arrival_s: 'noon' is not a time"),
        ("arrival_s", "inf", "arrival_s: 'inf' is not a time"),
        ("ttft_us", "-1", "ttft_us: '-1' is not a time of at least 0"),
        ("ttft_us", "0", "ttft_us: is 0"),
        ("latency_us", "100", "latency_us: 100 is less than ttft_us"),
        ("expert_parallel", "maybe", "neither yes nor no"),
    ],
)
def test_a_faulty_row_is_named(
    tmp_path: Path, column: str, value: str, reason: str
) -> None:
    with pytest.raises(SpecError) as refused:
        read(tmp_path, row("z"), with_cell(column, value))
    assert "row 2: " in str(refused.value)
    assert reason in str(refused.value)
    assert "--skip-bad" in str(refused.value)
    kept = read(tmp_path, row("z"), with_cell(column, value), skip_bad=True)
    assert len(kept.runs[0]) == 1
    assert kept.bad[0].row == 2


def test_rows_of_another_width_and_repeated_requests_are_faulty(tmp_path: Path) -> None:
    found = read(tmp_path, row("a"), "lab,H100", row("a"), skip_bad=True)
    assert [b.row for b in found.bad] == [2, 3]
    assert "in this run already" in found.bad[1].reason


def test_a_log_without_a_column_or_a_row_is_refused(tmp_path: Path) -> None:
    short = log(tmp_path / "a.csv", "H100,x,1", head="device,model,input_tokens")
    with pytest.raises(SpecError, match="has no column 'output_tokens'"):
        read_request_log(short)
    untimed = log(
        tmp_path / "c.csv", "H100,x,1,1,0",
        head="device,model,input_tokens,output_tokens,arrival_s",
    )  # fmt: skip
    with pytest.raises(SpecError, match="has no column 'ttft_us'"):
        read_request_log(untimed)
    with pytest.raises(SpecError, match="has no sound row"):
        read_request_log(log(tmp_path / "b.csv"))
    with pytest.raises(SpecError, match="does not exist"):
        read_request_log(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("output", "times", "column"),
    [("0", ("", "", ""), "output_tokens"), ("", ("", "nan", ""), "ttft_us"),
     ("10", ("", "", ""), "ttft_us"), ("0", ("20000", "", "20000"), "output_tokens")],
)  # fmt: skip
def test_requests_that_failed_are_left_out_and_listed(
    tmp_path: Path, output: str, times: tuple[str, str, str], column: str
) -> None:
    cells = row("a").split(",")
    cells[11], cells[15:18] = output, times
    found = read(tmp_path, row("z"), ",".join(cells))
    assert len(found.runs[0]) == 1
    assert [(b.row, b.column) for b in found.bad] == [(2, column)]
    assert "failed" in found.bad[0].reason


def test_the_least_time_to_the_queue_is_kept(tmp_path: Path) -> None:
    rows = [row("a", "1000.0", "7.0"), row("b", "1001.0", "8.5")]
    assert read(tmp_path, *rows).runs[0].front == pytest.approx(-993.0)
    assert np.isnan(read(tmp_path, row("a", "1000.0", "")).runs[0].front)


def test_runs_of_the_same_settings_are_told_apart_by_names(tmp_path: Path) -> None:
    first = [row(str(i), f"{i}.0", f"{i}.001") for i in range(4)]
    second = [row(str(i), f"{2 * i}.5", f"{2 * i}.502") for i in range(4)]
    found = read(tmp_path, *first, *second)
    assert [(len(r), r.run) for r in found.runs] == [(4, 0), (4, 1)]
    assert found.runs[1].arrival.tolist() == [0.0, 2.0, 4.0, 6.0]
    assert found.runs[1].name == f"{found.runs[0].name} run 2"
    assert len({r.name for r in found.runs}) == 2
    with pytest.raises(SpecError, match="row 5: request: '0' is in this run already"):
        read(tmp_path, *first, second[0])


def test_times_in_other_units_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="arrival_s: '1700000000000' is no time in"):
        read(tmp_path, row("a", "1700000000000"))


def test_other_separators_are_named(tmp_path: Path) -> None:
    path = log(tmp_path / "log.csv", row("a").replace(",", ";"),
               head=HEAD.replace(",", ";"))  # fmt: skip
    with pytest.raises(SpecError, match="not separated by commas, but by ';'"):
        read_request_log(path)
