"""Training of mixtures: counts that the host waits for, layers that stay wide."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwsim.graph.op import Elementwise, Matmul, MoeExperts
from hwsim.graph.opgraph import Block, Node, OpGraph
from hwsim.graph.training import training_graph
from hwsim.schedule.inorder import play_inorder
from hwsim.sim.engine import play
from hwsim.specs.catalogs import load_model, load_stack
from hwsim.specs.model import LayerKind
from hwsim.specs.model_parts import NarrowSpec


def graph_of(name: str, stack: str, ep: int = 8, **more: object) -> OpGraph:
    options = {"micro_batch": 1, "seq": 4096, "dp": 8, "dtype": "fp8"} | more
    return training_graph(load_model(name), ep=ep, stack=load_stack(stack), **options)  # type: ignore[arg-type]


def synced(graph: OpGraph) -> list[tuple[str, str]]:
    return [
        (node.op.name, node.op.phase)
        for block in graph.blocks
        for node in block.nodes
        if node.synced
    ]


def test_the_host_waits_for_counts_before_rows_are_exchanged() -> None:
    assert synced(graph_of("qwen3-30b-a3b", "nemo")) == [
        ("dispatch_exchange", "forward")
    ]
    assert synced(graph_of("qwen3-30b-a3b", "nemo", ep=1)) == [("experts", "forward")]


def test_hybrid_ep_gathers_a_map_of_tokens_and_experts() -> None:
    blocks = graph_of("qwen3-30b-a3b", "nemo-hybridep").blocks
    nodes = blocks[1].nodes
    names = [node.op.name for node in nodes]
    gather, scan = names.index("routing_gather"), names.index("routing_scan")
    # A byte for each of 4,096 tokens of 8 ranks and each of 128 experts.
    size = 4096 * 8 * 128
    assert nodes[gather].op.nbytes / 2 == nodes[scan].op.nbytes_read == size
    assert nodes[gather].deps == (names.index("topk"),)
    assert scan in nodes[names.index("dispatch")].deps
    trained = {node.op.name for block in blocks for node in block.nodes}
    assert "router_weight_gradient" in trained


@pytest.mark.parametrize("stack", ["nemo", "nemo-deepep"])
def test_other_libraries_gather_no_map(stack: str) -> None:
    blocks = graph_of("qwen3-30b-a3b", stack).blocks
    assert not any("routing" in n.op.name for b in blocks for n in b.nodes)


@pytest.mark.parametrize("stack", ["nemo-graphs", "nemo-drop", "torchtitan"])
def test_graphs_and_capacities_need_no_counts(stack: str) -> None:
    assert synced(graph_of("qwen3-30b-a3b", stack)) == []


def test_a_mixture_that_runs_again_is_counted_again() -> None:
    found = synced(graph_of("qwen3-30b-a3b", "nemo", recompute="moe"))
    assert [phase for _, phase in found] == ["forward", "recompute"]


def small(*, waits: bool, repeat: int = 1) -> OpGraph:
    op = Elementwise(name="a", dtype="fp32", numel=1.0, function="add")
    nodes = (
        Node(op), Node(replace(op, name="b"), (0,), synced=waits),
        Node(replace(op, name="c"), (1,)),
    )  # fmt: skip
    return OpGraph("training", (Block("layer", nodes, repeat),), 1.0)


@pytest.mark.parametrize("repeat", [1, 3, 40])
@pytest.mark.parametrize("waits", [False, True])
def test_the_closed_form_waits_as_the_simulation_does(waits: bool, repeat: int) -> None:
    graph = small(waits=waits, repeat=repeat)
    times, host = [[5.0, 1.0, 1.0]], [[0.5, 2.0, 0.5]]
    closed = play_inorder(graph, times, host)
    played = play(graph, times, [[0.0] * 3], host)
    assert closed.makespan == pytest.approx(played.makespan)
    assert closed.idle == pytest.approx(played.idle)


def test_what_a_wait_costs() -> None:
    times, host = [[5.0, 1.0, 1.0]], [[0.5, 2.0, 0.5]]
    # Ahead of the device, the host is felt before the first kernel alone; else the
    # second is launched two seconds after the first has ended.
    free = play_inorder(small(waits=False), times, host)
    held = play_inorder(small(waits=True), times, host)
    assert (free.makespan, held.makespan) == pytest.approx((7.5, 9.5))


def dtypes(dtype: str) -> dict[str, list[str]]:
    """Return the dtypes of products and experts, over the kinds of layer."""
    graph = graph_of("nemotron-3-super-120b-a12b-mtp", "nemo", dtype=dtype)
    found: dict[str, list[str]] = {}
    for block in graph.blocks:
        if block.name == "decoder":
            for node in block.nodes:
                if isinstance(node.op, Matmul | MoeExperts):
                    found.setdefault(node.op.name, []).extend(
                        [node.op.dtype] * block.repeat
                    )
    return found


def test_fp4_leaves_layers_and_products_wide() -> None:
    found = dtypes("fp4")
    assert found["experts"].count("bf16") == 9  # of the last 14 and of two blocks
    assert set(found["experts"]) == {"fp4", "bf16"}
    assert set(found["qkv"]) == set(found["latent_up"]) == {"bf16"}
    assert set(found["ssm_out"]) == {"fp8", "bf16"}


def test_fp8_leaves_what_predicts_further_wide() -> None:
    found = dtypes("fp8")
    assert found["experts"].count("bf16") == 2
    assert set(found["ssm_out"]) == {"fp8"}
    assert set(dtypes("bf16")["experts"]) == {"bf16"}


def test_widths_count_from_the_last_layer() -> None:
    narrow = NarrowSpec(wide_layers=1, fp4_wide_layers=3, fp4_wide=("a",))
    assert [narrow.width(i) for i in range(4)] == ["narrow", "fp4", "fp4", ""]
    assert narrow.dtype("a", "fp4", "bf16") == "bf16"
    assert narrow.dtype("a", "fp8", "bf16") == "fp8"
    assert LayerKind().wide == ""


def test_lightning_predicts_two_tokens_further_ahead_in_sixteen_bits() -> None:
    plain, ahead = (
        graph_of(f"nemotron-3.5-lightning-30b-a3b{end}", "nemo", dtype="fp8")
        for end in ("", "-mtp")
    )

    def products(graph: OpGraph, name: str, dtype: str) -> int:
        return sum(
            block.repeat * (node.op.name == name and node.op.dtype == dtype)
            for block in graph.blocks
            for node in block.nodes
            if isinstance(node.op, Matmul | MoeExperts)
        )

    assert products(plain, "experts", "fp8") == products(ahead, "experts", "fp8")
    assert products(plain, "experts", "bf16") == 0 < products(ahead, "experts", "bf16")
    assert products(ahead, "qkv", "bf16") == 2
    assert products(plain, "qkv", "bf16") == 0
