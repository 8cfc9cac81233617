"""Bad input: one line on stderr, exit code 2, nothing half-written."""

import json
import os
import signal
import subprocess
import sys

import pytest

INFER = ("infer", "gpt-2-124m", "-s", "t4", "--dtype", "fp16", "--prompt", "64")
TRAIN = ("train", "gpt-2-124m", "-s", "dgx-a100-80gb")
OP = ("op", "matmul", "--m", "64", "--n", "64", "--k", "64")

CASES = {
    "unknown model": (("infer", "lama-2-7b", "-s", "t4"), "llama-2-7b"),
    "unknown system": (("infer", "gpt-2-124m", "-s", "dgx-h1000"), "dgx-h100"),
    "unknown device": ((*OP, "--device", "h100x"), "h100"),
    "unknown stack": ((*INFER, "--stack", "vlm"), "vllm"),
    "unknown command": (("inferr",), "infer"),
    "unknown option": ((*INFER, "--promt", "3"), "--prompt"),
    "no system": (("infer", "gpt-2-124m"), "system"),
    "tp does not divide heads": (
        ("infer", "gpt-2-124m", "-s", "dgx-h100", "--tp", "5", "--prompt", "64"),
        "head",
    ),
    "tp beyond the system": ((*INFER, "--tp", "4"), "1"),
    "batch 0": ((*INFER, "--batch", "0"), "batch is 0"),
    "batch is no number": ((*INFER, "--batch", "many"), "--batch"),
    "prompt NaN": ((*INFER, "--prompt", "nan"), "--prompt"),
    "m NaN": ((*OP[:2], "--m", "nan", "--n", "1", "--k", "1", "--device", "t4"), "nan"),
    "m negative": ((*OP, "--m", "-5", "--device", "t4"), "-5"),
    "missing shape": (("op", "matmul", "--m", "5", "--device", "t4"), "n is missing"),
    "shape of another operator": ((*OP, "--heads", "5", "--device", "t4"), "heads"),
    "unknown operator": (("op", "matmull", "--device", "t4"), "matmul"),
    "dtype the device lacks": ((*INFER[:4], "--dtype", "fp8"), "fp8"),
    "unknown dtype": ((*INFER, "--weight-dtype", "bf61"), "bf16"),
    "context beyond the model": ((*INFER, "--output", "5000"), "1024"),
    "global batch": ((*TRAIN, "--global-batch", "13"), "13"),
    "tp times dp": ((*TRAIN, "--tp", "2", "--dp", "8"), "16"),
    "recompute": ((*TRAIN, "--recompute", "ful"), "full"),
    "optimizer": ((*TRAIN, "--optimizer", "adamx"), "adam"),
    "seed below 0": ((*TRAIN, "--seed", "-1"), "seed is -1"),
    "jitter beyond sense": ((*TRAIN, "--jitter", "1e9"), "from 0 to 2"),
    "adapter wider than the model": ((*TRAIN, "--lora-rank", "100000"), "768"),
    "checkpoints all the time": (
        (*TRAIN, "--tokens", "1e9", "--checkpoint-interval", "0s"), "above 0",
    ),
    "no rows of a ranking": (
        ("plan", *TRAIN, "--global-batch", "8", "--seq", "128", "--top", "0"), "--top",
    ),
    "cluster without a port": (
        ("plan", *TRAIN, "--global-batch", "8", "--seq", "128", "--cluster", "here"),
        "tcp://host:8786",
    ),
    "percentile of a request": (
        ("serve", "gpt-2-124m", "-s", "t4", "--rate", "1", "--slo", "ttft.p99=1s"),
        "ttft=1s",
    ),
    "kind of device": (("devices", "--kind", "foo"), "cpu, gpu"),
    "no tp of a system": (
        ("plan", "serve", "gpt-2-124m", "-s", "t4", "--rate", "1", "--slo", "ttft=1s",
         "--tp", "3"),
        "more than the 1 devices of t4",
    ),
    "tp of a stage": (
        ("train-mixed", "gpt-2-124m", "--stage", "dgx-h100,tp=5", "--stage", "h100"),
        "12 heads",
    ),
    "zero stage": ((*TRAIN, "--zero-stage", "7"), "7"),
    "too many devices": ((*TRAIN, "--devices", "800"), "8"),
    "set without value": ((*INFER, "--set", "device.memory"), "key=value"),
    "set unknown target": ((*INFER, "--set", "gpu.clock=3"), "device"),
    "set unknown key": ((*INFER, "--set", "device.memori.hbm=3"), "memory"),
    "set without unit": (
        (*INFER, "--set", "device.memory.main.bandwidth=3"), "no unit",
    ),
    "set to zero": ((*INFER, "--set", "device.memory.main.bandwidth=x0"), "plausible"),
    "missing scenario": (("run", "nothing.toml"), "does not exist"),
    "unknown scenario": (("run", "nothing"), "gpt2-on-8-a100"),
    "missing model file": (("infer", "no/such/config.json", "-s", "t4"), "exist"),
    "unwritable report": ((*INFER, "--report", "/no/such/place/x.html"), "written"),
    "unwritable trace": ((*INFER, "--trace", "/no/such/place/x.json"), "written"),
    "unwritable out": ((*INFER, "--out", "/no/such/place/x.json"), "written"),
    "roofline suffix": (("roofline", "-s", "t4", "--out", "x.doc"), "doc"),
    "roofline phase": (
        ("roofline", "-s", "t4", "--model", "gpt-2-124m", "--phase", "dekode"),
        "decode",
    ),
    "empty filter": (("devices", "zzzz"), "zzzz"),
    "unknown schema": (("schema", "devise"), "device"),
    "unknown show": (("show", "model", "gpt5"), "gpt"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_clear_line(hwsim_cli, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, hint = CASES[name]
    done = hwsim_cli(*arguments)
    assert done.code == 2, done
    line = done.err.strip().splitlines()[-1]
    assert line.startswith("hwsim: ")
    assert hint.casefold() in line.casefold()
    assert "Traceback" not in done.err
    assert not list(tmp_path.iterdir())


def test_a_config_that_is_not_json(hwsim_cli, tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{'model_type': llama}")
    done = hwsim_cli("infer", path, "-s", "t4")
    assert done.code == 2
    assert "not valid JSON" in done.err


def test_an_unknown_architecture_is_refused_by_name(hwsim_cli, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "rwkv9", "hidden_size": 3}))
    done = hwsim_cli("infer", path, "-s", "t4")
    assert done.code == 2
    assert "rwkv9" in done.err


def test_a_spec_of_two_gigabytes(hwsim_cli, tmp_path):
    path = tmp_path / "huge.toml"
    with path.open("wb") as file:
        file.truncate(2 * 2**30)
    done = hwsim_cli("infer", "gpt-2-124m", "-s", path)
    assert done.code == 2
    assert "2048 MiB" in done.err


def test_a_report_that_cannot_be_written_leaves_the_old_one(hwsim_cli, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("old")
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            # A superuser may write everywhere: a folder in the way is enough.
            page.unlink()
            page.mkdir()
        done = hwsim_cli(*INFER, "--report", page)
        assert done.code == 2
        assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    finally:
        tmp_path.chmod(0o700)


def test_a_broken_pipe_is_silent():
    done = subprocess.run(
        f"{sys.executable} -m hwsim models --json | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "[\n"
    assert done.stderr == ""


@pytest.mark.parametrize(
    "asked",
    [
        "infer gpt-2-124m -s t4 --dtype fp16 --out {out}",
        "serve gpt-2-124m -s t4 --dtype fp16 --rate 1 --requests 50 --out {out}",
        "whatif --model gpt-2-124m -s t4 --dtype fp16 --vary batch=1,2,4 --out {out}",
        "models --json",
    ],
)
def test_a_reader_that_leaves_is_no_failure(tmp_path, asked):
    place = tmp_path / "answer.json"
    command = asked.format(out=place)
    done = subprocess.run(
        f"{sys.executable} -m hwsim -q {command} | true; exit ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert place.exists() == ("--out" in command)


INTERRUPTED = """
import time
import hwsim.analysis.published.runs as published
from hwsim.cli.app import run

def slow(**options):
    print("ready", flush=True)
    time.sleep(60)
    yield

published.compare_each = slow
run(["demo"])
"""


def test_ctrl_c_ends_with_130():
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip() == "hwsim: interrupted"


def test_a_page_of_another_form_is_refused(hwsim_cli, tmp_path):
    done = hwsim_cli("infer", "gpt2", "-s", "h100", "--report", tmp_path / "r.xyz")
    assert done.code == 2
    assert "write .html, .md or .pdf" in done.err
    assert not list(tmp_path.iterdir())


def test_an_interrupted_plan_says_so_and_ends_with_130(hwsim_cli, monkeypatch):
    from hwsim.analysis.plan_train import search

    def stop(self, found, whole):
        raise KeyboardInterrupt

    monkeypatch.setattr(search.Search, "_report", stop)
    asked = ("plan", "train", "gpt2", "-s", "dgx-a100-80gb", "--global-batch", "64")
    done = hwsim_cli(*asked, "--seq", "1024", "--json")
    assert done.code == 130
    assert "interrupted: the best of what was looked at so far" in done.err
    assert json.loads(done.out)["kind"] == "train_plan"


def test_an_encoder_generates_nothing_and_says_so(hwsim_cli):
    asked = ["infer", "bert-large", "-s", "a100-80gb-sxm", "--json"]
    plain, told = hwsim_cli(*asked), hwsim_cli(*asked, "--output", "5")
    assert json.loads(plain.out)["notes"] == []
    note = "bert-large is an encoder and generates nothing: output 5 was taken as 0"
    assert json.loads(told.out)["notes"] == [note]
    assert told.err == f"note: {note}\n"


def test_a_model_on_this_disk_that_is_not_there(hwsim_cli):
    for name in ("/abs/missing", "./llama-3.1-8b", "../gpt2"):
        done = hwsim_cli("infer", name, "-s", "h100")
        assert done.code == 2
        assert done.err.startswith(f"hwsim: {name}: does not exist; name a .toml")


def test_a_buffer_is_told_in_bytes_or_with_a_unit(hwsim_cli):
    def time(size):
        done = hwsim_cli(
            "op", "all_reduce", "--bytes", size, "--group", "8", "-s", "dgx-h100",
            "--json",
        )  # fmt: skip
        return json.loads(done.out)["time_s"] if done.code == 0 else done.err

    assert time("1 MiB") == time("1048576")
    assert "'1 GB/s' has unit 'B/s', expected B" in time("1 GB/s")
    assert "--bytes: 'lots' is not a quantity" in time("lots")


def test_what_does_not_fit_is_said_before_any_time(hwsim_cli):
    done = hwsim_cli("train", "llama-2-70b", "-s", "dgx-a100-80gb")
    first, second = done.out.splitlines()[0], done.out.splitlines()[1]
    assert first.startswith("Llama 2 70B")
    assert "DOES NOT FIT" in second
    fitting = hwsim_cli("train", "gpt-2-124m", "-s", "dgx-a100-80gb")
    assert "step time" in fitting.out.splitlines()[1]
