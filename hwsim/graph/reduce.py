"""Data-parallel communication around blocks: parameters in, gradients out."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from hwsim.graph.layout import Layout
from hwsim.graph.op import CollectiveName, Op
from hwsim.graph.opgraph import COMPUTE, Block, Node
from hwsim.graph.optimizer import axis_collective
from hwsim.graph.parameters import Held
from hwsim.graph.unit import Plan
from hwsim.specs.base import DTYPE_BYTES


class Group(NamedTuple):
    """Ranks that hold the same parameters, and what to call them.

    Attributes
    ----------
    size, stride : int
        Ranks that share states out between them, and their distance.
    copies : int
        Such groups, which hold copies of each other.
    """

    size: int
    stride: int
    copies: int = 1
    prefix: str = ""


def groups(layout: Layout) -> tuple[Group, Group]:
    """Return the ranks that share all but experts, and those that do."""
    dense, expert = layout.sharers, layout.expert_sharers
    return (
        Group(dense, layout.tp, layout.replicas // dense),
        Group(
            expert, layout.etp * layout.ep, layout.expert_replicas // expert, "expert_"
        ),
    )


def _shares(layout: Layout, held: Held) -> list[tuple[Group, float]]:
    """Return the groups that there are, and parameters that each shares."""
    pairs = zip(groups(layout), (p.total for p in held), strict=True)
    return [
        (group, numel)
        for group, numel in pairs
        if numel and group.size * group.copies > 1
    ]


def gathered(plan: Plan, block: Block, held: Held) -> Block:
    """Put the gather of a block's parameters before it.

    One layer is fetched ahead where communication overlaps. Among tensor-
    parallel devices the first operator (a norm) may start before its few
    parameters have come.
    """
    backward = block.name.endswith("backward")
    gathers = plan.gathers or (plan.prefetches and not backward)
    shares = _shares(plan.setting.layout, held) if gathers else []
    shares = [(group, numel) for group, numel in shares if group.size > 1]
    if not shares:
        return block
    act = plan.setting.precision.parameter
    early = plan.setting.stack.overlap.backward_prefetch or not backward
    ahead = 2 if plan.overlaps and early else 1
    nodes = []
    for group, numel in shares:
        op = axis_collective(
            f"{group.prefix}parameter_gather", "all_gather",
            numel * DTYPE_BYTES[act], group.size, stride=group.stride, axis="dp",
            dtype=act,
            phase="backward" if backward else "forward",
        )  # fmt: skip
        # A stream of its own: a gather is issued before the reduction of the
        # gradients of the layer before it, and must not queue behind it. One that
        # is issued after it shares its communicator, which works in order.
        nodes.append(Node(op, (), "gather" if early else "dp", after=ahead))
    count, waits = len(nodes), True
    for node in block.nodes:
        deps = tuple(d + count for d in node.deps)
        alone = plan.setting.shard.tp == 1
        if waits and node.stream == COMPUTE and (deps or alone):
            deps, waits = (*range(count), *deps), False
        nodes.append(replace(node, deps=deps))
    return Block(block.name, tuple(nodes), block.repeat, block.output_index + count)


def reduced(plan: Plan, block: Block, trained: Held) -> Block:
    """Put the reduction of a block's gradients after it."""
    shares = _shares(plan.setting.layout, trained)
    inside = plan.overlaps or plan.gathers
    if not plan.reduces or not inside or not shares:
        return block
    last = max(i for i, n in enumerate(block.nodes) if n.stream == COMPUTE)
    nodes = list(block.nodes)
    for group, numel in shares:
        after = last
        for op in _reduction(plan, group, numel):
            nodes.append(Node(op, (after,), "dp"))
            after = len(nodes) - 1
    output = block.output_index if plan.overlaps else len(nodes) - 1
    return Block(block.name, tuple(nodes), block.repeat, output)


def _reduction(plan: Plan, group: Group, numel: float) -> list[Op]:
    """Return the sum within a group that shares, and that of its copies."""
    grad = plan.setting.precision.grad
    nbytes, size = numel * DTYPE_BYTES[grad], group.size
    found = []
    if not plan.zero_stage:
        size, copies = size * group.copies, 1
    else:
        copies = group.copies
    if size > 1:
        name = f"{group.prefix}gradient_reduce"
        kind: CollectiveName = "reduce_scatter" if plan.zero_stage else "all_reduce"
        found.append(
            axis_collective(
                name, kind, nbytes, size, stride=group.stride, axis="dp", dtype=grad,
                phase="backward",
            )
        )  # fmt: skip
    if copies > 1:
        found.append(
            axis_collective(
                f"{group.prefix}copies_gradient_reduce", "all_reduce", nbytes / size,
                copies, stride=group.stride * size, axis="dp", dtype=grad,
                phase="backward",
            )
        )  # fmt: skip
    return list(found)


def reduced_at_end(plan: Plan, trained: Held) -> list[Block]:
    """Return the block that reduces all gradients after everything else."""
    nodes: list[Node] = []
    for group, numel in _shares(plan.setting.layout, trained):
        for number, op in enumerate(_reduction(plan, group, numel)):
            after = (len(nodes) - 1,) if number else ()
            nodes.append(Node(op, after, "dp", barrier=not number))
    return [Block("gradient_reduce", tuple(nodes))] if nodes else []
