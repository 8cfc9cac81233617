"""Bytes that a step sends, against volumes worked out by hand."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from hwsim.graph.op import Collective
from hwsim.graph.training import training_graph
from hwsim.specs.catalogs import load_model, load_stack

SEQ = 4096
STACK = load_stack("default-training")


def sent(model: str, **options: Any) -> dict[tuple[str, str, str], float]:
    """Return bytes by axis, collective and phase of one microbatch."""
    graph = training_graph(
        load_model(model), stack=STACK, micro_batch=1, seq=SEQ, **options
    )
    found: dict[tuple[str, str, str], float] = defaultdict(float)
    for block in graph.blocks:
        for op in (node.op for node in block.nodes):
            if isinstance(op, Collective):
                found[op.axis, op.collective, op.phase] += op.message * block.repeat
    return found


# Llama 2 7B: 32 layers of width 4096, a table and a head of 32000 words.
LAYERS, HIDDEN, VOCAB = 32, 4096, 32000
PARAMETERS = 6_738_415_616
OUTPUT = SEQ * HIDDEN * 2.0  # one layer's result in bf16


def test_tensor_parallel_sums() -> None:
    """Two sums a layer each way; the table's before, the head's gradient after."""
    found = sent("llama-2-7b", tp=4)
    scalars = 3 * SEQ * 4.0  # maximum, sum and target of the loss
    assert found["tp", "all_reduce", "forward"] == (2 * LAYERS + 1) * OUTPUT + scalars
    assert found["tp", "all_reduce", "backward"] == (2 * LAYERS + 1) * OUTPUT


def test_sequence_parallel_halves() -> None:
    """Each sum becomes a scatter and a gather; inputs are gathered again [1]_.

    .. [1] V. Korthikanti et al., 2022, arXiv:2205.05198, section 4.2.2.
    """
    found = sent("llama-2-7b", tp=4, sequence_parallel=True)
    each = (2 * LAYERS + 1) * OUTPUT
    assert found["tp", "reduce_scatter", "forward"] == each
    assert found["tp", "all_gather", "forward"] == each
    assert found["tp", "reduce_scatter", "backward"] == each
    assert found["tp", "all_gather", "backward"] == 2 * each


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_data_parallel_stages(stage: int) -> None:
    """ZeRO, arXiv:1910.02054, section 7: 2 Psi, and 3 Psi with stage 3."""
    found = sent("llama-2-7b", dp=8, zero_stage=stage)
    whole = 2.0 * PARAMETERS
    layers = whole - 2.0 * (2 * VOCAB * HIDDEN + HIDDEN)
    scalar = 4.0 if stage else 0.0
    assert found["dp", "all_reduce", "optimizer"] == scalar
    if stage == 0:
        assert found["dp", "all_reduce", "backward"] == pytest.approx(whole)
        return
    assert found["dp", "reduce_scatter", "backward"] == pytest.approx(whole)
    gathered = "forward" if stage == 3 else "optimizer"
    assert found["dp", "all_gather", gathered] == pytest.approx(whole)
    again = layers if stage == 3 else 0.0
    assert found["dp", "all_gather", "backward"] == pytest.approx(again)


def test_hybrid_shards() -> None:
    """Shards inside a group, sums of a shard between the groups."""
    found = sent("llama-2-7b", dp=16, zero_stage=3, dp_shard=8)
    whole = 2.0 * PARAMETERS
    assert found["dp", "reduce_scatter", "backward"] == pytest.approx(whole)
    assert found["dp", "all_reduce", "backward"] == pytest.approx(whole / 8)


# Llama 2 70B: 80 layers, 64 heads and 8 key heads of 128.
KEYS = 2 * 8 * 128 * 2.0  # of one token, keys and values
QUERIES = 64 * 128 * 2.0


def test_context_ring() -> None:
    """Each of cp - 1 steps sends a block; backward its gradients as well."""
    found = sent("llama-2-70b", cp=4)
    block = SEQ / 4 * KEYS
    assert found["cp", "send_recv", "forward"] == 80 * 3 * block
    assert found["cp", "send_recv", "backward"] == 80 * 6 * block


def test_context_all_to_all() -> None:
    """Queries, keys and values go one way, the output the other (Ulysses)."""
    found = sent("llama-2-70b", cp=4, cp_mode="all_to_all")
    each = 80 * SEQ / 4 * (QUERIES + KEYS + QUERIES)
    assert found["cp", "all_to_all", "forward"] == each
    assert found["cp", "all_to_all", "backward"] == each


def test_context_all_gather() -> None:
    """Keys of all ranks are not kept: backward gathers them again."""
    found = sent("llama-2-70b", cp=4, cp_mode="all_gather")
    whole = 80 * SEQ * KEYS
    assert found["cp", "all_gather", "forward"] == whole
    assert found["cp", "all_gather", "backward"] == whole
    assert found["cp", "reduce_scatter", "backward"] == whole


@pytest.mark.parametrize(
    ("options", "load"),
    [({}, 1.0), ({"imbalance": 1.3}, 1.3), ({"capacity_factor": 1.25}, 1.25)],
)
def test_expert_rows(options: dict[str, float], load: float) -> None:
    """Each token's row to two experts and back, each way (Mixtral)."""
    found = sent("mixtral-8x7b", dp=8, ep=8, **options)
    each = 32 * 2 * (SEQ * 2 * 4096 * 2.0) * load
    assert found["ep", "all_to_all", "forward"] == pytest.approx(each)
    assert found["ep", "all_to_all", "backward"] == pytest.approx(each)


def work(**options: Any) -> float:
    graph = training_graph(
        load_model("llama-2-7b"), stack=STACK, micro_batch=1, seq=SEQ, **options
    )
    return sum(
        getattr(node.op, "flop", 0.0) * block.repeat
        for block in graph.blocks
        for node in block.nodes
    )


# Products of a layer and of the head; causal attention, both its products.
PRODUCTS = 2.0 * SEQ * (LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * 11008) + VOCAB * HIDDEN)
ATTENTION = 2.0 * SEQ**2 * HIDDEN * LAYERS


def test_work_of_a_step() -> None:
    """6 N D and attention, whose fused backward makes the scores again."""
    expected = 3 * PRODUCTS + 3.5 * ATTENTION
    assert work() == pytest.approx(expected, rel=2e-3)
    again = PRODUCTS - 2.0 * SEQ * VOCAB * HIDDEN + ATTENTION
    assert work(recompute="full") == pytest.approx(expected + again, rel=2e-3)
    assert work(tp=4) == pytest.approx(expected / 4, rel=2e-3)
    assert work(cp=4) == pytest.approx(expected / 4, rel=5e-3)


def test_recomputation_of_every_other_layer() -> None:
    none, half, full = (
        work(**options)
        for options in (
            {}, {"recompute": "full", "recompute_every": 2}, {"recompute": "full"},
        )
    )  # fmt: skip
    assert half - none == pytest.approx((full - none) / 2)
