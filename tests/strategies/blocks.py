"""Random small graphs with times, for the schedule and the simulator."""

from __future__ import annotations

from hypothesis import strategies as st

from hwsim.graph.op import Collective, Elementwise
from hwsim.graph.opgraph import BESIDE, COMPUTE, Block, Node, OpGraph

TIMES = st.integers(0, 40).map(lambda n: n * 0.25)


def small_op(name: str, stream: str):
    """An operator for a stream; its costs are given beside the graph."""
    if stream == COMPUTE:
        return Elementwise(name=name, dtype="bf16", numel=1.0, function="add")
    return Collective(
        name=name, dtype="bf16", collective="all_reduce", message=8.0, group_size=2
    )


@st.composite
def blocks(draw, streams=(COMPUTE, BESIDE, "tp", "dp"), max_repeat=30):
    """One block with valid dependencies."""
    size = draw(st.integers(1, 5))
    nodes = []
    for index in range(size):
        stream = draw(st.sampled_from(streams))
        deps = draw(st.sets(st.integers(0, index - 1))) if index else set()
        nodes.append(
            Node(
                small_op(f"op{index}", stream),
                deps=tuple(sorted(deps)),
                stream=stream,
                after=draw(st.sampled_from([None, 1, 1, 1, 2])),
                barrier=draw(st.integers(0, 9)) == 0,
            )
        )
    repeat = draw(st.integers(1, max_repeat))
    return Block("block", tuple(nodes), repeat, draw(st.integers(0, size - 1)))


@st.composite
def timed_graphs(draw, streams=(COMPUTE, BESIDE, "tp", "dp"), max_repeat=30):
    """A graph, device times and host times."""
    parts = tuple(draw(st.lists(blocks(streams, max_repeat), min_size=1, max_size=3)))
    times = [[draw(TIMES) for _ in b.nodes] for b in parts]
    eager = draw(st.booleans())
    host = [[draw(TIMES) if eager else 0.0 for _ in b.nodes] for b in parts]
    return OpGraph("random", parts), times, host
