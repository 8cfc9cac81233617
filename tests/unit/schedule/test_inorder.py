"""The max-plus recurrence against hand-made cases and its own unfolded form."""

import math

import pytest
from hypothesis import given, settings

from hwsim.graph.opgraph import BESIDE, COMPUTE, Block, Node, OpGraph
from hwsim.schedule.inorder import play_inorder, split_wait
from tests.strategies.blocks import small_op, timed_graphs


def chain(streams, repeat=1, **options):
    nodes = tuple(
        Node(small_op(str(i), s), deps=(i - 1,) if i else (), stream=s, **options)
        for i, s in enumerate(streams)
    )
    return OpGraph("chain", (Block("b", nodes, repeat),))


def test_chain_takes_the_sum_of_its_times():
    played = play_inorder(
        chain([COMPUTE, "tp", COMPUTE], 80), [[1.0, 0.5, 2.0]], [[0.0, 0.0, 0.0]]
    )
    assert math.isclose(played.makespan, 80 * 3.5, rel_tol=1e-12)
    assert math.isclose(played.compute_busy, 80 * 3.0, rel_tol=1e-12)
    assert math.isclose(played.exposed_comm_time, 80 * 0.5, rel_tol=1e-12)
    assert played.idle == pytest.approx(0.0, abs=1e-12)


def test_slow_host_makes_the_device_wait():
    played = play_inorder(chain([COMPUTE] * 2, 50), [[1.0, 1.0]], [[4.0, 4.0]])
    assert math.isclose(played.makespan, 100 * 4.0 + 1.0, rel_tol=1e-12)
    assert math.isclose(played.idle, 100 * 4.0 - 99 * 1.0, rel_tol=1e-12)


def test_fast_host_is_hidden_behind_the_device():
    played = play_inorder(chain([COMPUTE] * 2, 50), [[3.0, 3.0]], [[1.0, 1.0]])
    assert math.isclose(played.makespan, 1.0 + 100 * 3.0, rel_tol=1e-12)


def test_communication_that_nothing_waits_for_is_hidden():
    nodes = (
        Node(small_op("compute", COMPUTE)),
        Node(small_op("reduce", "dp"), deps=(0,), stream="dp"),
    )
    graph = OpGraph("overlap", (Block("b", nodes, 20, output=0),))
    played = play_inorder(graph, [[2.0, 1.0]], [[0.0, 0.0]])
    assert math.isclose(played.makespan, 20 * 2.0 + 1.0)
    assert math.isclose(played.exposed_comm_time, 1.0)


def test_prefetch_runs_one_block_ahead():
    nodes = (
        Node(small_op("gather", "dp"), stream="dp", after=2),
        Node(small_op("compute", COMPUTE), deps=(0,)),
    )
    graph = OpGraph("fsdp", (Block("b", nodes, 40, output=1),))
    hidden = play_inorder(graph, [[1.0, 3.0]], [[0.0, 0.0]])
    assert math.isclose(hidden.makespan, 1.0 + 40 * 3.0)
    slow = play_inorder(graph, [[5.0, 3.0]], [[0.0, 0.0]])
    assert math.isclose(slow.makespan, 40 * 5.0 + 3.0)


def test_barrier_waits_for_every_stream():
    first = Block(
        "b",
        (
            Node(small_op("c", COMPUTE)),
            Node(small_op("d", "dp"), deps=(0,), stream="dp"),
        ),
        output=0,
    )
    last = Block("opt", (Node(small_op("o", COMPUTE), barrier=True),))
    played = play_inorder(
        OpGraph("g", (first, last)), [[1.0, 9.0], [1.0]], [[0.0, 0.0], [0.0]]
    )
    assert played.makespan == 11.0
    assert played.exposed_comm_time == 9.0


@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        ((0.0, 0.0, 0.0, 0.0), (0.0, 0.0)),
        ((1.0, 5.0, 2.0, 4.0), (2.0, 2.0)),
        ((1.0, 5.0, 0.0, 9.0), (4.0, 0.0)),
        ((1.0, 5.0, 0.0, 0.5), (0.0, 4.0)),
    ],
)
def test_split_wait(wait, expected):
    assert split_wait(*wait) == expected


@settings(max_examples=150, deadline=None)
@given(timed_graphs(max_repeat=60))
def test_folding_changes_nothing(case):
    graph, times, host = case
    folded = play_inorder(graph, times, host)
    plain = play_inorder(graph, times, host, fold=False)
    for name in ("makespan", "compute_busy", "exposed_comm_time", "idle"):
        assert math.isclose(
            getattr(folded, name), getattr(plain, name), rel_tol=1e-9, abs_tol=1e-9
        ), name


def test_waiting_for_the_second_stream_is_no_communication():
    def played(stream):
        nodes = (
            Node(small_op("routed", COMPUTE)),
            Node(small_op("shared", stream), stream=stream),
            Node(small_op("sum", COMPUTE), (0, 1)),
        )
        graph = OpGraph("experts", (Block("b", nodes),))
        return play_inorder(graph, [[1.0, 9.0, 1.0]], [[0.0, 0.0, 0.0]])

    beside, sent = played(BESIDE), played("tp")
    assert beside.makespan == sent.makespan == 10.0
    assert (beside.exposed_comm_time, beside.idle) == (0.0, 8.0)
    assert (sent.exposed_comm_time, sent.idle) == (8.0, 0.0)
