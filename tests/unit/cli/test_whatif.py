"""The what-if commands: tables, files, pictures, faults."""

import csv
import io
import json

import pytest

import hwsim


def test_sweep_prints_knees_and_saves(hwsim_cli, tmp_path):
    out, picture = tmp_path / "w.json", tmp_path / "w.svg"
    found = hwsim_cli(
        "whatif", "llama-3.1-8b-single-stream", "--vary", "bandwidth=1x..64x:4",
        "--out", out, "--plot", picture,
    )  # fmt: skip
    assert found.code == 0
    assert "the bound changes: memory → " in found.out
    assert hwsim.load_result(out).kind == "whatif"
    assert "device.memory.hbm.bandwidth" in picture.read_text()


def test_two_parameters_are_a_grid(hwsim_cli, tmp_path):
    picture = tmp_path / "h.png"
    ask = (
        "whatif", "-m", "gpt2", "-s", "a100", "--vary", "batch=1,4",
        "--vary", "prompt=64,128,256", "--output", "16",
    )  # fmt: skip
    found = hwsim_cli(*ask, "--plot", picture)
    assert "columns: prompt" in found.out
    assert picture.stat().st_size > 10_000
    rows = list(csv.DictReader(io.StringIO(hwsim_cli(*ask, "--csv").out)))
    assert [(r["batch"], r["prompt"]) for r in rows[:2]] == [
        ("1.0", "64.0"), ("1.0", "128.0"),
    ]  # fmt: skip


def test_sensitivity_prints_elasticities(hwsim_cli, tmp_path):
    picture = tmp_path / "t.svg"
    found = hwsim_cli(
        "sensitivity", "gpt2-on-8-a100", "--plot", picture, "--swing", "0.1"
    )
    assert "device.compute.matrix.bf16" in found.out
    assert "stack." in found.out
    assert picture.stat().st_size > 5_000


def test_targets_are_solved_for(hwsim_cli):
    found = hwsim_cli(
        "sensitivity", "llama-3.1-8b-single-stream", "--target", "tpot_s<=4ms",
        "--by", "bandwidth", "--json",
    )  # fmt: skip
    (one,) = json.loads(found.out)["solutions"]
    assert one["factor"] > 1


def test_a_hypothetical_device_is_labelled(hwsim_cli, tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'based_on = "h100-80gb-sxm"\nname = "Mine"\n'
        '[memory.hbm]\nbandwidth = "6.7 TB/s"\n'
    )
    found = hwsim_cli("compare", "h100", mine, "-m", "llama-3.1-8b")
    assert "Mine (assumed)" in found.out
    twice = hwsim_cli(
        "infer", "llama-3.1-8b", "-s", "h100", "--json",
        "--set", "device.memory.hbm.bandwidth=2x",
    )  # fmt: skip
    own = hwsim_cli("infer", "llama-3.1-8b", "-s", mine, "--json")
    assert json.loads(own.out)["latency_s"] == json.loads(twice.out)["latency_s"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("whatif", "llama-3.1-8b-single-stream"), "nothing to vary"),
        (("whatif", "--vary", "batch=1,2"), "no question"),
        (("whatif", "no-such", "--vary", "batch=1,2"), "no-such"),
        (("sensitivity", "gpt2-on-8-a100", "--by", "peak"), "--by goes with --target"),
        (("sensitivity", "gpt2-on-8-a100", "--swing", "2"), "swing is 2"),
        (("sensitivity", "gpt2-on-8-a100", "--rate", "2"), "no option of train"),
        (("sensitivity", "gpt2-on-8-a100", "--sobol", "3"), "power of two"),
    ],
)
def test_faults_are_one_line(hwsim_cli, arguments, message):
    found = hwsim_cli(*arguments)
    assert found.code == 2
    assert message in found.err
    assert found.err.count("\n") == 1


def test_mixed_prints_places_and_saves(hwsim_cli, tmp_path):
    out = tmp_path / "m.json"
    found = hwsim_cli(
        "mixed", "llama-3.1-8b", "--prefill", "h100", "--decode", "a100",
        "--link", "100GB/s", "--out", out,
    )  # fmt: skip
    assert found.code == 0
    assert "prefill: 1 x NVIDIA H100" in found.out
    assert "handover" in found.out
    assert hwsim.load_result(out).link["bandwidth"] == 100e9
    wrong = hwsim_cli("mixed", "llama-3.1-8b", "--stage", "h100", "--link", "fast")
    assert wrong.code == 2
    assert "--link" in wrong.err


def test_unlike_stages_train_together_and_leave_a_trace(hwsim_cli, tmp_path):
    out, trace = tmp_path / "t.json", tmp_path / "trace.json"
    found = hwsim_cli(
        "train-mixed", "gpt2", "--stage", "h100,layers=8", "--stage", "a100,layers=4",
        "--link", "10GB/s", "--global-batch", "4", "--out", out, "--trace", trace,
    )  # fmt: skip
    assert found.code == 0, found.err
    assert "1 x 1 NVIDIA A100" in found.out
    assert hwsim.load_result(out).kind == "mixed_train"
    events = json.loads(trace.read_text())["traceEvents"]
    names = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert {name.partition(":")[0] for name in names} == {"stage 0", "stage 1"}
    wrong = hwsim_cli("train-mixed", "gpt2", "--stage", "h100", "--link", "fast")
    assert wrong.code == 2
    assert "--link" in wrong.err


def test_the_trace_of_a_pipeline_is_the_whole_step(hwsim_cli, tmp_path):
    trace = tmp_path / "trace.json"
    found = hwsim_cli(
        "train", "gpt2", "-s", "dgx-a100-80gb", "--pp", "4", "--devices", "4",
        "--global-batch", "6", "--trace", trace,
    )  # fmt: skip
    assert found.code == 0, found.err
    events = json.loads(trace.read_text())["traceEvents"]
    forward = [e for e in events if e.get("args", {}).get("kind") == "forward"]
    assert {e["pid"] for e in forward} == {0, 1, 2, 3}
    assert len(forward) == 4 * 6


def test_a_model_may_stand_where_a_scenario_does(hwsim_cli):
    asked = ["-s", "h100", "--vary", "bandwidth=1x,2x", "--csv"]
    named = hwsim_cli("whatif", "--model", "gpt2", *asked)
    plain = hwsim_cli("whatif", "gpt2", *asked)
    assert plain.code == named.code == 0
    assert plain.out == named.out
    wrong = hwsim_cli("whatif", "gpt-9", *asked)
    assert wrong.code == 2
    assert "scenario 'gpt-9' is neither" in wrong.err
