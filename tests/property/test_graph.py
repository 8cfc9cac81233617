"""Laws of the graphs of any model on any stack."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hwsim.cost.footprint import (
    inference_footprint,
    stage_footprint,
    training_footprint,
)
from hwsim.graph.inference import decode_graph, prefill_graph
from hwsim.graph.op import Attention, Matmul, MoeExperts
from hwsim.graph.opgraph import OpGraph
from hwsim.graph.parameters import device_parameters
from hwsim.graph.shard import shard
from hwsim.graph.stage import layers_per_stage, stage_graphs
from hwsim.graph.training import training_graph
from hwsim.graph.verify import verify
from hwsim.specs.model import ModelSpec
from tests.strategies.graphs import (
    FUSED,
    SEPARATE,
    dense_decoders,
    divisible_models,
    inference_inputs,
    spread_inputs,
    stage_inputs,
    training_inputs,
)
from tests.strategies.models import model_specs

common = settings(max_examples=40, deadline=None)


def operand_bytes(graph: OpGraph, role: str, *, written: bool = False) -> float:
    """Bytes of one role that a graph reads, or writes."""
    return sum(
        operand.nbytes * repeat
        for _, _, node, repeat in graph.distinct()
        for operand in (node.op.writes if written else node.op.reads)
        if operand.role == role
    )


def decode(model: ModelSpec, **kwargs: Any) -> OpGraph:
    """A decode step; encoder-decoder models see seven encoder tokens."""
    encoder = 7 if model.kind == "encoder_decoder" else 0
    return decode_graph(model, encoder_context=encoder, **kwargs)


@common
@given(inference_inputs(), st.data())
def test_any_inference_graph_is_well_formed(
    drawn: tuple[ModelSpec, dict[str, Any]], data: st.DataObject
) -> None:
    model, kwargs = drawn
    longest = model.max_context or 4096
    prompt = data.draw(st.integers(1, longest))
    history = 0
    if model.kind == "decoder":
        history = data.draw(st.integers(0, longest - prompt))
    verify(prefill_graph(model, prompt=prompt, history=history, **kwargs))
    if model.kind != "encoder":
        verify(decode(model, context=prompt, **kwargs))
    stack = kwargs.pop("stack")
    footprint = inference_footprint(model, context=prompt, prompt=prompt, **kwargs)
    assert footprint.total == math.fsum(
        v for k, v in footprint.to_dict().items() if k != "total"
    )
    assert stack is not None


@common
@given(training_inputs())
def test_any_training_graph_is_well_formed(
    drawn: tuple[ModelSpec, dict[str, Any]],
) -> None:
    model, kwargs = drawn
    graph = training_graph(model, **kwargs)
    verify(graph)
    assert graph.model_flop <= graph.flop * (1 + 1e-12)
    del kwargs["stack"], kwargs["last"]
    footprint = training_footprint(model, **kwargs)
    assert all(value >= 0 for value in footprint.to_dict().values())


@common
@given(model_specs())
def test_one_device_holds_every_parameter(model: ModelSpec) -> None:
    assert device_parameters(model, shard(model, 1)).total == model.num_parameters


@common
@given(dense_decoders(), st.integers(1, 3), st.sampled_from([FUSED, SEPARATE]))
def test_decode_reads_each_weight_once(model: ModelSpec, batch: int, stack) -> None:
    """Tables give single rows; experts those that a token is sent to."""
    graph = decode(model, batch=batch, context=1, stack=stack)
    table = model.vocab * model.embedding_width
    expected = float(model.num_parameters - model.num_embedding_parameters)
    if model.output_head and model.tied_embeddings:
        expected += table
    if not model.output_head and model.embedding_width != model.hidden:
        expected -= model.embedding_width * model.hidden  # projects to the head
    expected += batch * model.embedding_width
    if model.position == "learned":
        expected += batch * model.hidden
    if model.token_types:
        expected += min(batch, model.token_types) * model.hidden
    assert operand_bytes(graph, "weight") == 2 * expected


@common
@given(dense_decoders(), st.integers(1, 3), st.integers(1, 4096))
def test_cache_traffic_is_exact(model: ModelSpec, batch: int, context: int) -> None:
    """Decode reads what was written before; every token writes one row."""
    context = min(context, model.max_context or context)
    graph = decode(model, batch=batch, context=context, stack=FUSED)
    seen = written = state = 0.0
    for kind, count in model.layer_groups():
        row = 2.0 * batch * count * model.cached_values(kind)
        seen += row * (min(context, kind.window or context) - 1)
        written += row
        if kind.mixer == "ssm":
            state += batch * count * _state(model)
    before = state if context > 1 else 0.0
    assert operand_bytes(graph, "kv_cache") == seen + before
    assert operand_bytes(graph, "kv_cache", written=True) == written + state
    prompt = prefill_graph(model, batch=batch, prompt=context, stack=FUSED)
    assert operand_bytes(prompt, "kv_cache") == 0.0
    filled = operand_bytes(prompt, "kv_cache", written=True)
    assert filled == written * context + state
    footprint = inference_footprint(model, batch=batch, context=context, prompt=1)
    assert footprint.kv_cache == seen + written + state


def _state(model: ModelSpec) -> float:
    """Bytes of one sequence's state: fp32, and inputs of the convolution."""
    ssm = model.ssm
    assert ssm is not None
    inner = ssm.heads * ssm.head_dim
    channels = inner + 2 * ssm.groups * ssm.state
    return 4.0 * inner * ssm.state + 2.0 * channels * (ssm.conv - 1)


@common
@given(divisible_models(4), st.sampled_from([2, 4]), st.integers(1, 4))
def test_shards_add_up(model: ModelSpec, tp: int, batch: int) -> None:
    """Products of all devices make the whole; only routers are repeated."""

    def work(degree: int) -> float:
        graph = prefill_graph(model, batch=batch, prompt=1, tp=degree, stack=FUSED)
        return sum(
            node.op.flop * repeat
            for _, _, node, repeat in graph.distinct()
            if isinstance(node.op, Matmul | MoeExperts | Attention)
            and node.op.name not in {"router", "shared_gate"}
        )

    assert math.isclose(work(1), tp * work(tp), rel_tol=1e-12)


@common
@given(divisible_models(4), st.sampled_from([2, 4]))
def test_devices_hold_shares_of_the_model(model: ModelSpec, tp: int) -> None:
    whole = device_parameters(model, shard(model, 1))
    part = device_parameters(model, shard(model, tp))
    assert part.linear * tp == whole.linear
    assert whole.plain / tp <= part.plain <= whole.plain


@common
@given(model_specs(), st.sampled_from([FUSED, SEPARATE]))
def test_backward_is_twice_forward(model: ModelSpec, stack) -> None:
    graph = training_graph(model, micro_batch=2, seq=1, stack=stack, dtype="fp16")
    work = {"forward": 0.0, "backward": 0.0, "recompute": 0.0}
    for _, _, node, repeat in graph.distinct():
        if isinstance(node.op, Matmul | MoeExperts):
            work[node.op.phase] += node.op.flop * repeat
    assert math.isclose(work["backward"], 2 * work["forward"], rel_tol=1e-12)
    assert work["recompute"] == 0.0


@common
@given(stage_inputs(), st.floats(0.5, 16.0))
def test_any_stage_is_well_formed(
    drawn: tuple[ModelSpec, dict[str, Any]], in_flight: float
) -> None:
    """Halves of backward make the whole; memory is never negative."""
    model, kwargs = drawn
    stage = stage_graphs(model, **kwargs)
    whole, parts = stage.last_backward, (
        stage.last_input_gradients, stage.last_weight_gradients,
    )  # fmt: skip
    graphs = [stage.forward, stage.backward, whole, stage.update, stage.reduction]
    for graph in (*graphs, *parts):
        if graph is not None and graph.blocks:
            verify(graph)
    for name in ("flop", "nbytes"):
        halves = sum(getattr(g, name) for g in parts if g is not None)
        assert math.isclose(halves, getattr(whole, name), rel_tol=1e-9)
    del kwargs["stack"]
    found = stage_footprint(model, in_flight=in_flight, **kwargs)
    assert all(value >= 0 for value in found.to_dict().values())


@common
@given(model_specs(), st.integers(1, 12), st.sampled_from([FUSED, SEPARATE]))
def test_stages_add_up(model: ModelSpec, pp: int, stack) -> None:
    pp = min(pp, len(model.layer_kinds))
    given_ = {"micro_batch": 1, "seq": 1, "stack": stack, "recompute": "full"}
    parts = layers_per_stage(model, pp)
    assert [i for part in parts for i in part] == list(range(len(model.layer_kinds)))
    stages = [
        stage_graphs(model, layers=r, first=i == 0, last=i == pp - 1, **given_)
        for i, r in enumerate(parts)
    ]
    whole = training_graph(model, last=False, **given_)
    for name in ("flop", "model_flop", "nbytes"):
        total = sum(getattr(g, name) for s in stages for g in (s.forward, s.backward))
        assert math.isclose(total, getattr(whole, name), rel_tol=1e-9)


@common
@given(spread_inputs())
def test_ranks_do_the_whole_work_between_them(
    drawn: tuple[ModelSpec, dict[str, Any], bool],
) -> None:
    """Tensor-, context- and expert-parallel ranks; only routers are repeated.

    So are projections around experts, wherever tokens are.
    """
    model, layout, split = drawn

    def work(**kwargs: Any) -> float:
        graph = training_graph(
            model, micro_batch=2, seq=64, stack=FUSED, dropout=False, **kwargs
        )
        verify(graph)
        return sum(
            node.op.flop * repeat
            for b, _, node, repeat in graph.distinct()
            if isinstance(node.op, Matmul | MoeExperts | Attention)
            and not node.op.name.startswith(("router", "shared_gate", "latent"))
            and graph.blocks[b].name != "head"
        )

    ranks = layout["tp"] * layout["cp"]
    part = work(sequence_parallel=split, **layout)
    assert math.isclose(work(), ranks * part, rel_tol=1e-9)
