"""Checks that a graph is well-formed before anything is computed from it."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import get_args

from hwsim.errors import GraphError
from hwsim.graph.op import Collective, CollectiveName, Op, Operand, Phase, Role
from hwsim.graph.opgraph import Block, Node, OpGraph
from hwsim.specs.base import DTYPE_BYTES, DTYPES

STREAMS = frozenset(
    {
        "compute",
        "beside",
        "tp",
        "cp",
        "ep",
        "ep_beside",
        "dp",
        "gather",
        "pp",
        "copy",
        "copy_out",
    }
)
_DTYPES = frozenset(DTYPES)
# Stored, but never computed in: block formats of weights, indices.
_STORED = frozenset(DTYPE_BYTES) | {"int32", "int64"}
_ROLES, _PHASES = frozenset(get_args(Role)), frozenset(get_args(Phase))
_COLLECTIVES = frozenset(get_args(CollectiveName))


def verify(graph: OpGraph) -> None:
    """Raise GraphError if a graph is malformed.

    Checked are the order of dependencies (a node waits for nodes before it
    in its block, so there are no cycles), outputs, repetitions, streams,
    dtypes, and that no shape or size is negative or not a number.
    """
    if not graph.blocks:
        raise GraphError(f"graph {graph.name}: it has no blocks")
    _size(f"graph {graph.name}", "tokens", graph.tokens)
    for block in graph.blocks:
        _block(f"{graph.name}/{block.name}", block)


def _block(where: str, block: Block) -> None:
    if not block.nodes:
        raise GraphError(f"{where}: the block is empty; leave it out")
    if not isinstance(block.repeat, int) or block.repeat < 1:
        raise GraphError(f"{where}: repeat is {block.repeat!r}; it must be 1 or more")
    count = len(block.nodes)
    if not -count <= block.output < count:
        raise GraphError(
            f"{where}: output is {block.output} but there are {count} nodes"
        )
    for index, node in enumerate(block.nodes):
        _node(f"{where}/{index}:{node.op.name}", index, node)


def _node(where: str, index: int, node: Node) -> None:
    for dep in node.deps:
        if not isinstance(dep, int) or not 0 <= dep < index:
            raise GraphError(
                f"{where}: it waits for node {dep}; only nodes 0 to {index - 1} "
                "come before it"
            )
    if len(set(node.deps)) < len(node.deps):
        raise GraphError(f"{where}: it names a node twice in deps {node.deps}")
    if node.stream not in STREAMS:
        raise GraphError(f"{where}: unknown stream {node.stream!r}")
    if node.after is not None and (not isinstance(node.after, int) or node.after < 1):
        raise GraphError(f"{where}: after is {node.after!r}; it must be 1 or more")
    _op(where, node.op)


def _op(where: str, op: Op) -> None:
    if op.dtype not in _DTYPES:
        raise GraphError(f"{where}: unknown dtype {op.dtype!r}")
    if op.phase not in _PHASES:
        raise GraphError(f"{where}: unknown phase {op.phase!r}")
    for name in _numbers(op):
        _size(where, name, getattr(op, name))
    for operand in (*op.reads, *op.writes):
        _operand(where, operand)
    if isinstance(op, Collective):
        _collective(where, op)


def _operand(where: str, operand: Operand) -> None:
    if operand.dtype not in _STORED:
        raise GraphError(f"{where}: unknown dtype {operand.dtype!r} of an operand")
    if operand.role not in _ROLES:
        raise GraphError(f"{where}: unknown role {operand.role!r} of an operand")
    _size(where, f"nbytes of {operand.role}", operand.nbytes)


def _collective(where: str, op: Collective) -> None:
    if op.collective not in _COLLECTIVES:
        raise GraphError(f"{where}: unknown collective {op.collective!r}")
    if op.group_size < 2:
        raise GraphError(
            f"{where}: a collective among {op.group_size} devices; leave it out"
        )
    if op.stride < 1:
        raise GraphError(f"{where}: stride is {op.stride}; it must be 1 or more")


def _numbers(op: Op) -> tuple[str, ...]:
    """Names of an operator's numeric fields."""
    return tuple(f.name for f in fields(op) if f.type in {"int", "float"})


def _size(where: str, name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise GraphError(f"{where}: {name} is {value!r}, not a number")
    if not math.isfinite(value) or value < 0:
        raise GraphError(f"{where}: {name} is {value!r}; it must be finite, 0 or more")
