"""Timers against a device that is not there: a clock that tests can move."""

import contextlib
import stat
import types

import pytest

from hwsim.measure.cuda import app, power
from hwsim.measure.cuda.app import Timer, loaded
from hwsim.measure.cuda.backend import Backend, Work, _sticky, time_work
from hwsim.measure.cuda.cases import Case, Skip, shape
from hwsim.measure.cuda.plan import operator_plan
from hwsim.measure.cuda.power import Sensors, Watch


class FakeDevice:
    """Each call takes a fixed time on the device; launching costs the host."""

    cuda = True
    cache_bytes = 1000.0

    def __init__(self, call=10e-6, launch=50e-6):
        self.per_call, self.per_launch = call, launch
        self.busy = 0.0
        self.calls, self.flushes, self.captured = [], 0, 0
        self.capturing = False

    def work(self, **more):
        def call(i):
            self.calls.append(i)
            self.busy += 0.0 if self.capturing else max(self.per_call, self.per_launch)
            return object()

        return Work(call, **more)

    def sync(self):
        pass

    def flush(self):
        self.flushes += 1
        self.busy += 1.0  # must not be part of any sample

    def elapsed(self, run):
        before = self.busy
        run()
        return self.busy - before

    def capture(self, run):
        self.capturing, before = True, len(self.calls)
        run()
        self.capturing = False
        self.captured = len(self.calls) - before

        def replay():
            self.busy += self.captured * self.per_call

        return replay

    def free(self):
        pass

    guarded = Backend.guarded


def test_eager_time_includes_the_host_s_launch_and_graph_time_does_not():
    device = FakeDevice()
    eager = time_work(device, device.work(), launch="eager", left=9.0)
    assert eager.samples == pytest.approx([50e-6] * len(eager.samples))
    device = FakeDevice()
    graph = time_work(device, device.work(), launch="graph", left=9.0)
    assert graph.samples == pytest.approx([10e-6] * len(graph.samples))
    assert device.captured > 1


def test_operands_rotate_and_samples_are_long_enough():
    device = FakeDevice()
    outcome = time_work(device, device.work(copies=7), launch="eager", left=9.0)
    assert set(device.calls) == set(range(7))
    assert outcome.columns["copies"] == 7
    assert device.flushes == 0
    # 2 ms of 50 us calls.
    assert len(device.calls) >= 40 * len(outcome.samples)


def test_operands_that_fit_the_cache_are_flushed_and_used_once():
    device = FakeDevice()
    work = device.work(copies=4, past_cache=False)
    outcome = time_work(device, work, launch="graph", left=9.0)
    assert device.captured == 4
    assert device.flushes == len(outcome.samples)
    assert outcome.samples == pytest.approx([10e-6] * len(outcome.samples))


def test_copies_overflow_the_cache_twice():
    backend = Backend.__new__(Backend)
    backend.cache_bytes = 1 << 20
    for nbytes in (1, 1000, 100_000, 1 << 19, 1 << 22):
        number, past = backend.copies(nbytes, "cold")
        assert 2 <= number <= 64
        assert past == (number * nbytes >= 2 << 20)
    assert backend.copies(1, "hot") == (1, True)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"), "out of memory"),
        (MemoryError(), "out of memory"),
        (NotImplementedError("no kernel for fp8\nlong trace"), "no kernel for fp8"),
        (Skip("not here"), "not here"),
    ],
)
def test_what_a_case_dies_of_becomes_a_verdict(fault, text):
    device = FakeDevice()
    with pytest.raises(Skip, match=text) as caught, device.guarded():
        raise fault
    assert "\n" not in str(caught.value)


def test_a_lost_context_ends_the_run():
    device = FakeDevice()
    assert _sticky("CUDA error: an illegal memory access was encountered")
    fault = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError), device.guarded():
        raise fault


class Meter:
    """Sensors of a GPU that draws 400 W."""

    how = "nvml"

    def __init__(self, counter=True):
        self.joules, self.counter = 0.0, counter

    def energy(self):
        self.joules += 100.0
        return self.joules if self.counter else None

    def power(self):
        return 400.0

    def clock(self):
        return 1700.0


@pytest.mark.parametrize("counter", [True, False])
def test_power_case_gives_joules_per_call(monkeypatch, counter):
    device = FakeDevice()
    monkeypatch.setattr(app, "build", lambda backend, case: device.work())
    monkeypatch.setattr(app, "WARM", 0.01)
    monkeypatch.setattr(app, "HOLD", 0.3)
    case = Case("power", "power", "bf16", shape(operator="linear", m=8, n=8, k=8))
    outcome = Timer(device, Meter(counter), None).measure(case, 9.0)
    columns, seconds = outcome.columns, outcome.columns["duration_s"]
    calls = seconds / outcome.samples[0]
    watts = columns["power_w"]
    if counter:  # the watch runs a little longer than the calls
        assert 0.5 * 100.0 / seconds < watts <= 100.0 / seconds * (1 + 1e-3)
    else:
        assert watts == pytest.approx(400.0, rel=1e-3)
    assert columns["energy_j"] * calls == pytest.approx(watts * seconds, rel=1e-3)
    assert columns["clock_mhz"] == columns["least_clock_mhz"] == 1700.0


def test_power_needs_sensors():
    case = Case("power", "power", "bf16", shape(operator="linear", m=8, n=8, k=8))
    sensors = types.SimpleNamespace(how="none")
    with pytest.raises(Skip, match="neither pynvml nor nvidia-smi"):
        Timer(FakeDevice(), sensors, None).measure(case, 9.0)


def test_each_power_case_names_an_operator_that_can_be_built():
    for case in operator_plan():
        if case.table == "power":
            work = loaded(case)
            assert work.table in ("gemm", "attention", "elementwise")
            assert all(value > 0 for _, value in work.shape), case.key


def test_collectives_go_to_the_group():
    asked = []
    group = types.SimpleNamespace(measure=lambda case: asked.append(case) or "outcome")
    case = Case("collective", "all_reduce", "bf16", shape(bytes=1.0, world_size=2))
    assert Timer(FakeDevice(), None, group).measure(case, 1.0) == "outcome"
    assert asked == [case]


SMI = """#!/bin/sh
case "$1" in
  --query-gpu=power.draw) echo 312.50 ;;
  --query-gpu=clocks.sm) echo 1755 ;;
  --query-gpu=name) echo "NVIDIA Test GPU" ;;
  --query-gpu=power.limit) echo "[N/A]" ;;
  *) exit 6 ;;
esac
"""


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")


def test_nvidia_smi_stands_in_for_nvml(nvidia_smi):
    sensors = Sensors("GPU-1")
    assert sensors.how == "nvidia-smi"
    assert (sensors.power(), sensors.clock(), sensors.energy()) == (312.5, 1755.0, None)
    facts = sensors.facts()
    assert facts["name"] == "NVIDIA Test GPU"
    assert "driver_version" not in facts  # this one refuses to say


def test_without_either_nothing_is_known(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    sensors = Sensors()
    assert (sensors.how, sensors.power(), sensors.facts()) == ("none", None, {})
    with Watch(sensors) as watch:
        pass
    assert watch.joules is None


def test_nvml_is_used_where_it_is(monkeypatch):
    nvml = types.SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: f"handle of {uuid}",
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 5000,
        nvmlDeviceGetPowerUsage=lambda handle: 250_000,
        nvmlDeviceGetClockInfo=lambda handle, kind: 1600,
    )
    known = power.importlib.import_module
    monkeypatch.setattr(
        power.importlib,
        "import_module",
        lambda name: nvml if name == "pynvml" else known(name),
    )
    sensors = Sensors("GPU-1")
    assert (sensors.how, sensors.energy()) == ("nvml", 5.0)
    assert (sensors.power(), sensors.clock()) == (250.0, 1600.0)
    with contextlib.suppress(AttributeError):
        del nvml.nvmlDeviceGetTotalEnergyConsumption
    assert sensors.energy() is None  # older boards have no counter
