"""The shipped software stacks."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import ValidationError

from hwsim.specs.base import iter_figures
from hwsim.specs.catalogs import STACKS, load_stack
from hwsim.specs.load import fold
from hwsim.specs.stack import StackSpec


@pytest.fixture(scope="module")
def stacks() -> dict[str, StackSpec]:
    return {name: load_stack(name) for name in STACKS}


def test_ids_are_their_files_and_names_are_unique(stacks: dict[str, StackSpec]) -> None:
    assert {name: stack.id for name, stack in stacks.items()} == {n: n for n in stacks}
    names = Counter(stacks.keys())
    for stack in stacks.values():
        names.update({fold(alias) for alias in stack.aliases} - {stack.id})
    assert {name for name, count in names.items() if count > 1} == set()


@pytest.mark.parametrize(
    "name",
    [
        "default-inference",
        "default-training",
        "pytorch-eager",
        "pytorch-compile",
        "megatron-2020",
        "megatron-2021",
        "megatron-core",
        "pytorch-fsdp",
        "deepspeed",
        "nemo",
        "nemo-graphs",
        "maxtext",
        "torchtitan",
        "nanogpt-eager",
        "nanogpt-compile",
        "llm-c",
        "fastertransformer",
        "tensorrt-llm",
        "tensorrt",
        "vllm",
        "sglang",
        "llama-cpp",
        "ipex",
        "xla-inference",
    ],
)
def test_the_stacks_of_published_runs_are_there(name: str) -> None:
    assert load_stack(name).id == name


def test_every_figure_has_a_source(stacks: dict[str, StackSpec]) -> None:
    bare = [
        f"{name}: {path}"
        for name, stack in stacks.items()
        for path, _, _ in iter_figures(stack)
        if stack.source_of(path) is None
    ]
    assert bare == []


@pytest.mark.parametrize("field", ["matmul_derate", "attention_derate"])
def test_slower_kernels_have_a_source_of_their_own(
    stacks: dict[str, StackSpec], field: str
) -> None:
    for name, stack in stacks.items():
        source = stack.source_of(field)
        assert source is not None, name
        if getattr(stack, field) < 1.0:
            assert field in source.covers, name
            assert source.url, name


def test_eager_stacks_say_what_a_launch_costs(stacks: dict[str, StackSpec]) -> None:
    for name, stack in stacks.items():
        if stack.launch.mode == "eager":
            assert stack.launch.host_time is not None, name
            assert 1e-6 <= stack.launch.host_time <= 100e-6, name
        assert stack.launch.step_overhead <= 1e-3, name
        assert 0.0 < stack.memory_reserve <= 0.2, name


def test_python_launches_cost_more_than_c(stacks: dict[str, StackSpec]) -> None:
    host = {name: stack.launch.host_time or 0.0 for name, stack in stacks.items()}
    fast = max(host[n] for n in ("llm-c", "fastertransformer", "llama-cpp"))
    slow = min(host[n] for n in ("pytorch-eager", "megatron-2021", "nanogpt-eager"))
    assert fast < host["pytorch-compile"] < slow


@pytest.mark.parametrize(
    ("name", "attention", "softmax"),
    [
        ("megatron-2020", "unfused", True),
        ("megatron-2021", "unfused", True),
        ("deepspeed", "unfused", True),
        ("nanogpt-eager", "unfused", False),
        ("nvidia-bert", "unfused", False),
        ("megatron-core", "fused", False),
        ("pytorch-fsdp", "fused", False),
        ("vllm", "fused", False),
    ],
)
def test_attention_by_its_time(name: str, attention: str, softmax: bool) -> None:
    fusion = load_stack(name).fusion
    assert (fusion.attention, fusion.softmax) == (attention, softmax)


def test_overlap_as_documented(stacks: dict[str, StackSpec]) -> None:
    assert not stacks["megatron-2021"].overlap.dp
    assert stacks["megatron-core"].overlap.dp
    hidden_tp = {name for name, stack in stacks.items() if stack.overlap.tp}
    assert hidden_tp == {
        "megatron-core", "nemo", "nemo-deepep", "nemo-drop", "nemo-hybridep",
        "nemo-overlap", "nemo-scoped-graphs", "nemo-scoped-drop",
        "nemo-scoped-overlap", "nemo-graphs",
        "nemo-2024", "nemo-graphs-drop", "hai-llm", "llama-2023", "maxtext",
        "xla-inference", "compiled-inference",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("matmul_derate", 0.0),
        ("matmul_derate", 1.1),
        ("attention_derate", float("nan")),
        ("memory_reserve", -0.1),
        ("memory_reserve", 1.5),
        ("launch", {"mode": "lazy"}),
        ("launch", {"step_overhead": -1.0}),
        ("fusion", {"attention": "half"}),
        ("fusion", {"dropout": True}),
        ("overlap", {"dp": "often"}),
    ],
)
def test_nonsense_is_refused(field: str, value: object) -> None:
    sources = [{"kind": "assumed", "title": "t", "date": "2026-01-01"}]
    table = {"id": "x", "name": "x", "sources": sources, field: value}
    with pytest.raises(ValidationError) as raised:
        StackSpec.model_validate(table)
    assert raised.value.errors()[0]["loc"][0] == field
