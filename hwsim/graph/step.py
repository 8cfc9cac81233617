"""Blocks of one microbatch: forward, head with loss, backward, reductions."""

from __future__ import annotations

from collections.abc import Sequence

from hwsim.graph.offload import fetched, saved
from hwsim.graph.opgraph import Block
from hwsim.graph.parameters import Held, Parameters
from hwsim.graph.reduce import gathered, reduced, reduced_at_end
from hwsim.graph.unit import NOTHING, Plan, Unit, joined, units


def step_blocks(plan: Plan) -> list[Block]:
    """Return forward and backward of one microbatch, gradients reduced."""
    found = units(plan)
    *body, head = found
    blocks = forward_blocks(plan, body)
    whole = Unit("head", None, joined(head), head.held, head.trained)
    return [*blocks, *backward_blocks(plan, [*body, whole])]


def forward_blocks(plan: Plan, found: Sequence[Unit]) -> list[Block]:
    """Return the forward blocks of units, parameters gathered."""
    return [
        gathered(plan, saved(plan, unit, unit.forward), _shared(plan, unit))
        for unit in found
        if unit.forward is not None
    ]


def backward_blocks(plan: Plan, found: Sequence[Unit]) -> list[Block]:
    """Return the backward blocks of units, gradients reduced as they come."""
    blocks = []
    for unit in reversed(found):
        block = unit.backward
        if block is None:
            continue
        block = fetched(plan, unit, block)
        # Tables need no parameters to add gradients to their rows, and the
        # head's are still there from its forward pass.
        if unit.name not in {"embedding", "head"} or unit.forward is None:
            block = gathered(plan, block, _shared(plan, unit))
        blocks.append(reduced(plan, block, unit.trained))
    if plan.reduces and not plan.overlaps and not plan.gathers:
        blocks += reduced_at_end(plan, trained(found))
    return blocks


def _shared(plan: Plan, unit: Unit) -> Held:
    """Return the parameters that ranks share out, and gather again."""
    return unit.held if plan.gathers else unit.trained


def trained(found: Sequence[Unit]) -> Held:
    """Return the parameters of all units that get gradients."""
    dense, expert = Parameters(), Parameters()
    for unit in found:
        repeat = unit.backward.repeat if unit.backward is not None else 0
        dense += unit.trained.dense * repeat
        expert += unit.trained.expert * repeat
    return Held(dense, expert) if dense.total or expert.total else NOTHING
