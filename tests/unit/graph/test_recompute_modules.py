"""Recomputation of single modules: what runs again, what need not be kept."""

from __future__ import annotations

import pytest

from hwsim.analysis.published.filled import open_choices
from hwsim.analysis.training.config import checked_config
from hwsim.cost.footprint_training import stage_footprint
from hwsim.errors import InputError, UnknownNameError
from hwsim.graph.modules import MODULES, modules_of
from hwsim.graph.training import training_graph
from hwsim.specs.catalogs import load_model, load_stack, load_system
from hwsim.specs.published.training import PublishedRun

NEMO = load_stack("nemo")


def again(name: str, recompute: str, dtype: str = "bf16") -> list[list[str]]:
    """Return the operators that run again, of each kind of layer in turn."""
    graph = training_graph(
        load_model(name), micro_batch=1, seq=4096, dp=8, ep=8, dtype=dtype,
        recompute=recompute, stack=NEMO,
    )  # fmt: skip
    return [
        [n.op.name for n in b.nodes if n.op.phase == "recompute"]
        for b in graph.blocks
        if b.name == "decoder_backward"
    ]


def kept(name: str, recompute: str) -> float:
    model = load_model(name)
    return stage_footprint(
        model, layers=range(len(model.layer_kinds)), first=True, last=True,
        micro_batch=1, seq=4096, dp=8, ep=8, recompute=recompute, stack=NEMO,
    ).activations  # fmt: skip


def test_norms_and_the_experts_activation() -> None:
    ran = again("gpt-oss-120b", "layernorm+moe_act")
    activation = ["experts_activation", "clamp", "clamp_join"]
    assert ran[0] == ["attention_norm", "ffn_norm", *activation]
    assert again("qwen3-30b-a3b", "moe_act") == [["experts_activation"]]


def test_a_whole_mixture_runs_again_with_its_exchanges() -> None:
    dense, mixture = sorted(again("deepseek-v3", "moe"), key=len)
    assert dense == []
    assert mixture[0] == "router"
    assert {"experts", "dispatch_exchange", "combine_exchange"} <= set(mixture)
    assert not {"attention", "ffn_norm", "ffn_add"} & set(mixture)


def test_dense_layers_and_projections_of_latents() -> None:
    dense, mixture = sorted(again("deepseek-v3", "mla_up_proj+mlp"), key=len)[::-1]
    assert {"gate_up", "down"} <= set(dense) | set(mixture)
    both = set(dense) & set(mixture)
    assert both == {"q_a_norm", "q_b", "kv_a_norm", "rotary", "kv_b", "join_keys"}


def test_attention_runs_again_though_its_kernel_is_fused() -> None:
    assert again("gpt-oss-120b", "core_attn")[0] == ["attention"]
    assert again("gpt-oss-120b", "selective")[0] == []


def test_shared_experts_without_the_sum() -> None:
    mixture = max(again("deepseek-v3", "shared_experts"), key=len)
    assert mixture == ["shared_gate_up", "shared_silu_and_mul", "shared_down"]


@pytest.mark.parametrize("module", [m for m in MODULES if m != "core_attn"])
def test_less_is_kept_for_every_module(module: str) -> None:
    full, none = kept("deepseek-v3", "full"), kept("deepseek-v3", "none")
    assert full < kept("deepseek-v3", module) < none


def test_more_modules_keep_less() -> None:
    parts = "layernorm", "layernorm+moe_act", "layernorm+moe"
    sizes = [kept("nemotron-3-nano-30b-a3b", p) for p in parts]
    assert sizes == sorted(sizes, reverse=True)


def test_names_in_any_order_and_with_commas() -> None:
    model, system = load_model("mixtral-8x7b"), load_system("dgx-h100")
    config = checked_config(
        model, system, dtype="bf16", recompute="moe_act, layernorm", zero_stage=3
    )
    assert config.recompute == "layernorm+moe_act"
    with pytest.raises(InputError, match="moe_act"):
        checked_config(model, system, dtype="bf16", recompute="moe_acts")
    with pytest.raises(UnknownNameError):
        training_graph(model, micro_batch=1, seq=128, recompute="norms", stack=NEMO)
    assert modules_of("full") == frozenset()


@pytest.mark.parametrize(
    ("cell", "read"),
    [
        ("moe_act, layernorm", "layernorm+moe_act"),
        ("selective (mla_up_proj, mlp)", "mla_up_proj+mlp"),
        ("core_attn", "core_attn"),
        ("moe", "selective"),
        ("full", "full"),
    ],
)
def test_cells_of_published_tables(cell: str, read: str) -> None:
    run = PublishedRun(file="f", row=1, recompute=cell, micro_batch=1)
    found = list(open_choices(run, load_model("mixtral-8x7b"), choose_vpp=False))
    assert [choice["recompute"] for choice in found] == [read]
