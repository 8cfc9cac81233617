"""Host time around the kernels of a graph."""

from __future__ import annotations

import pytest

from hwsim.analysis.graph_result import run_graph
from hwsim.analysis.launches import launches_of
from hwsim.graph.opgraph import OpGraph
from hwsim.graph.training import training_graph
from hwsim.specs.catalogs import load_model, load_stack, load_system
from hwsim.specs.stack import StackSpec

SYSTEM = load_system("dgx-a100-80gb")
PLAIN = load_stack("pytorch-eager")


def issued(**fields: object) -> StackSpec:
    launch = PLAIN.launch.model_copy(update=fields)
    return PLAIN.model_copy(update={"launch": launch})


def small(stack: StackSpec, tp: int = 1) -> OpGraph:
    model = load_model("gpt-2-124m")
    return training_graph(model, micro_batch=1, seq=64, tp=tp, stack=stack)


def test_backward_is_issued_at_its_own_pace() -> None:
    stack = issued(host_time=130e-6, backward_time=40e-6)
    graph = small(stack)
    launches, start = launches_of(graph, SYSTEM, stack, "auto")
    assert start == 0.0
    for block, times in zip(graph.blocks, launches, strict=True):
        for node, time in zip(block.nodes, times, strict=True):
            each = 40e-6 if node.op.phase == "backward" else 130e-6
            assert time == pytest.approx(each * node.op.kernels)


def test_without_a_pace_of_its_own_backward_is_issued_as_forward() -> None:
    stack = issued(host_time=130e-6)
    alike = issued(host_time=130e-6, backward_time=130e-6)
    graph = small(stack)
    assert launches_of(graph, SYSTEM, stack, "auto") == launches_of(
        graph, SYSTEM, alike, "auto"
    )


@pytest.mark.parametrize("engine", ["closed_form", "simulate"])
def test_collectives_that_the_host_waits_for_add_to_its_launches(engine: str) -> None:
    usual = issued(host_time=100e-6)
    waiting = issued(host_time=100e-6, collectives_wait=True)
    beside, apart = (
        run_graph(
            small(stack, tp=4), SYSTEM, stack, engine=engine,  # type: ignore[arg-type]
        )
        for stack in (usual, waiting)
    )  # fmt: skip
    waits = [
        time
        for block, times in zip(apart.graph.blocks, _times(apart), strict=True)
        for node, time in zip(block.nodes, times, strict=True)
        if node.stream == "tp"
        for _ in range(block.repeat)
    ]
    # Other kernels are over before the next is launched.
    assert apart.time_s - beside.time_s == pytest.approx(sum(waits), rel=0.1)


def _times(result) -> list[list[float]]:
    found, at = [], 0
    for block in result.graph.blocks:
        found.append(result.costs.time[at : at + len(block.nodes)].tolist())
        at += len(block.nodes)
    return found
