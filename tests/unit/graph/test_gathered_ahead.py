"""Updated parameters gathered beside the forward pass; passes over gradients."""

from __future__ import annotations

import pytest

from hwsim.analysis.launches import launches_of, module_time
from hwsim.analysis.training.train import run_training
from hwsim.graph.lora import Lora
from hwsim.graph.op import Attention, Collective, Elementwise, Matmul
from hwsim.graph.opgraph import OpGraph
from hwsim.graph.stage import stage_graphs
from hwsim.graph.training import training_graph
from hwsim.specs.catalogs import load_model, load_stack, load_system
from hwsim.specs.stack import StackSpec

MODEL = load_model("llama-2-7b")
CORE = load_stack("megatron-core")
LATE = CORE.model_copy(
    update={"overlap": CORE.overlap.model_copy(update={"parameters": False})}
)
SYSTEM = load_system("dgx-h100-ndr-16")


def graph(stack: StackSpec, **options: object) -> OpGraph:
    given = {
        "dp": 8, "tp": 1, "zero_stage": 1, "last": True, "dtype": "bf16", **options,
    }  # fmt: skip
    return training_graph(
        MODEL, stack=stack, micro_batch=1, seq=2048, recompute="none", **given,
    )  # fmt: skip


def gathered(made: OpGraph, ending: str) -> float:
    """Bytes of all gathers of parameters of a name."""
    return sum(
        n.op.message * repeat
        for _, _, n, repeat in made.distinct()
        if isinstance(n.op, Collective) and n.op.name.endswith(ending)
    )


def test_the_same_bytes_are_gathered_either_way() -> None:
    ahead, late = graph(CORE), graph(LATE)
    assert gathered(ahead, "parameters") == 0.0
    assert gathered(late, "parameter_gather") == 0.0
    total = 2.0 * MODEL.num_parameters
    assert gathered(ahead, "parameter_gather") == pytest.approx(total)
    assert gathered(late, "parameters") == pytest.approx(total)


def test_adapters_alone_are_gathered() -> None:
    lora = Lora(16, ("qkv", "out"))
    ahead, late = graph(CORE, lora=lora), graph(LATE, lora=lora)
    sent = gathered(ahead, "parameter_gather")
    assert sent == pytest.approx(gathered(late, "parameters"))
    assert 0.0 < sent < 0.01 * 2.0 * MODEL.num_parameters


@pytest.mark.parametrize(("zero_stage", "last"), [(0, True), (1, False)])
def test_nothing_to_gather_ahead(zero_stage: int, last: bool) -> None:
    made = graph(CORE, zero_stage=zero_stage, last=last)
    assert gathered(made, "parameter_gather") == 0.0


def test_only_forward_gathers_ahead() -> None:
    for _, _, node, _ in graph(CORE).distinct():
        if node.op.name.endswith("parameter_gather"):
            assert node.op.phase == "forward"


def options(**more: object) -> dict[str, object]:
    return {
        "devices": 64, "micro_batch": 1, "global_batch": 256, "seq": 2048,
        "zero_stage": 1, "dtype": "bf16", **more,
    }  # fmt: skip


@pytest.mark.parametrize("more", [{}, {"pp": 4}, {"pp": 4, "vpp": 4}])
def test_a_step_that_gathers_ahead_is_shorter_by_no_more_than_the_gather(more) -> None:
    ahead, late = (
        run_training(MODEL, SYSTEM, s, **options(**more)) for s in (CORE, LATE)
    )
    shard = 2.0 * MODEL.num_parameters / more.get("pp", 1)
    saved = late.step_s - ahead.step_s
    assert 0.0 < saved < shard / 40e9


def test_a_stage_gathers_apart() -> None:
    def stage(stack: StackSpec):
        return stage_graphs(
            MODEL, layers=(0, 8), first=True, last=False, micro_batch=1, seq=2048,
            dp=8, pp=4, zero_stage=1, stack=stack,
        )  # fmt: skip

    ahead, late = stage(CORE), stage(LATE)
    assert late.gathering is None
    assert ahead.gathering is not None
    assert gathered(ahead.gathering, "parameters") == gathered(
        late.update, "parameters"
    )
    assert gathered(ahead.update, "parameters") == 0.0


def test_passes_over_the_buffer_of_gradients() -> None:
    def passes(count: int) -> list[Elementwise]:
        made = graph(CORE.model_copy(update={"gradient_passes": count}))
        return [
            n.op for _, _, n, _ in made.distinct()
            if isinstance(n.op, Elementwise) and n.op.name == "gradient_buffer"
        ]  # fmt: skip

    assert passes(0) == []
    (op,) = passes(4)
    moved = sum(o.nbytes for o in (*op.reads, *op.writes))
    assert moved == pytest.approx(4 * 4.0 * MODEL.num_parameters)  # fp32, all of it


def test_modules_take_the_host_as_long_backward_as_forward() -> None:
    made = graph(CORE)
    ops = [(n.op, r) for _, _, n, r in made.distinct() if r > 1]
    spent = {"forward": 0.0, "backward": 0.0}
    for op, _ in ops:
        spent[op.phase] = spent.get(op.phase, 0.0) + module_time(op, 1.0)
    linear = sum(isinstance(op, Matmul) and op.phase == "forward" for op, _ in ops)
    attention = sum(
        isinstance(op, Attention) and op.phase == "forward" for op, _ in ops
    )
    assert spent["forward"] == pytest.approx(linear + attention)
    assert spent["backward"] == pytest.approx(spent["forward"])


def test_narrow_modules_take_twice_as_long_and_light_none() -> None:
    wide, narrow = (
        next(n.op for _, _, n, _ in made.distinct() if isinstance(n.op, Matmul))
        for made in (graph(CORE), graph(CORE, dtype="fp8"))
    )
    assert module_time(narrow, 1.0) == 2.0 * module_time(wide, 1.0)
    made = graph(CORE)
    bound, _ = launches_of(made, SYSTEM, CORE, "roofline")
    assert sum(map(sum, bound)) == 0.0
