"""A pipeline step under jitter: many replications, and replicas that meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hwsim.errors import InputError
from hwsim.schedule.pipeline.play import (
    PipelineEnds,
    as_order,
    last_gradients,
    link_times,
    play_draws,
    stage_table,
)
from hwsim.schedule.pipeline.tasks import FloatArray, PipelineOrder, StageTask
from hwsim.sim.pipeline.costs import (
    PipelineCosts,
    PipelineOptions,
    drawn_times,
    jitter_factors,
)
from hwsim.sim.pipeline.play import play_pipeline

_AT_ONCE = 2**22  # task times drawn in one go: 32 MiB


@dataclass(frozen=True, slots=True)
class PipelineReplications:
    """A step played many times with independent jitter.

    Attributes
    ----------
    makespans : ndarray of float64, shape (replications,)
        Time of the step in each replication. [s]
    nominal : float
        Time of the step without jitter. [s]
    """

    makespans: FloatArray
    nominal: float

    @property
    def mean(self) -> float:
        """Mean step time. [s]"""
        return float(self.makespans.mean())

    def percentile(self, percent: float | Sequence[float]) -> FloatArray:
        """Return percentiles of the step time; 50 is the median. [s]"""
        return np.asarray(np.percentile(self.makespans, percent), dtype=np.float64)


def replicate_pipeline(
    order: Sequence[Sequence[StageTask]],
    costs: PipelineCosts,
    options: PipelineOptions,
    rng: np.random.Generator,
    *,
    replications: int = 100,
    replicas: int = 1,
) -> PipelineReplications:
    """Return step times under jitter.

    Replication k is what :func:`hwsim.sim.pipeline.play.play_pipeline` gives with
    the k-th generator that ``rng`` spawns. Where nothing shares a port, all
    are played at once by the recurrence.

    Parameters
    ----------
    order, costs, options
        As for :func:`hwsim.sim.pipeline.play.play_pipeline`.
    rng : numpy.random.Generator
        Source of the jitter.
    replications : int
        How many steps to play.
    replicas : int
        Data-parallel replicas, each with jitter of its own: a reduction of
        gradients starts when the last replica has them.

    Raises
    ------
    InputError
        If a number is below 1, if several replicas are to share ports, or if
        anything else does not fit.
    """
    for name, value in (("replications", replications), ("replicas", replicas)):
        if value < 1:
            raise InputError(f"{name}={value} must be at least 1")
    order = as_order(order)
    if options.shared_port:
        if replicas > 1:
            raise InputError(
                f"replicas={replicas} cannot be played with shared_port; use "
                "replicas=1, or shared_port=False"
            )
        return _simulated(order, costs, options, rng.spawn(replications))
    return _drawn(order, costs, options, rng.spawn(replications), replicas)


def _simulated(
    order: PipelineOrder,
    costs: PipelineCosts,
    options: PipelineOptions,
    children: Sequence[np.random.Generator],
) -> PipelineReplications:
    calm = replace(options, jitter=0.0)
    nominal = play_pipeline(order, costs, calm).makespan
    played = [
        play_pipeline(order, costs, options, child).makespan for child in children
    ]
    return PipelineReplications(np.array(played), nominal)


def _drawn(
    order: PipelineOrder,
    costs: PipelineCosts,
    options: PipelineOptions,
    children: Sequence[np.random.Generator],
    replicas: int,
) -> PipelineReplications:
    times = drawn_times(order, costs, replace(options, jitter=0.0), None)
    shape = (replicas, times.size)
    step = max(1, _AT_ONCE // (times.size * replicas))
    found: list[FloatArray] = []
    for first in range(0, len(children), step):
        drawn = [
            times * jitter_factors(options.jitter, child, shape)
            for child in children[first : first + step]
        ]
        found.append(_makespans(order, costs, options, np.stack(drawn)))
    nominal = float(_makespans(order, costs, options, times[None, None])[0])
    return PipelineReplications(np.concatenate(found), nominal)


def _makespans(
    order: PipelineOrder,
    costs: PipelineCosts,
    options: PipelineOptions,
    durations: FloatArray,
) -> FloatArray:
    """Step times of draws of shape (replication, replica, task)."""
    count, replicas, tasks = durations.shape
    pp = len(order)
    send = np.add(
        link_times("latency", costs.latency, pp),
        link_times("transfer", costs.transfer, pp),
    )
    flat = np.ascontiguousarray(durations.reshape(-1, tasks).T)
    played = play_draws(order, flat, send, blocking=options.blocking)
    ends = PipelineEnds(
        played.free.reshape(pp, count, replicas).max(axis=2),
        {
            key: ready.reshape(count, replicas).max(axis=1)
            for key, ready in played.gradients.items()
        },
    )
    reduced = _reduced(order, costs, options, ends)
    start = reduced.max(axis=0) if options.sync_optimizer else reduced
    after = np.add(
        link_times("optimizer", costs.optimizer, pp),
        link_times("gather", costs.gather, pp),
    )
    makespans: FloatArray = (start + after[:, None]).max(axis=0)
    return makespans


def _reduced(
    order: PipelineOrder,
    costs: PipelineCosts,
    options: PipelineOptions,
    ends: PipelineEnds,
) -> FloatArray:
    """Return when each rank's gradients have been reduced, (pp, n_draw)."""
    pp, plan = len(order), order.plan
    alone = stage_table("gradients", costs.gradients, pp, order.chunks)
    wire = np.zeros_like(ends.free) if options.overlap_gradients else ends.free.copy()
    for task, chunk in sorted(last_gradients(order).items()):
        rank = plan.rank[task]
        if alone[rank, chunk] > 0.0:
            ready = ends.gradients[rank, chunk]
            wire[rank] = np.maximum(wire[rank], ready) + alone[rank, chunk]
    return np.maximum(wire, ends.free)
