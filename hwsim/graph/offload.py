"""Activations that wait for backward in host memory."""

from __future__ import annotations

from dataclasses import replace

from hwsim.graph.activation import Kept
from hwsim.graph.modules import modules_of
from hwsim.graph.op import Copy, Operand
from hwsim.graph.opgraph import COMPUTE, Block, Node
from hwsim.graph.unit import Plan, Unit

# A layer's copy comes back while the layer before it in line computes.
AHEAD = 2


def kept_bytes(plan: Plan, unit: Unit) -> float:
    """Return what one layer keeps from forward to backward. [B]"""
    if unit.kind is None:
        return 0.0
    setting = plan.setting
    kept = Kept.of(
        setting, plan.passes, flash=setting.fusion.attention == "fused",
        selective=plan.scores_again,
    )  # fmt: skip
    light = unit.again and plan.recompute == "operators"
    return kept.layer(
        unit.kind, full=unit.recomputed, again=unit.again, operators=light,
        modules=modules_of(plan.recompute),
    )  # fmt: skip


def _copy(plan: Plan, nbytes: float, *, back: bool) -> Copy:
    dtype = plan.setting.precision.act
    moved = (Operand("activation", nbytes, dtype),)
    return Copy(
        name="activations_fetch" if back else "activations_save",
        dtype=dtype,
        path="host_to_device" if back else "device_to_host",
        reads=moved,
        writes=moved,
        phase="backward" if back else "forward",
    )


def saved(plan: Plan, unit: Unit, block: Block) -> Block:
    """Put the copy to the host behind a layer."""
    nbytes = kept_bytes(plan, unit) if plan.offload else 0.0
    if not nbytes:
        return block
    out = block.output_index
    node = Node(_copy(plan, nbytes, back=False), (out,), "copy_out")
    return Block(block.name, (*block.nodes, node), block.repeat, out)


def fetched(plan: Plan, unit: Unit, block: Block) -> Block:
    """Put the copy from the host, one layer ahead, before a layer."""
    nbytes = kept_bytes(plan, unit) if plan.offload else 0.0
    if not nbytes:
        return block
    nodes = [Node(_copy(plan, nbytes, back=True), (), "copy", after=AHEAD)]
    waits = True
    for node in block.nodes:
        deps = tuple(d + 1 for d in node.deps)
        if waits and node.stream == COMPUTE:
            # Those without others wait for the block before them by order.
            deps, waits = (0, *deps), False
        nodes.append(replace(node, deps=deps))
    return Block(block.name, tuple(nodes), block.repeat, block.output_index + 1)
