"""Several replicas behind a router, in SimPy.

A router hands requests out when they arrive. Replicas are played lazily: each
plans its own events, and is brought up to the clock when somebody must know
how it stands. A router sees what ended before a request arrives; what ends at
the very time of its arrival it does not, but the engine that gets the request
gives tokens of a step that ends then before it looks at the queue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import simpy

from hwsim.sim.serving.joint import JointReplica
from hwsim.sim.serving.plan import SAME_TIME
from hwsim.sim.serving.records import Requests
from hwsim.sim.serving.routers import Engine, Router, round_robin

_WINDOWS = 200  # how often replicas that do not meet are brought level


@dataclass(slots=True)
class Cluster:
    """Replicas, how requests reach them, and who looks on.

    Attributes
    ----------
    env : simpy.Environment
        The clock.
    replicas : sequence of Replica
        Engines, alike or not.
    router : callable
        Chooses a replica for each request.
    progress : callable or None
        Called now and then with the simulated time. [s]
    """

    env: simpy.Environment
    replicas: Sequence[Engine]
    router: Router
    progress: Callable[[float], None] | None = None

    def run(self, requests: Requests, concurrency: int | None = None) -> None:
        """Serve all requests; with a concurrency, clients wait for answers."""
        if concurrency is not None:
            process = self.env.process(self._closed(requests, concurrency))
        elif self._separate():
            process = self.env.process(self._apart(requests))
        else:
            process = self.env.process(self._open(requests))
        self.env.run(until=process)

    def _separate(self) -> bool:
        """Whether who serves a request is known before the run."""
        if any(isinstance(r, JointReplica) for r in self.replicas):
            return False
        return self.router is round_robin or len(self.replicas) == 1

    def _apart(self, requests: Requests) -> Generator[simpy.Event, Any, None]:
        """Hand everything out at once: no replica depends on another."""
        count = len(self.replicas)
        for index, replica in enumerate(self.replicas):
            replica.preload(range(index, len(requests), count))
        if not len(requests):
            return
        window = max(requests.ready[-1] - requests.ready[0], 1.0) / _WINDOWS
        while (end := min(r.end for r in self.replicas)) < math.inf:
            yield self.env.timeout(max(end - self.env.now, 0.0) + window)
            self._level(self.env.now)

    def _open(self, requests: Requests) -> Generator[simpy.Event, Any, None]:
        """Route each request when it arrives."""
        often = max(len(requests) // _WINDOWS, 1)
        for request, arrival in enumerate(requests.arrival):
            if arrival > self.env.now:
                yield self.env.timeout(arrival - self.env.now)
            before = arrival - SAME_TIME
            for replica in self.replicas:
                if replica.end < before:
                    replica.advance(before)
            self.router(self.replicas, request).submit(request)
            if self.progress is not None and request % often == 0:
                self.progress(arrival)
        self._level(math.inf)

    def _closed(
        self, requests: Requests, concurrency: int
    ) -> Generator[simpy.Event, Any, None]:
        """Keep so many requests under way: an answer brings the next one."""
        finished: list[int] = []
        for replica in self.replicas:
            replica.on_finish = finished.append
        often = max(len(requests) // _WINDOWS, 1)
        sent = min(concurrency, len(requests))
        for request in range(sent):
            requests.arrive(request, 0.0)
            self.router(self.replicas, request).submit(request)
        while (end := min(r.end for r in self.replicas)) < math.inf:
            if end > self.env.now:
                yield self.env.timeout(end - self.env.now)
            replica = next(r for r in self.replicas if r.end == end)
            replica.commit()
            for _ in finished:
                if self.progress is not None and sent % often == 0:
                    self.progress(end)
                if sent < len(requests):
                    requests.arrive(sent, end)
                    self.router(self.replicas, sent).submit(sent)
                    sent += 1
            finished.clear()
            replica.plan()

    def _level(self, time: float) -> None:
        for replica in self.replicas:
            replica.advance(time)
        if self.progress is not None and time < math.inf:
            self.progress(time)
