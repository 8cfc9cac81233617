"""How a service stands while it is played."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hwsim.sim.serving.joint import JointReplica
from hwsim.sim.serving.records import Requests
from hwsim.sim.serving.routers import Engine

_EVERY = 0.2  # s of a watcher's time between two looks


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A service at a time of its own.

    Attributes
    ----------
    time : float
        Since the clock began. [s]
    total, done, waiting, running : int
        Requests in all; answered; before their first token; after it.
    requests_per_s : float
        Answered over the time. [1/s]
    kv_occupancy : float
        Share of all replicas' blocks in use.
    ttft_p50, ttft_p99 : float
        Of the requests that have their first token; NaN if none has. [s]
    """

    time: float
    total: int
    done: int
    waiting: int
    running: int
    requests_per_s: float
    kv_occupancy: float
    ttft_p50: float
    ttft_p99: float


def snapshot(now: float, requests: Requests, engines: Sequence[Engine]) -> Snapshot:
    """Return how requests and engines stand at a time. [s]"""
    arrival, first, finish = (
        np.array(c) for c in (requests.arrival, requests.first, requests.finish)
    )
    kept = np.frombuffer(requests.status, np.uint8) == 0
    come, begun, done = (kept & (c <= now) for c in (arrival, first, finish))
    ttft = (first - arrival)[begun]
    ends = np.quantile(ttft, (0.5, 0.99)).tolist() if ttft.size else [math.nan] * 2
    there, started, ended = (int(c.sum()) for c in (come, begun, done))
    return Snapshot(
        now, len(requests), ended, there - started, started - ended,
        ended / now if now > 0 else 0.0, _occupancy(engines), *ends,
    )  # fmt: skip


def _occupancy(engines: Sequence[Engine]) -> float:
    groups = [
        g for e in engines for g in (e.groups if isinstance(e, JointReplica) else [e])
    ]
    used = sum(min(g.pages.used(g.counter), g.pages.total) for g in groups)
    return used / sum(g.pages.total for g in groups)


class Watcher:
    """Shows a service now and then, not more often than somebody can look."""

    def __init__(self, show: Callable[[Snapshot], None]) -> None:
        self._show, self._last = show, -math.inf

    def look(self, now: float, requests: Requests, engines: Sequence[Engine]) -> None:
        """Show how it stands, unless that was just done."""
        clock = time.monotonic()
        if clock - self._last >= _EVERY:
            self._last = clock
            self._show(snapshot(now, requests, engines))
