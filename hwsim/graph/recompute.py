"""What a backward pass runs again of the forward pass before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hwsim.graph.op import Elementwise, Norm, Op
from hwsim.graph.opgraph import Node
from hwsim.graph.writer import Step, Writer

# Rules whose backward reads what their operator read, and what it gave.
_READS = frozenset({
    "linear", "product", "function", "norm", "attention", "ring", "scan", "experts",
    "dispatch", "combine",
})  # fmt: skip
_KEEPS = frozenset({"attention", "ring", "scan", "experts"})


def whole(nodes: Sequence[Node]) -> list[Node]:
    """Return all forward nodes, to be run again."""
    return [_again(node, node.deps) for node in nodes]


def needed(w: Writer, nodes: Sequence[Node]) -> list[Node]:
    """Return the forward nodes, to be run again, that backward reads from.

    What only the next layer reads, as the last product before a residual sum, a
    compiler finds to be dead.
    """
    wanted: set[int] = set()
    for index in range(len(w.steps) - 1, -1, -1):
        step, value = w.steps[index], index + 2
        reads = step.rule in _READS and not _frozen(w, step)
        if reads:
            wanted.update(step.inputs)
        if reads and step.rule in _KEEPS:
            wanted.add(value)
        if value in wanted:
            wanted.update(step.inputs)
    live = {w.node_of[value] for value in wanted}
    return _only(nodes, [i for i in range(len(nodes)) if i in live])


def light(w: Writer, nodes: Sequence[Node]) -> list[Node]:
    """Return forward's kernels between products, to be run again.

    Products, fused attention and scans keep their results, and what collectives
    bring is kept too; an unfused attention core is run again by itself.
    """
    cores = {id(step.op) for step in w.steps if step.core}
    return _only(nodes, [
        i for i, node in enumerate(nodes)
        if isinstance(node.op, Elementwise | Norm) and id(node.op) not in cores
    ])  # fmt: skip


def _frozen(w: Writer, step: Step) -> bool:
    """Whether no weight gradient reads a linear layer's input."""
    lora = w.setting.lora is not None
    return lora and step.rule == "linear" and not step.adapter


def _only(nodes: Sequence[Node], kept: Sequence[int]) -> list[Node]:
    place = {index: at for at, index in enumerate(kept)}
    return [
        _again(nodes[i], tuple(place[d] for d in nodes[i].deps if d in place))
        for i in kept
    ]


def _again(node: Node, deps: tuple[int, ...]) -> Node:
    op: Op = replace(node.op, phase="recompute")
    return Node(op, deps, node.stream, synced=node.synced)
