"""The recurrence of in-order streams at many points at once.

As :mod:`hwsim.schedule.inorder`, of graphs whose nodes have one time per point.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hwsim.graph.opgraph import COMPUTE, COMPUTING, Block, Node, OpGraph
from hwsim.schedule.inorder import (
    MAX_AFTER,
    MIN_FOLD,
    SETTLED,
    TOLERANCE,
    waiting_edges,
)

FloatArray = npt.NDArray[np.float64]
_Times = tuple[FloatArray, FloatArray]  # start and end


@dataclass(frozen=True, slots=True)
class PointsPlayback:
    """As :class:`hwsim.schedule.inorder.Playback`, arrays of shape (points,)."""

    makespan: FloatArray
    compute_busy: FloatArray
    exposed_comm_time: FloatArray
    idle: FloatArray


@dataclass(slots=True)
class _State:
    """As the state of the plain recurrence, by point; the host's time is one."""

    host: float
    busy: FloatArray
    exposed: FloatArray
    idle: FloatArray
    last: dict[str, _Times] = field(default_factory=dict)
    outputs: deque[tuple[str, _Times]] = field(
        default_factory=lambda: deque(maxlen=MAX_AFTER)
    )

    @property
    def nothing(self) -> _Times:
        zero = np.zeros_like(self.busy)
        return zero, zero

    @property
    def communication(self) -> _Times | None:
        """Start and end of the communication that ends last."""
        found = None
        for stream, times in self.last.items():
            if stream not in COMPUTING:
                found = _later(found, times)
        return found

    def vector(self) -> FloatArray:
        flat = [np.full_like(self.busy, self.host), self.busy, self.exposed, self.idle]
        for times in self.last.values():
            flat += times
        for _, times in self.outputs:
            flat += times
        return np.stack(flat)

    def advance(self, growth: FloatArray, times: int) -> None:
        added = iter(times * growth)
        self.host += float(next(added)[0])
        self.busy = self.busy + next(added)
        self.exposed = self.exposed + next(added)
        self.idle = self.idle + next(added)
        for stream, (start, end) in self.last.items():
            self.last[stream] = (start + next(added), end + next(added))
        for place, (stream, (start, end)) in enumerate(self.outputs):
            self.outputs[place] = (stream, (start + next(added), end + next(added)))


def play_inorder_points(
    graph: OpGraph,
    times: Sequence[FloatArray],
    host_times: Sequence[Sequence[float]],
    *,
    start: float = 0.0,
) -> PointsPlayback:
    """Return when a graph ends at each point, and how its streams spent the time.

    Parameters
    ----------
    graph : OpGraph
        Blocks in program order.
    times : sequence of ndarray of float64, shape (n_node, points)
        Device time of each node of each block. [s]
    host_times, start
        As for :func:`hwsim.schedule.inorder.play_inorder`.
    """
    zero = np.zeros(times[0].shape[1])
    state = _State(start, zero, zero, zero)
    for block, durations, launches in zip(graph.blocks, times, host_times, strict=True):
        _play_block(state, block, durations, launches)
    nothing = state.nothing
    compute_end = state.last.get(COMPUTE, nothing)[1]
    makespan = np.max([end for _, end in state.last.values()], axis=0)
    exposed, idle = _split(compute_end, makespan, state.communication)
    return PointsPlayback(
        makespan, state.busy, state.exposed + exposed, state.idle + idle
    )


def _split(
    base: FloatArray, start: FloatArray, waited: _Times | None
) -> tuple[FloatArray | float, FloatArray]:
    """Split a wait into (exposed communication, idle)."""
    gap = start - base
    if waited is None:
        return 0.0, gap
    exposed = np.minimum(start, waited[1]) - np.maximum(base, waited[0])
    exposed = np.maximum(exposed, 0.0)
    return exposed, gap - exposed


def _play_block(
    state: _State, block: Block, durations: FloatArray, launches: Sequence[float]
) -> None:
    done, alike = 0, 0
    before = growth = np.empty((0, 0))
    while done < block.repeat:
        _play_instance(state, block, durations, launches)
        done += 1
        if block.repeat < MIN_FOLD:
            continue
        after = state.vector()
        if after.shape == before.shape:
            new = after - before
            alike = alike + 1 if _same(growth, new) else 0
            growth = new
            if alike >= SETTLED and _is_settled(state, block, growth):
                state.advance(growth, block.repeat - done)
                return
        before = after


def _same(old: FloatArray, new: FloatArray) -> bool:
    if old.shape != new.shape:
        return False
    return bool(np.all(np.abs(old - new) <= _tolerance(new)))


def _tolerance(growth: FloatArray) -> FloatArray:
    scale: FloatArray = TOLERANCE * np.abs(growth).max(axis=0)
    return scale


def _is_settled(state: _State, block: Block, growth: FloatArray) -> bool:
    """Whether the pattern of no point can ever change again."""
    host, slack = growth[0], _tolerance(growth)
    rate = {name: growth[5 + 2 * i] for i, name in enumerate(state.last)}
    used = {node.stream for node in block.nodes}
    if any(np.any(rate[name] < host - slack) for name in used):
        return False
    return all(
        np.all(rate[source] <= rate[waiter] + slack)
        for source, waiter in waiting_edges(block, rate)
    )


def _play_instance(
    state: _State, block: Block, durations: FloatArray, launches: Sequence[float]
) -> None:
    played: list[_Times] = []
    last, nodes, nothing = state.last, block.nodes, state.nothing
    for node, duration, launch in zip(nodes, durations, launches, strict=True):
        state.host += launch
        stream = node.stream
        base = last.get(stream, nothing)[1]
        ready, waited = _waits(state, node, nodes, played)
        start = base if ready is None else np.maximum(ready, base)
        start = np.maximum(start, state.host)
        if stream == COMPUTE:
            exposed, idle = _split(base, start, waited)
            state.busy = state.busy + duration
            state.exposed = state.exposed + exposed
            state.idle = state.idle + idle
        since = start
        if stream != COMPUTE and waited is not None:
            since = np.where(waited[1] == start, waited[0], start)
        last[stream] = (since, start + duration)
        played.append(last[stream])
    out = block.output_index
    state.outputs.append((nodes[out].stream, played[out]))


def _later(a: _Times | None, b: _Times) -> _Times:
    """Return, point by point, the one that ends later; ties to the first."""
    if a is None:
        return b
    after = b[1] > a[1]
    return np.where(after, b[0], a[0]), np.where(after, b[1], a[1])


def _waits(
    state: _State, node: Node, nodes: Sequence[Node], played: Sequence[_Times]
) -> tuple[FloatArray | None, _Times | None]:
    """Return when all that a node waits for has ended, and the last transfer."""
    if node.barrier:
        ends = [end for _, end in state.last.values()]
        return (np.max(ends, axis=0) if ends else None), state.communication
    ready: FloatArray | None = None
    waited: _Times | None = None
    for dep in node.deps:
        end = played[dep][1]
        ready = end if ready is None else np.maximum(ready, end)
        if nodes[dep].stream not in COMPUTING:
            waited = _later(waited, played[dep])
    if not node.deps and node.after and node.after <= len(state.outputs):
        stream, times = state.outputs[-node.after]
        ready = times[1]
        if stream not in COMPUTING:
            waited = times
    return ready, waited
