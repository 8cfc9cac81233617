"""What serving stacks send to experts, and run on a second stream."""

from __future__ import annotations

from typing import Any

import pytest

from hwsim.graph.inference import decode_graph, prefill_graph
from hwsim.graph.op import Collective
from hwsim.graph.opgraph import BESIDE, OpGraph
from hwsim.graph.verify import verify
from hwsim.specs.catalogs import load_model
from hwsim.specs.stack import Overlap
from tests.strategies.graphs import stack_with


def routed(exchange: str, ep: int, *, dtype: str = "bf16", **fusion: Any) -> Any:
    """Return (collective, message, fanout) of experts' exchanges by name."""
    model = load_model("deepseek-v3")
    graph = decode_graph(
        model, batch=64, context=512, dp=ep, ep=ep, dtype=dtype,
        stack=stack_with(exchange=exchange, **fusion),
    )  # fmt: skip
    return {
        n.op.name: (n.op.collective, n.op.message, n.op.fanout)
        for _, _, n, _ in graph.distinct()
        if isinstance(n.op, Collective) and n.op.axis == "ep"
    }


def test_rows_are_gathered_where_ranks_are_no_more_than_a_tokens_experts() -> None:
    few, many = routed("gather", 8), routed("gather", 16)
    assert {name: kind for name, (kind, _, _) in few.items()} == {
        "dispatch_exchange": "all_gather",
        "combine_exchange": "reduce_scatter",
    }
    rows = 64 * 7168 * 2.0
    # The whole of what is gathered: every rank's rows, each once.
    assert few["dispatch_exchange"][1] == pytest.approx(8 * rows)
    assert few["combine_exchange"][1] == pytest.approx(8 * rows)
    assert many == routed("once", 16)
    assert {kind for kind, _, _ in many.values()} == {"all_to_all"}
    assert {fanout for _, _, fanout in many.values()} == {8}


@pytest.mark.parametrize("ep", [8, 16])
def test_rows_quantised_before_they_are_sent_are_narrow_one_way(ep: int) -> None:
    wide = routed("gather", ep, dtype="fp8")
    narrow = routed("gather", ep, dtype="fp8", sent_narrow=("fp8",))
    other = routed("gather", ep, dtype="fp8", sent_narrow=("fp4",))
    assert narrow["dispatch_exchange"][1] == pytest.approx(
        0.5 * wide["dispatch_exchange"][1]
    )
    assert narrow["combine_exchange"] == wide["combine_exchange"]
    assert other == wide
    plain = routed("gather", ep, sent_narrow=("fp8",))
    assert plain == routed("gather", ep)


def test_decode_steps_run_shared_experts_on_a_second_stream() -> None:
    model = load_model("deepseek-v3")
    one = stack_with()
    two = one.model_copy(update={"overlap": Overlap(beside=True)})

    def beside(graph: OpGraph) -> set[str]:
        verify(graph)
        return {n.op.name for _, _, n, _ in graph.distinct() if n.stream == BESIDE}

    step = {"batch": 8, "context": 512}
    found = beside(decode_graph(model, stack=two, **step))
    assert "kv_a_norm" in found
    assert any(name.startswith("shared_") for name in found)
    assert not any(name.startswith("expert") for name in found)
    assert beside(decode_graph(model, stack=one, **step)) == set()
    assert beside(prefill_graph(model, batch=1, prompt=512, stack=two)) == set()
    flop = [decode_graph(model, stack=s, **step).flop for s in (one, two)]
    assert flop[0] == flop[1]
