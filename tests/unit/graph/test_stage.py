"""Pipeline stages: their sums, what they hold, what they send."""

from __future__ import annotations

from typing import Any

import pytest

from hwsim.errors import InputError, UnknownNameError
from hwsim.graph.op import Collective, Op
from hwsim.graph.opgraph import OpGraph
from hwsim.graph.stage import (
    StageGraphs,
    activation_message,
    layers_per_stage,
    stage_graphs,
)
from hwsim.graph.training import training_graph
from hwsim.graph.verify import verify
from hwsim.specs.catalogs import MODELS, load_model
from hwsim.specs.model import ModelSpec
from tests.strategies.graphs import FUSED, SEPARATE, stack_with

GIVEN: dict[str, Any] = {"micro_batch": 2, "seq": 64, "stack": FUSED}


def stages(model: ModelSpec, pp: int, **kwargs: Any) -> list[StageGraphs]:
    given = GIVEN | kwargs
    parts = layers_per_stage(model, pp)
    found = [
        stage_graphs(model, layers=part, first=i == 0, last=i == pp - 1, pp=pp, **given)
        for i, part in enumerate(parts)
    ]
    for stage in found:
        for graph in (stage.forward, stage.backward, stage.last_backward, stage.update):
            verify(graph)
    return found


def ops(graph: OpGraph) -> list[tuple[Op, int]]:
    return [(node.op, repeat) for _, _, node, repeat in graph.distinct()]


def total(graphs: list[OpGraph], name: str) -> float:
    return sum(getattr(graph, name) for graph in graphs)


NAMES = ("flop", "model_flop", "full_flop", "nbytes")


@pytest.mark.parametrize("model", list(MODELS))
def test_stages_add_up_to_the_whole(model: str) -> None:
    spec = load_model(model)
    pp = min(3, len(spec.layer_kinds))
    found = stages(spec, pp, recompute="full")
    whole = training_graph(spec, recompute="full", last=False, **GIVEN)
    for name in NAMES:
        parts = total([g for s in found for g in (s.forward, s.backward)], name)
        assert parts == pytest.approx(getattr(whole, name), rel=1e-12)


@pytest.mark.parametrize("stack", [FUSED, SEPARATE, stack_with(dp=False)])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_stages_with_reductions_and_update_add_up(stack, zero_stage: int) -> None:
    """Llama's table is not tied: no stage holds a copy."""
    model = load_model("llama-2-7b")
    kwargs = {
        "stack": stack, "tp": 2, "dp": 4, "zero_stage": zero_stage,
        "sequence_parallel": True, "optimizer": "adafactor",
    }  # fmt: skip
    found = stages(model, 4, **kwargs)
    whole = training_graph(model, **(GIVEN | kwargs))
    parts = [g for s in found for g in (s.forward, s.last_backward, s.update)]
    for name in ("flop", "model_flop"):
        assert total(parts, name) == pytest.approx(getattr(whole, name), rel=1e-12)
    # Single values of the gradients' norm are summed among stages, and each
    # stage writes one.
    assert total(parts, "nbytes") == pytest.approx(whole.nbytes, rel=1e-6)
    again = training_graph(model, last=False, **(GIVEN | kwargs))
    parts = [g for s in found for g in (s.forward, s.backward)]
    assert total(parts, "nbytes") == pytest.approx(again.nbytes, rel=1e-12)


def test_one_stage_is_the_whole_model() -> None:
    model = load_model("gpt-2-124m")
    (stage,) = stages(model, 1, dp=2)
    whole = training_graph(model, **(GIVEN | {"dp": 2}))
    parts = [stage.forward, stage.last_backward, stage.update]
    for name in NAMES:
        assert total(parts, name) == pytest.approx(getattr(whole, name), rel=1e-12)


def test_weight_gradients_come_apart() -> None:
    """Half of backward's products; norms stay with the inputs' gradients."""
    for model, stack in (("llama-2-7b", SEPARATE), ("mixtral-8x7b", FUSED)):
        stage = stages(load_model(model), 4, stack=stack, tp=2, dp=2)[1]
        for whole, parts in (
            (stage.backward, (stage.input_gradients, stage.weight_gradients)),
            (
                stage.last_backward,
                (stage.last_input_gradients, stage.last_weight_gradients),
            ),
        ):
            assert parts[1] is not None
            for graph in parts:
                verify(graph)
            for name in NAMES:
                found = total(list(parts), name)
                assert found == pytest.approx(getattr(whole, name), rel=1e-12)
        names = {op.name for op, _ in ops(parts[0])}
        assert not any(name.endswith("weight_gradient") for name in names)
        sent = {op.axis for op, _ in ops(parts[1]) if isinstance(op, Collective)}
        assert sent == {"dp"}
        assert not any(
            isinstance(op, Collective) and op.axis == "dp" for op, _ in ops(parts[0])
        )


def test_tied_tables_are_summed_between_first_and_last() -> None:
    model = load_model("gpt-2-124m")
    first, middle, last = stages(model, 3, dp=2, tp=2)
    table = 50257 // 2 + 1

    def sums(stage: StageGraphs) -> list[Collective]:
        return [
            op for op, _ in ops(stage.update)
            if isinstance(op, Collective) and op.name == "table_gradients"
        ]  # fmt: skip

    for stage in (first, last):
        (op,) = sums(stage)
        assert (op.group_size, op.stride) == (2, 2 * 2 * 2)
        assert op.message == 2.0 * table * 768
    assert not sums(middle)
    held = [s.held.total for s in (first, middle, last)]
    whole = stages(model, 1, tp=2)[0].held.total
    assert sum(held) == whole + table * 768
    names = {op.name for op, _ in ops(first.update)}
    assert "norm_reduce_pp" in names


def test_encoder_decoder_stages_start_their_own_stack() -> None:
    model = load_model("t5-base")
    found = stages(model, 4)
    names = [[b.name for b in s.forward.blocks] for s in found]
    assert names == [
        ["embedding", "encoder"], ["encoder", "norm"], ["embedding", "decoder"],
        ["decoder", "head"],
    ]  # fmt: skip


def test_even_and_uneven_stages() -> None:
    llama = load_model("llama-3.1-405b")
    assert [len(r) for r in layers_per_stage(llama, 9)] == [14] * 9
    uneven = [len(r) for r in layers_per_stage(llama, 16)]
    assert sum(uneven) == 126
    assert uneven[-1] == min(uneven)
    assert max(uneven) == 8
    parts = layers_per_stage(llama, 7, 3)
    assert parts[0] == range(6)
    assert parts[-1] == range(120, 126)
    given = layers_per_stage(llama, 2, counts=[60, 66])
    assert given == [range(60), range(60, 126)]
    # A head as wide as several layers takes layers off the last stage.
    small = load_model("gpt-2-124m")
    flop = [len(r) for r in layers_per_stage(small, 4, balance="flop")]
    assert sum(flop) == 12
    assert flop[-1] < 3


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"pp": 15}, "use at most pp 14"),
        ({"pp": 4, "vpp": 4}, "use at most vpp 3"),
        ({"pp": 15, "vpp": 2}, "use at most pp 14 and vpp 1"),
        ({"pp": 2, "counts": [6, 5]}, "make the last part 6"),
        ({"pp": 2, "counts": [12]}, "2 parts"),
        ({"pp": 3, "counts": [6, 0, 6]}, "layers of part 2"),
        ({"pp": 2, "counts": [20, 5]}, "give fewer"),
        ({"pp": 0}, "pp is 0"),
        ({"pp": 2, "balance": "fair"}, "even or flop"),
    ],
)
def test_bad_partitions_are_named(kwargs: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        layers_per_stage(load_model("gpt-2-124m"), **kwargs)


def test_embedding_and_head_count_as_layers_where_parts_are_many() -> None:
    model = load_model("gpt-2-124m")
    assert [len(r) for r in layers_per_stage(model, 7, 2)] == [0, *[1] * 12, 0]
    assert [len(r) for r in layers_per_stage(model, 13)] == [*[1] * 12, 0]
    assert [len(r) for r in layers_per_stage(model, 2, counts=[0, 12])] == [0, 12]
    parts = layers_per_stage(model, 14)
    given = {"micro_batch": 1, "seq": 64, "stack": FUSED, "pp": 14}
    stages = [
        stage_graphs(model, layers=r, first=i == 0, last=i == 13, **given)
        for i, r in enumerate(parts)
    ]
    assert [b.name for b in stages[0].forward.blocks] == ["embedding"]
    assert [b.name for b in stages[-1].forward.blocks] == ["head"]
    assert stages[0].held.total == (50_257 + 1024) * 768
    whole = training_graph(model, last=False, micro_batch=1, seq=64, stack=FUSED)
    total = sum(s.forward.flop + s.backward.flop for s in stages)
    assert total == pytest.approx(whole.flop, rel=1e-9)


def test_messages_between_stages() -> None:
    model = load_model("llama-2-7b")
    whole = 2.0 * 3 * 128 * 4096
    assert activation_message(model, 3, 128) == whole
    assert activation_message(model, 3, 128, tp=4) == whole
    assert activation_message(model, 3, 128, 4, True) == whole / 4
    assert activation_message(model, 3, 128, cp=2) == whole / 2
    assert activation_message(model, 3, 128, dtype="fp32") == 2 * whole
    both = load_model("t5-base")
    sent = [
        activation_message(both, 1, 100, boundary=b, decoder_seq=20)
        for b in (6, 12, 18)
    ]
    assert sent == [2.0 * 768 * tokens for tokens in (100, 100, 120)]


def test_recompute_every_second_layer() -> None:
    model = load_model("llama-2-7b")

    def flop(**kwargs: Any) -> float:
        return stages(model, 2, **kwargs)[0].backward.flop

    none, full = flop(), flop(recompute="full")
    half = flop(recompute="full", recompute_every=2)
    assert half - none == pytest.approx((full - none) / 2)
    fifth = flop(recompute="full", recompute_every=5)
    assert fifth - none == pytest.approx((full - none) * 4 / 16)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"layers": (0, 0), "first": False}, InputError, "layers is empty"),
        ({"layers": (8, 14)}, InputError, "it has 0 to 11"),
        ({"layers": [1, 1]}, InputError, "once each"),
        ({"layers": (1, 2, 3)}, InputError, "give .start, stop."),
        ({"recompute_every": 0}, InputError, "recompute_every is 0"),
        ({"optimizer": "adamx"}, UnknownNameError, "adam"),
        ({"pp": 0}, InputError, "pp is 0"),
    ],
)
def test_bad_stages_are_named(change: dict, error: type, says: str) -> None:
    given = {"layers": (0, 6), "first": True, "last": False} | GIVEN | change
    with pytest.raises(error, match=says):
        stage_graphs(load_model("gpt-2-124m"), **given)
