"""Plays one step of a pipeline: ranks are processes, sends are transfers.

One data-parallel replica is played, each pipeline rank standing for its tensor-
and context-parallel group. Ties go by insertion, and what is drawn at random
is drawn before the clock starts: the same input gives the same timeline, bit
for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

import numpy as np
import simpy

from hwsim.schedule.pipeline.play import (
    as_order,
    last_gradients,
    link_times,
    stage_table,
)
from hwsim.schedule.pipeline.tasks import StageTask
from hwsim.sim.links import FairNetwork, Use
from hwsim.sim.pipeline.costs import PipelineCosts, PipelineOptions, drawn_times
from hwsim.sim.pipeline.result import PlayedPipeline, Timeline

_WAYS = ("out", "in")
_Finish = Callable[[float, float], None]
_Events = Generator[simpy.Event, Any, None]

__all__ = [
    "PipelineCosts",
    "PipelineOptions",
    "PipelinePlayer",
    "PlayedPipeline",
    "play_pipeline",
]


class PipelinePlayer:
    """Plays one order in a SimPy environment.

    Parameters
    ----------
    env : simpy.Environment
        The clock; other processes may share it.
    order : PipelineOrder
        Tasks of each rank; a plain sequence is read as ``looped``.
    costs : PipelineCosts
        Times of the tasks.
    options : PipelineOptions, optional
        How the step is run.
    rng : numpy.random.Generator, optional
        Source of the jitter; needed only if there is some.

    Raises
    ------
    InputError
        If times or factors do not fit the order, or the order deadlocks.
    """

    def __init__(
        self,
        env: simpy.Environment,
        order: Sequence[Sequence[StageTask]],
        costs: PipelineCosts,
        options: PipelineOptions | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.env, self.order = env, as_order(order)
        self.options = options or PipelineOptions()
        self._plan, pp = self.order.plan, len(self.order)
        durations = drawn_times(self.order, costs, self.options, rng)
        self._durations: list[float] = durations.tolist()
        self._latency = link_times("latency", costs.latency, pp)
        self._transfer = link_times("transfer", costs.transfer, pp)
        self._gradients: list[list[float]] = stage_table(
            "gradients", costs.gradients, pp, self.order.chunks
        ).tolist()
        self._optimizer = link_times("optimizer", costs.optimizer, pp)
        self._gather = link_times("gather", costs.gather, pp)
        self._line = Timeline(len(self._durations), pp, env.now)
        self._arrived: list[float | None] = [None] * len(self._durations)
        self._waiting: dict[int, simpy.Event] = {}
        self._last = last_gradients(self.order)
        self._ports = FairNetwork(env) if self.options.shared_port else None
        self._uses = _uses(costs, pp)
        self._reducing = False
        self._sends = [_Stream(env, self._ports) for _ in range(pp)]
        self._reductions = [_Stream(env, self._ports) for _ in range(pp)]
        self._present: list[float] = []
        self._meeting = env.event()
        self.done = env.all_of([env.process(self._rank(r)) for r in range(pp)])

    def _rank(self, rank: int) -> _Events:
        """Run a rank's tasks, then the end of its step.

        A rank knows when its input will arrive as soon as the sender does, and
        sleeps once, through the wait and the task; ``free`` is its own clock.
        """
        env, plan, line = self.env, self._plan, self._line
        last = self._last
        index, stop = plan.first[rank], plan.first[rank + 1]
        free = env.now
        while index < stop:
            after = index + (2 if plan.partner[index] >= 0 else 1)
            start, slowest = free, -1
            for producer in plan.producer[index:after]:
                if producer < 0:
                    continue
                when = self._arrived[producer]
                if when is None:
                    when = yield self._wait(producer)
                if when > start:
                    start, slowest = when, producer
            if slowest >= 0:
                line.exposed_p2p[rank] += start - max(free, line.sent[slowest])
            free = start
            for task in range(index, after):
                line.starts[task] = free
                free = line.ends[task] = free + self._durations[task]
            yield env.timeout(max(0.0, free - env.now))
            if self._may_contend(index, after):
                free = yield from self._share(rank, range(index, after), last)
            else:
                free = self._pass_on(rank, range(index, after), last)
            index = after
        yield from self._finish(rank, free)

    def _may_contend(self, first: int, after: int) -> bool:
        """Whether sends of these tasks may meet a reduction at a shared port."""
        if self._ports is None:
            return False
        return self._reducing or any(t in self._last for t in range(first, after))

    def _pass_on(self, rank: int, tasks: range, last: dict[int, int]) -> float:
        """Send what has just been computed; return when the rank is free."""
        line, stream = self._line, self._sends[rank]
        end = line.ends[tasks[-1]]
        for task in tasks:
            hop = self._plan.hop[task]
            if hop < 0:
                self._arrived[task] = end
            else:
                sent = max(end, stream.free)
                stream.free = sent + (self._latency[hop] + self._transfer[hop])
                self._deliver(task, sent, stream.free)
            if task in last and self.options.overlap_gradients:
                self._reduce(rank, last[task], end)
        if not self.options.blocking:
            return end
        free = max(end, stream.free)
        line.exposed_p2p[rank] += free - end
        return free

    def _share(
        self, rank: int, tasks: range, last: dict[int, int]
    ) -> Generator[simpy.Event, Any, float]:
        """Do the same over a port that other traffic shares."""
        line, hops = self._line, self._plan.hop
        free = end = line.ends[tasks[-1]]
        for task in tasks:
            hop = hops[task]
            if hop < 0:
                self._arrived[task] = end
                continue
            self._sends[rank].put(
                end, self._latency[hop], self._transfer[hop],
                partial(self._deliver, task), self._uses[0][rank][hop == rank],
            )  # fmt: skip
            if self.options.blocking:
                free = yield self._wait(task)
        for task in tasks:
            if task in last and self.options.overlap_gradients:
                self._reduce(rank, last[task], end)
        line.exposed_p2p[rank] += free - end
        return free

    def _wait(self, task: int) -> simpy.Event:
        """Return an event whose value is when the result of a task arrives."""
        return self._waiting.setdefault(task, self.env.event())

    def _deliver(self, task: int, sent: float, arrived: float) -> None:
        line = self._line
        line.sent[task], line.arrived[task] = sent, arrived
        self._arrived[task] = arrived
        waiting = self._waiting.pop(task, None)
        if waiting is not None:
            waiting.succeed(arrived)

    def _reduce(self, rank: int, chunk: int, when: float) -> None:
        alone = self._gradients[rank][chunk]
        if alone > 0.0:
            self._reducing = True
            finish = partial(self._line.reduced, rank, chunk)
            self._reductions[rank].put(when, 0.0, alone, finish, self._uses[1][rank])

    def _finish(self, rank: int, free: float) -> _Events:
        """Wait for the gradients, update the parameters and gather them."""
        line = self._line
        if not self.options.overlap_gradients:
            for task in sorted(t for t in self._last if self._plan.rank[t] == rank):
                self._reduce(rank, self._last[task], free)
        reduced = yield from self._reductions[rank].drained(free)
        start = reduced
        if self.options.sync_optimizer:
            start = yield from self._meet(reduced)
        updated = start + self._optimizer[rank]
        end = updated + self._gather[rank]
        line.updates[rank] = (start, updated, end)
        line.exposed_dp[rank] = reduced - free + end - updated
        yield self.env.timeout(max(0.0, end - self.env.now))

    def _meet(self, ready: float) -> Generator[simpy.Event, Any, float]:
        """Return when the last rank is ready."""
        self._present.append(ready)
        if len(self._present) == len(self.order):
            self._meeting.succeed(max(self._present))
        latest: float = yield self._meeting
        return latest

    def result(self) -> PlayedPipeline:
        """Return what was played; call it when ``done`` has happened."""
        ports = self._ports
        return self._line.result(self.order, ports is not None and ports.contended)


class _Stream:
    """Transfers of one rank, one after the other; ports are shared with others."""

    def __init__(self, env: simpy.Environment, ports: FairNetwork | None) -> None:
        self._env, self._ports, self.free = env, ports, env.now
        if ports is not None:
            self._queue = simpy.Store(env)
            env.process(self._run(ports))

    def put(
        self, when: float, latency: float, alone: float, finish: _Finish, use: Use
    ) -> None:
        """Add a transfer; ``finish`` is told its start and end."""
        if self._ports is not None:
            self._queue.put((latency, alone, finish, use))
            return
        start = max(when, self.free)
        self.free = start + latency + alone
        finish(start, self.free)

    def _run(self, ports: FairNetwork) -> _Events:
        while True:
            latency, alone, finish, use = yield self._queue.get()
            # What was sent before anything could be in its way was not queued.
            if self.free > self._env.now:
                yield self._env.timeout(self.free - self._env.now)
            start = self._env.now
            if latency > 0.0:
                yield self._env.timeout(latency)
            if alone > 0.0:
                yield ports.transfer(alone, use)
            finish(start, self._env.now)

    def drained(self, when: float) -> Generator[simpy.Event, Any, float]:
        """Return when all that was put before has been sent, ``when`` or later."""
        if self._ports is None:
            return max(when, self.free)
        last = self._env.event()
        self._queue.put((0.0, 0.0, lambda _, end: last.succeed(end), {}))
        end: float = yield last
        return max(when, end)


def _uses(costs: PipelineCosts, pp: int) -> tuple[list[list[Use]], list[Use]]:
    """Return what a rank's sends (back, on) and its reductions take of ports.

    A send leaves one rank and enters the next; a reduction does both at once.
    """
    sends = costs.send_use or [{0: 1.0}] * pp
    reductions = costs.gradients_use or [{0: 1.0}] * pp

    def sent(rank: int, on: bool) -> Use:
        other = (rank + (1 if on else -1)) % pp
        use = sends[rank if on else other]
        return {
            **{("out", rank, level): share for level, share in use.items()},
            **{("in", other, level): share for level, share in use.items()},
        }

    both: list[Use] = [
        {(way, rank, level): share for level, share in use.items() for way in _WAYS}
        for rank, use in enumerate(reductions)
    ]
    return [[sent(rank, False), sent(rank, True)] for rank in range(pp)], both


def play_pipeline(
    order: Sequence[Sequence[StageTask]],
    costs: PipelineCosts,
    options: PipelineOptions | None = None,
    rng: np.random.Generator | None = None,
) -> PlayedPipeline:
    """Play one step in an environment of its own; see :class:`PipelinePlayer`.

    Examples
    --------
    >>> from hwsim.schedule.pipeline.schedules import pipeline_order
    >>> order = pipeline_order("1f1b", pp=4, num_microbatches=9)
    >>> played = play_pipeline(order, PipelineCosts(forward=1.0, backward=2.0))
    >>> played.makespan, played.bubble_fraction
    (36.0, 0.25)
    """
    env = simpy.Environment()
    player = PipelinePlayer(env, order, costs, options, rng)
    env.run(until=player.done)
    return player.result()
