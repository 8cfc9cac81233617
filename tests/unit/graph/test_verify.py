from __future__ import annotations

from dataclasses import replace

import pytest

from hwsim.errors import GraphError
from hwsim.graph.op import Collective, Elementwise, Matmul, Operand
from hwsim.graph.opgraph import Block, Node, OpGraph
from hwsim.graph.verify import verify

ADD = Elementwise(name="add", dtype="bf16", numel=4.0, function="add")
PRODUCT = Matmul(
    name="mm", dtype="bf16", m=2, n=2, k=2, a_bytes=2, b_bytes=2, c_bytes=2
)
REDUCE = Collective(
    name="sum", dtype="bf16", collective="all_reduce", message=8.0, group_size=2
)


def graph(*nodes: Node, repeat: int = 1, output: int = -1, tokens: float = 1.0):
    return OpGraph("g", (Block("b", nodes, repeat, output),), tokens)


def with_op(op) -> OpGraph:
    return graph(Node(op))


def test_good_graph_passes() -> None:
    verify(graph(Node(ADD), Node(PRODUCT, deps=(0,)), Node(REDUCE, (0, 1), "tp")))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (OpGraph("g", ()), "no blocks"),
        (graph(), "empty"),
        (graph(Node(ADD), repeat=0), "repeat is 0"),
        (graph(Node(ADD), output=1), "output is 1"),
        (graph(Node(ADD), output=-2), "output is -2"),
        (graph(Node(ADD), tokens=float("nan")), "tokens is nan"),
        (graph(Node(ADD, deps=(0,))), "waits for node 0"),
        (graph(Node(ADD, deps=(1,)), Node(ADD)), "waits for node 1"),
        (graph(Node(ADD), Node(ADD, deps=(-1,))), "waits for node -1"),
        (graph(Node(ADD), Node(ADD, deps=(0, 0))), "twice"),
        (graph(Node(ADD, stream="pp9")), "unknown stream 'pp9'"),
        (graph(Node(ADD, after=0)), "after is 0"),
        (with_op(replace(ADD, dtype="fp7")), "unknown dtype 'fp7'"),
        (with_op(replace(ADD, phase="sideways")), "unknown phase"),
        (with_op(replace(ADD, numel=-1.0)), "numel is -1.0"),
        (with_op(replace(ADD, numel="many")), "not a number"),
        (with_op(replace(ADD, kernels=-1)), "kernels is -1"),
        (with_op(replace(PRODUCT, m=float("inf"))), "m is inf"),
        (with_op(replace(PRODUCT, batch=float("nan"))), "batch is nan"),
        (
            with_op(replace(ADD, reads=(Operand("weight", -2.0, "bf16"),))),
            "nbytes of weight is -2.0",
        ),
        (with_op(replace(ADD, writes=(Operand("x", 2.0, "bf16"),))), "unknown role"),
        (with_op(replace(ADD, writes=(Operand("index", 2.0, "c"),))), "unknown dtype"),
        (with_op(replace(REDUCE, group_size=1)), "among 1 devices"),
        (with_op(replace(REDUCE, stride=0)), "stride is 0"),
        (with_op(replace(REDUCE, collective="shout")), "unknown collective"),
        (with_op(replace(REDUCE, message=float("nan"))), "message is nan"),
    ],
)
def test_malformed_graph_is_refused(bad: OpGraph, says: str) -> None:
    with pytest.raises(GraphError, match="g") as caught:
        verify(bad)
    assert says in str(caught.value)
