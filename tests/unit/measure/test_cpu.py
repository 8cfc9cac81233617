import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hwsim.errors import InputError, OutputError
from hwsim.measure import cpu_work, host, worker
from hwsim.measure.cpu import cases_for, detect_device, measure_cpu, thread_counts
from hwsim.measure.cpu_plan import cpu_plan
from hwsim.measure.cpu_work import Timer, undisturbed
from hwsim.measure.cuda.cases import Case, Skip, shape
from hwsim.measure.pool import WorkerPool
from hwsim.specs.measurement.read import read_measurements


@pytest.fixture(scope="module")
def timer():
    return Timer(1, cache_bytes=1 << 16)


def smallest_of_each():
    """Return the smallest case of each operator, kernel and state."""
    found = {}
    for case in cpu_plan([1]):
        key = (case.op, case.dtype, case.kernel, case.operands)
        size = np.prod([float(v) + 1 for _, v in case.shape if not isinstance(v, str)])
        if key not in found or size < found[key][0]:
            found[key] = (size, case)
    return [case for _, case in found.values()]


@pytest.mark.parametrize("case", smallest_of_each(), ids=lambda case: case.key)
def test_every_operator_runs_and_takes_time(timer, case, monkeypatch):
    monkeypatch.setattr(cpu_work, "TARGET", 0.001)
    monkeypatch.setattr(cpu_work, "SAMPLE", 2e-5)
    monkeypatch.setattr(cpu_work, "CHAIN_STEPS", 50)
    outcome = timer.measure(case, 5.0)
    assert all(0.0 < s < 0.5 for s in outcome.samples)
    assert (outcome.columns["copies"] > 1) == (case.operands == "cold")


def test_cold_operands_overflow_the_cache_or_are_flushed(timer):
    large = Case("gemm", "linear", "fp32", shape(m=64, n=64, k=64, batch=1), "numpy")
    call = timer._build(large)
    assert call.copies * 3 * 64 * 64 * 4 >= 2 * timer.cache_bytes
    assert not call.flush
    small = Case("gemm", "linear", "fp32", shape(m=2, n=2, k=2, batch=1), "numpy")
    call = timer._build(small)
    assert (call.copies, call.flush) == (cpu_work.MOST_COPIES, True)


def test_what_numpy_cannot_do_is_a_verdict(timer):
    case = Case("gemm", "linear", "bf16", shape(m=2, n=2, k=2, batch=1), "numpy")
    with pytest.raises(Skip, match="NumPy has no bf16"):
        timer.measure(case, 1.0)
    case = Case("gemm", "linear", "bf16", shape(m=2, n=2, k=2, batch=1), "torch")
    with pytest.raises(Skip, match="PyTorch is not installed"):
        timer.measure(case, 1.0)


def test_streams_on_two_threads_move_the_same_bytes():
    where = shape(bytes=1e6, working_set_bytes=1e6)
    case = Case("memory", "copy", "fp32", where, "numpy", operands="hot")
    outcome = Timer(2).measure(case, 5.0)
    assert 1e6 / np.median(outcome.samples) < 1e12


def test_a_chain_visits_every_object_before_it_repeats():
    call = cpu_work._object_chain(48 * 40)
    links = call.run.links
    seen, at = set(), links[0]
    for _ in range(40):
        seen.add(id(at))
        at = at.n
    assert len(seen) == len(links) == 40
    assert at is links[0]


def test_disturbed_samples_are_left_out(monkeypatch):
    switches = iter(np.cumsum([0, 0] + [0, 1, 0, 0, 0, 0] * 40).tolist())
    monkeypatch.setattr(cpu_work, "_preemptions", lambda: next(switches))
    values = iter([1.0, 100.0, 1.0] * 40)
    samples, share = undisturbed(lambda: next(values), 10.0)
    assert set(samples) == {1.0}
    assert share == pytest.approx(1 / 3, abs=0.02)


def test_where_all_are_disturbed_all_count(monkeypatch):
    switches = iter(range(10_000))
    monkeypatch.setattr(cpu_work, "_preemptions", lambda: next(switches))
    samples, share = undisturbed(lambda: 1.0, 10.0)
    assert len(samples) > cpu_work.LEAST_CLEAN
    assert share == 1.0


def test_measured_tables_read_back_and_go_on(tmp_path):
    told = []
    first = measure_cpu(
        tmp_path, device="xeon-8488c", budget=30.0, threads=[1], only=["launch"],
        command="hwsim measure cpu", report=lambda *a: told.append(a),
    )  # fmt: skip
    assert first.summary.measured == len(told) == len(cases_for([1], ["launch"])) == 2
    table = read_measurements(first.tables)
    rows = table.families["launch"]
    assert not table.bad
    assert np.all((rows["time"] > 1e-9) & (rows["time"] < 1e-2))
    assert set(rows["device"]) == {"xeon-8488c"}
    again = measure_cpu(tmp_path, device="xeon-8488c", budget=30.0, threads=[1],
                        only=["launch"])  # fmt: skip
    assert (again.summary.measured, again.summary.already) == (0, 2)
    runs = json.loads((tmp_path / "provenance.json").read_text())["runs"]
    facts = next(iter(runs.values()))
    assert facts["command"] == "hwsim measure cpu"
    assert facts["numpy"] == np.__version__
    assert {"blas", "before", "after", "began", "ended", "cpu"} <= set(facts)
    with pytest.raises(OutputError, match="choose another --out"):
        measure_cpu(tmp_path, device="grace-cpu", budget=5.0, threads=[1])


def test_a_killed_run_loses_nothing(tmp_path):
    options = f"--budget 60 --only elementwise --threads 1 --out {tmp_path}"
    command = [sys.executable, "-m", "hwsim", "measure", "cpu", *options.split()]
    table = tmp_path / "elementwise.csv"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if table.exists() and table.read_bytes().count(b"\n") >= 4:
                break
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    before = table.read_bytes()
    kept = before[: before.rfind(b"\n") + 1].count(b"\n") - 1
    device = before.splitlines()[1].split(b",")[1].decode()
    done = measure_cpu(tmp_path, device=device, budget=2.5, threads=[1],
                       only=["elementwise"])  # fmt: skip
    assert kept >= 3
    assert done.summary.already == kept
    rows = read_measurements(done.tables).families["elementwise"]
    assert len(rows) == kept + done.summary.measured


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"budget": 0.0}, "budget 0 s is not positive"),
        ({"threads": [9999]}, "threads 9999: this process may use 1 to"),
        ({"threads": []}, "threads none"),
        ({"only": ["gem"]}, "unknown table 'gem' for a CPU; known: gemm"),
    ],
)
def test_bad_arguments_say_what_is_right(tmp_path, arguments, text):
    with pytest.raises(InputError, match=text):
        measure_cpu(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_a_dead_worker_is_a_verdict_and_is_replaced():
    case = cases_for([1], ["launch"])[0]
    with WorkerPool(1e6) as pool:
        pool._worker(1).kill()
        pool._worker(1).wait()
        with pytest.raises(Skip, match="worker process died"):
            pool.measure(case, 5.0)
        assert pool.measure(case, 5.0).samples


def test_workers_have_the_threads_they_are_named_for():
    with WorkerPool(1e6) as pool:
        for threads in (1, 2):
            pool.ask(threads, {"facts": True})
            environment = Path(f"/proc/{pool._worker(threads).pid}/environ")
            wanted = f"OPENBLAS_NUM_THREADS={threads}\0".encode()
            assert wanted in environment.read_bytes()


def test_orders_survive_json():
    case = cases_for([1])[0]
    text = json.dumps(worker.case_to_json(case))
    assert worker.case_from_json(json.loads(text)) == case


def test_memory_errors_are_answers():
    class Full:
        def measure(self, case, left):
            raise MemoryError("no room")

    order = {"case": worker.case_to_json(cases_for([1])[0]), "left": 1.0}
    assert worker.answer(Full(), order) == {"skip": "out of memory: no room"}


def test_thread_counts():
    assert thread_counts(1) == [1]
    assert thread_counts(2) == [1, 2]
    assert thread_counts(12) == [1, 2, 4, 8, 12]


CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 26
model\t\t: 2
model name\t: AMD EPYC

processor\t: 1
model name\t: other
"""


def test_device_names_tell_hidden_models_by_family_and_cores():
    fields = host.cpu_fields(CPUINFO)
    assert fields["model name"] == "AMD EPYC"
    assert host.device_names(fields, 2)[0] == "amd-epyc-family-26-model-2-2-cores"
    named = {"model name": "Intel(R) Xeon(R) Platinum 8488C CPU @ 2.40GHz"}
    assert "intel-xeon-platinum-8488c" in host.device_names(named, 4)


def test_detection_finds_the_catalog_s_device(monkeypatch):
    monkeypatch.setattr(host, "read_cpu", lambda: host.cpu_fields(CPUINFO))
    monkeypatch.setattr(host, "available_cores", lambda: 2)
    assert detect_device() == ("epyc-zen5-2vcpu", True)
    monkeypatch.setattr(host, "available_cores", lambda: 77)
    assert detect_device() == ("amd-epyc-family-26-model-2-77-cores", False)


def test_host_facts_name_library_and_machine():
    facts = host.host_facts("cmd")
    assert facts["cores"] >= 1
    assert facts["cache_bytes"] > 1e5
    assert host.blas_facts()["name"]
    assert host.spin_clock() > 0.0
