"""The closed form of in-order streams: a max-plus recurrence, folded.

Each stream runs its nodes in program order. A node starts when the host has
launched it, its stream is free and all it waits for has ended. Repeated
blocks settle into a steady pattern after a few instances: the rest is added
in one step, so that eighty equal layers cost as much as four.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from hwsim.graph.opgraph import COMPUTE, COMPUTING, Block, Node, OpGraph

SETTLED = 3  # equal growth in so many instances in a row is the steady pattern
TOLERANCE = 1e-11
MAX_AFTER = 4  # how many block instances back a node may wait for
MIN_FOLD = 10  # shorter repeats are played out


@dataclass(frozen=True, slots=True)
class Playback:
    """What the recurrence found.

    Attributes
    ----------
    makespan : float
        End of the last node. [s]
    compute_busy : float
        Time the compute stream ran kernels. [s]
    exposed_comm_time : float
        Compute stream waiting while what it waits for was on a link. [s]
    idle : float
        Compute stream waiting for anything else, mostly the host. [s]
    """

    makespan: float
    compute_busy: float
    exposed_comm_time: float
    idle: float


def split_wait(
    base: float, start: float, comm_start: float, comm_end: float
) -> tuple[float, float]:
    """Split a wait of the compute stream into (exposed communication, idle).

    Parameters
    ----------
    base, start : float
        End of the previous kernel and start of the next. [s]
    comm_start, comm_end : float
        When the communication that it waited for last was running. [s]
    """
    gap = start - base
    if gap <= 0.0:
        return 0.0, 0.0
    exposed = max(0.0, min(start, comm_end) - max(base, comm_start))
    return exposed, gap - exposed


@dataclass(slots=True)
class _State:
    """Times that later nodes can wait for, and what has been added up.

    ``last`` holds (start, end) of the newest node of each stream, ``outputs``
    (stream, start, end) of the newest block instances.
    """

    host: float = 0.0
    busy: float = 0.0
    exposed: float = 0.0
    idle: float = 0.0
    last: dict[str, tuple[float, float]] = field(default_factory=dict)
    outputs: deque[tuple[str, float, float]] = field(
        default_factory=lambda: deque(maxlen=MAX_AFTER)
    )

    @property
    def latest(self) -> float:
        """End of all that has been played. [s]"""
        return max((end for _, end in self.last.values()), default=0.0)

    @property
    def communication(self) -> tuple[float, float]:
        """Start and end of the communication that ends last. [s]"""
        found = (0.0, 0.0)
        for stream, times in self.last.items():
            if stream not in COMPUTING and times[1] > found[1]:
                found = times
        return found

    def vector(self) -> list[float]:
        flat = [self.host, self.busy, self.exposed, self.idle]
        for times in self.last.values():
            flat += times
        for _, start, end in self.outputs:
            flat += (start, end)
        return flat

    def advance(self, growth: Sequence[float], times: int) -> None:
        added = iter([times * g for g in growth])
        self.host += next(added)
        self.busy += next(added)
        self.exposed += next(added)
        self.idle += next(added)
        for stream, (start, end) in self.last.items():
            self.last[stream] = (start + next(added), end + next(added))
        for place, (stream, start, end) in enumerate(self.outputs):
            self.outputs[place] = (stream, start + next(added), end + next(added))


def play_inorder(
    graph: OpGraph,
    times: Sequence[Sequence[float]],
    host_times: Sequence[Sequence[float]],
    *,
    start: float = 0.0,
    fold: bool = True,
) -> Playback:
    """Return when a graph ends, and how the compute stream spent its time.

    Parameters
    ----------
    graph : OpGraph
        Blocks in program order.
    times : sequence of sequences of float
        Device time of each node of each block. [s]
    host_times : sequence of sequences of float
        Host time to launch each node; zeros for a captured graph. [s]
    start : float
        When the host begins to launch. [s]
    fold : bool
        Whether to add settled repeats in one step.
    """
    state = _State(host=start)
    for block, durations, launches in zip(graph.blocks, times, host_times, strict=True):
        _play_block(state, block, durations, launches, fold)
    compute_end = state.last.get(COMPUTE, (0.0, 0.0))[1]
    makespan = state.latest
    exposed, idle = split_wait(compute_end, makespan, *state.communication)
    return Playback(
        makespan=makespan,
        compute_busy=state.busy,
        exposed_comm_time=state.exposed + exposed,
        idle=state.idle + idle,
    )


def _play_block(
    state: _State,
    block: Block,
    durations: Sequence[float],
    launches: Sequence[float],
    fold: bool,
) -> None:
    done, alike = 0, 0
    before: list[float] = []
    growth: list[float] = []
    while done < block.repeat:
        _play_instance(state, block, durations, launches)
        done += 1
        if not fold or block.repeat < MIN_FOLD:
            continue
        after = state.vector()
        if len(after) == len(before):
            new = [b - a for a, b in zip(before, after, strict=True)]
            alike = alike + 1 if _same(growth, new) else 0
            growth = new
            if alike >= SETTLED and _is_settled(state, block, growth):
                state.advance(growth, block.repeat - done)
                return
        before = after


def _same(old: Sequence[float], new: Sequence[float]) -> bool:
    if len(old) != len(new):
        return False
    scale = _tolerance(new)
    return all(abs(a - b) <= scale for a, b in zip(old, new, strict=True))


def _tolerance(growth: Sequence[float]) -> float:
    return TOLERANCE * max(map(abs, growth), default=0.0)


def _is_settled(state: _State, block: Block, growth: Sequence[float]) -> bool:
    """Whether the pattern can never change again.

    It can while something that others wait for grows faster than they do: it
    is not felt yet, but will catch up with them.
    """
    host, slack = growth[0], _tolerance(growth)
    rate = {name: growth[5 + 2 * i] for i, name in enumerate(state.last)}
    used = {node.stream for node in block.nodes}
    if any(rate[name] < host - slack for name in used):
        return False
    return all(
        rate[source] <= rate[waiter] + slack
        for source, waiter in waiting_edges(block, rate)
    )


def waiting_edges(block: Block, streams: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (stream, stream that waits for it)."""
    out = block.nodes[block.output_index].stream
    for node in block.nodes:
        for dep in node.deps:
            yield block.nodes[dep].stream, node.stream
        if node.barrier:
            for name in streams:
                yield name, node.stream
        elif not node.deps and node.after:
            yield out, node.stream


def _play_instance(
    state: _State, block: Block, durations: Sequence[float], launches: Sequence[float]
) -> None:
    played: list[tuple[float, float]] = []
    last, nodes = state.last, block.nodes
    for node, duration, launch in zip(nodes, durations, launches, strict=True):
        stream = node.stream
        base = last[stream][1] if stream in last else 0.0
        ready, communication = _waits(state, node, nodes, played)
        state.host = (max(state.host, ready) if node.synced else state.host) + launch
        start = max(ready, base, state.host)
        if stream == COMPUTE:
            exposed, idle = split_wait(base, start, *communication)
            state.busy += duration
            state.exposed += exposed
            state.idle += idle
        since = start
        if stream != COMPUTE and communication[1] == start:
            since = communication[0]  # one transfer right after another
        last[stream] = (since, start + duration)
        played.append(last[stream])
    out = block.output_index
    state.outputs.append((nodes[out].stream, *played[out]))


def _waits(
    state: _State,
    node: Node,
    nodes: Sequence[Node],
    played: Sequence[tuple[float, float]],
) -> tuple[float, tuple[float, float]]:
    """Return when all that a node waits for has ended, and the last transfer."""
    ready, communication = 0.0, (0.0, 0.0)
    if node.barrier:
        return state.latest, state.communication
    for dep in node.deps:
        end = played[dep][1]
        ready = max(ready, end)
        if nodes[dep].stream not in COMPUTING and end > communication[1]:
            communication = played[dep]
    if not node.deps and node.after and node.after <= len(state.outputs):
        stream, start, ready = state.outputs[-node.after]
        if stream not in COMPUTING:
            communication = (start, ready)
    return ready, communication
