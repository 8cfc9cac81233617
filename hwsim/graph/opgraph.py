"""The graph: blocks of operators, identical layers folded.

A block is played ``repeat`` times, one after another. Inside a block a node
waits for the nodes it names in ``deps``. A node that names none waits for the
*output* of the block instance ``after`` places before its own; ``after=None``
waits for nothing but its stream, and ``barrier`` waits for all that came
before. Nodes of one stream run in program order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from hwsim.graph.op import Op

COMPUTE = "compute"
BESIDE = "beside"  # short kernels on a second stream
COMPUTING = (COMPUTE, BESIDE)


@dataclass(frozen=True, slots=True)
class Node:
    """An operator in its place: what it waits for, which stream runs it.

    ``synced``: the host needs a result of what it waits for before it can launch it,
    and runs no longer ahead of the device.
    """

    op: Op
    deps: tuple[int, ...] = ()
    stream: str = COMPUTE
    after: int | None = 1
    barrier: bool = False
    synced: bool = False

    def behind(self, deps: tuple[int, ...], op: Op | None = None) -> Node:
        """Return the node with other nodes to wait for, or another operator."""
        return Node(
            op or self.op, deps, self.stream, self.after, self.barrier, self.synced
        )


@dataclass(frozen=True, slots=True)
class Block:
    """Nodes played ``repeat`` times; ``output`` is what the next one waits for."""

    name: str
    nodes: tuple[Node, ...]
    repeat: int = 1
    output: int = -1

    @property
    def output_index(self) -> int:
        """``output`` as a non-negative index."""
        return self.output % len(self.nodes)


@dataclass(frozen=True, slots=True)
class OpGraph:
    """Blocks in program order, as one device of the group runs them.

    Attributes
    ----------
    name : str
        What it computes, for example ``"decode"``.
    tokens : float
        Tokens processed by the whole group in one pass.
    meta : dict of str to float
        ``ranks``: data-parallel ranks that ``tokens`` are of, if there are several.
    """

    name: str
    blocks: tuple[Block, ...]
    tokens: float = 0.0
    meta: dict[str, float] = field(default_factory=dict, hash=False, compare=False)

    def distinct(self) -> Iterator[tuple[int, int, Node, int]]:
        """Yield (block index, node index, node, repeat) of distinct nodes."""
        for b, block in enumerate(self.blocks):
            for n, node in enumerate(block.nodes):
                yield b, n, node, block.repeat

    def __len__(self) -> int:
        return sum(len(b.nodes) * b.repeat for b in self.blocks)

    @property
    def flop(self) -> float:
        """Arithmetic of one device, recomputation included. [FLOP]"""
        return sum(node.op.flop * repeat for _, _, node, repeat in self.distinct())

    @property
    def model_flop(self) -> float:
        """Arithmetic of one device as MFU counts it. [FLOP]"""
        return sum(n.op.model_flop * repeat for _, _, n, repeat in self.distinct())

    @property
    def full_flop(self) -> float:
        """As ``model_flop``, attention in full. [FLOP]"""
        return sum(n.op.full_flop * repeat for _, _, n, repeat in self.distinct())

    @property
    def nbytes(self) -> float:
        """Traffic of one device, every operand moved once. [B]"""
        return sum(node.op.nbytes * repeat for _, _, node, repeat in self.distinct())
