"""Plays a graph: host launch queue, in-order streams, links, several ranks.

Ties go by program order within a stream and by the order in which processes
were made between streams; nothing is drawn at random, so the same input
gives the same timeline, bit for bit.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import simpy

from hwsim.cost.sharing import host_use
from hwsim.errors import InputError
from hwsim.graph.op import Collective, Op
from hwsim.graph.opgraph import COMPUTE, COMPUTING, Node, OpGraph
from hwsim.schedule.inorder import split_wait
from hwsim.sim.links import FairNetwork, Use
from hwsim.sim.records import PlayedGraph, Record


@dataclass(slots=True, eq=False)
class _Task:
    """One node of one block instance on one rank."""

    node: Node
    rank: int
    block: int
    instance: int
    index: int
    duration: float
    transfer: float
    launch: float
    waits: tuple[_Task, ...]
    start: float = -1.0
    since: float = -1.0
    end: float = -1.0
    waiting: list[simpy.Event] | None = None

    def when_done(self, env: simpy.Environment) -> simpy.Event:
        """Return an event that succeeds when the task ends."""
        event = env.event()
        self.waiting = [*(self.waiting or ()), event]
        return event

    def communication(self) -> tuple[float, float]:
        """Start and end of the last communication that it waited for."""
        found = (0.0, 0.0)
        for other in self.waits:
            if other.node.stream not in COMPUTING and other.end > found[1]:
                found = (other.since, other.end)
        return found

    def begin(self, now: float) -> None:
        """Start; a transfer right after one that it waited for goes on with it."""
        self.start = self.since = now
        since, until = self.communication()
        if until and math.isclose(until, now, rel_tol=1e-12):
            self.since = since


class _Stream:
    """A first-in first-out queue of launched tasks."""

    __slots__ = ("closed", "queue", "wake")

    def __init__(self) -> None:
        self.queue: deque[_Task] = deque()
        self.wake: simpy.Event | None = None
        self.closed = False

    def push(self, task: _Task) -> None:
        self.queue.append(task)
        self.ring()

    def ring(self) -> None:
        if self.wake is not None:
            wake, self.wake = self.wake, None
            wake.succeed()


class GraphPlayer:
    """Plays one graph on ``ranks`` devices in a SimPy environment.

    Parameters
    ----------
    env : simpy.Environment
        The clock; other processes may share it.
    graph : OpGraph
        Blocks in program order, the same on every rank.
    times, transfers, host_times : sequence of sequences of float
        Of each node of each block: device time, the part of it that is spent
        on a link and may be shared, and host time to launch. [s]
    start : float
        When the host begins to launch. [s]
    ranks : int
        Devices played. One stands for all where they are alike.
    use : callable, optional
        Share of each link that an operation takes while it runs alone:
        transfers at the same time share them, max-min fair. By default all
        collectives take the whole of one link, copies of another.
    slowdown : sequence of float
        Factor on each rank's compute times (stragglers); 1 is nominal.
    """

    def __init__(
        self,
        env: simpy.Environment,
        graph: OpGraph,
        times: Sequence[Sequence[float]],
        transfers: Sequence[Sequence[float]],
        host_times: Sequence[Sequence[float]],
        *,
        start: float = 0.0,
        ranks: int = 1,
        use: Callable[[Op], Use] | None = None,
        slowdown: Sequence[float] = (),
    ) -> None:
        if ranks < 1:
            raise InputError(f"ranks is {ranks}; play at least one")
        if not all(0.0 < factor < float("inf") for factor in slowdown):
            raise InputError(f"slowdown is {list(slowdown)}; give factors above 0")
        if slowdown and len(slowdown) != ranks:
            raise InputError(
                f"slowdown names {len(slowdown)} ranks, but {ranks} are played"
            )
        self.env, self.graph, self.ranks = env, graph, ranks
        self._launch_start = start
        self._use = use or _one_link
        self._uses: dict[int, Use] = {}
        self._meetings: dict[tuple[int, ...], list[Any]] = {}
        self._links = [FairNetwork(env) for _ in range(ranks)]
        self._waited = [[0.0, 0.0, 0.0] for _ in range(ranks)]
        self.tasks: list[list[_Task]] = []
        for rank in range(ranks):
            factor = slowdown[rank] if slowdown else 1.0
            tasks = _expand(graph, times, transfers, host_times, rank, factor)
            self.tasks.append(tasks)
        self.done = env.all_of([self._start(rank) for rank in range(ranks)])

    def _start(self, rank: int) -> simpy.Process:
        streams: dict[str, _Stream] = {}
        for task in self.tasks[rank]:
            streams.setdefault(task.node.stream, _Stream())
        self.env.process(self._host(rank, streams))
        workers = [
            self.env.process(self._work(rank, name, stream))
            for name, stream in streams.items()
        ]
        return self.env.process(_all(self.env, workers))

    def _host(
        self, rank: int, streams: dict[str, _Stream]
    ) -> Generator[simpy.Event, None, None]:
        """Launch the nodes in program order, running ahead of the device."""
        if self._launch_start > 0.0:
            yield self.env.timeout(self._launch_start)
        for task in self.tasks[rank]:
            for other in task.waits if task.node.synced else ():
                if other.end < 0.0:
                    yield other.when_done(self.env)
            if task.launch > 0.0:
                yield self.env.timeout(task.launch)
            streams[task.node.stream].push(task)
        for stream in streams.values():
            stream.closed = True
            stream.ring()

    def _work(
        self, rank: int, name: str, stream: _Stream
    ) -> Generator[simpy.Event, None, None]:
        env, queue, waited = self.env, stream.queue, self._waited[rank]
        base = 0.0
        while True:
            while not queue:
                if stream.closed:
                    return
                stream.wake = env.event()
                yield stream.wake
            task = queue.popleft()
            for other in task.waits:
                if other.end < 0.0:
                    yield other.when_done(env)
            if name == COMPUTE:
                task.start = env.now
                exposed, idle = split_wait(base, env.now, *task.communication())
                waited[0] += task.duration
                waited[1] += exposed
                waited[2] += idle
                yield env.timeout(task.duration)
            else:
                yield from self._communicate(task)
            base = task.end = env.now
            if task.waiting:
                for event in task.waiting:
                    event.succeed()

    def _communicate(self, task: _Task) -> Generator[simpy.Event, None, None]:
        op = task.node.op
        if self.ranks > 1 and isinstance(op, Collective):
            yield from self._meet(task, op)
        task.begin(self.env.now)
        if task.transfer <= 0.0:
            yield self.env.timeout(task.duration)
            return
        own = task.duration - task.transfer
        if own > 0.0:
            yield self.env.timeout(own)
        if id(op) not in self._uses:
            self._uses[id(op)] = self._use(op)
        yield self._links[task.rank].transfer(task.transfer, self._uses[id(op)])

    def _meet(self, task: _Task, op: Collective) -> Generator[simpy.Event, None, None]:
        """Wait until every played rank of the group has arrived."""
        span = op.stride * op.group_size
        group = (task.rank // span) * op.stride + task.rank % op.stride
        members = [
            r
            for r in range(self.ranks)
            if (r // span) * op.stride + r % op.stride == group
        ]
        key = (group, op.stride, task.block, task.instance, task.index)
        meeting = self._meetings.setdefault(key, [0, self.env.event()])
        meeting[0] += 1
        if meeting[0] == len(members):
            meeting[1].succeed()
            del self._meetings[key]
        else:
            yield meeting[1]

    def result(self) -> PlayedGraph:
        """Return the timeline and how rank 0 spent its time."""
        records = [
            Record(
                t.rank, t.node.stream, self.graph.blocks[t.block].name, t.instance,
                t.node.op.name, t.node.op.kind, t.node.op.phase, t.start, t.end,
            )
            for tasks in self.tasks
            for t in tasks
        ]  # fmt: skip
        ends = [max((t.end for t in tasks), default=0.0) for tasks in self.tasks]
        busy, exposed, idle = self._waited[0]
        last = {t.node.stream: (t.since, t.end) for t in self.tasks[0]}
        compute_end = last.get(COMPUTE, (0.0, 0.0))[1]
        sent = [times for name, times in last.items() if name not in COMPUTING]
        comm = max(sent, key=lambda times: times[1], default=(0.0, 0.0))
        more_exposed, more_idle = split_wait(compute_end, ends[0], *comm)
        return PlayedGraph(
            records=tuple(records),
            makespan=max(ends),
            compute_busy=busy,
            exposed_comm_time=exposed + more_exposed,
            idle=idle + more_idle,
            ranks=self.ranks,
            contended=any(links.contended for links in self._links),
        )


def _one_link(op: Op) -> Use:
    """Put all collectives on one link, copies on others."""
    return {0: 1.0} if isinstance(op, Collective) else host_use(op)


def _all(
    env: simpy.Environment, processes: list[simpy.Process]
) -> Generator[simpy.Event, None, None]:
    yield env.all_of(processes)


def _expand(
    graph: OpGraph,
    times: Sequence[Sequence[float]],
    transfers: Sequence[Sequence[float]],
    host_times: Sequence[Sequence[float]],
    rank: int,
    factor: float,
) -> list[_Task]:
    """Unfold the graph into tasks that know what they wait for."""
    tasks: list[_Task] = []
    outputs: list[_Task] = []
    last: dict[str, _Task] = {}
    for b, block in enumerate(graph.blocks):
        rows = list(
            zip(block.nodes, times[b], transfers[b], host_times[b], strict=True)
        )
        for instance in range(block.repeat):
            first = len(tasks)
            for index, (node, duration, transfer, launch) in enumerate(rows):
                if node.barrier:
                    waits = tuple(last.values())
                elif node.deps:
                    waits = tuple([tasks[first + d] for d in node.deps])
                elif node.after and node.after <= len(outputs):
                    waits = (outputs[-node.after],)
                else:
                    waits = ()
                scaled = duration * factor if node.stream == COMPUTE else duration
                task = _Task(
                    node, rank, b, instance, index, scaled, transfer, launch, waits
                )
                last[node.stream] = task
                tasks.append(task)
            outputs.append(tasks[first + block.output_index])
    return tasks


def play(
    graph: OpGraph,
    times: Sequence[Sequence[float]],
    transfers: Sequence[Sequence[float]],
    host_times: Sequence[Sequence[float]],
    *,
    start: float = 0.0,
    ranks: int = 1,
    use: Callable[[Op], Use] | None = None,
    slowdown: Sequence[float] = (),
) -> PlayedGraph:
    """Play a graph in an environment of its own; see :class:`GraphPlayer`."""
    env = simpy.Environment()
    player = GraphPlayer(
        env, graph, times, transfers, host_times,
        start=start, ranks=ranks, use=use, slowdown=slowdown,
    )  # fmt: skip
    env.run(until=player.done)
    return player.result()
