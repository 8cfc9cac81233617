"""What a compiler leaves out of recomputation, and cuts up beside collectives."""

from __future__ import annotations

from typing import Any

import pytest

from hwsim.analysis.training.train import run_training
from hwsim.graph.op import Collective, Matmul
from hwsim.graph.opgraph import OpGraph
from hwsim.graph.training import training_graph
from hwsim.graph.verify import verify
from hwsim.specs.catalogs import load_model, load_stack, load_system
from tests.strategies.graphs import stack_with

LLAMA = load_model("llama-2-7b")
MODELS = ("llama-2-7b", "gpt-3-1.3b", "mixtral-8x7b", "t5-base", "mamba-2.8b")


def train(model: Any, stack: Any, **given: Any) -> OpGraph:
    options = {"micro_batch": 1, "seq": 512, "recompute": "full"} | given
    graph = training_graph(model, stack=stack, **options)
    verify(graph)
    return graph


def again(graph: OpGraph) -> dict[str, float]:
    """FLOP of each operator that is run again."""
    return {
        node.op.name: node.op.flop
        for _, _, node, _ in graph.distinct()
        if node.op.phase == "recompute"
    }


@pytest.mark.parametrize("name", MODELS)
def test_what_only_the_next_layer_reads_is_not_run_again(name: str) -> None:
    model = load_model(name)
    whole, needed = (
        train(model, stack_with(recompute=r), dropout=False)
        for r in ("whole", "needed")
    )
    assert set(again(needed)) < set(again(whole))
    assert needed.flop < whole.flop
    assert needed.model_flop == whole.model_flop


def test_the_last_product_of_a_layer_is_dead() -> None:
    made = {
        r: again(train(LLAMA, stack_with(recompute=r))) for r in ("whole", "needed")
    }
    lost = set(made["whole"]) - set(made["needed"])
    assert {"down"} <= lost
    assert {"q", "out", "attention"} & set(made["needed"]) or "qkv" in made["needed"]


def test_norms_after_the_branch_read_the_last_product() -> None:
    model = load_model("gemma-2-2b")
    assert model.norms_per_layer == 4
    assert "down" in again(train(model, stack_with(recompute="needed")))


def test_branches_side_by_side_both_end_dead() -> None:
    model = load_model("palm-8b")
    assert model.parallel_block
    kept = again(train(model, stack_with(recompute="needed")))
    assert not {"out", "down"} & set(kept)


def test_frozen_layers_need_less_still() -> None:
    from hwsim.graph.lora import Lora

    stack = stack_with(recompute="needed")
    tuned = again(train(LLAMA, stack, lora=Lora(8, ("qkv",))))
    assert set(tuned) <= set(again(train(LLAMA, stack))) | {
        name for name in tuned if "lora" in name
    }


def test_products_begin_with_the_gather_that_they_read() -> None:
    stack = stack_with(tp=True, windows=True, qkv=False)
    graph = train(LLAMA, stack, tp=4, sequence_parallel=True)
    block = next(b for b in graph.blocks if b.name == "decoder")
    names = [n.op.name for n in block.nodes]
    gather = names.index("attention_gather")
    for name in ("q", "k", "v"):
        node = block.nodes[names.index(name)]
        assert gather not in node.deps
        assert set(block.nodes[gather].deps) <= set(node.deps)
    waits = [i for i, n in enumerate(block.nodes) if gather in n.deps]
    assert waits
    assert not isinstance(block.nodes[waits[0]].op, Matmul)


def test_sums_are_made_by_the_product_before_them() -> None:
    stack = stack_with(tp=True, windows=True)
    graph = train(LLAMA, stack, tp=4, sequence_parallel=True)
    sums = [
        node.op.within
        for block in graph.blocks
        if block.name.startswith("decoder")
        for node in block.nodes
        if isinstance(node.op, Collective) and node.op.collective == "reduce_scatter"
    ]
    assert len(sums) >= 4
    assert all(sums)


@pytest.mark.parametrize("sequence_parallel", [True, False])
def test_windows_hide_collectives_and_never_all_of_a_step(
    sequence_parallel: bool,
) -> None:
    system, common = load_system("tpu-v5e-16"), {
        "devices": 16, "tp": 16, "seq": 2048, "micro_batch": 16, "dtype": "bf16",
        "sequence_parallel": sequence_parallel,
    }  # fmt: skip
    plain = load_stack("maxtext")
    off = plain.overlap.model_copy(update={"windows": False, "tp": False})
    exposed, hidden = (
        run_training(LLAMA, system, stack, **common)
        for stack in (plain.model_copy(update={"overlap": off}), plain)
    )
    assert hidden.step_s < exposed.step_s
    busy = hidden.made.parts["compute"] + hidden.made.parts["memory"]
    assert hidden.step_s > busy


def test_closed_form_and_simulation_agree_on_windows() -> None:
    system = load_system("tpu-v5e-16")
    times = [
        run_training(
            LLAMA, system, load_stack("maxtext"), devices=16, tp=16, micro_batch=4,
            seq=2048, sequence_parallel=True, recompute="full", dtype="bf16",
            engine=engine,
        ).step_s
        for engine in ("closed_form", "simulate")
    ]  # fmt: skip
    assert times[0] == pytest.approx(times[1], rel=1e-9)


def test_waits_for_one_transfer_after_another_are_communication() -> None:
    system, stack = load_system("tpu-v5e-16"), load_stack("maxtext")
    assert not stack.overlap.dp
    parts = []
    for engine in ("closed_form", "simulate"):
        result = run_training(
            LLAMA, system, stack, devices=16, dp=16, zero_stage=3, micro_batch=1,
            seq=1024, recompute="full", dtype="bf16", engine=engine,
        )  # fmt: skip
        parts.append(result.made.parts)
        # A layer's gather follows the reduction of the gradients before it.
        assert result.made.parts["idle"] < 0.001 * result.step_s
        assert result.made.parts["interconnect"] > 0.1 * result.step_s
    assert parts[0] == pytest.approx(parts[1], rel=1e-9, abs=1e-9)
