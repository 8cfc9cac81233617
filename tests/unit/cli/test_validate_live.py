"""``hwsim validate --live``, with steps and operators that are made up."""

import json
from dataclasses import replace

import pytest

import hwsim.api.live as api
from hwsim.measure.live import MODELS, LiveCase, LiveResult
from hwsim.specs.measurement.read import builtin_measurements, read_measurements

OPERATORS = (
    {"op": "linear", "m": 256, "n": 512, "k": 128, "batch": 1, "count": 2},
    {"op": "softmax", "m": 1024, "n": 256, "bytes": 2097152.0, "count": 2},
)
STRANGE = ({"op": "hadamard", "m": 4, "n": 4, "bytes": 64.0, "count": 1},)


def shipped(slower=1.0):
    """Return the shipped table, as if measured again on a slower machine."""
    found = [p for p in builtin_measurements() if "epyc-zen5-2vcpu" in p.parts]
    table = read_measurements(found)
    families = {
        name: replace(rows, columns={**rows.columns, "time": slower * rows["time"]})
        for name, rows in table.families.items()
        if "time" in rows.columns
    }
    return replace(table, families=families)


@pytest.fixture
def host(monkeypatch):
    """A processor with a table, whose steps take no time to measure."""
    calls = []

    def measure_live(cases, *, budget, report):
        calls.append(list(cases))
        for case in cases:
            again = len(calls) > 1
            work = STRANGE if case.work == "train" else OPERATORS
            report(
                LiveResult(case, 1.5e-3, 1e-3, 2e-3, 9, 0.0 if again else 0.8, work, 1)
            )

    monkeypatch.setattr(api, "detect_device", lambda: ("epyc-zen5-2vcpu", True))
    monkeypatch.setattr(api, "measure_live", measure_live)
    monkeypatch.setattr(api, "_measured_table", lambda cases, budget: shipped())
    cases = [
        LiveCase(MODELS["nano"], work, 1, 256, threads)
        for work in ("prefill", "train")
        for threads in (1, 2)
    ]
    monkeypatch.setattr(api, "live_cases", lambda *_: cases)
    return calls


def test_json_has_errors_and_steps(hwsim_cli, host):
    done = hwsim_cli("validate", "--live", "--json")
    found = json.loads(done.out)
    assert done.code == 0
    assert found["kind"] == "live_check"
    assert found["table"] == "epyc-zen5-2vcpu/measurements"
    assert [case["threads"] for case in found["cases"]] == [1, 2]
    one, two = (case["predicted_s"] for case in found["cases"])
    assert two < one
    assert found["median_ape"] == pytest.approx(
        sum(abs(case["relative_error"]) for case in found["cases"]) / 2
    )
    assert len(found["left_out"]) == 2
    assert "too few rows of hadamard" in found["left_out"][0]


def test_disturbed_steps_are_measured_again(hwsim_cli, host):
    found = json.loads(hwsim_cli("validate", "--live", "--json").out)
    assert len(host) == 2
    assert {case["disturbed"] for case in found["cases"]} == {0.0}


def test_the_terminal_shows_steps_and_summary(hwsim_cli, host):
    done = hwsim_cli("validate", "--live", "--budget", "1m")
    assert done.code == 0
    assert "prefill" in done.out
    assert "threads: 2" in done.out
    assert "single operators (epyc-zen5-2vcpu/measurements)" in done.err
    assert "left out: nano train" in done.err


def test_a_table_that_no_longer_holds_is_measured_anew(hwsim_cli, host, monkeypatch):
    monkeypatch.setattr(api, "_measured_table", lambda cases, budget: shipped(1.4))
    monkeypatch.setattr(api, "_busy", lambda: False)
    done = hwsim_cli("validate", "--live")
    assert "off the table of this processor" in done.err
    assert "measuring them anew" in done.err
    assert "single operators (measured now)" in done.err


def test_on_a_busy_host_a_table_that_no_longer_holds_stays(
    hwsim_cli, host, monkeypatch
):
    monkeypatch.setattr(api, "_measured_table", lambda cases, budget: shipped(1.4))
    monkeypatch.setattr(api, "_busy", lambda: True)
    done = hwsim_cli("validate", "--live")
    assert "too busy" in done.err
    assert "though operators run otherwise now" in done.err


def test_a_processor_without_a_table_is_measured_first(hwsim_cli, host, monkeypatch):
    from hwsim.analysis.live.fit import fit_operators

    seen = []

    def measured(budget, threads):
        seen.append((budget, threads))
        tables = [p for p in builtin_measurements() if "epyc-zen5-2vcpu" in str(p)]
        return fit_operators(read_measurements(tables))

    monkeypatch.setattr(api, "detect_device", lambda: ("some-cpu", False))
    monkeypatch.setattr(api, "_measured_host", measured)
    found = json.loads(hwsim_cli("validate", "--live", "--json", "--budget", "100").out)
    assert found["device"] == "some-cpu"
    assert found["table"] == "measured now"
    assert seen == [(pytest.approx(50.0), [1, 2])]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "h100"], "it takes no --device"),
        (["--fidelity", "roofline"], "it takes no --fidelity"),
        (["--budget", "5"], "too short for the live check"),
        (["--budget", "soon"], "is no time"),
    ],
)
def test_what_makes_no_sense_is_refused(hwsim_cli, host, arguments, said):
    done = hwsim_cli("validate", "--live", *arguments)
    assert done.code == 2
    assert said in done.err
    assert host == []


def test_a_budget_needs_the_live_check(hwsim_cli):
    done = hwsim_cli("validate", "--budget", "60")
    assert done.code == 2
    assert "--budget goes with --live" in done.err
