"""State-space layers: work, traffic, parameters, how ranks share them."""

from __future__ import annotations

import numpy as np
import pytest

from hwsim.cost.footprint import inference_footprint, training_footprint
from hwsim.errors import InputError, SpecError
from hwsim.graph.inference import decode_graph, prefill_graph
from hwsim.graph.opgraph import OpGraph
from hwsim.graph.scan import SelectiveScan, StateScan
from hwsim.graph.training import training_graph
from hwsim.specs.catalogs import load_model, load_stack
from hwsim.specs.model import ModelSpec

MODEL = load_model("mamba2-130m")
HYBRID = load_model("nemotron-3-nano")
STACK = load_stack("default-training")


def scans(graph: OpGraph) -> dict[str, StateScan]:
    return {
        node.op.phase: node.op
        for _, _, node, _ in graph.distinct()
        if isinstance(node.op, StateScan)
    }


def named(graph: OpGraph, name: str):
    return next(n.op for _, _, n, _ in graph.distinct() if n.op.name == name)


def reference_scan_flop(tokens: int, chunk: int, heads: int, width: int, n: int) -> int:
    """Multiply-adds of the chunked algorithm, counted by doing it (one group)."""
    count = 0
    x, b = np.ones((tokens, heads, width)), np.ones((tokens, n))
    for start in range(0, tokens, chunk):
        piece = b[start : start + chunk]
        count += 2 * (piece @ piece.T).size * n  # scores, in full
        for i in range(len(piece)):
            count += 2 * (i + 1) * x[start].size  # behind the mask
        count += 2 * 2 * len(piece) * x[start].size * n  # states in and out
    return count


def test_scan_counts_what_the_algorithm_does() -> None:
    op = StateScan(
        name="s", dtype="bf16", tokens=64.0, heads=3, head_dim=4, groups=1,
        state=8, chunk=16.0,
    )  # fmt: skip
    assert op.flop == reference_scan_flop(64, 16, 3, 4, 8)
    assert op.model_flop == 5 * 64 * 3 * 4 * 8


def test_mamba_layer_has_the_published_work() -> None:
    """Two FLOP a weight and token, and the scan; backward twice of it."""
    graph = training_graph(MODEL, micro_batch=1, seq=512, stack=STACK, last=False)
    found = scans(graph)
    layer = 768 * (2 * 1536 + 2 * 128 + 24) + 1536 * 768
    linear = 6 * 512 * (24 * layer + 50_288 * 768)
    scan = 3 * 24 * 5 * 512 * 1536 * 128
    assert graph.model_flop == pytest.approx(linear + scan, rel=1e-9)
    assert found["backward"].model_flop == 2 * found["forward"].model_flop
    assert found["backward"].flop > 2 * found["forward"].flop


def test_state_does_not_grow_with_the_context() -> None:
    """Decode of a state-space model costs the same wherever it is."""
    stack = load_stack("default-inference")
    near, far = (
        decode_graph(MODEL, batch=4, context=c, stack=stack) for c in (16, 65_536)
    )
    assert near.nbytes == far.nbytes
    held = [
        inference_footprint(MODEL, batch=4, context=c, prompt=0).kv_cache
        for c in (16, 65_536)
    ]
    assert held[0] == held[1] == 4 * 24 * (1536 * 128 * 4 + (1536 + 256) * 3 * 2)


def test_hybrid_caches_its_few_attention_layers() -> None:
    short, long = (
        inference_footprint(HYBRID, batch=1, context=c, prompt=0).kv_cache or 0.0
        for c in (1000, 2000)
    )
    assert long - short == 1000 * 6 * 2 * 2 * 128 * 2


def test_prompt_that_goes_on_reads_the_state() -> None:
    stack = load_stack("default-inference")

    def read(history: int) -> float:
        graph = prefill_graph(
            MODEL, batch=2, prompt=64, history=history, stack=stack
        )  # fmt: skip
        return sum(
            o.nbytes * repeat
            for _, _, node, repeat in graph.distinct()
            for o in node.op.reads
            if o.role == "kv_cache"
        )

    assert read(0) == 0.0
    assert read(64) == 2 * 24 * (1536 * 128 * 4 + (1536 + 256) * 3 * 2)


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_heads_are_divided_and_small_groups_repeated(tp: int) -> None:
    whole = scans(training_graph(MODEL, micro_batch=1, seq=256, stack=STACK))
    part = scans(training_graph(MODEL, micro_batch=1, seq=256, tp=tp, stack=STACK))
    assert part["forward"].heads * tp == whole["forward"].heads
    assert part["forward"].groups == whole["forward"].groups == 1
    groups = scans(training_graph(HYBRID, micro_batch=1, seq=256, tp=2, stack=STACK))
    assert groups["forward"].groups == 4


def test_context_ranks_exchange_tokens_for_heads() -> None:
    graph = training_graph(MODEL, micro_batch=1, seq=1024, cp=4, dp=1, stack=STACK)
    scan = scans(graph)["forward"]
    assert (scan.tokens, scan.heads) == (1024, 6)
    assert named(graph, "ssm_scatter").collective == "all_to_all"


def test_several_sequences_are_copied_into_order_and_back() -> None:
    """Megatron-Core's mixer: all that enters, and the scan's result; backward too."""
    model, moved = load_model("mamba2-130m"), {}
    for name, batch in (("nemo", 1), ("nemo", 4), ("pytorch-fsdp", 4)):
        graph = training_graph(
            model, micro_batch=batch, seq=512, stack=load_stack(name)
        )
        ops = [n.op for _, _, n, _ in graph.distinct() if "order" in n.op.name]
        moved[name, batch] = ops
    assert not moved["nemo", 1]
    assert not moved["pytorch-fsdp", 4]
    found = moved["nemo", 4]
    assert [op.name for op in found] == [
        "ssm_order", "ssm_reorder", "ssm_reorder_gradient", "ssm_order_gradient"
    ]  # fmt: skip
    inner, groups, heads = 1536, 2 * 128, 24
    entering = 2 * inner + groups + heads
    tokens = 4 * 512
    widths = [entering, inner, inner, entering]
    assert [op.nbytes for op in found] == [4 * tokens * w for w in widths]
    assert [op.singly for op in found] == [tokens * w for w in widths]


def test_experts_in_a_latent_send_narrow_rows() -> None:
    """Rows that go to the experts are as wide as the latent."""
    model = load_model("nemotron-3-super")
    graph = training_graph(model, micro_batch=1, seq=256, ep=8, dp=8, stack=STACK)
    sent = named(graph, "dispatch_exchange")
    assert sent.message == 256 * 22 * 1024 * 2
    assert named(graph, "latent_down").n == 1024
    assert named(graph, "experts").hidden == 1024
    assert named(graph, "shared_up").k == 4096


def test_recomputation_drops_what_layers_keep() -> None:
    options = {"micro_batch": 1, "seq": 4096}
    kept = training_footprint(MODEL, **options).activations
    again = training_footprint(MODEL, recompute="full", **options).activations
    assert again < kept / 2  # the rest is the loss


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"tp": 5}, "tp 5 does not divide the 24 ssm.heads|tp 5 does not divide"),
        ({"cp": 5, "dp": 1}, "cp 5 does not divide the 24 ssm.heads"),
    ],
)
def test_bad_degrees_are_named(kwargs: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        training_graph(MODEL, micro_batch=1, seq=400, stack=STACK, **kwargs)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pattern": "M" * 23}, "23 letters but there are 24 layers"),
        ({"pattern": "M" * 23 + "x"}, "pattern has 'x'"),
        ({"pattern": "a" * 24}, "ssm is given but no layer"),
        ({"ssm": None}, "there is no ssm"),
        ({"pattern": "M" * 23 + "E"}, "there is no moe"),
        ({"ssm": {"heads": 24, "head_dim": 64, "state": 16, "groups": 5}}, "groups"),
    ],
)
def test_bad_patterns_are_named(change: dict, says: str) -> None:
    with pytest.raises((ValueError, SpecError), match=says):
        ModelSpec.model_validate(MODEL.model_dump() | change)


# Selective scans (Mamba) ------------------------------------------------------

SELECTIVE = load_model("mamba-2.8b")


def selective(graph: OpGraph) -> dict[str, SelectiveScan]:
    return {
        node.op.phase: node.op
        for _, _, node, _ in graph.distinct()
        if isinstance(node.op, SelectiveScan)
    }


@pytest.mark.parametrize(
    ("name", "count"),
    [("mamba-2.8b", 2_768_345_600), ("falcon-mamba-7b", 7_272_665_088)],
)
def test_selective_models_have_their_published_parameters(name: str, count: int):
    assert load_model(name).num_parameters == count


def test_a_selective_layer_has_the_work_of_its_products_and_scan() -> None:
    graph = training_graph(SELECTIVE, micro_batch=1, seq=512, stack=STACK, last=False)
    found = selective(graph)
    values = 512 * 5120 * 16
    assert found["forward"].model_flop == 5 * values
    assert found["backward"].model_flop == 10 * values
    assert found["backward"].flop == 3 * found["forward"].flop
    hidden, inner, rank, state = 2560, 5120, 160, 16
    layer = hidden * 2 * inner + inner * (rank + 2 * state) + rank * inner
    layer += inner * hidden
    head = hidden * SELECTIVE.vocab
    products = 6 * 512 * (64 * layer + head)
    assert graph.model_flop == pytest.approx(products + 64 * 15 * values, rel=1e-3)


def test_a_decode_step_reads_and_writes_the_state_whatever_the_context() -> None:
    steps = [
        named(decode_graph(SELECTIVE, batch=4, context=c, stack=STACK), "ssm_step")
        for c in (100, 100_000)
    ]
    state = 4 * 5120 * 16 * 4  # fp32
    kept = [sum(o.nbytes for o in s.writes if o.role == "kv_cache") for s in steps]
    assert kept == [state, state]
    assert steps[0].nbytes == steps[1].nbytes
    short, long = (
        inference_footprint(
            SELECTIVE, batch=4, prompt=c, context=c, dtype="bf16"
        ).kv_cache
        for c in (100, 100_000)
    )
    assert short == long == 64 * (state + 4 * 5120 * 3 * 2)


def test_tensor_parallel_ranks_split_channels_and_sum_up_the_selection() -> None:
    whole, half = (
        training_graph(
            SELECTIVE, micro_batch=1, seq=512, stack=STACK, last=False, tp=tp
        )
        for tp in (1, 2)
    )
    assert selective(half)["forward"].channels == 2560
    names = {n.op.name for _, _, n, _ in half.distinct()}
    assert "ssm_select_reduce" in names
    assert "ssm_select_reduce" not in {n.op.name for _, _, n, _ in whole.distinct()}
    assert named(half, "ssm_select_reduce").message == 512 * (160 + 32) * 2
    held = training_footprint(SELECTIVE, micro_batch=1, seq=512)
    split = training_footprint(SELECTIVE, micro_batch=1, seq=512, tp=2)
    assert split.weights == pytest.approx(held.weights / 2, rel=0.01)


def test_sequences_of_a_selective_scan_are_not_shared_out() -> None:
    with pytest.raises(InputError, match="use cp 1"):
        training_graph(SELECTIVE, micro_batch=1, seq=512, stack=STACK, cp=2)


def test_a_selective_scan_has_heads_of_width_one() -> None:
    wrong = SELECTIVE.ssm.model_dump() | {"head_dim": 2}
    with pytest.raises(ValueError, match="head_dim and groups are 1, not 2 and 1"):
        type(SELECTIVE.ssm)(**wrong)


def test_longer_prompts_take_selective_models_longer_in_proportion() -> None:
    import hwsim

    times = [
        hwsim.estimate(SELECTIVE, "a100", phase="prefill", batch=1, prompt=n).time_s
        for n in (4096, 16384)
    ]
    assert times[1] == pytest.approx(4 * times[0], rel=0.1)
