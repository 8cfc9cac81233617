"""How a service's load went over time, from the columns of its requests.

Sums of ramps: how many are there at a time, integrated, is a piecewise
quadratic of time, so means over bins cost a sort, whatever the requests.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hwsim.analysis.serving.ask import ServeConfig
from hwsim.analysis.serving.pool import Capacity
from hwsim.analysis.serving.run import Run
from hwsim.specs.engine import EngineSpec

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BINS = 200
ROWS = 32  # of more replicas, no curve of each is kept


class Served(Protocol):
    """A service that was played."""

    @property
    def run(self) -> Run:
        """Columns of its requests."""

    @property
    def capacity(self) -> Capacity:
        """Memory of each group."""

    @property
    def engine(self) -> EngineSpec:
        """What each replica runs."""

    @property
    def config(self) -> ServeConfig:
        """How many replicas, and what befalls them."""

    @property
    def complete(self) -> bool:
        """Whether it ran to its end."""


def mean_present(
    start: FloatArray,
    end: FloatArray,
    edges: FloatArray,
    height: FloatArray | None = None,
    slope: FloatArray | None = None,
) -> FloatArray:
    """Return the mean over each bin of what is there.

    Parameters
    ----------
    start, end : ndarray, shape (n,)
        When each comes and goes. [s]
    edges : ndarray, shape (bins + 1,)
        Ends of the bins. [s]
    height, slope : ndarray, shape (n,), optional
        How much each is when it comes (1), and how fast it grows (0). [, 1/s]
    """
    height = np.ones_like(start) if height is None else height
    slope = np.zeros_like(start) if slope is None else slope
    last = height + slope * (end - start)
    total = _ramps(start, height, slope, edges) - _ramps(end, last, slope, edges)
    # Differences of large sums may leave a hair below zero.
    mean: FloatArray = np.maximum(np.diff(total) / np.diff(edges), 0.0)
    return mean


def _ramps(
    at: FloatArray, height: FloatArray, slope: FloatArray, edges: FloatArray
) -> FloatArray:
    """Return the integrals up to each edge of ramps that begin and do not end."""
    order = np.argsort(at, kind="stable")
    t, a, s = at[order], height[order], slope[order]
    sums = (np.append(0.0, np.cumsum(c)) for c in (a, a * t, s, s * t, s * t * t))
    begun = np.searchsorted(t, edges)
    n, nt, m, mt, mtt = (c[begun] for c in sums)
    total: FloatArray = n * edges - nt + (m * edges**2 - 2 * mt * edges + mtt) / 2
    return total


def merged(start: FloatArray, end: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the union of spans as spans that do not overlap. [s]"""
    if not start.size:
        return start, end
    order = np.argsort(start, kind="stable")
    start, reach = start[order], np.maximum.accumulate(end[order])
    opens = np.append(True, start[1:] > reach[:-1])
    closes = np.append(opens[1:], True)
    return start[opens], reach[closes]


def series_of(result: Served, bins: int = BINS) -> dict[str, Any] | None:
    """Return means over equal bins of time of the requests that were answered.

    Returns
    -------
    dict or None
        ``begin_s``, ``bin_s`` [s]; ``waiting`` (before the first token) and
        ``running`` (between first and last) requests; ``kv_needed``, the
        share of all replicas' cache that the tokens of running requests take,
        or None of static batches, which keep what they were started with;
        ``replica_busy``, the share of each bin in which a replica has a
        request, or None where it cannot be told from the answered requests
        (some were lost; replicas fail, or have several groups, or are more
        than 32). None where nothing was answered.
    """
    run = result.run
    if run.duration <= 0:
        return None
    origin = float(run.arrival.min())
    edges = np.linspace(0.0, run.duration, bins + 1)
    arrival, first, finish = (c - origin for c in (run.arrival, run.first, run.finish))
    # Half of a request's last block is empty in the mean.
    slack = (result.capacity.block_size - 1) / 2
    start_tokens: FloatArray = np.asarray(run.inputs, float) + slack
    span = np.maximum(finish - first, 0.0)
    growth = np.divide(run.outputs, span, out=np.zeros_like(span), where=span > 0)
    tokens = mean_present(first, finish, edges, start_tokens, growth)
    room = run.pools[0].groups * result.capacity.tokens
    return {
        "begin_s": origin,
        "bin_s": run.duration / bins,
        "waiting": _short(mean_present(arrival, first, edges)),
        "running": _short(mean_present(first, finish, edges)),
        "kv_needed": None
        if result.engine.policy == "static"
        else _short(tokens / room),
        "replica_busy": _replicas(result, arrival, first, finish, edges),
    }


def _replicas(
    result: Served,
    arrival: FloatArray,
    first: FloatArray,
    finish: FloatArray,
    edges: FloatArray,
) -> list[list[float]] | None:
    """Return when each replica has a request: engines never idle while they do."""
    run, count = result.run, result.config.replicas
    fails = (result.config.operations or {}).get("mtbf") is not None
    unsure = fails or any(run.lost.values()) or not result.complete
    if unsure or count > ROWS or run.pools[0].groups != count:
        return None
    start, here = arrival + result.engine.request_overhead, np.isfinite(finish)
    if len(run.pools) > 1:
        start, here = first, run.outputs > 1
    rows = []
    for replica in range(count):
        own = here & (run.replica == replica)
        rows.append(_short(mean_present(*merged(start[own], finish[own]), edges)))
    return rows


def _short(values: FloatArray) -> list[float]:
    """Return values in four digits, as a file needs no more."""
    return [float(f"{v:.4g}") if math.isfinite(v) else 0.0 for v in values.tolist()]
