"""Replicas that fail and are repaired, and replicas that come with the load."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np
import simpy

from hwsim.sim.serving.routers import Engine
from hwsim.sim.serving.service import Service


def failures(
    service: Service, engine: Engine, mtbf: float, repair: float, seed: int
) -> Generator[simpy.Event, Any, None]:
    """Let a replica fail now and then, as long as requests are left.

    Parameters
    ----------
    mtbf, repair : float
        Mean of the exponential time to a failure; time away. [s]
    seed : int
        Of this replica's failures.
    """
    rng = np.random.default_rng(seed)
    while service.left:
        yield service.env.timeout(rng.exponential(mtbf))
        if service.is_up(engine):
            service.take_down(engine, service.env.now)
            yield service.env.timeout(repair)
            service.bring_up(engine, service.env.now)


class Autoscaler:
    """Starts and retires replicas so that each has about so many requests.

    A replica that is retired gets no more requests and ends when it has
    answered those it has.

    Parameters
    ----------
    service : Service
        All its fleet's replicas may run; the first ``least`` do at once.
    least, target : int
        Replicas that always run; requests per replica.
    startup, interval : float
        From a decision until the replica takes requests; between decisions. [s]
    """

    def __init__(
        self, service: Service, least: int, target: int, startup: float, interval: float
    ) -> None:
        self.service, self.least, self.target = service, least, target
        self.startup, self.interval = startup, interval
        self.engines = service.fleet.engines
        self.since: dict[int, float] = dict.fromkeys(range(least), 0.0)
        self.spent = 0.0  # of replicas that have ended. [s]
        self._draining: dict[int, Engine] = {}
        service.fleet.up[:] = self.engines[:least]

    def run(self) -> Generator[simpy.Event, Any, None]:
        """Look at the load now and then, as long as requests are left."""
        env, service = self.service.env, self.service
        while service.left:
            yield env.timeout(self.interval)
            self._end_drained(env.now)
            waiting = sum(e.outstanding + e.coming for e in self.engines)
            wanted = math.ceil((waiting + service.stranded) / self.target)
            wanted = min(max(wanted, self.least), len(self.engines))
            running = len(self.since) - len(self._draining)
            for _ in range(wanted - running):
                self._start(env.now)
            for _ in range(running - wanted):
                self._retire()

    def present(self, end: float) -> float:
        """Return the time that replicas were there, all together. [s]"""
        return self.spent + sum(max(end - since, 0.0) for since in self.since.values())

    def _start(self, now: float) -> None:
        """Take a replica that is ending back, or start another."""
        if self._draining:
            _, engine = self._draining.popitem()
            self.service.fleet.up.append(engine)
            return
        engine = next(e for i, e in enumerate(self.engines) if i not in self.since)
        self.since[engine.index] = now
        self.service.env.process(self._starting(engine))

    def _starting(self, engine: Engine) -> Generator[simpy.Event, Any, None]:
        yield self.service.env.timeout(self.startup)
        self.service.bring_up(engine, self.service.env.now)

    def _retire(self) -> None:
        up = self.service.fleet.up
        if len(up) > self.least:
            engine = up.pop()
            self._draining[engine.index] = engine

    def _end_drained(self, now: float) -> None:
        for index, engine in list(self._draining.items()):
            if not engine.outstanding and not engine.coming:
                del self._draining[index]
                self.spent += now - self.since.pop(index)
