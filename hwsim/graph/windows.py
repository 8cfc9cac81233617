"""Products cut up beside the collectives before and after them (XLA)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hwsim.graph.op import Collective, Elementwise, Matmul
from hwsim.graph.opgraph import COMPUTE, Node


def windowed(nodes: Sequence[Node]) -> list[Node]:
    """Return a block whose tensor-parallel collectives go beside products.

    Products that read what a gather brings begin with it, part by part; the first
    other operator waits for its end. A sum of products' results begins with the
    last of them, which adds up what comes round.

    References
    ----------
    .. [1] S. Wang et al., "Overlap Communication with Dependent Computation via
       Decomposition in Large Deep Learning Models", ASPLOS 2023,
       doi:10.1145/3567955.3567959.
    """
    found = list(nodes)
    for index, node in enumerate(found):
        op = node.op
        if not isinstance(op, Collective) or op.axis != "tp" or op.direct:
            continue
        if op.collective == "all_gather":
            _begin_with(found, index)
        elif op.collective in {"reduce_scatter", "all_reduce"} and node.deps:
            source = _product(found, node.deps[-1])
            if source is not None:
                found[index] = Node(
                    replace(op, within=True), source.deps, node.stream, node.after
                )
    return found


def _begin_with(nodes: list[Node], gather: int) -> None:
    """Let the products that read a gather begin with it."""
    before = nodes[gather].deps
    readers = 0
    for index in range(gather + 1, len(nodes)):
        node = nodes[index]
        if node.stream != COMPUTE:
            continue
        if isinstance(node.op, Matmul) and gather in node.deps:
            deps = {*node.deps, *before} - {gather}
            nodes[index] = replace(node, deps=tuple(sorted(deps)))
            readers += 1
        elif readers:
            nodes[index] = replace(node, deps=tuple(sorted({*node.deps, gather})))
            return
        else:
            return


def _product(nodes: Sequence[Node], index: int) -> Node | None:
    """Return the product whose result, or whose sum with others', a node is."""
    node = nodes[index]
    while isinstance(node.op, Elementwise) and node.op.function == "add" and node.deps:
        node = nodes[node.deps[-1]]
    return node if isinstance(node.op, Matmul) else None
