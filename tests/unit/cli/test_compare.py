"""The compare command: options of its tasks, tables, files, faults."""

import csv
import io
import json

import pytest

import hwsim
from hwsim.cli.compare import entry_of


def test_tables_say_who_is_fastest_and_why(hwsim_cli):
    out = hwsim_cli(
        "compare", "h100", "xeon-8488c,label=Xeon", "-m", "llama-3.1-8b"
    ).out
    assert "is fastest" in out
    assert "memory bandwidth" in out
    assert "→ Xeon" in out


def test_json_csv_and_file_agree(hwsim_cli, tmp_path):
    place = tmp_path / "c.json"
    ask = ("compare", "h100", "t4", "-m", "llama-3.1-8b", "--no-explain")
    printed = json.loads(hwsim_cli(*ask, "--json", "--out", str(place)).out)
    assert printed == hwsim.load_result(place).to_dict()
    rows = list(csv.DictReader(io.StringIO(hwsim_cli(*ask, "--csv").out)))
    assert [r["status"] for r in rows] == ["ok", "does_not_fit"]
    assert float(rows[0]["time_s"]) == printed["cells"][0]["time_s"]


def test_options_of_each_task_arrive(hwsim_cli):
    out = hwsim_cli(
        "compare", "dgx-a100-80gb", "-m", "gpt2", "--task", "train", "--global-batch",
        "64", "--seq", "512", "--zero-stage", "1", "--json",
    ).out  # fmt: skip
    config = json.loads(out)["cells"][0]["config"]
    assert (config["global_batch"], config["seq"], config["zero_stage"]) == (64, 512, 1)
    out = hwsim_cli(
        "compare", "h100", "-m", "llama-3.1-8b", "--task", "serve", "--rate", "2",
        "--requests", "50", "--slo", "ttft=500ms", "--json",
    ).out  # fmt: skip
    assert json.loads(out)["cells"][0]["config"]["slo"] == {"ttft": 0.5}


def test_overrides_reach_every_cell_or_one(hwsim_cli):
    out = hwsim_cli(
        "compare", "h100", "h100,device.memory.hbm.bandwidth=x2", "-m", "llama-3.1-8b",
        "--set", "stack.launch.step_overhead=0s", "--json",
    ).out  # fmt: skip
    one, two = json.loads(out)["cells"]
    assert one["assumed"] == ["stack.launch.step_overhead=0s"]
    assert "device.memory.hbm.bandwidth=x2" in two["assumed"]
    assert two["time_s"] < one["time_s"]


def test_plot_is_written(hwsim_cli, tmp_path):
    place = tmp_path / "w.svg"
    hwsim_cli("compare", "h100", "h200", "-m", "gpt2", "--plot", str(place))
    assert "memory bandwidth" in place.read_text()


def test_entries_have_options_of_their_own():
    assert entry_of("dgx-h100,tp=8,dtype=fp8,price=2.5,device.power.tdp=x2") == {
        "system": "dgx-h100", "tp": 8, "dtype": "fp8", "price": 2.5,
        "overrides": ["device.power.tdp=x2"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("h100",), "no model is given"),
        (("h100", "-m", "gpt2", "--rate", "3"), "--rate is no option of infer"),
        (("h100,tp", "-m", "gpt2"), "'tp' is not key=value"),
        (("h100", "-m", "gpt2", "--task", "cook"), "unknown task 'cook'"),
        (("h100,colour=red", "-m", "gpt2"), "colour"),
        (("h100", "-m", "gpt2", "--out", "/no/where.json"), "cannot be written"),
    ],
)
def test_faults_are_one_line(hwsim_cli, arguments, message):
    found = hwsim_cli("compare", *arguments)
    assert found.code == 2
    assert message in found.err
    assert found.err.count("\n") == 1
