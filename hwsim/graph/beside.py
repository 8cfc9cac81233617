"""Tensor-parallel gathers cut up beside the products that read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hwsim.graph.op import Collective, Matmul
from hwsim.graph.opgraph import COMPUTE, Node


def ring_exchanged(nodes: Sequence[Node]) -> list[Node]:
    """Return nodes where a gather and the first product that reads it run together.

    Each device begins with the rows it holds and multiplies others' as they
    come round [1]_; what follows waits for both. The rows that come last are
    multiplied after they came, which is left out.

    References
    ----------
    .. [1] Transformer Engine, userbuffers, ring exchange: products of queries,
       keys and values, of the feed-forward block's first layer, and of the
       input's gradient of a block's last layers.
    """
    found = list(nodes)
    for index, node in enumerate(nodes):
        op = node.op
        if not isinstance(op, Collective) or node.stream != "tp":
            continue
        # What is run again was put beside its products in the forward pass.
        if op.collective == "all_gather" and op.phase != "recompute":
            _meet(found, index)
    return found


def _meet(nodes: list[Node], gather: int) -> None:
    """Let the first product after a gather start with it."""
    users = [i for i, n in enumerate(nodes) if gather in n.deps]
    if not users:
        return
    first = users[0]
    product = nodes[first]
    if not isinstance(product.op, Matmul) or product.stream != COMPUTE:
        return
    after = [i for i, n in enumerate(nodes) if first in n.deps]
    if not after:
        return
    early = (set(product.deps) - {gather}) | set(nodes[gather].deps)
    ranks = getattr(nodes[gather].op, "group_size", 1)
    op = replace(product.op, parts=ranks)
    nodes[first] = replace(product, op=op, deps=tuple(sorted(early)))
    for i in after:
        nodes[i] = replace(nodes[i], deps=tuple(sorted({*nodes[i].deps, gather})))
