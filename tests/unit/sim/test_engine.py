"""The simulator against the closed form, and its invariants."""

import math
from itertools import pairwise

import pytest
import simpy
from hypothesis import given, settings

from hwsim.errors import InputError
from hwsim.graph.opgraph import COMPUTE, Block, Node, OpGraph
from hwsim.schedule.inorder import play_inorder
from hwsim.sim.engine import GraphPlayer, play
from tests.strategies.blocks import small_op, timed_graphs


def zeros(rows):
    return [[0.0] * len(row) for row in rows]


def longest_path(graph, times):
    """Critical path through dependencies alone: no stream order, no host."""
    ends, outputs, latest = [], [], 0.0
    for block, durations in zip(graph.blocks, times, strict=True):
        for _ in range(block.repeat):
            ends = []
            for node, duration in zip(block.nodes, durations, strict=True):
                ready = max([ends[d] for d in node.deps], default=0.0)
                if node.barrier:
                    ready = max(ready, latest)
                elif not node.deps and node.after and node.after <= len(outputs):
                    ready = outputs[-node.after]
                ends.append(ready + duration)
                latest = max(latest, ends[-1])
            outputs.append(ends[block.output_index])
    return latest


@settings(max_examples=150, deadline=None)
@given(timed_graphs(max_repeat=12))
def test_simulation_equals_the_closed_form_without_contention(case):
    graph, times, host = case
    simulated = play(graph, times, zeros(times), host)
    closed = play_inorder(graph, times, host)
    for name in ("makespan", "compute_busy", "exposed_comm_time", "idle"):
        assert math.isclose(
            getattr(simulated, name), getattr(closed, name), rel_tol=1e-9, abs_tol=1e-9
        ), name


@settings(max_examples=100, deadline=None)
@given(timed_graphs(max_repeat=6))
def test_makespan_lies_between_critical_path_and_serial_sum(case):
    graph, times, host = case
    played = play(graph, times, times, host)
    serial = sum(
        (sum(row) + sum(launch)) * block.repeat
        for block, row, launch in zip(graph.blocks, times, host, strict=True)
    )
    assert longest_path(graph, times) <= played.makespan * (1 + 1e-9) + 1e-9
    assert played.makespan <= serial * (1 + 1e-9) + 1e-9


@settings(max_examples=30, deadline=None)
@given(timed_graphs(max_repeat=4))
def test_same_input_same_timeline(case):
    graph, times, host = case
    once = play(graph, times, times, host, ranks=2)
    again = play(graph, times, times, host, ranks=2)
    assert once == again


@settings(max_examples=40, deadline=None)
@given(timed_graphs(max_repeat=4))
def test_equal_ranks_behave_as_one(case):
    graph, times, host = case
    one = play(graph, times, zeros(times), host)
    four = play(graph, times, zeros(times), host, ranks=4)
    assert math.isclose(one.makespan, four.makespan, rel_tol=1e-12, abs_tol=1e-12)
    assert len(four.records) == 4 * len(one.records)


@settings(max_examples=40, deadline=None)
@given(timed_graphs(max_repeat=4))
def test_streams_run_one_operator_at_a_time(case):
    graph, times, host = case
    rows = {}
    for record in play(graph, times, times, host).records:
        rows.setdefault(record.stream, []).append(record)
    for records in rows.values():
        for before, after in pairwise(records):
            assert after.start >= before.end - 1e-12


def two_transfers():
    nodes = (
        Node(small_op("a", "tp"), stream="tp"),
        Node(small_op("b", "dp"), stream="dp"),
    )
    return OpGraph("contend", (Block("b", nodes),))


def test_transfers_at_once_share_the_link():
    played = play(two_transfers(), [[4.0, 2.0]], [[4.0, 2.0]], [[0.0, 0.0]])
    ends = {r.name: r.end for r in played.records}
    assert ends == {"b": pytest.approx(4.0), "a": pytest.approx(6.0)}
    assert played.contended


def test_transfers_on_different_levels_do_not_share():
    nodes = (
        Node(small_op("a", "tp"), stream="tp"),
        Node(_wide("b"), stream="dp"),
    )
    graph = OpGraph("levels", (Block("b", nodes),))

    def playing(use):
        return play(graph, [[4.0, 2.0]], [[4.0, 2.0]], [[0.0, 0.0]], use=use)

    apart = playing(lambda op: {op.group_size: 1.0})
    assert not apart.contended
    assert apart.makespan == pytest.approx(4.0)
    # The wide one takes a quarter of the level that the narrow one fills.
    both = playing(lambda op: {1: 1.0, 2: 0.25} if op.group_size == 16 else {2: 1.0})
    assert both.contended
    ends = {r.name: r.end for r in both.records}
    assert ends["b"] == pytest.approx(2.5)
    assert ends["a"] == pytest.approx(2.5 + 4.0 - 2.0)


def _wide(name):
    from hwsim.graph.op import Collective

    return Collective(
        name=name, dtype="bf16", collective="all_reduce", message=8.0, group_size=16
    )


def test_a_straggler_holds_the_others_back():
    nodes = (
        Node(small_op("work", COMPUTE)),
        Node(small_op("reduce", "tp"), deps=(0,), stream="tp"),
    )
    graph = OpGraph("step", (Block("b", nodes, 10),))
    even = play(graph, [[1.0, 0.5]], [[0.0, 0.0]], [[0.0, 0.0]], ranks=2)
    slow = play(
        graph, [[1.0, 0.5]], [[0.0, 0.0]], [[0.0, 0.0]], ranks=2, slowdown=(1.0, 1.5)
    )
    assert even.makespan == pytest.approx(15.0)
    assert slow.makespan == pytest.approx(20.0)


@pytest.mark.parametrize("options", [{"ranks": 0}, {"ranks": 2, "slowdown": (1.0,)}])
def test_impossible_ranks_are_refused(options):
    with pytest.raises(InputError):
        play(two_transfers(), [[1.0, 1.0]], [[1.0, 1.0]], [[0.0, 0.0]], **options)


def test_two_graphs_can_share_a_clock():
    env = simpy.Environment()
    args = ([[1.0, 1.0]], [[0.0, 0.0]], [[0.0, 0.0]])
    players = [GraphPlayer(env, two_transfers(), *args) for _ in range(2)]
    env.run(until=env.all_of([p.done for p in players]))
    assert [p.result().makespan for p in players] == [1.0, 1.0]
