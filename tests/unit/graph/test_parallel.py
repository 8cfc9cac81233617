"""Context and expert parallelism: work, messages and groups of each rank."""

from __future__ import annotations

from typing import Any

import pytest

from hwsim.errors import InputError, UnknownNameError
from hwsim.graph.inference import Part, decode_graph, prefill_graph
from hwsim.graph.op import Attention, Collective, Matmul, MoeExperts, OptimizerUpdate
from hwsim.graph.opgraph import OpGraph
from hwsim.graph.stage import stage_graphs
from hwsim.graph.training import training_graph
from hwsim.graph.verify import verify
from hwsim.specs.catalogs import load_model, load_stack
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import Fusion, Overlap, StackSpec
from tests.strategies.graphs import FUSED, SEPARATE, stack_with

MODES = ("ring", "all_to_all", "all_gather")
PRODUCTS = Matmul | Attention | MoeExperts


def train(model: ModelSpec, **kwargs: Any) -> OpGraph:
    given = {"micro_batch": 2, "seq": 1024, "stack": FUSED} | kwargs
    graph = training_graph(model, **given)
    verify(graph)
    return graph


def work(graph: OpGraph, name: str = "flop", kinds: Any = PRODUCTS) -> float:
    return sum(
        getattr(node.op, name) * repeat
        for _, _, node, repeat in graph.distinct()
        if isinstance(node.op, kinds)
    )


def sent(graph: OpGraph, axis: str) -> list[tuple[str, str, float, int, int]]:
    return [
        (b.name, n.op.collective, n.op.message, n.op.group_size, n.op.stride)
        for b in graph.blocks
        for n in b.nodes
        if isinstance(n.op, Collective) and n.op.axis == axis
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "name", ["llama-2-7b", "llama-3-8b", "deepseek-v2-lite", "bert-base", "t5-base"]
)
def test_context_ranks_do_all_the_work_between_them(name: str, mode: str) -> None:
    model, cp = load_model(name), 4
    seq = 512
    whole = train(model, seq=seq)
    part = train(model, seq=seq, cp=cp, cp_mode=mode)
    # Masked positions are rounded up on each rank.
    rel = 1e-12 if model.kind != "encoder" else 0.03
    for count in ("flop", "model_flop", "full_flop"):
        assert cp * work(part, count) == pytest.approx(work(whole, count), rel=rel)


def test_windows_reach_into_the_neighbours_piece() -> None:
    model = load_model("mistral-7b")
    whole = train(model, seq=16384)
    ring = train(model, seq=16384, cp=4)
    assert 4 * ring.full_flop == pytest.approx(whole.full_flop, rel=1e-12)
    # The rank modelled has a full window; the first one's is shorter.
    assert whole.flop < 4 * ring.flop < 1.05 * whole.flop
    layer = [s for s in sent(ring, "cp") if s[0] == "decoder"]
    assert layer == [("decoder", "send_recv", 2.0 * 2 * 4095 * 2 * 8 * 128, 4, 1)]
    exchanged = train(model, seq=16384, cp=4, cp_mode="all_to_all")
    assert 4 * exchanged.flop == pytest.approx(whole.flop, rel=1e-3)


def test_ring_passes_keys_round_and_gradients_home() -> None:
    model = load_model("llama-3-8b")
    graph = train(model, cp=4, tp=2, dp=2)
    block = 2.0 * 2 * 256 * 2 * (8 // 2) * 128
    step = ("send_recv", block, 4, 2)
    layer = [s[1:] for s in sent(graph, "cp") if s[0] == "decoder"]
    assert layer == [step] * 3
    back = [s[1:] for s in sent(graph, "cp") if s[0] == "decoder_backward"]
    assert back == [step] * 6
    # Gradients are the same on all that hold the same parameters.
    reduced = {s[1:2] + s[3:] for s in sent(graph, "dp")}
    assert reduced == {("all_reduce", 8, 2)}
    nodes = next(b for b in graph.blocks if b.name == "decoder").nodes
    first = next(i for i, n in enumerate(nodes) if isinstance(n.op, Attention))
    # The first block starts beside the first message, and waits for none.
    assert all(nodes[d].stream == "compute" for d in nodes[first].deps)
    assert nodes[first - 1].stream == "cp"


def test_heads_are_exchanged_for_tokens() -> None:
    model = load_model("llama-3-8b")
    graph = train(model, cp=4, cp_mode="all_to_all")
    tokens, width = 2 * 256, 128
    sizes = [s[1:3] for s in sent(graph, "cp") if s[0] == "decoder"]
    assert sizes == [
        ("all_to_all", 2.0 * tokens * (32 + 16) * width),
        ("all_to_all", 2.0 * tokens * 32 * width),
    ]
    core = next(n.op for _, _, n, _ in graph.distinct() if isinstance(n.op, Attention))
    assert (core.heads, core.kv_heads, core.seq_q, core.seq_kv) == (8, 2, 1024, 1024)
    # More ranks than key heads: each head goes to several.
    graph = train(model, cp=16, cp_mode="all_to_all")
    size = next(s[2] for s in sent(graph, "cp"))
    assert size == 2.0 * 2 * 64 * (32 + 2 * 16) * width


def test_unfused_attention_gathers_keys() -> None:
    model = load_model("gpt-2-124m")
    for mode in ("all_gather", "all_to_all"):
        graph = train(model, cp=2, cp_mode=mode, stack=SEPARATE)
        whole = train(model, stack=SEPARATE)
        assert 2 * work(graph) == pytest.approx(work(whole), rel=1e-12)


MIXTRAL = load_model("mixtral-8x7b")
DEEPSEEK = load_model("deepseek-v3")


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize(("tp", "etp"), [(1, 1), (4, 4), (4, 1)])
@pytest.mark.parametrize("model", [MIXTRAL, DEEPSEEK])
def test_expert_ranks_do_all_the_work_between_them(
    model: ModelSpec, tp: int, etp: int, split: bool
) -> None:
    """One rank of ep has the work of its own data: the whole over tp."""
    kwargs = {"seq": 256, "sequence_parallel": split, "dp": 8}
    whole = train(model, seq=256)
    part = train(model, tp=tp, ep=8, etp=etp, **kwargs)
    experts = work(whole, kinds=MoeExperts)
    assert tp * work(part, kinds=MoeExperts) == pytest.approx(experts, rel=1e-12)
    if tp == 1:
        assert work(part) == pytest.approx(work(whole), rel=1e-12)
    op = next(n.op for _, _, n, _ in part.distinct() if isinstance(n.op, MoeExperts))
    assert (op.ep, op.tp) == (8, etp)


def test_rows_are_exchanged_and_gradients_divided() -> None:
    graph = train(MIXTRAL, tp=2, dp=8, ep=4, sequence_parallel=True)
    rows = 2.0 * 2 * 1024 / 2 * 2 * 4096
    exchanges = sent(graph, "ep")
    assert [s[1:] for s in exchanges if s[0] == "decoder"] == [
        ("all_to_all", rows, 4, 2)
    ] * 2
    assert len([s for s in exchanges if s[0] == "decoder_backward"]) == 2
    dense, experts = [s for s in sent(graph, "dp") if s[0] == "decoder_backward"]
    assert experts[3:] == (2, 2 * 4)
    assert dense[3:] == (8, 2)
    assert experts[2] == 2.0 * 8 / 4 * 3 * 4096 * 14336 / 2
    whole = train(MIXTRAL, tp=1, dp=8, ep=4)
    update = next(
        n.op for _, _, n, _ in whole.distinct() if isinstance(n.op, OptimizerUpdate)
    )
    routed = 32 * 8 * 3 * 4096 * 14336
    assert update.numel == MIXTRAL.num_parameters - routed * 3 / 4
    shared = train(MIXTRAL, dp=8, ep=4, zero_stage=1)
    update = next(
        n.op for _, _, n, _ in shared.distinct() if isinstance(n.op, OptimizerUpdate)
    )
    assert update.numel == MIXTRAL.num_parameters / 8


def stack(*, exchange: Any = "all_to_all", ep: float = 0.0) -> StackSpec:
    overlap, chosen = Overlap(ep=ep), Fusion(experts="each", exchange=exchange)
    return load_stack("megatron-core").model_copy(
        update={"fusion": chosen, "overlap": overlap}
    )


def test_rows_are_sorted_where_every_expert_gets_its_copy() -> None:
    def names(exchange: str) -> list[str]:
        graph = train(MIXTRAL, dp=4, ep=4, stack=stack(exchange=exchange))
        return [n.op.name for _, _, n, _ in graph.distinct()]

    assert {"sort", "unsort", "sort_gradient"} <= set(names("all_to_all"))
    assert not any("sort" in name for name in names("once"))
    graph = train(MIXTRAL, dp=4, ep=4, stack=stack(exchange="once"))
    fanout = {
        n.op.fanout
        for _, _, n, _ in graph.distinct()
        if isinstance(n.op, Collective) and n.op.collective == "all_to_all"
    }
    assert fanout == {MIXTRAL.moe.experts_per_token} if MIXTRAL.moe else False


def test_exchanges_beside_another_microbatch_move_the_same_bytes() -> None:
    def rows(ep: float) -> list[float]:
        graph = train(MIXTRAL, dp=4, ep=4, stack=stack(ep=ep))
        return [row[2] for row in sent(graph, "ep") if row[1] == "all_to_all"]

    alone, beside = rows(0.0), rows(0.75)
    assert sum(beside) == pytest.approx(sum(alone))
    assert len(beside) == 2 * len(alone)
    graph = train(MIXTRAL, dp=4, ep=4, stack=stack(ep=1.0))
    streams = {
        n.stream
        for _, _, n, _ in graph.distinct()
        if isinstance(n.op, Collective) and n.op.collective == "all_to_all"
    }
    assert streams == {"ep_beside"}


def test_each_predicted_token_passes_the_head() -> None:
    one = load_model("mixtral-8x7b")
    two = one.model_copy(update={"predicted_tokens": 2})
    heads = [
        sum(
            n.op.flop
            for _, _, n, _ in train(m).distinct()
            if n.op.name.startswith("head")
        )
        for m in (one, two)
    ]
    assert heads[1] == pytest.approx(2 * heads[0])


def test_uneven_and_padded_experts() -> None:
    even = train(MIXTRAL, dp=8, ep=8)
    busy = train(MIXTRAL, dp=8, ep=8, imbalance=1.5)
    padded = train(MIXTRAL, dp=8, ep=8, capacity_factor=1.25, imbalance=1.5)
    plain = work(even, kinds=MoeExperts)
    assert work(busy, kinds=MoeExperts) == pytest.approx(1.5 * plain)
    assert work(padded, kinds=MoeExperts) == pytest.approx(1.25 * plain)
    assert busy.model_flop == padded.model_flop == pytest.approx(even.model_flop)
    ratio = sent(busy, "ep")[0][2] / sent(even, "ep")[0][2]
    assert ratio == pytest.approx(1.5)


def test_expert_parallel_inference() -> None:
    for tp, etp in ((1, 1), (4, 4), (4, 1)):
        kwargs: dict[str, Any] = {"batch": 16, "tp": tp, "stack": FUSED}
        one = decode_graph(MIXTRAL, context=100, **kwargs)
        many = decode_graph(MIXTRAL, context=100, ep=4, etp=etp, **kwargs)
        verify(many)
        moved = sent(many, "ep")
        rows = 2.0 * 16 * 2 * 4096 * etp / tp
        assert [s[1:] for s in moved] == [("all_to_all", rows, 4, etp)] * 2
        alike = work(one, kinds=MoeExperts)
        assert work(many, kinds=MoeExperts) == pytest.approx(alike, rel=1e-12)
        ranks = 1 if tp > etp else 4
        assert many.tokens == 16 * ranks
        verify(prefill_graph(MIXTRAL, prompt=32, ep=4, etp=etp, **kwargs))


@pytest.mark.parametrize(
    ("tp", "dp", "ep"), [(4, 1, 4), (4, 1, 2), (1, 4, 4), (1, 4, 1), (2, 2, 2)]
)
def test_joint_layouts_share_the_work_out(tp: int, dp: int, ep: int) -> None:
    kwargs: dict[str, Any] = {"context": 100, "stack": FUSED}
    one = decode_graph(MIXTRAL, batch=16, tp=4, **kwargs)
    many = decode_graph(MIXTRAL, batch=16 // dp, tp=tp, dp=dp, ep=ep, **kwargs)
    verify(many)
    alike = work(one, kinds=MoeExperts)
    assert work(many, kinds=MoeExperts) == pytest.approx(alike, rel=1e-12)
    assert many.tokens == 16
    rows = 2.0 * 16 * 4096
    if ep == 4 == dp:  # whole experts: rows go there and come back
        assert [s[1:] for s in sent(many, "ep")] == [
            ("all_to_all", rows * 2 / dp, 4, 1)
        ] * 2
    elif dp > 1:  # else tokens of all groups are gathered and summed
        assert [s[1:] for s in sent(many, "dp")] == [
            ("all_gather", rows, dp, tp),
            ("reduce_scatter", rows, dp, tp),
        ]
    else:  # or are there already
        assert sent(many, "ep") == sent(many, "dp") == []


@pytest.mark.parametrize(
    ("model", "layout", "message"),
    [
        ("mixtral-8x7b", {"tp": 4, "dp": 1, "ep": 3}, "use ep"),
        ("llama-3-8b", {"dp": 2}, "no experts"),
        ("mixtral-8x7b", {"dp": 0}, "dp is 0"),
    ],
)
def test_joint_layouts_that_do_not_fit(
    model: str, layout: dict[str, int], message: str
) -> None:
    kwargs: dict[str, Any] = layout
    with pytest.raises(InputError, match=message):
        decode_graph(load_model(model), batch=1, context=9, stack=FUSED, **kwargs)


def test_parts_of_a_pipeline_serve_the_whole() -> None:
    model = load_model("llama-3-8b")
    for build, seen in (
        (decode_graph, {"context": 64}),
        (prefill_graph, {"prompt": 64}),
    ):
        kwargs: dict[str, Any] = {"batch": 4, "stack": FUSED, **seen}
        whole = build(model, **kwargs)
        parts = [
            build(model, part=Part((0, 10), last=False), **kwargs),
            build(model, part=Part((10, 20), first=False, last=False), **kwargs),
            build(model, part=Part((20, 32), first=False), **kwargs),
        ]
        for name in ("flop", "model_flop", "nbytes"):
            total = sum(getattr(g, name) for g in parts)
            assert total == pytest.approx(getattr(whole, name), rel=1e-12)
    with pytest.raises(InputError, match="within 0 and 32"):
        decode_graph(model, batch=1, context=2, stack=FUSED, part=Part((30, 33)))


@pytest.mark.parametrize(
    ("model", "change", "error", "says"),
    [
        ("llama-2-7b", {"ep": 2, "dp": 2}, InputError, "has no experts; use ep 1"),
        ("mixtral-8x7b", {"ep": 3, "dp": 3}, InputError, "use ep 1"),
        ("mixtral-8x7b", {"ep": 16, "dp": 16}, InputError, "use ep 1, 2, 4, 8"),
        ("mixtral-8x7b", {"ep": 4, "dp": 2}, InputError, "2 ranks.*use ep 1, 2"),
        ("mixtral-8x7b", {"etp": 3, "tp": 2}, InputError, "use tp, which is 2, or 1"),
        ("mixtral-8x7b", {"imbalance": 0.5}, InputError, "at least 1"),
        ("mixtral-8x7b", {"capacity_factor": 0}, InputError, "above 0"),
        ("llama-2-7b", {"cp": 3}, InputError, "2 x cp = 6; use 1026"),
        ("llama-2-7b", {"cp": 2, "cp_mode": "rings"}, UnknownNameError, "ring"),
        (
            "llama-2-7b", {"cp": 64, "cp_mode": "all_to_all"}, InputError,
            "32 heads.*use cp 4, 8, 16, 32",
        ),
        ("llama-2-7b", {"cp": 2, "stack": SEPARATE}, InputError, "needs fused"),
        (
            "llama-2-7b", {"cp": 4, "tp": 8, "seq": 1032, "sequence_parallel": True},
            InputError, "use seq 1024",
        ),
    ],
)  # fmt: skip
def test_bad_layouts_are_named(
    model: str, change: dict, error: type, says: str
) -> None:
    with pytest.raises(error, match=says):
        train(load_model(model), **change)


def test_stage_of_everything() -> None:
    stage = stage_graphs(
        DEEPSEEK, layers=(0, 8), first=True, last=False, micro_batch=1, seq=4096,
        tp=2, cp=2, ep=32, dp=32, pp=8, zero_stage=1, sequence_parallel=True,
        recompute="selective", stack=stack_with(tp=True), imbalance=1.2,
    )  # fmt: skip
    for graph in (
        stage.forward, stage.backward, stage.last_backward, stage.update,
        stage.input_gradients, stage.weight_gradients, stage.reduction,
    ):  # fmt: skip
        assert graph is not None
        verify(graph)
