import os

import pytest

from hwsim.measure.cuda import runner
from hwsim.measure.cuda.cases import Case, Skip, shape
from hwsim.measure.cuda.runner import Outcome, collect, quartiles, run
from hwsim.measure.cuda.tables import MARK, TableError, Tables
from hwsim.specs.measurement.read import read_measurements


class Clock:
    """A clock that only moves when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def gemm(m, seconds=1.0, **more):
    where = shape(m=m, n=8, k=8, batch=1)
    return Case("gemm", "linear", "bf16", where, seconds=seconds, **more)


def tables(folder, **more):
    return Tables(folder, device="h100-80gb-sxm", source="test:1", **more)


def taking(clock, seconds):
    def measure(case, left):
        clock.now += seconds(case) if callable(seconds) else seconds
        return Outcome([1e-6, 2e-6, 3e-6, 4e-6, 5e-6], {"copies": 3})

    return measure


def rows(folder, name="gemm"):
    text = (folder / f"{name}.csv").read_text().splitlines()
    return [
        dict(zip(text[0].split(","), line.split(","), strict=True)) for line in text[1:]
    ]


def test_rows_hold_median_quartiles_and_identity(tmp_path):
    clock = Clock()
    done = run([gemm(16)], taking(clock, 1.0), tables(tmp_path), budget=10, clock=clock)
    assert (done.measured, done.seconds) == (1, 1.0)
    (row,) = rows(tmp_path)
    assert float(row["latency_us"]) == 3.0
    assert (row["latency_p25_us"], row["latency_p75_us"]) == ("2.0", "4.0")
    assert (row["latency_min_us"], row["samples"], row["copies"]) == ("1.0", "5", "3")
    assert (row["device"], row["source"], row["m"]) == ("h100-80gb-sxm", "test:1", "16")


def test_budget_is_kept_and_cheaper_cases_still_fit(tmp_path):
    clock = Clock()
    cases = [gemm(1, 3.0), gemm(2, 20.0), gemm(3, 3.0), gemm(4, 3.0), gemm(5, 3.0)]
    measure = taking(clock, lambda case: case.seconds)
    done = run(cases, measure, tables(tmp_path), budget=10.0, clock=clock)
    assert [row["m"] for row in rows(tmp_path)] == ["1", "3", "4"]
    assert (done.measured, done.left, done.seconds) == (3, 2, 9.0)


def test_expectations_follow_how_long_cases_really_take(tmp_path):
    clock = Clock()
    cases = [gemm(i, 1.0) for i in range(1, 30)]
    done = run(cases, taking(clock, 3.0), tables(tmp_path), budget=20.0, clock=clock)
    assert clock.now - 100.0 <= 20.0
    assert done.measured == 6  # a seventh would end at 21 s


def test_one_slow_case_does_not_rule_out_the_rest(tmp_path):
    clock = Clock()
    cases = [gemm(i, 0.1) for i in range(1, 12)]
    measure = taking(clock, lambda case: 20.0 if case["m"] == 1 else 0.1)
    done = run(cases, measure, tables(tmp_path), budget=40.0, clock=clock)
    assert done.measured == 11


def test_restart_goes_on_where_it_stopped(tmp_path):
    clock = Clock()
    cases = [gemm(m) for m in range(1, 7)]
    seen = []

    def measure(case, left):
        seen.append(case["m"])
        if case["m"] == 4 and seen.count(4) == 1:
            raise KeyboardInterrupt
        return Outcome([1e-6])

    with pytest.raises(KeyboardInterrupt):
        run(cases, measure, tables(tmp_path), budget=99, clock=clock)
    assert [row["m"] for row in rows(tmp_path)] == ["1", "2", "3"]
    done = run(cases, measure, tables(tmp_path), budget=99, clock=clock)
    assert (done.already, done.measured) == (3, 3)
    assert seen == [1, 2, 3, 4, 4, 5, 6]
    assert len(rows(tmp_path)) == 6


def test_a_line_torn_by_a_kill_is_measured_again(tmp_path):
    clock, cases = Clock(), [gemm(1), gemm(2)]
    run(cases, taking(clock, 1), tables(tmp_path), budget=99, clock=clock)
    path = tmp_path / "gemm.csv"
    path.write_bytes(path.read_bytes()[:-9])
    done = run(cases, taking(clock, 1), tables(tmp_path), budget=99, clock=clock)
    assert (done.already, done.measured) == (1, 1)
    assert [row["m"] for row in rows(tmp_path)] == ["1", "2"]


def test_a_torn_heading_is_written_again(tmp_path):
    (tmp_path / "gemm.csv").write_text("source,dev")
    clock = Clock()
    run([gemm(1)], taking(clock, 1), tables(tmp_path), budget=9, clock=clock)
    assert rows(tmp_path)[0]["m"] == "1"


def test_rows_are_synced_before_the_next_case(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    clock = Clock()
    run([gemm(1), gemm(2)], taking(clock, 1), tables(tmp_path), budget=9, clock=clock)
    assert len(synced) == 2
    assert synced[1] == (tmp_path / "gemm.csv").stat().st_size


def test_skipped_cases_are_recorded_and_not_tried_again(tmp_path):
    clock, tried = Clock(), []

    def measure(case, left):
        tried.append(case["m"])
        raise Skip("out of memory:\nneeds 90 GiB, has 80")

    for _ in range(2):
        done = run([gemm(1)], measure, tables(tmp_path), budget=9, clock=clock)
    assert (done.already, tried) == (1, [1])
    assert "needs 90 GiB" in (tmp_path / "skipped.csv").read_text()
    assert not (tmp_path / "gemm.csv").exists()


def test_a_fault_that_ends_the_run_is_not_met_again(tmp_path):
    clock = Clock()

    def measure(case, left):
        if case["m"] == 1:
            raise RuntimeError("CUDA error: an illegal memory access")
        return Outcome([1e-6])

    cases = [gemm(1), gemm(2)]
    with pytest.raises(RuntimeError):
        run(cases, measure, tables(tmp_path), budget=9, clock=clock)
    done = run(cases, measure, tables(tmp_path), budget=9, clock=clock)
    assert (done.already, done.measured) == (1, 1)
    assert "ended the run" in (tmp_path / "skipped.csv").read_text()


def test_a_fault_of_one_case_does_not_end_the_run(tmp_path):
    clock = Clock()

    def measure(case, left):
        if case["m"] in {2, 4}:
            raise TypeError("no such argument")
        return Outcome([1e-6])

    cases = [gemm(m) for m in (1, 2, 3, 4)]
    done = run(cases, measure, tables(tmp_path), budget=9, clock=clock)
    assert (done.measured, done.skipped) == (2, 2)
    assert (tmp_path / "skipped.csv").read_text().count("no such argument") == 2
    again = run(cases, measure, tables(tmp_path), budget=9, clock=clock)
    assert (again.already, again.measured) == (4, 0)


def test_faults_in_a_row_are_not_the_cases_own(tmp_path):
    clock = Clock()

    def broken(case, left):
        raise ValueError("nothing works any more")

    cases = [gemm(m) for m in (1, 2, 3, 4)]
    with pytest.raises(RuntimeError, match="ValueError: nothing works"):
        run(cases, broken, tables(tmp_path), budget=9, clock=clock)
    done = run(cases, taking(clock, 1), tables(tmp_path), budget=9, clock=clock)
    assert (done.already, done.measured) == (1, 3)  # the first is not met again


def test_a_case_that_kills_the_process_is_left_out_at_the_third_try(tmp_path):
    clock, case = Clock(), gemm(1)
    for _ in range(2):  # a killed process leaves its mark behind
        tables(tmp_path).begin(case)
    done = run([case], taking(clock, 1), tables(tmp_path), budget=9, clock=clock)
    assert (done.skipped, done.measured) == (1, 0)
    assert "died 2 times" in (tmp_path / "skipped.csv").read_text()
    assert not (tmp_path / MARK).exists()


def test_one_folder_holds_one_device(tmp_path):
    clock = Clock()
    run([gemm(1)], taking(clock, 1), tables(tmp_path), budget=9, clock=clock)
    with pytest.raises(TableError, match=r"rows of 'h100-80gb-sxm', not of 'l4'"):
        Tables(tmp_path, device="l4", source="test:1")


def test_foreign_columns_are_refused(tmp_path):
    (tmp_path / "gemm.csv").write_text("op,m,case\nlinear,3,x\n")
    with pytest.raises(TableError, match="other columns"):
        tables(tmp_path)


def test_out_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TableError, match="choose another --out"):
        tables(tmp_path / "file")


def test_provenance_keeps_every_run(tmp_path):
    tables(tmp_path, run="one").record({"command": "a"})
    second = tables(tmp_path, run="two")
    second.record({"command": "b"})
    second.record({"ended": "later"})
    text = (tmp_path / "provenance.json").read_text()
    assert '"one"' in text
    assert '"ended": "later"' in text
    (tmp_path / "provenance.json").write_text("[]")
    with pytest.raises(TableError, match="not a provenance file"):
        second.record({})


EXAMPLES = [
    gemm(3),
    Case("gemm", "bmm", "int8", shape(m=1, n=2, k=3, batch=4), launch="graph"),
    Case("attention", "decode", "bf16",
         shape(batch=2, heads=8, kv_heads=2, head_dim=64, seq_q=1, seq_kv=9, window=0,
               kv_dtype="bf16")),
    Case("elementwise", "quantize_fp8", "bf16->fp8", shape(m=4, n=8, bytes=96.0)),
    Case("collective", "all_reduce", "bf16",
         shape(bytes=1024.0, world_size=2, gpus_per_node_used=2, gpus_per_node_max=8)),
    Case("memory", "load_latency", "fp64", shape(bytes=64.0, working_set_bytes=64.0)),
    Case("launch", "launch_eager", "fp32", (), threads=2),
    Case("host_link", "h2d", "int8", shape(bytes=64.0, pinned="no")),
    Case("power", "power", "bf16", shape(operator="linear", m=1, n=1, k=1)),
    Case("end_to_end", "infer", "bf16",
         shape(model="gpt2", metric="tpot", layers=12, batch=1, context=9),
         launch="compiled"),
]  # fmt: skip


def test_every_table_reads_back_through_the_schema(tmp_path):
    clock = Clock()
    extra = {"power_w": 300.0, "energy_j": 0.5, "utilization": 1.0, "clock_mhz": 1700.0}

    def measure(case, left):
        clock.now += 1
        return Outcome([2e-6], extra if case.table == "power" else {"load": 0.5})

    done = run(EXAMPLES, measure, tables(tmp_path), budget=99, clock=clock)
    assert done.measured == len(EXAMPLES)
    read = read_measurements([str(tmp_path / "[a-r]*.csv")])
    assert len(read) == len(EXAMPLES)
    assert not read.bad
    assert set(read.families) == {case.table for case in EXAMPLES}
    for rows_ in read.families.values():
        if "time" in rows_.columns:
            assert rows_["time"] == pytest.approx([2e-6] * len(rows_))
    assert list(read.families["gemm"]["hot"]) == [0.0, 0.0]
    assert read.families["power"]["power_w"][0] == 300.0


def test_unknown_column_is_a_fault_of_ours(tmp_path):
    with pytest.raises(TableError, match="no column 'speed'"):
        tables(tmp_path).add(gemm(1), {"speed": 1})


def test_quartiles():
    assert quartiles([5.0]) == (5.0, 5.0, 5.0)
    assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)
    with pytest.raises(Skip):
        quartiles([])


@pytest.mark.parametrize(
    ("each", "left", "expected"),
    [
        (1.0, 100.0, runner.LEAST_SAMPLES),  # slow: no more than needed
        (0.001, 100.0, runner.MOST_SAMPLES),  # fast: as many as are useful
        (1.0, 2.5, 2),  # the budget ends first
        (1.0, 0.0, 1),  # one sample was under way
    ],
)
def test_collect_weighs_samples_against_time(each, left, expected):
    clock = Clock()

    def sample():
        clock.now += each
        return each

    assert len(collect(sample, left=left, target=0.25, clock=clock)) == expected


def test_disturbed_rows_can_be_measured_again(tmp_path):
    clock, cases = Clock(), [gemm(m) for m in (1, 2, 3)]

    def measure(case, left):
        return Outcome([1e-6], {"disturbed": 0.9 if case["m"] == 2 else 0.1})

    run(cases, measure, tables(tmp_path), budget=9, clock=clock)
    again = tables(tmp_path)
    assert again.drop_disturbed(0.5) == 1
    assert [row["m"] for row in rows(tmp_path)] == ["1", "3"]
    done = run(cases, taking(clock, 1), again, budget=9, clock=clock)
    assert (done.already, done.measured) == (2, 1)
    assert tables(tmp_path).drop_disturbed(0.5) == 0
