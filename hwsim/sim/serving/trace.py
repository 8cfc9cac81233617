"""Requests of a service as a trace that Perfetto opens."""

from __future__ import annotations

import heapq
import json
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
_MICRO = 1e6


def requests_trace(
    arrival: FloatArray,
    first: FloatArray,
    finish: FloatArray,
    replica: IntArray,
    tokens: tuple[IntArray, IntArray],
    seconds: float,
    **about: str,
) -> str:
    """Return the text of a trace file of the requests of the first seconds.

    Parameters
    ----------
    arrival, first, finish : ndarray, shape (n,)
        Times of each request. [s]
    replica : ndarray of int, shape (n,)
        Who answered: a process of its own. Its requests are in as many rows
        as there are at a time.
    tokens : tuple of two ndarray
        Of prompts, and of answers.
    seconds : float
        Requests that arrive so long after the first are left out. [s]
    **about
        Metadata.
    """
    events: list[dict[str, Any]] = []
    order = np.argsort(arrival, kind="stable")
    start = float(arrival[order[0]]) if order.size else 0.0
    free: dict[int, list[int]] = {}
    busy: dict[int, list[tuple[float, int]]] = {}
    for request in order[arrival[order] <= start + seconds].tolist():
        server = int(replica[request])
        if server not in free:
            free[server], busy[server] = [], []
            events.append(_named(server))
        row = _row(free[server], busy[server], float(arrival[request]))
        heapq.heappush(busy[server], (float(finish[request]), row))
        args = {"request": request, "input_tokens": int(tokens[0][request]),
                "output_tokens": int(tokens[1][request])}  # fmt: skip
        spans = (("to first token", arrival, first), ("answer", first, finish))
        for name, begin, end in spans:
            span = float(end[request] - begin[request])
            events.append(
                {"name": name, "cat": "request", "ph": "X", "pid": server, "tid": row,
                 "ts": (float(begin[request]) - start) * _MICRO,
                 "dur": span * _MICRO, "args": args}
            )  # fmt: skip
    return json.dumps(
        {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}
    )


def _named(server: int) -> dict[str, Any]:
    return {"ph": "M", "pid": server, "tid": 0, "name": "process_name",
            "args": {"name": f"replica {server}"}}  # fmt: skip


def _row(free: list[int], busy: list[tuple[float, int]], now: float) -> int:
    """Return the lowest row that is free by now."""
    rows = len(free) + len(busy)
    while busy and busy[0][0] <= now:
        heapq.heappush(free, heapq.heappop(busy)[1])
    return heapq.heappop(free) if free else rows
