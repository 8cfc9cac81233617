"""Every example under a command's help is a command that runs."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

import hwsim
from hwsim.cli.app import run_code
from hwsim.cli.examples import EXAMPLES

ROOT = Path(__file__).resolve().parents[3]
# They time hardware for minutes, or need a GPU: only that they can be parsed.
SLOW = ("measure", "validate --live")
ROWS = [(name, text) for name, texts in EXAMPLES.items() for text in texts]


def _measured() -> str:
    """Return a table of products, a few percent off what is predicted."""
    lines = ["device,op,dtype,m,n,k,latency_us"]
    sizes = [(m, n) for m in (1, 16, 256, 1024, 4096) for n in (512, 1024, 2048, 8192)]
    for i, (m, n) in enumerate([*sizes, *sizes]):
        time = hwsim.op("matmul", device="h100", m=m, n=n, k=2048).time_s
        lines.append(f"h100-80gb-sxm,gemm,bf16,{m},{n},2048,{time * (1e6 + i % 5)}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of somebody who has the files that examples name."""
    home = tmp_path_factory.mktemp("examples")
    for name, batch in (("answer", 1), ("other", 8)):
        result = hwsim.infer("gpt-2-124m", "l4", prompt=64, output=8, batch=batch)
        hwsim.save_result(result, home / f"{name}.json")
    (home / "gemm.csv").write_text(_measured())
    (home / "runs.csv").write_text(
        "model,device,num_devices,micro_batch_size,global_batch_size,seq_len,dtype,"
        "tflops_per_device\nllama-2-7b,A100-80GB-SXM,8,1,64,4096,bf16,190\n"
    )
    data = ROOT / "workloads"
    shutil.copy(data / "traces" / "azure-shape.csv", home / "requests.csv")
    scenario = data / "scenarios" / "llama-3.1-8b-single-stream.toml"
    shutil.copy(scenario, home / "scenario.toml")
    (home / "house").mkdir()
    shutil.copy(ROOT / "reports" / "templates" / "style.css", home / "house")
    return home


def test_every_command_has_some():
    assert all(text.startswith(f"{name}") for name, text in ROWS)


@pytest.mark.parametrize("text", [text for _, text in ROWS])
def test_example_runs(text, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    arguments = shlex.split(text)
    if text.startswith(SLOW):
        arguments.append("--help")
    try:
        code = run_code(arguments)
    except SystemExit as ended:  # a program of its own, that parses by itself
        code = ended.code
    assert code == 0, capsys.readouterr().err
