"""Attention by sequence, and prompts whose devices gather weights (Pope et al.)."""

from __future__ import annotations

from typing import Any

import pytest

from hwsim.analysis.inference import run_inference
from hwsim.cost.footprint import inference_footprint
from hwsim.errors import InputError
from hwsim.graph.gathered import can_gather, gathered_prefill_graph
from hwsim.graph.inference import decode_graph, prefill_graph
from hwsim.graph.op import Attention, Collective
from hwsim.graph.opgraph import OpGraph
from hwsim.graph.verify import verify
from hwsim.specs.catalogs import load_model, load_stack, load_system

PALM = load_model("palm-540b-64-heads")
XLA = load_stack("xla-inference")
PLAIN = XLA.model_copy(update={"split_sequences": False, "gather_weights": False})


def attention_of(graph: OpGraph) -> Attention:
    verify(graph)
    return next(
        n.op for _, _, n, _ in graph.distinct() if isinstance(n.op, Attention)
    )  # fmt: skip


@pytest.mark.parametrize(("batch", "own"), [(512, 8), (64, 1), (65, 2), (8, 1)])
def test_copies_of_a_key_head_take_sequences_of_their_own(batch: int, own: int) -> None:
    given: dict[str, Any] = {"batch": batch, "context": 1024, "tp": 64}
    split = decode_graph(PALM, stack=XLA, **given)
    found = attention_of(split)
    assert (found.batch, found.heads, found.kv_heads) == (own, 64, 1)
    copied = attention_of(decode_graph(PALM, stack=PLAIN, **given))
    assert (copied.batch, copied.heads, copied.kv_heads) == (batch, 1, 1)
    turned = [
        n.op for _, _, n, _ in split.distinct()
        if isinstance(n.op, Collective) and n.op.collective == "all_to_all"
    ]  # fmt: skip
    # Queries, keys and values of one head go out, one head's results come back.
    assert [op.message for op in turned] == [batch * 3 * 256 * 2.0, batch * 256 * 2.0]


def test_a_single_sequence_stays_split_by_heads() -> None:
    graph = prefill_graph(PALM, batch=1, prompt=512, tp=64, stack=XLA)
    assert attention_of(graph).heads == 1


def test_only_copies_share_sequences_out() -> None:
    model = load_model("llama-3-70b")  # eight key heads
    whole = attention_of(decode_graph(model, batch=32, context=512, tp=8, stack=XLA))
    assert (whole.batch, whole.heads, whole.kv_heads) == (32, 8, 1)
    pairs = attention_of(decode_graph(model, batch=32, context=512, tp=16, stack=XLA))
    assert (pairs.batch, pairs.heads, pairs.kv_heads) == (16, 8, 1)


def test_the_cache_is_kept_once() -> None:
    common: dict[str, Any] = {"batch": 64, "context": 2048, "prompt": 0, "tp": 64}
    copied = inference_footprint(PALM, **common)
    split = inference_footprint(PALM, split=True, **common)
    assert split.kv_cache == pytest.approx(copied.kv_cache / 64)
    assert split.weights == copied.weights


def test_gathered_prompts_do_the_same_work() -> None:
    given: dict[str, Any] = {"batch": 128, "prompt": 512, "tp": 64, "stack": XLA}
    gathered = gathered_prefill_graph(PALM, **given)
    verify(gathered)
    split = prefill_graph(PALM, **given)
    # Keys and values of one head are made on every rank of a split model.
    assert gathered.model_flop == pytest.approx(split.model_flop, rel=0.15)
    assert gathered.model_flop < split.model_flop
    fetched = sum(
        n.op.message * times for _, _, n, times in gathered.distinct()
        if n.op.name == "weights_gather"
    )  # fmt: skip
    layers = PALM.num_parameters - PALM.vocab * PALM.hidden
    assert fetched == pytest.approx(2.0 * layers, rel=0.01)


def test_large_batches_gather_and_small_ones_split() -> None:
    system = load_system("tpu-v4-128")

    def gathers(batch: int) -> bool:
        result = run_inference(
            PALM, system, XLA, batch=batch, prompt=1024, output=1, tp=64, dtype="bf16",
            engine="closed_form",
        )  # fmt: skip
        assert result.prefill is not None
        names = {n.op.name for _, _, n, _ in result.prefill.graph.distinct()}
        return "weights_gather" in names

    assert gathers(512)
    assert not gathers(1)


@pytest.mark.parametrize(("batch", "tp"), [(8, 64), (8, 1)])
def test_what_cannot_be_shared_out_is_refused(batch: int, tp: int) -> None:
    assert not can_gather(PALM, batch, tp)
    with pytest.raises(InputError, match="cannot be shared out"):
        gathered_prefill_graph(PALM, batch=batch, prompt=16, tp=tp, stack=XLA)
