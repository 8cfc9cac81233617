"""The guide to cost models: its plugin is installed, named by a stack, and used."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

import hwsim
from hwsim.cost import forms
from hwsim.errors import InputError, SpecError, UnknownNameError

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "guides" / "add-a-cost-model.md").read_text(encoding="utf-8")
PLUGIN = re.search(r"<!-- plugin: (\w+) -->\n```python\n(.*?)```", GUIDE, re.DOTALL)
POINTS = re.search(r"(\[project.entry-points.*?)```", GUIDE, re.DOTALL)
STACK = re.search(r"```toml\n(based_on.*?)```", GUIDE, re.DOTALL)
FAULTY = """
import numpy as np
from hwsim.cost.cost import combine
def negative(ops, context):
    return combine(overhead=-np.ones(len(ops)))
def one(ops, context):
    return combine(compute=np.ones(len(ops) + 1))
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with the guide's model, as pip would have installed it."""
    name, body = PLUGIN.groups()
    (tmp_path / f"{name}.py").write_text(body, encoding="utf-8")
    (tmp_path / "faulty_costs.py").write_text(FAULTY, encoding="utf-8")
    home = tmp_path / "my_costs-1.0.dist-info"
    home.mkdir()
    entry = re.findall(r'^([\w-]+) = "(.+)"$', POINTS[1], re.MULTILINE)
    lines = [f"{key} = {value}" for key, value in entry]
    lines += ["negative = faulty_costs:negative", "one = faulty_costs:one"]
    (home / "entry_points.txt").write_text(
        "\n".join(["[hwsim.cost_models]", *lines]) + "\n", encoding="utf-8"
    )
    (home / "METADATA").write_text("Name: my-costs\nVersion: 1.0\n", encoding="utf-8")
    (tmp_path / "own.toml").write_text(STACK[1], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    forms._registered.cache_clear()
    yield tmp_path
    forms._registered.cache_clear()


def test_products_take_what_the_guide_says(installed):
    sizes = {"m": 8192.0, "n": 8192.0, "k": 8192.0}
    own = hwsim.op("matmul", device="h100", stack=str(installed / "own.toml"), **sizes)
    peak = hwsim.load_device("h100").peak("bf16")
    assert own.time_s == pytest.approx(2 * 8192.0**3 / (0.5 * peak) + 2e-6)
    assert own.fidelity == "registered"
    low, high = own.interval_90["time_s"]
    assert math.log(high / low) == pytest.approx(1.8)  # nothing is known of its error


def test_an_answer_says_what_it_rests_on(installed):
    stack = str(installed / "own.toml")
    usual = hwsim.infer("llama-3.1-8b", "h100", stack="vllm")
    own = hwsim.infer("llama-3.1-8b", "h100", stack=stack)
    assert own.fidelity_by_family["gemm"] == "registered"
    assert own.fidelity_by_family["attention_decode"] == "calibrated"
    assert own.ttft_s > usual.ttft_s

    def width(result):
        low, high = result.interval_90["ttft_s"]
        return high / low

    assert width(own) > width(usual)
    families = {row["family"]: row for row in own.accuracy()["families"]}
    assert "nobody told" in families["gemm"]["note"]
    bound = hwsim.infer("llama-3.1-8b", "h100", stack=stack, fidelity="roofline")
    assert bound.ttft_s == pytest.approx(
        hwsim.infer("llama-3.1-8b", "h100", stack="vllm", fidelity="roofline").ttft_s
    )


def test_services_and_arrays_use_it_too(installed):
    stack = str(installed / "own.toml")
    many = hwsim.op(
        "matmul", device="h100", stack=stack, m=np.array([1.0, 4096.0]), n=4096, k=4096
    )
    single = hwsim.op("matmul", device="h100", m=4096, n=4096, k=4096,
                      overrides=["stack.costs.matmul=half-peak"])  # fmt: skip
    assert many.time_s[1] == pytest.approx(float(single.time_s))
    asked = {"rate": 1.0, "requests": 10, "input_len": "fixed:2048"}
    usual = hwsim.serve("llama-3.1-8b", "h100", **asked)
    own = hwsim.serve("llama-3.1-8b", "h100", stack=stack, **asked)
    assert own.ttft_s["mean"] > usual.ttft_s["mean"]


def test_an_unknown_model_names_the_known(installed):
    text = (installed / "own.toml").read_text().replace('half-peak"', 'half-peek"')
    (installed / "own.toml").write_text(text)
    with pytest.raises(UnknownNameError, match="half-peak"):
        hwsim.op("matmul", device="h100", stack=str(installed / "own.toml"),
                 m=1, n=64, k=64)  # fmt: skip


@pytest.mark.parametrize("name", ["negative", "one"])
def test_times_that_are_none_are_refused(installed, name):
    path = installed / "own.toml"
    path.write_text(path.read_text().replace('half-peak"', f'{name}"'))
    with pytest.raises(InputError, match=name):
        hwsim.infer("gpt-2-124m", "h100", stack=str(path), prompt=64, output=2)


def test_an_unknown_kind_is_refused(installed):
    path = installed / "own.toml"
    path.write_text(path.read_text().replace("matmul =", "gemm ="))
    with pytest.raises(SpecError, match="costs"):
        hwsim.load_stack(str(path))
