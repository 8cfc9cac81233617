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

from hwsim.errors import UnknownNameError
from hwsim.sim.serving.joint import JointReplica
from hwsim.sim.serving.plan import SAME_TIME
from hwsim.sim.serving.records import Requests
from hwsim.sim.serving.replica import Replica

#: What routers choose among.
Engine = Replica | JointReplica
Router = Callable[[Sequence[Engine], int], Engine]
_WORD = 0xFFFFFFFFFFFFFFFF
_WINDOWS = 200  # how often replicas that do not meet are brought level


def round_robin(replicas: Sequence[Engine], request: int) -> Engine:
    """Return the replicas in turn."""
    return replicas[request % len(replicas)]


def least_outstanding(replicas: Sequence[Engine], request: int) -> Engine:  # noqa: ARG001
    """Return the replica with the fewest requests, the first of equals."""
    return min(replicas, key=_outstanding)


def power_of_two(replicas: Sequence[Engine], request: int) -> Engine:
    """Return the one with fewer requests of two that the request's number draws.

    References
    ----------
    .. [1] M. Mitzenmacher, "The power of two choices in randomized load
       balancing", IEEE TPDS 12(10), 2001, doi:10.1109/71.963420.
    """
    count = len(replicas)
    if count == 1:
        return replicas[0]
    # Mixed as SplitMix64 does, so that neighbours draw apart and runs repeat.
    z = (request + 1) * 0x9E3779B97F4A7C15 & _WORD
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _WORD
    z ^= z >> 31
    first = (z & 0xFFFFFFFF) % count
    second = (first + 1 + (z >> 32) % (count - 1)) % count
    return min(replicas[first], replicas[second], key=_outstanding)


def session(replicas: Sequence[Engine], request: int) -> Engine:
    """Return who served the session's last request; else the one with the fewest."""
    requests = replicas[0].requests
    previous = -1 if requests.prefixes is None else requests.prefixes.previous[request]
    if previous >= 0 and not requests.status[previous]:
        last = requests.replica[previous]
        for replica in replicas:
            if replica.index == last:
                return replica
    return least_outstanding(replicas, request)


def _outstanding(replica: Engine) -> int:
    return replica.outstanding + replica.coming


ROUTERS: dict[str, Router] = {
    "round_robin": round_robin,
    "least_outstanding": least_outstanding,
    "power_of_two": power_of_two,
    "session": session,
}


def router_named(name: str) -> Router:
    """Return a router by name.

    Raises
    ------
    UnknownNameError
        If there is none of that name.
    """
    if name not in ROUTERS:
        raise UnknownNameError("router", name, ROUTERS)
    return ROUTERS[name]


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
