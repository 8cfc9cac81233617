"""The closed form of in-order streams: a max-plus recurrence, folded.

Each stream runs its nodes in program order. A node starts when the host has
launched it, its stream is free and all it waits for has ended. Repeated
blocks settle into a steady pattern after a few instances: the rest is added
in one step, so that eighty equal layers cost as much as four.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from hwsim.graph.opgraph import COMPUTE, Block, OpGraph

_SETTLED = 3  # equal growth in so many instances in a row is the steady pattern
_TOLERANCE = 1e-11
MAX_AFTER = 4  # how many block instances back a node may wait for
_MIN_FOLD = 10  # shorter repeats are played out


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
    """Times that later nodes can wait for, and what has been added up."""

    host: float = 0.0
    free: dict[str, float] = field(default_factory=dict)
    latest: float = 0.0
    outputs: deque[tuple[str, float, float]] = field(
        default_factory=lambda: deque(maxlen=MAX_AFTER)
    )
    comm: tuple[float, float] = (0.0, 0.0)
    busy: float = 0.0
    exposed: float = 0.0
    idle: float = 0.0

    def vector(self) -> list[float]:
        free = self.free
        flat = [self.host, self.latest, self.busy, self.exposed, self.idle]
        flat += [free[name] for name in sorted(free)]
        for _, start, end in self.outputs:
            flat += (start, end)
        return [*flat, *self.comm]

    def advance(self, growth: Sequence[float], times: int) -> None:
        g = iter(growth)
        self.host += times * next(g)
        self.latest += times * next(g)
        self.busy += times * next(g)
        self.exposed += times * next(g)
        self.idle += times * next(g)
        for name in sorted(self.free):
            self.free[name] += times * next(g)
        self.outputs = deque(
            [(s, a + times * next(g), b + times * next(g)) for s, a, b in self.outputs],
            maxlen=self.outputs.maxlen,
        )
        self.comm = (
            self.comm[0] + times * next(g),
            self.comm[1] + times * next(g),
        )


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
    compute_end = state.free.get(COMPUTE, 0.0)
    exposed, idle = split_wait(compute_end, state.latest, *state.comm)
    return Playback(
        makespan=state.latest,
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
    done, settled = 0, 0
    before: list[float] = []
    growth: list[float] = []
    while done < block.repeat:
        _play_instance(state, block, durations, launches)
        done += 1
        if not fold or block.repeat < _MIN_FOLD:
            continue
        after = state.vector()
        if len(after) == len(before):
            new = [b - a for a, b in zip(before, after, strict=True)]
            settled = settled + 1 if _same(growth, new) else 0
            growth = new
            if settled >= _SETTLED:
                state.advance(growth, block.repeat - done)
                return
        before = after


def _same(old: Sequence[float], new: Sequence[float]) -> bool:
    if len(old) != len(new):
        return False
    scale = _TOLERANCE * max(map(abs, new), default=0.0)
    return all(abs(a - b) <= scale for a, b in zip(old, new, strict=True))


def _play_instance(
    state: _State, block: Block, durations: Sequence[float], launches: Sequence[float]
) -> None:
    starts: list[float] = []
    ends: list[float] = []
    free, nodes = state.free, block.nodes
    for node, duration, launch in zip(nodes, durations, launches, strict=True):
        state.host += launch
        stream = node.stream
        base = free.get(stream, 0.0)
        ready = state.host if state.host > base else base
        comm_start = comm_end = 0.0
        for dep in node.deps:
            end = ends[dep]
            if end > ready:
                ready = end
            if nodes[dep].stream != COMPUTE and end > comm_end:
                comm_start, comm_end = starts[dep], end
        if node.barrier:
            ready = max(ready, state.latest)
            comm_start, comm_end = state.comm
        elif not node.deps and node.after and node.after <= len(state.outputs):
            name, out_start, out_end = state.outputs[-node.after]
            ready = max(ready, out_end)
            if name != COMPUTE:
                comm_start, comm_end = out_start, out_end
        end = ready + duration
        if stream == COMPUTE:
            exposed, idle = split_wait(base, ready, comm_start, comm_end)
            state.busy += duration
            state.exposed += exposed
            state.idle += idle
        elif end > state.comm[1]:
            state.comm = (ready, end)
        free[stream] = end
        starts.append(ready)
        ends.append(end)
        if end > state.latest:
            state.latest = end
    out = block.output_index
    state.outputs.append((nodes[out].stream, starts[out], ends[out]))
