"""Products yield units to the collectives that run beside them."""

from __future__ import annotations

import numpy as np
import pytest

from hwsim.cost.contention import beside_collectives, held_share, lost_time
from hwsim.cost.evaluate import cost_graph, cost_ops
from hwsim.graph.op import Collective, Matmul
from hwsim.graph.training import training_graph
from hwsim.specs.catalogs import load_device, load_model, load_stack, load_system

H100 = load_system("dgx-h100")
MODEL = load_model("llama-2-7b")


def graph(stack: str, **degrees: object):
    options = {"dp": 8, "tp": 1, "zero_stage": 0, **degrees}
    return training_graph(
        MODEL, stack=load_stack(stack), micro_batch=1, seq=2048, dtype="bf16",
        recompute="none", **options,
    )  # fmt: skip


def alone(made, stack: str):
    ops = [node.op for _, _, node, _ in made.distinct()]
    return cost_ops(ops, H100, load_stack(stack), sustained_flop=made.flop, in_step=8)


def test_a_kernel_that_sends_holds_24_units_of_a_gpu() -> None:
    assert held_share(load_device("h100-80gb-sxm")) == pytest.approx(24 / 132)
    assert held_share(load_device("tpu-v5e")) == 0.0
    assert held_share(load_device("epyc-zen5-2vcpu")) == 0.0


def test_no_more_is_lost_than_runs_beside() -> None:
    found = lost_time(0.25, np.array([1.0, 8.0]), np.array([4.0, 4.0]))
    assert found == pytest.approx([0.25, 1.0])


def test_products_beside_reductions_take_longer_by_the_share() -> None:
    made, stack = graph("pytorch-fsdp"), load_stack("pytorch-fsdp")
    before, after = (
        alone(made, "pytorch-fsdp"),
        cost_graph(made, H100, stack, in_step=8),
    )
    share, at = held_share(H100.device), 0
    slowed = 0
    for block in made.blocks:
        span = slice(at, at + len(block.nodes))
        at = span.stop
        sent = sum(
            float(t)
            for n, t in zip(block.nodes, before.time[span], strict=True)
            if n.stream == "dp" and n.op.phase == "backward"
        )
        own = sum(
            float(t)
            for n, t in zip(block.nodes, before.time[span], strict=True)
            if n.stream == "compute"
        )
        longer = float((after.time - before.time)[span].sum())
        if any(isinstance(n.op, Matmul) for n in block.nodes):
            assert longer == pytest.approx(share * min(sent, own))
            slowed += longer > 0.0
        else:
            assert longer == 0.0
    assert slowed >= 1


def test_what_copy_engines_send_round_takes_no_units() -> None:
    made = graph("megatron-core", tp=8, dp=1, sequence_parallel=True)
    stack = load_stack("megatron-core")
    before = alone(made, "megatron-core")
    after = beside_collectives(made.blocks, before, stack, H100.device)
    share, at = held_share(H100.device), 0
    for block in made.blocks:
        span = slice(at, at + len(block.nodes))
        at = span.stop
        if not any(isinstance(n.op, Matmul) for n in block.nodes):
            continue
        sent = sum(
            float(t)
            for n, t in zip(block.nodes, before.time[span], strict=True)
            if isinstance(n.op, Collective)
            and (n.op.collective != "all_gather" or n.op.name == "input_gather")
            and n.stream == "tp"
        )
        longer = float((after.time - before.time)[span].sum())
        assert longer == pytest.approx(share * sent)


def test_collectives_that_products_wait_for_cost_them_nothing() -> None:
    made = graph("megatron-core-plain", tp=8, dp=1, sequence_parallel=True)
    before = alone(made, "megatron-core-plain")
    stack = load_stack("megatron-core-plain")
    after = cost_graph(made, H100, stack, in_step=8)
    assert after.time == pytest.approx(before.time)


def test_the_speed_of_light_has_no_contention() -> None:
    made, stack = graph("pytorch-fsdp"), load_stack("pytorch-fsdp")
    light = cost_graph(made, H100, stack, "roofline", in_step=8)
    ops = [node.op for _, _, node, _ in made.distinct()]
    assert light.time == pytest.approx(cost_ops(ops, H100, stack, "roofline").time)
